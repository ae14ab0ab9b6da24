"""Temperatures, the fan, and whether a limit slowed the machine down."""

import functools
from collections.abc import Iterator
from pathlib import Path

from edge_sdk.device.sense import files
from edge_sdk.records.telemetry import Reading

_LOW_C, _HIGH_C = -60.0, 200.0
"""What a sensor in working silicon can say; a Jetson block that is switched off says -256."""

_CPU_CHIPS = ("coretemp", "k10temp", "zenpower", "cpu_thermal")
_CONSTANT_ZONES = ("pmic-die",)
"""A fixed number on every Jetson that has it, not a measurement."""


class TemperatureSensor:
    """Thermal zones and the temperature inputs of hwmon."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def collect(self) -> list[Reading]:
        """Gives the hottest CPU sensor, the GPU, and the hottest of all."""
        found = [
            (role, files.reading(role, functools.partial(_celsius, file), low=_LOW_C, high=_HIGH_C))
            for role, file in self._inputs()
        ]
        return [
            _hottest("temperature_cpu_c", [one for role, one in found if role == "cpu"]),
            _hottest("temperature_gpu_c", [one for role, one in found if role == "gpu"]),
            _hottest("temperature_max_c", [one for _, one in found]),
        ]

    def _inputs(self) -> Iterator[tuple[str, Path]]:
        for zone in sorted(self._root.glob("sys/class/thermal/thermal_zone*")):
            kind = files.text_or_empty(zone / "type").lower()
            if kind not in _CONSTANT_ZONES:
                yield _role(kind), zone / "temp"
        for chip in sorted(self._root.glob("sys/class/hwmon/hwmon*")):
            name = files.text_or_empty(chip / "name")
            for file in sorted(chip.glob("temp*_input")):
                yield ("cpu" if name in _CPU_CHIPS else _role(name)), file


class FanSensor:
    """The fan's duty: pwm of hwmon, or the state of a cooling device."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def collect(self) -> list[Reading]:
        """Gives the fastest fan's share of its maximum."""
        return [files.reading("fan_ratio", self._ratio, high=1.0)]

    def _ratio(self) -> float:
        pwms = sorted(self._root.glob("sys/class/hwmon/hwmon*/pwm[1-9]"))
        if pwms:
            return max(files.number(file) for file in pwms) / 255  # the full scale of hwmon's pwm
        for device in sorted(self._root.glob("sys/class/thermal/cooling_device*")):
            if "fan" in files.text_or_empty(device / "type").lower():
                return files.number(device / "cur_state") / max(files.number(device / "max_state"), 1.0)
        raise ValueError("no fan under /sys/class/hwmon or /sys/class/thermal")


class ThrottleSensor:
    """Counters and alarms that only move when a thermal or over-current limit slows the machine."""

    _COUNTERS = (
        "sys/class/hwmon/hwmon*/oc*_event_cnt",  # Jetson Orin: over-current events
        "sys/devices/system/cpu/cpu[0-9]*/thermal_throttle/*_throttle_count",  # x86
    )
    _ALARMS = ("sys/class/hwmon/hwmon*/curr*_crit_alarm",)  # INA3221: critical current, which cuts the clocks

    def __init__(self, root: Path) -> None:
        self._root = root
        self._before: dict[Path, float] = {}

    def collect(self) -> list[Reading]:
        """Gives True when a counter moved since the call before, or an alarm stands."""
        counts, problems = self._numbers(self._COUNTERS)
        alarms, more_problems = self._numbers(self._ALARMS)
        before, self._before = self._before, counts
        moved = [count > before[file] for file, count in counts.items() if file in before]
        if moved or alarms:
            return [Reading("throttled", any(moved) or any(alarms.values()))]
        if counts:
            return files.absent("needs two readings; this was the first", "throttled")
        return files.absent((problems + more_problems + ["this machine counts no throttling"])[0], "throttled")

    def _numbers(self, patterns: tuple[str, ...]) -> tuple[dict[Path, float], list[str]]:
        numbers, problems = {}, []
        for file in (file for pattern in patterns for file in sorted(self._root.glob(pattern))):
            measured = files.reading("throttled", functools.partial(files.number, file))
            if isinstance(measured.value, float):
                numbers[file] = measured.value
            else:
                problems.append(measured.reason)
        return numbers, problems


def _hottest(metric: str, parts: list[Reading]) -> Reading:
    values = [part.value for part in parts if isinstance(part.value, float)]
    if values:
        return Reading(metric, max(values))
    return Reading(metric, None, parts[0].reason if parts else "no such sensor under /sys/class/thermal or hwmon")


def _role(name: str) -> str:
    lower = name.lower()
    if "gpu" in lower:
        return "gpu"
    return "cpu" if "cpu" in lower or lower == "x86_pkg_temp" else "other"


def _celsius(file: Path) -> float:
    return files.number(file) / 1000
