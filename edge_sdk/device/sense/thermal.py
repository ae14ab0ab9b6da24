"""Temperatures and the fan."""

import functools
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from edge_sdk.device.sense import files
from edge_sdk.device.sense.files import Places
from edge_sdk.records.telemetry import Reading

_LOW_C, _HIGH_C = -60.0, 200.0
"""What a sensor in working silicon can say."""
_OFF = -256_000
"""What a Jetson's zone says while its block is switched off."""

_CPU_CHIPS = ("coretemp", "k10temp", "zenpower", "cpu_thermal")
_CONSTANT_ZONES = ("pmic-die",)
"""A fixed number on every Jetson that has it, not a measurement."""
_ZONE_ENDING = re.compile(r"[-_]?(thermal|therm)$")
_ZONE_CHARS = 32


class _Input(NamedTuple):
    """One sensor: whose temperature it is, its name among the zones (empty outside of them), and its file."""

    role: str
    zone: str
    file: Path


class TemperatureSensor:
    """Thermal zones and the temperature inputs of hwmon."""

    def __init__(self, root: Path) -> None:
        self._zones = Places(root, "sys/class/thermal/thermal_zone*")
        self._chips = Places(root, "sys/class/hwmon/hwmon*")
        self._known: tuple[tuple[Path, ...], list[_Input]] = ((), [])

    def collect(self) -> list[Reading]:
        """Gives the hottest CPU sensor, the GPU, the hottest of all, and each zone by its name."""
        found = [
            (
                one,
                files.reading(
                    f"temperatures_c.{one.zone}", functools.partial(_celsius, one.file), low=_LOW_C, high=_HIGH_C
                ),
            )
            for one in self._inputs()
        ]
        zones = [reading for one, reading in found if one.zone]
        return [
            _hottest("temperature_cpu_c", [reading for one, reading in found if one.role == "cpu"]),
            _hottest("temperature_gpu_c", [reading for one, reading in found if one.role == "gpu"]),
            _hottest("temperature_max_c", [reading for _, reading in found]),
            *(
                files.parts("temperatures_c", zones)
                or files.absent("no zone under /sys/class/thermal", "temperatures_c")
            ),
        ]

    def _inputs(self) -> list[_Input]:
        folders = (*self._zones.find(), *self._chips.find())
        if folders != self._known[0]:
            self._known = folders, [*_zone_inputs(self._zones.find()), *_chip_inputs(self._chips.find())]
        return self._known[1]


def _zone_inputs(zones: Iterable[Path]) -> Iterator[_Input]:
    taken: set[str] = set()
    for zone in zones:
        kind = files.text_or_empty(zone / "type").lower()
        if kind in _CONSTANT_ZONES:
            continue
        name = _ZONE_ENDING.sub("", kind)[:_ZONE_CHARS] or zone.name
        if name in taken:  # two zones of one type, as acpitz on some PCs
            name = f"{name}-{zone.name.removeprefix('thermal_zone')}"
        taken.add(name)
        yield _Input(_role(kind), name, zone / "temp")


def _chip_inputs(chips: Iterable[Path]) -> Iterator[_Input]:
    for chip in chips:
        name = files.text_or_empty(chip / "name")
        for file in sorted(chip.glob("temp*_input")):
            yield _Input("cpu" if name in _CPU_CHIPS else _role(name), "", file)


class FanSensor:
    """The fan's duty: pwm of hwmon, or the state of a cooling device."""

    def __init__(self, root: Path) -> None:
        self._pwms = Places(root, "sys/class/hwmon/hwmon*/pwm[1-9]", "sys/devices/pwm-fan/target_pwm")
        self._coolers = Places(root, "sys/class/thermal/cooling_device*")

    def collect(self) -> list[Reading]:
        """Gives the fastest fan's share of its maximum."""
        return [files.reading("fan_ratio", self._ratio, high=1.0)]

    def _ratio(self) -> float:
        pwms = self._pwms.find()
        if pwms:
            return max(files.number(file) for file in pwms) / 255  # the full scale of hwmon's pwm
        for device in self._coolers.find():
            if "fan" in files.text_or_empty(device / "type").lower():
                return files.number(device / "cur_state") / max(files.number(device / "max_state"), 1.0)
        raise ValueError("no fan under /sys/class/hwmon or /sys/class/thermal")


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
    millidegrees = files.number(file)
    if millidegrees == _OFF:
        raise ValueError("off (-256)")
    return millidegrees / 1000
