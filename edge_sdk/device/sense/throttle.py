"""Whether a limit slowed the machine down, from counters and alarms that move only then."""

from pathlib import Path
from typing import NamedTuple

from edge_sdk.device.sense import files
from edge_sdk.device.sense.files import Places
from edge_sdk.records.telemetry import Reading

_WRAP = 2**32
"""The counters of soctherm are 32 bits wide; those of x86 count too slowly to come near it."""


class _Kind(NamedTuple):
    """What tells of one kind of limit.

    Attributes:
        metric: that counts it.
        counters: files with a number that rises with each event.
        states: files that are above 0 while the limit holds.
        absence: why a machine without any of them has no value.
    """

    metric: str
    counters: Places
    states: Places
    absence: str


class ThrottleSensor:
    """Thermal limits and over-current alarms, counted over the time between two calls.

    What the bits of an over-current alarm mean differs by module and is not documented, so they are counted and not
    translated (forums.developer.nvidia.com 158055, 276251, 307919).
    """

    def __init__(self, root: Path) -> None:
        self._kinds = (
            _Kind(
                "throttle_events",
                Places(root, "sys/devices/system/cpu/cpu[0-9]*/thermal_throttle/*_throttle_count"),  # x86
                Places(root, "sys/class/thermal/cooling_device*/type"),
                "no throttle counter and no throttle-alert under /sys",
            ),
            _Kind(
                "overcurrent_events",
                Places(root, "sys/class/hwmon/hwmon*/oc*_event_cnt"),  # soctherm of Xavier, Orin, Thor
                Places(root, "sys/class/hwmon/hwmon*/curr*_crit_alarm"),  # INA3221; reading clears it
                "no oc*_event_cnt, no curr*_crit_alarm in hwmon",
            ),
        )
        self._before: dict[Path, float] = {}

    def collect(self) -> list[Reading]:
        """Gives the events of each kind since the call before, and whether there was any."""
        now: dict[Path, float] = {}
        counted = [self._count(kind, now) for kind in self._kinds]
        self._before = now
        values = [reading.value for reading in counted if reading.value is not None]
        if values:
            return [Reading("throttled", any(values)), *counted]
        return [Reading("throttled", None, "no throttle_events, no overcurrent_events"), *counted]

    def _count(self, kind: _Kind, now: dict[Path, float]) -> Reading:
        """Gives the events of one kind; `now` takes the counters for the next call."""
        events: list[float] = []
        problems: list[str] = []
        for file in kind.counters.find():
            value = _value(file, problems)
            if value is None:
                continue
            now[file] = value
            if file in self._before:
                events.append(events_between(self._before[file], value))
            else:
                problems.append("needs two readings; this was the first")
        for file in kind.states.find():
            if file.name != "type":
                state = _value(file, problems)
            elif files.text_or_empty(file).endswith("throttle-alert"):
                state = _value(file.parent / "cur_state", problems)
            else:
                continue
            # A state says that the limit holds, not how often it began: it counts once in each interval.
            events += [] if state is None else [1.0 if state > 0 else 0.0]
        if events:
            return Reading(kind.metric, int(sum(events)))
        return Reading(kind.metric, None, (problems or [kind.absence])[0])


def events_between(before: float, now: float) -> float:
    """Gives how many events a counter saw; never less than 0.

    A counter that went back has wrapped when it stood high and stands low now; else it began anew (the driver was
    loaded again), and what it has counted since is all that is known.

    >>> events_between(3, 5), events_between(2**32 - 1, 2), events_between(100, 4)
    (2, 3, 4)
    """
    if now >= before:
        return now - before
    has_wrapped = before > _WRAP * 3 / 4 and now < _WRAP / 4
    return now + _WRAP - before if has_wrapped else now


def _value(file: Path, problems: list[str]) -> float | None:
    reading = files.reading("throttled", lambda: files.number(file))
    if isinstance(reading.value, float):
        return reading.value
    problems.append(reading.reason)
    return None
