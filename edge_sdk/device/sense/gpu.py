"""The Jetson's integrated GPU, from the driver's sysfs files."""

from pathlib import Path

from edge_sdk.device.sense import files
from edge_sdk.records.telemetry import Reading

_CHIPS = ("gpu", "ga10b", "gv11b", "gp10b", "gm20b", "gb10b")
"""Names under which the integrated GPU appears: Tegra's own, then Orin, Xavier, TX2, Nano, Thor."""
_LOADS = ("sys/devices/*/load", "sys/devices/platform/*/load", "sys/devices/platform/*/*/load")
_CLOCKS = ("sys/class/devfreq/*/cur_freq", "sys/devices/*/devfreq/*/cur_freq")


class GpuSensor:
    """Load and clock of the GPU."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def collect(self) -> list[Reading]:
        """Gives utilisation (the driver's own moving average) and clock."""
        return [
            files.reading("gpu_utilization_ratio", lambda: self._first(_LOADS) / 1000, high=1.0),  # per mille
            files.reading("gpu_frequency_hz", lambda: self._first(_CLOCKS)),
        ]

    def _first(self, patterns: tuple[str, ...]) -> float:
        for pattern in patterns:
            for file in sorted(self._root.glob(pattern)):
                if any(chip in file.parent.name for chip in _CHIPS):
                    return files.number(file)
        raise ValueError("no Jetson GPU under /sys/devices; other GPUs are not read yet")
