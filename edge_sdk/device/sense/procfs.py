"""Processors, memory and the daemon itself, from procfs; the disk from statvfs."""

import functools
import os
import re
import statistics
from pathlib import Path

from edge_sdk import clock
from edge_sdk.device.sense import files
from edge_sdk.device.sense.files import Places
from edge_sdk.records.telemetry import Reading

_FIRST = "needs two readings; this was the first"


class CpuSensor:
    """How busy the cores were since the call before, and how fast they run."""

    def __init__(self, root: Path) -> None:
        self._stat = root / "proc/stat"
        self._cpuinfo = root / "proc/cpuinfo"
        self._clocks = Places(root, "sys/devices/system/cpu/cpu[0-9]*/cpufreq/scaling_cur_freq")
        self._before: tuple[float, float] | None = None

    def collect(self) -> list[Reading]:
        """Gives utilisation and clock."""
        return [
            files.reading("cpu_utilization_ratio", self._utilization, high=1.0),
            files.reading("cpu_frequency_hz", self._frequency_hz),
        ]

    def _utilization(self) -> float:
        before, self._before = self._before, None
        busy, total = self._before = _busy_and_total(files.text(self._stat))
        if before is None:
            raise ValueError(_FIRST)
        if total <= before[1] or busy < before[0]:
            raise ValueError(f"{self._stat} did not advance since the reading before")
        return (busy - before[0]) / (total - before[1])

    def _frequency_hz(self) -> float:
        clocks = self._clocks.find()
        if clocks:
            readings = [files.reading("cpu_frequency_hz", functools.partial(files.number, file)) for file in clocks]
            online = [reading.value for reading in readings if isinstance(reading.value, float)]
            if not online:
                raise ValueError(readings[0].reason)
            return statistics.fmean(online) * 1e3  # a core that is switched off has no clock
        megahertz = re.findall(r"^cpu MHz\s*:\s*([0-9.]+)", files.text(self._cpuinfo), re.MULTILINE)
        if not megahertz:
            raise ValueError("no cpufreq driver, and /proc/cpuinfo names no clock")
        return statistics.fmean(map(float, megahertz)) * 1e6


class MemorySensor:
    """Memory of the machine; on a Jetson CPU and GPU share it."""

    def __init__(self, root: Path) -> None:
        self._meminfo = root / "proc/meminfo"

    def collect(self) -> list[Reading]:
        """Gives memory used and total, and swap used."""
        metrics = ("memory_used_bytes", "memory_total_bytes", "swap_used_bytes")
        try:
            kilobytes = dict(re.findall(r"^(\w+):\s+(\d+) kB", files.text(self._meminfo), re.MULTILINE))
        except OSError as error:
            return files.absent(files.reason_from_error(error), *metrics)

        return [
            files.whole(files.reading(metric, functools.partial(_difference_bytes, kilobytes, *names)))
            for metric, names in zip(
                metrics, (("MemTotal", "MemAvailable"), ("MemTotal",), ("SwapTotal", "SwapFree")), strict=True
            )
        ]


class ProcessSensor:
    """What the daemon itself takes."""

    def __init__(self, root: Path, clocks: clock.Clock) -> None:
        self._self = root / "proc/self"
        self._clock = clocks
        self._page_bytes = os.sysconf("SC_PAGE_SIZE")
        self._ticks_hz = os.sysconf("SC_CLK_TCK")
        self._before: tuple[float, float] | None = None

    def collect(self) -> list[Reading]:
        """Gives resident memory, and processor time since the call before in cores."""
        return [
            files.whole(files.reading("process_memory_bytes", self._resident_bytes)),
            files.reading("process_cpu_ratio", self._cores),
        ]

    def _resident_bytes(self) -> float:
        return float(files.text(self._self / "statm").split()[1]) * self._page_bytes

    def _cores(self) -> float:
        before, self._before = self._before, None
        # The name in brackets may hold blanks and brackets itself: count fields from the last one.
        fields = files.text(self._self / "stat").rpartition(")")[2].split()
        used_s = (float(fields[11]) + float(fields[12])) / self._ticks_hz
        now_s = self._clock.boot_s()
        self._before = used_s, now_s
        if before is None or now_s <= before[1]:
            raise ValueError(_FIRST)
        return (used_s - before[0]) / (now_s - before[1])


class DiskSensor:
    """How full the file system of a folder is."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def collect(self) -> list[Reading]:
        """Gives the used share, as ``df`` counts it."""
        return [files.reading("disk_used_ratio", self._used_ratio, high=1.0)]

    def _used_ratio(self) -> float:
        disk = os.statvfs(self._folder)
        used_blocks = disk.f_blocks - disk.f_bfree
        if used_blocks + disk.f_bavail == 0:
            raise ValueError(f"the file system of {self._folder} has no size")
        return used_blocks / (used_blocks + disk.f_bavail)


def _busy_and_total(stat: str) -> tuple[float, float]:
    """Gives the busy and all clock ticks of all cores from /proc/stat."""
    words = stat.partition("\n")[0].split()
    if len(words) < 9 or words[0] != "cpu":
        raise ValueError("/proc/stat does not begin with the cpu counters")
    # user nice system idle iowait irq softirq steal; the guest columns after them are part of user and nice.
    ticks = [float(word) for word in words[1:9]]
    total = sum(ticks)
    return total - ticks[3] - ticks[4], total


def _difference_bytes(kilobytes: dict[str, str], total: str, left: str = "") -> float:
    """Gives one entry of /proc/meminfo, less another one if that is named, in bytes."""
    for name in filter(None, (total, left)):
        if name not in kilobytes:
            raise ValueError(f"/proc/meminfo has no {name}")
    return 1024.0 * (int(kilobytes[total]) - (int(kilobytes[left]) if left else 0))
