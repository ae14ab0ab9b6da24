"""Electrical power: from the rail that is the whole module, from RAPL, or from a hwmon power sensor.

Every figure carries its boundary, and rails are never summed: a board without a total rail has no total power, and
its rails are published as they are.
"""

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from edge_sdk import clock
from edge_sdk.device.sense import boards, energy, files, rails
from edge_sdk.device.sense.energy import Meter
from edge_sdk.device.sense.protocol import Sensor, Ticking
from edge_sdk.records.telemetry import Reading

_METRICS = ("power_w", "power_boundary", "energy_j")
_LOOK_AGAIN = 10
"""After so many intervals without any value the sources are looked for anew."""


class FirstPower:
    """Several sources of power as one: power, boundary and energy come from the first that has a power.

    Taken metric by metric, the power of one boundary could meet the energy of another. All other readings pass.
    """

    def __init__(self, *sources: Sensor) -> None:
        self._sources = sources

    def tick(self) -> bool:
        """Lets those sources read that integrate; True when there is one."""
        found = [source.tick() for source in self._sources if isinstance(source, Ticking)]  # all of them
        return any(found)

    def collect(self) -> list[Reading]:
        """Gives the readings of all sources, with one power."""
        readings: list[Reading] = []
        for source in self._sources:
            found = list(source.collect())
            if any(one.metric == "power_w" and one.value is not None for one in readings):
                found = [one for one in found if one.metric not in _METRICS]
            elif any(one.metric == "power_w" and one.value is not None for one in found):
                readings = [one for one in readings if one.metric not in _METRICS]
            readings += found
        return readings


class PowerSensor:
    """Mean power since the call before, and the energy of that time; the best source that the machine has.

    Sources, first found wins: the board's current monitors (INA3221, INA238), RAPL, any hwmon power sensor. Call
    `tick` between two calls of `collect` to see what happens in between.
    """

    def __init__(self, root: Path, clocks: clock.Clock) -> None:
        self._root = root
        self._clock = clocks
        self._source: _Source | None = None
        self._failed = 0

    def tick(self) -> bool:
        """Reads what is integrated: the total where there is one, else every rail. True when there is any."""
        return self._source is not None and self._source.tick()

    def collect(self) -> list[Reading]:
        """Gives power, its boundary and energy, and the power of each rail."""
        if self._source is None:
            self._source = _find_source(self._root, self._clock)
        readings = self._source.collect()
        self._failed = 0 if any(reading.value is not None for reading in readings) else self._failed + 1
        if self._failed >= _LOOK_AGAIN:
            self._source, self._failed = None, 0
        return readings


class _Source(Protocol):
    """One way to know the power."""

    def tick(self) -> bool: ...

    def collect(self) -> list[Reading]: ...


class _Rails:
    """Current monitors; the total rail is the power, if the board has one."""

    def __init__(self, found: Sequence[rails.Rail], board: boards.Board | None, clocks: clock.Clock) -> None:
        self._meters = {rail.label: Meter(rail.read_w, clocks) for rail in found}
        boundaries = {label: boards.boundary_of(label, board) for label in self._meters}
        self._total = next((label for label, boundary in boundaries.items() if boundary), None)
        self._boundary = boundaries[self._total] if self._total is not None else ""

    def tick(self) -> bool:
        for label, meter in self._meters.items():
            if self._total in (None, label):
                meter.tick()
        return True

    def collect(self) -> list[Reading]:
        taken = {label: meter.take() for label, meter in self._meters.items()}
        each = files.parts("rails_w", [Reading(f"rails_w.{label}", *_power(one)) for label, one in taken.items()])
        if self._total is not None:
            return [*_from_taken(taken[self._total], self._boundary), *each]
        return [*_absent("no rail of this board is its total, and rails (rails_w) are not summed"), *each]


