"""Electrical power: from the rail that is the whole module, from RAPL, or from a hwmon power sensor.

"Total power" means another boundary on each board, so every figure carries its boundary, and rails are never summed:
a board without a total rail has no total power.
"""

import functools
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from edge_sdk import clock
from edge_sdk.device.sense import files
from edge_sdk.records.telemetry import Reading

TOTAL_RAILS = {"VDD_IN": "module", "POM_5V_IN": "module", "VIN": "module+carrier"}
"""Which rail is the total, and of what: TX2, Xavier NX, Orin NX and Nano; Nano and TX1; Thor. AGX boards have none."""

_METRICS = ("power_w", "power_boundary", "energy_j")
_HIGH_W = 100_000.0
_UNUSED_RAIL = "NC"


class _Rail(NamedTuple):
    label: str
    folder: Path
    channel: int

    def power_w(self) -> float:
        """Gives millivolts times milliamperes."""
        millivolts = files.number(self.folder / f"in{self.channel}_input")
        return millivolts * files.number(self.folder / f"curr{self.channel}_input") * 1e-6


class PowerSensor:
    """Mean power since the call before, and the energy of that time; the best source that the machine has.

    Sources, first found wins: the board's current monitors (INA3221, INA238), RAPL, any hwmon power sensor.
    """

    def __init__(self, root: Path, clocks: clock.Clock) -> None:
        self._root = root
        self._clock = clocks
        self._power_before: tuple[float, float] | None = None
        self._energy_before: tuple[dict[Path, float], float] | None = None

    def collect(self) -> list[Reading]:
        """Gives power, its boundary and energy."""
        if rails := self._rails():
            total = next((rail for rail in rails if rail.label in TOTAL_RAILS), None)
            if total is None:
                names = ", ".join(rail.label for rail in rails)
                return files.absent(
                    f"this board has no rail for its total power, and rails ({names}) are not summed", *_METRICS
                )
            return self._by_trapezoid(total.power_w, TOTAL_RAILS[total.label])
        if packages := self._packages():
            return self._by_counter(packages)
        sensors = sorted(self._root.glob("sys/class/hwmon/hwmon*/power*_average"))
        sensors += sorted(self._root.glob("sys/class/hwmon/hwmon*/power*_input"))
        if sensors:
            return self._by_trapezoid(functools.partial(_watts, sensors[0]), _boundary(sensors[0]))
        return files.absent("no power sensor: no INA3221 rail, no RAPL, no hwmon power under /sys/class", *_METRICS)

    def _rails(self) -> list[_Rail]:
        chips = [
            chip
            for chip in sorted(self._root.glob("sys/class/hwmon/hwmon*"))
            if files.text_or_empty(chip / "name")[:3] == "ina"
        ]
        rails = [
            # An INA3221 names each channel; a chip with one channel has its name in `label`.
            _Rail(
                files.text_or_empty(chip / f"in{channel}_label") or files.text_or_empty(chip / "label"), chip, channel
            )
            for chip in chips
            for channel in (1, 2, 3)
            if (chip / f"curr{channel}_input").exists()
        ]
        return [rail for rail in rails if rail.label not in ("", _UNUSED_RAIL)]

    def _by_trapezoid(self, measure: Callable[[], float], boundary: str) -> list[Reading]:
        """Integrates instantaneous power between the two ends of the interval."""
        before, self._power_before = self._power_before, None
        now = files.reading("power_w", measure, high=_HIGH_W)
        if not isinstance(now.value, float):
            return files.absent(now.reason, *_METRICS)
        now_s = self._clock.boot_s()
        self._power_before = now.value, now_s
        power_boundary = Reading("power_boundary", boundary)
        if before is None or now_s <= before[1]:
            return [now, power_boundary, *files.absent("needs two power readings; this was the first", "energy_j")]
        mean_w = (before[0] + now.value) / 2
        return [Reading("power_w", mean_w), power_boundary, Reading("energy_j", mean_w * (now_s - before[1]))]

    def _packages(self) -> list[Path]:
        zones = sorted(self._root.glob("sys/class/powercap/intel-rapl:*"))
        return [
            zone
            for zone in zones
            if zone.name.count(":") == 1 and files.text_or_empty(zone / "name").startswith("package")
        ]

    def _by_counter(self, packages: list[Path]) -> list[Reading]:
        """Takes the difference of RAPL's energy counters over the interval."""
        before, self._energy_before = self._energy_before, None
        try:
            counts = {zone: files.number(zone / "energy_uj") for zone in packages}
            self._energy_before = counts, self._clock.boot_s()
            energy_j = self._energy_since_j(before, self._energy_before)
        except OSError as error:
            remedy = "; let the daemon's user read it (chmod o+r)" if isinstance(error, PermissionError) else ""
            return files.absent(files.reason_from_error(error) + remedy, *_METRICS)
        except ValueError as error:
            return files.absent(str(error), *_METRICS)
        seconds = self._energy_before[1] - before[1] if before else 0.0
        return [
            Reading("power_w", energy_j / seconds),
            Reading("power_boundary", "package"),
            Reading("energy_j", energy_j),
        ]

    def _energy_since_j(
        self, before: tuple[dict[Path, float], float] | None, now: tuple[dict[Path, float], float]
    ) -> float:
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
        return total_uj * 1e-6


def _watts(file: Path) -> float:
    return files.number(file) * 1e-6


def _boundary(sensor: Path) -> str:
    """Names what a hwmon power sensor covers: its label, else its chip; ACPI's meter covers the whole machine."""
    label = sensor.with_name(sensor.name.rpartition("_")[0] + "_label")
    chip = files.text_or_empty(sensor.parent / "name")
    if chip == "power_meter":
        return "system"
    return (files.text_or_empty(label) or chip or sensor.parent.name)[:64]
