"""The rails that a board's current monitors measure (INA3221, INA238), in both layouts of sysfs."""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from edge_sdk.device.sense import boards, files

_CHIPS = "sys/class/hwmon/hwmon*"
_IIO = "sys/bus/i2c/drivers/ina3221x/*/iio:device*"
"""Kernel 4.9 of JetPack 4, the last for Nano and TX2."""


class Rail(NamedTuple):
    """One rail of this machine.

    Attributes:
        label: as the driver names it.
        read_w: gives its power now; raises OSError or ValueError.
    """

    label: str
    read_w: Callable[[], float]


def find_rails(root: Path) -> list[Rail]:
    """Gives every rail that is connected; a label that appears twice keeps its first place."""
    found: dict[str, Rail] = {}
    for rail in [*_hwmon_rails(root), *_iio_rails(root)]:
        if rail.label not in boards.UNUSED:
            found.setdefault(rail.label, rail)
    return list(found.values())


def _hwmon_rails(root: Path) -> list[Rail]:
    chips = [chip for chip in sorted(root.glob(_CHIPS)) if files.text_or_empty(chip / "name")[:3] == "ina"]
    return [
        # An INA3221 names each channel; a chip with one channel has its name in `label`.
        Rail(
            files.text_or_empty(chip / f"in{channel}_label") or files.text_or_empty(chip / "label"),
            _product(chip / f"in{channel}_input", chip / f"curr{channel}_input"),
        )
        for chip in chips
        for channel in (1, 2, 3)
        if (chip / f"curr{channel}_input").exists() and files.text_or_empty(chip / f"in{channel}_enable") != "0"
    ]


def _iio_rails(root: Path) -> list[Rail]:
    return [
        Rail(files.text_or_empty(device / f"rail_name_{channel}"), _milliwatts(device / f"in_power{channel}_input"))
        for device in sorted(root.glob(_IIO))
        for channel in (0, 1, 2)
        if (device / f"in_power{channel}_input").exists()
    ]


def _product(millivolts: Path, milliamperes: Path) -> Callable[[], float]:
    return lambda: files.number(millivolts) * files.number(milliamperes) * 1e-6


def _milliwatts(file: Path) -> Callable[[], float]:
    return lambda: files.number(file) * 1e-3
