"""The Jetson's integrated GPU, its memory controller and its deep learning accelerators, from the drivers' files."""

from pathlib import Path

from edge_sdk.device.sense import boards, files
from edge_sdk.device.sense.files import Places
from edge_sdk.records.telemetry import Reading

_CHIPS = ("gpu", "ga10b", "gv11b", "gp10b", "gm20b", "gb10b")
"""Names under which the integrated GPU appears: Tegra's own, then Orin, Xavier, TX2, Nano, Thor."""
_LOADS = ("sys/devices/*/load", "sys/devices/platform/*/load", "sys/devices/platform/*/*/load")
_CLOCKS = ("sys/class/devfreq/*/cur_freq", "sys/devices/*/devfreq/*/cur_freq")
_NOT_GPC = ("nvd",)
"""Thor's devfreq has the GPU's cores (gpu-gpc-0) beside its video engines (gpu-nvd-0)."""

_EMC = (
    "sys/class/devfreq/bwmgr/cur_freq",  # Thor
    "sys/kernel/debug/bpmp/debug/clk/emc/rate",  # Xavier, Orin
    "sys/kernel/debug/clk/override.emc/clk_rate",  # Nano, TX2
)
_ACTIVITY = ("sys/kernel/debug/cactmon/mc_all", "sys/kernel/debug/bpmp/debug/actmon/mc_all_avg_activity")
"""Kilohertz at which the controller would be busy all the time; the share is that of its clock."""
_DLA = "sys/kernel/debug/bpmp/debug/clk/dla{core}_core"
_DEBUGFS = "sys/kernel/debug"


class GpuSensor:
    """Load and clock of the GPU, and the memory that it holds."""

    def __init__(self, root: Path) -> None:
        self._meminfo = root / "proc/meminfo"
        self._loads = Places(root, *_LOADS)
        self._clocks = Places(root, *_CLOCKS)

    def collect(self) -> list[Reading]:
        """Gives utilisation (the driver's own moving average), clock, and what NvMap has handed out."""
        return [
            files.reading("gpu_utilization_ratio", lambda: _first(self._loads) / 1000, high=1.0),  # per mille
            files.reading("gpu_frequency_hz", lambda: _first(self._clocks)),
            files.whole(files.reading("gpu_memory_used_bytes", self._nvmap_bytes)),
        ]

    def _nvmap_bytes(self) -> float:
        for line in files.text(self._meminfo).splitlines():
            name, _, rest = line.partition(":")
            if name == "NvMapMemUsed":
                return 1024.0 * float(rest.split()[0])
        raise ValueError("/proc/meminfo has no NvMapMemUsed")


class EmcSensor:
    """Load and clock of the external memory controller. Most boards show them to root only."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def collect(self) -> list[Reading]:
        """Gives utilisation and clock."""
        frequency = files.reading("emc_frequency_hz", lambda: self._number(_EMC))
        if not isinstance(frequency.value, float) or frequency.value == 0:
            return [frequency, Reading("emc_utilization_ratio", None, "no emc_frequency_hz")]
        clock_hz = frequency.value
        busy = files.reading("emc_utilization_ratio", lambda: self._number(_ACTIVITY) * 1e3 / clock_hz, high=1.0)
        return [frequency, busy]

    def _number(self, names: tuple[str, ...]) -> float:
        for name in names:
            if (self._root / name).exists():
                return files.number(self._root / name)
        raise ValueError(_hidden(self._root))


class DlaSensor:
    """Clocks of the deep learning accelerators; the driver counts no load."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def collect(self) -> list[Reading]:
        """Gives the clock of each accelerator that is awake."""
        module = boards.read_module(self._root)
        if module is None or not module.dla_cores:
            return files.absent(f"{module.name if module else 'this machine'} has no DLA", "dla_frequency_hz")
        folders = {f"dla{core}": self._root / _DLA.format(core=core) for core in range(module.dla_cores)}
        if not any(folder.exists() for folder in folders.values()):
            return files.absent(_hidden(self._root), "dla_frequency_hz")
        return files.parts(
            "dla_frequency_hz",
            [files.reading(f"dla_frequency_hz.{name}", _Clock(folder).read_hz) for name, folder in folders.items()],
        )


class _Clock:
    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def read_hz(self) -> float:
        if files.text(self._folder / "state") == "0":
            raise ValueError("asleep")
        return files.number(self._folder / "rate")


def _first(places: Places) -> float:
    for file in places.find():
        name = file.parent.name
        if any(chip in name for chip in _CHIPS) and not any(other in name for other in _NOT_GPC):
            return files.number(file)
    raise ValueError("no Jetson GPU under /sys/devices")


def _hidden(root: Path) -> str:
    """Says why debugfs shows nothing: to a user who is not root it looks empty."""
    if boards.read_board(root) is None:
        return "this machine is no Jetson"
    if (root / _DEBUGFS).is_dir():
        return "debugfs is root's; edge-sdk-jtop.service can read it"
    return "no such file under /sys on this machine"