class _Counters:
    """RAPL: the processor counts its energy itself."""

    def __init__(self, packages: Sequence[Path], clocks: clock.Clock) -> None:
        self._packages = packages
        self._clock = clocks
        self._before: tuple[dict[Path, float], float] | None = None

    def tick(self) -> bool:
        return False  # the counter misses nothing between two readings

    def collect(self) -> list[Reading]:
        before, self._before = self._before, None
        try:
            counts = {zone: files.number(zone / "energy_uj") for zone in self._packages}
            self._before = counts, self._clock.boot_s()
            energy_j = _energy_since_j(before, self._before)
        except OSError as error:
            remedy = "; let the daemon's user read it (chmod o+r)" if isinstance(error, PermissionError) else ""
            return [*_absent(files.reason_from_error(error) + remedy), *_no_rails()]
        except ValueError as error:
            return [*_absent(str(error)), *_no_rails()]
        seconds = self._before[1] - before[1] if before else 0.0
        return [
            Reading("power_w", energy_j / seconds),
            Reading("power_boundary", "package"),
            Reading("energy_j", energy_j),
            *_no_rails(),
        ]


class _Hwmon:
    """Any other power sensor of hwmon; without one, there is none."""

    def __init__(self, sensor: Path | None, clocks: clock.Clock) -> None:
        self._sensor = sensor
        self._meter = None if sensor is None else Meter(functools.partial(_watts, sensor), clocks)

    def tick(self) -> bool:
        if self._meter is not None:
            self._meter.tick()
        return self._meter is not None

    def collect(self) -> list[Reading]:
        if self._sensor is None or self._meter is None:
            reason = "no power sensor: no INA3221 rail, no RAPL, no hwmon power under /sys/class"
            return [*_absent(reason), *_no_rails()]
        return [*_from_taken(self._meter.take(), _boundary(self._sensor)), *_no_rails()]


def _find_source(root: Path, clocks: clock.Clock) -> _Source:
    if found := rails.find_rails(root):
        return _Rails(found, boards.read_board(root), clocks)
    if packages := _packages(root):
        return _Counters(packages, clocks)
    sensors = sorted(root.glob("sys/class/hwmon/hwmon*/power*_average"))
    sensors += sorted(root.glob("sys/class/hwmon/hwmon*/power*_input"))
    return _Hwmon(sensors[0] if sensors else None, clocks)


def _absent(reason: str) -> list[Reading]:
    """Gives the three as absent; the reason once, since a Sample carries each."""
    return [Reading("power_w", None, reason), *files.absent("no power_w", "power_boundary", "energy_j")]


def _no_rails() -> list[Reading]:
    return files.absent("no current monitor (INA3221, INA238) under /sys", "rails_w")


def _packages(root: Path) -> list[Path]:
    zones = sorted(root.glob("sys/class/powercap/intel-rapl:*"))
    return [
        zone for zone in zones if zone.name.count(":") == 1 and files.text_or_empty(zone / "name").startswith("package")
    ]


def _energy_since_j(before: tuple[dict[Path, float], float] | None, now: tuple[dict[Path, float], float]) -> float:
    if before is None or before[0].keys() != now[0].keys() or now[1] <= before[1]:
        raise ValueError("needs two readings of RAPL's counters; this was the first")
    total_uj = 0.0
    for zone, count in now[0].items():
        difference = count - before[0][zone]
        if difference < 0:  # the counter wraps at a range that the zone names
            difference += files.number(zone / "max_energy_range_uj")
        if difference < 0:
            raise ValueError(f"{zone}/energy_uj went back by more than its range")
        total_uj += difference
    if total_uj == 0:  # it counts every millisecond; one that stands still is no processor without power
        raise ValueError("RAPL's counter has not moved since the reading before")
    return total_uj * 1e-6


def _from_taken(taken: energy.Taken, boundary: str) -> list[Reading]:
    if taken.power_w is None:
        return _absent(taken.reason)
    return [
        Reading("power_w", taken.power_w),
        Reading("power_boundary", boundary),
        Reading("energy_j", taken.energy_j, taken.reason),
    ]


def _power(taken: energy.Taken) -> tuple[float | None, str]:
    return (taken.power_w, "") if taken.power_w is not None else (None, taken.reason)


def _watts(file: Path) -> float:
    return files.number(file) * 1e-6


def _boundary(sensor: Path) -> str:
    """Names what a hwmon power sensor covers: its label, else its chip; ACPI's meter covers the whole machine."""
    label = sensor.with_name(sensor.name.rpartition("_")[0] + "_label")
    chip = files.text_or_empty(sensor.parent / "name")
    if chip == "power_meter":
        return "system"
    return (files.text_or_empty(label) or chip or sensor.parent.name)[:64]
