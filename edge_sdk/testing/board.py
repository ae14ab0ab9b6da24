"""A board as a folder: the files of procfs and sysfs that the sensors read, with the layouts of real machines.

The layouts of Jetsons in ``boards/`` were written from documentation and are named as such; none was recorded on a
board. Every Sample of such a folder says that it is simulated.
"""

from pathlib import Path

import msgspec

from edge_sdk import errors, imports
from edge_sdk.device.sense import machine

_FOLDER = Path(__file__).parent / "boards"
BOARDS = tuple(sorted(file.stem for file in _FOLDER.glob("*.json")))
"""Names for `FakeBoard.become`."""


class Tree(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One file of ``boards/``.

    Attributes:
        what: how it came about.
        sources: where each part of the layout was read.
        files: content by path below the root; a path that ends in ``/`` is an empty folder.
    """

    what: str
    sources: tuple[str, ...]
    files: dict[str, str]


def tree_of(name: str) -> Tree:
    """Gives the tree of a board by its name.

    Raises:
        UsageError: no board of that name.
    """
    if name not in BOARDS:
        raise errors.UsageError(f"no board {name!r}{imports.nearest(name, BOARDS)}; there are: {', '.join(BOARDS)}")
    return msgspec.json.decode((_FOLDER / f"{name}.json").read_bytes(), type=Tree)


class FakeBoard:
    """The root folder of a machine that does not exist; hand `root` to the sensors instead of ``/``.

    A new board is a bare container: it has processors and memory, and nothing of sysfs. The methods named after
    machines add what those have.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.write(machine.SIMULATED, "made up by edge_sdk.testing")
        self.set_cpu(busy_ticks=0, idle_ticks=0)
        self.set_memory(total_kb=8_000_000, available_kb=6_000_000)
        self.set_process(resident_pages=10_000, cpu_ticks=0)
        self.write("proc/sys/kernel/osrelease", "6.1.0-fake")
        self.write("proc/cpuinfo", "processor\t: 0\nmodel name\t: Fake CPU\n")

    def write(self, name: str, value: object) -> None:
        """Sets the content of one file below the root, with the newline that the kernel adds."""
        file = self.root / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f"{value}\n")

    def remove(self, name: str) -> None:
        """Takes one file away."""
        (self.root / name).unlink()

    def set_cpu(self, *, busy_ticks: int, idle_ticks: int) -> None:
        """Sets the counters of /proc/stat."""
        self.write("proc/stat", f"cpu  {busy_ticks} 0 0 {idle_ticks} 0 0 0 0 0 0\ncpu0 0 0 0 0 0 0 0 0 0 0")

    def set_memory(self, *, total_kb: int, available_kb: int, swap_used_kb: int = 0) -> None:
        """Sets /proc/meminfo."""
        self.write(
            "proc/meminfo",
            f"MemTotal:       {total_kb} kB\nMemFree:        1000 kB\nMemAvailable:   {available_kb} kB\n"
            f"SwapTotal:      2000000 kB\nSwapFree:       {2_000_000 - swap_used_kb} kB",
        )

    def set_process(self, *, resident_pages: int, cpu_ticks: int) -> None:
        """Sets what the process says of itself; its name holds what a careless parser trips over."""
        self.write("proc/self/statm", f"50000 {resident_pages} 3000 1 0 20000 0")
        self.write("proc/self/stat", f"42 (edge) sdk) S 1 42 42 0 -1 4194304 900 0 0 0 {cpu_ticks} 0 0 0 20 0 8 0 100")

    def become(self, name: str) -> None:
        """Turns into one of BOARDS.

        Raises:
            UsageError: no board of that name.
        """
        for path, content in tree_of(name).files.items():
            if path.endswith("/"):
                (self.root / path).mkdir(parents=True, exist_ok=True)
            else:
                self.write(path, content)

    def become_orin_nano(self) -> None:
        """Jetson Orin Nano: an INA3221 with the total rail VDD_IN, GPU, fan, over-current counters."""
        self.become("orin_nano")

    def become_agx_orin(self) -> None:
        """Jetson AGX Orin: two INA3221 whose rails have no total."""
        self.become("agx_orin")

    def become_pc(self, *, energy_uj: int = 0) -> None:
        """A PC with one processor package: RAPL with its core domain, coretemp, throttle counters."""
        package = "sys/class/powercap/intel-rapl:0"
        self.write(f"{package}/name", "package-0")
        self.write(f"{package}/max_energy_range_uj", 262_143_328_850)
        self.set_energy(energy_uj)
        self.write("sys/class/powercap/intel-rapl:0:0/name", "core")
        self.write("sys/class/powercap/intel-rapl:0:0/energy_uj", 1)
        self.write("sys/class/hwmon/hwmon0/name", "coretemp")
        self.write("sys/class/hwmon/hwmon0/temp1_input", 55_000)
        self.write("sys/class/hwmon/hwmon1/name", "nvme")
        self.write("sys/class/hwmon/hwmon1/temp1_input", 61_000)
        self.write("sys/devices/system/cpu/cpu0/thermal_throttle/core_throttle_count", 7)
        self._set_frequency_khz(2_300_000)

    def set_energy(self, energy_uj: int) -> None:
        """Sets RAPL's counter of package 0, in microjoules."""
        self.write("sys/class/powercap/intel-rapl:0/energy_uj", energy_uj)

    def set_rails(self, hwmon: str, rails: dict[str, tuple[int, int]]) -> None:
        """Sets an INA3221: millivolts and milliamperes by rail, in the order of its channels."""
        folder = f"sys/class/hwmon/{hwmon}"
        self.write(f"{folder}/name", "ina3221")
        for channel, (label, (millivolts, milliamperes)) in enumerate(rails.items(), 1):
            self.write(f"{folder}/in{channel}_label", label)
            self.write(f"{folder}/in{channel}_input", millivolts)
            self.write(f"{folder}/curr{channel}_input", milliamperes)
            self.write(f"{folder}/curr{channel}_crit_alarm", 0)
        self.write(f"{folder}/in7_label", "sum of shunt voltages")
        self.write(f"{folder}/in7_input", 1)

    def set_zones(self, zones: dict[str, int]) -> None:
        """Sets thermal zones: thousandths of a degree by type."""
        for number, (kind, millidegrees) in enumerate(zones.items()):
            self.write(f"sys/class/thermal/thermal_zone{number}/type", kind)
            self.write(f"sys/class/thermal/thermal_zone{number}/temp", millidegrees)

    def _set_frequency_khz(self, khz: int) -> None:
        for core in range(2):
            self.write(f"sys/devices/system/cpu/cpu{core}/cpufreq/scaling_cur_freq", khz)
