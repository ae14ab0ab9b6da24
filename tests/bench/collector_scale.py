"""What a fleet costs by its size: simulated devices, each with a connection of its own, a real broker and collector."""

import contextlib
import json
import os
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np
from rows import Row, mb

from edge_sdk.link import broker as brokers

TICK_S = 1 / os.sysconf("SC_CLK_TCK")
EXTRAPOLATED = 100_000
DAY_S = 86_400
WARM_S = 25.0  # two roll-ups, by which a collector has the memory that it works with


class Seen(NamedTuple):
    """Of each process: CPU seconds so far, and resident bytes."""

    cpu_s: dict
    rss: dict


class Cost(NamedTuple):
    """What a fleet cost: shares of a core, and bytes."""

    devices: int
    made: int
    stored: int
    lost: int
    unsettled: int
    late: int
    seconds: float
    cpu: dict
    rss_start: dict
    rss_end: dict
    disk_per_sample: float


def cost(devices: int, seconds: float) -> Cost:
    """Runs a fleet; CPU and memory are those of the time after every device's first Sample, and `WARM_S` more."""
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as closing:
        broker = closing.enter_context(brokers.open_broker(port=0, kind="mosquitto"))
        file = Path(folder) / "t.db"
        common = ["--broker", broker.url, "--json"]
        collector = _started(closing, "collector", *common, "--database", str(file), "--web", "")
        wait_for(file.exists, "the collector's database")
        simulate = _started(closing, "simulate", *common, "--devices", str(devices), "--drain", "120")
        wait_for(lambda: asked(file, "SELECT COUNT(*) FROM devices") == devices, "every device", 120)
        pids = {"collector": collector.pid, "mosquitto": broker.pid, "simulate": simulate.pid}
        time.sleep(WARM_S)
        before, start = _seen(pids), time.perf_counter()
        time.sleep(seconds)
        after, took = _seen(pids), time.perf_counter() - start
        fleet, kept = _ended(simulate), _ended(collector)
        size = file.stat().st_size
    return Cost(
        devices, fleet["made"], kept["stored"], kept["lost"] + fleet["dropped"], fleet["held"], fleet["late"], took,
        {name: (after.cpu_s[name] - before.cpu_s[name]) / took for name in pids},
        before.rss, after.rss, size / max(1, kept["stored"]),
    )  # fmt: skip


def rows(sizes, seconds):
    """Gives a row of each size, and the law drawn through them."""
    costs = []
    for devices in sizes:
        one = cost(devices, seconds)
        costs.append(one)
        yield Row(
            f"{devices:,} simulated devices at 1 Sample/s for {one.seconds:.0f} s, each with its own connection",
            f"{one.lost} lost, {one.stored:,} of {one.made:,} stored, {one.unsettled} without a receipt in the end, "
            f"{one.late} made late",
            "CPU of a core: " + ", ".join(f"{name} {share:.0%}" for name, share in one.cpu.items()),
            float(one.lost + one.unsettled),
            0.0,
        )
        grown = one.rss_end["collector"] / one.rss_start["collector"]
        yield Row(
            f"{devices:,} simulated devices: memory at the beginning and at the end",
            "; ".join(f"{name} {mb(one.rss_start[name])} to {mb(one.rss_end[name])}" for name in one.cpu),
            f"{one.disk_per_sample:,.0f} bytes of database per Sample",
            round(grown, 2),
            1.5,
        )
    if len(costs) > 1:
        yield from _law(costs)


def _law(costs):
    """Straight lines through the sizes: what is there without a device, and what each adds."""
    sizes = np.array([one.devices for one in costs], float)
    for name in ("collector", "mosquitto"):
        share = np.polyfit(sizes, [one.cpu[name] for one in costs], 1)
        size = np.polyfit(sizes, [one.rss_end[name] for one in costs], 1)
        far_cpu, far_size = np.polyval(share, EXTRAPOLATED), np.polyval(size, EXTRAPOLATED)
        yield Row(
            f"law: {name} per device at 1 Sample/s",
            f"{share[0] * 1e6:.0f} us of CPU each second, {size[0] / 1e3:.1f} kB (and {size[1] / 1e6:.0f} MB)",
            f"{EXTRAPOLATED:,} devices, extrapolated: {far_cpu:.1f} cores, {far_size / 1e9:.1f} GB",
            None,
            None,
        )
    per_sample = float(np.mean([one.disk_per_sample for one in costs]))
    yield Row(
        "law: database per device and day at 1 Sample/s, every Sample as it came and rolled up",
        mb(per_sample * DAY_S),
        f"{EXTRAPOLATED:,} devices, extrapolated: {per_sample * DAY_S * EXTRAPOLATED / 1e12:.1f} TB a day",
        None,
        None,
    )


def _started(closing, *arguments):
    process = subprocess.Popen(
        [sys.executable, "-m", "edge_sdk", *arguments], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    closing.callback(process.stdout.close)
    closing.callback(process.wait)
    closing.callback(process.kill)
    return process


def _ended(process):
    """Gives what a process says at its end."""
    process.send_signal(signal.SIGINT)
    return json.loads(process.communicate(timeout=180)[0])


def _seen(pids):
    cpu_s, rss = {}, {}
    for name, pid in pids.items():
        fields = _fields(pid)
        cpu_s[name] = _cpu_s(fields)
        rss[name] = int(fields[21]) * os.sysconf("SC_PAGE_SIZE")
    return Seen(cpu_s, rss)


def cpu_s(pid):
    """CPU seconds of a process so far."""
    return _cpu_s(_fields(pid))


def _fields(pid):
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()


def _cpu_s(fields):
    return (int(fields[11]) + int(fields[12])) * TICK_S


def asked(file, text):
    try:
        with contextlib.closing(sqlite3.connect(file, timeout=5)) as db:
            return db.execute(text).fetchone()[0]
    except sqlite3.OperationalError:  # the tables are being made
        return 0


def wait_for(condition, what, timeout_s=30.0):
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            sys.exit(f"waited {timeout_s:g} s for {what}")
        time.sleep(0.01)
