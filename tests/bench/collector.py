"""The collector beside the usual paho consumer in the same run, and what its store answers."""

import argparse
import contextlib
import math
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

import collector_load as load
import collector_scale as fleets
import msgspec
import numpy as np
from rows import Row, main, ms, ratio_row

from edge_sdk.clock import SystemClock
from edge_sdk.collector.answering import Answering
from edge_sdk.collector.settings import CollectorSettings
from edge_sdk.collector.store import opening
from edge_sdk.collector.store.asking import Scope
from edge_sdk.collector.store.query import Queries
from edge_sdk.collector.store.rows import SampleRow
from edge_sdk.link import broker as brokers
from edge_sdk.wire import codec

HERE = Path(__file__).parent
PEER_PACED_S = 6.0
"""So long the peer gets the paced load: it falls behind at once, and takes minutes for a minute of it."""


def add_options(parser: argparse.ArgumentParser):
    parser.add_argument("--messages", type=int, default=100_000, help="of each flood (default 100,000)")
    parser.add_argument("--paced-seconds", type=float, default=60.0, help="of the paced load (default 60)")
    parser.add_argument("--rate", type=float, default=20_000.0, help="of the paced load (default 20,000/s)")
    parser.add_argument("--only", choices=("flood", "paced", "store", "scale"), help="this part alone")
    parser.add_argument("--devices", type=int, nargs="+", default=[500, 2000, 5000], help="of each fleet of `scale`")
    parser.add_argument("--scale-seconds", type=float, default=60.0, help="of each fleet of `scale` (default 60)")


@contextlib.contextmanager
def collector(url, file):
    command = [sys.executable, "-m", "edge_sdk", "collector", "--broker", url, "--database", str(file), "--web", ""]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        fleets.wait_for(lambda: file.exists() and _connections(url) >= 1, "the collector")
        time.sleep(0.5)
        yield process, lambda: fleets.asked(file, "SELECT COALESCE(SUM(upto + 1), 0) FROM sources")
    finally:
        process.terminate()
        process.wait(30)


@contextlib.contextmanager
def bare(url, file):
    command = [sys.executable, str(HERE / "peers/bare_paho.py"), url, str(file)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE)
    try:
        assert process.stdout.readline() == b"ready\n"
        yield process, lambda: fleets.asked(file, "SELECT COALESCE(MAX(rowid), 0) FROM samples")
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


class Run(NamedTuple):
    """What one consumer did with a load: the CPU seconds are for 100,000 messages, of each that shared the cores."""

    stored_hz: float
    behind_s: float
    own_cpu_s: float
    broker_cpu_s: float
    load_cpu_s: float

    @property
    def shares(self):
        return f"{self.own_cpu_s:.2f} s, mosquitto {self.broker_cpu_s:.2f} s, the publishers {self.load_cpu_s:.2f} s"


def run(consumer, packets, *, rate_hz=None):
    """Publishes to a consumer and waits until all is committed."""
    total = sum(map(len, packets))
    with tempfile.TemporaryDirectory() as folder, brokers.open_broker(port=0, kind="mosquitto") as broker:
        with consumer(broker.url, Path(folder) / "t.db") as (process, stored):
            pids = process.pid, broker.pid
            before = [*map(fleets.cpu_s, pids), time.process_time()]
            start = time.perf_counter()
            load.publish(broker.url, packets, rate_hz=rate_hz)
            published, load_cpu_s = time.perf_counter(), time.process_time()
            fleets.wait_for(lambda: stored() >= total, f"{total} messages in {consumer.__name__}", 240)
            end = time.perf_counter()
            spent = [after - first for first, after in zip(before, [*map(fleets.cpu_s, pids), load_cpu_s])]
            return Run(total / (end - start), end - published, *(one / total * 1e5 for one in spent))


def flood(options):
    packets, size = load.all_packets(options.messages // load.PUBLISHERS)
    peer, own = run(bare, packets), run(collector, packets)
    yield Row(
        f"stored messages of {size} bytes, QoS 1, receipt after commit, one process",
        f"{own.stored_hz:,.0f}/s",
        f"{peer.stored_hz:,.0f}/s bare paho; the bar is 30,000/s",
        round(30_000 / own.stored_hz, 2),
        1.0,
    )
    yield ratio_row(
        "CPU per 100,000 stored", own.own_cpu_s, peer.own_cpu_s,
        unit=lambda s: f"{s:.2f} s", what="bare paho", bar=round(1 / 3, 3),
    )  # fmt: skip
    yield Row(
        "what the cores were spent on, per 100,000", f"collector {own.shares}", f"bare paho {peer.shares}", None, None
    )


def paced(options):
    packets, _ = load.all_packets(int(options.rate * options.paced_seconds / load.PUBLISHERS))
    peer_s = min(options.paced_seconds, PEER_PACED_S)
    few = [row[: int(options.rate * peer_s / load.PUBLISHERS)] for row in packets]
    peer, own = run(bare, few, rate_hz=options.rate), run(collector, packets, rate_hz=options.rate)
    yield Row(
        f"{options.rate:,.0f}/s for {options.paced_seconds:g} s: until all is committed after the last publish",
        f"{own.behind_s * 1e3:.0f} ms ({own.stored_hz:,.0f}/s reached)",
        f"{peer.behind_s * 1e3:.0f} ms bare paho after {peer_s:g} s ({peer.stored_hz:,.0f}/s reached); "
        "the bar is 100 ms",
        round(own.behind_s / 0.1, 2),
        1.0,
    )
    yield Row(
        f"what the cores were spent on at {options.rate:,.0f}/s, per 100,000",
        f"collector {own.shares}",
        f"bare paho {peer.shares}",
        None,
        None,
    )


def scale(options):
    yield from fleets.rows(options.devices, options.scale_seconds)


def store(_):
    with tempfile.TemporaryDirectory() as folder:
        yield from _quantiles(Path(folder) / "q.db")
        yield from _thousand(Path(folder) / "k.db")


def _quantiles(file, seconds=3600):
    """100 devices for an hour; the last ten seconds are not rolled up, as at most while a collector keeps up."""
    rng = np.random.default_rng(1)
    variants, devices = 12, 100
    texts, truth = [], []
    for device in range(devices):
        values = rng.lognormal(math.log(2 + device / 2), 0.3, (variants, 60))
        values *= np.where(rng.random(values.shape) < 0.01, 8, 1)
        truth.append(values)
        texts.append([codec.to_bytes(load.base_sample(rng, values=one)).decode() for one in values])
    opened = opening.open_store(str(file))
    put_s = roll_s = 0.0
    for first in range(0, seconds, 60):
        rows = [
            SampleRow(f"dev-{device}", "plant", load.BOOT, seq, load.START_T + seq, load.START_T + seq,
                      texts[device][seq % variants].replace('"t":1750000020.0', f'"t":{load.START_T + seq}'))
            for seq in range(first, first + 60)
            for device in range(devices)
        ]  # fmt: skip
        start = time.process_time()
        with opened.transaction():
            opened.add_samples(rows)
        put_s += time.process_time() - start
        start = time.process_time()
        left = 6000 if first + 60 < seconds else 5000
        while left > 0:
            left -= opened.roll_up(limit=min(left, 5000))
        roll_s += time.process_time() - start
    opened.close()
    yield Row(
        "disk per Sample, raw and rolled up", f"{file.stat().st_size / devices / seconds:.0f} bytes", "-", None, None
    )
    yield ratio_row(
        "CPU of rolling up a Sample", roll_s / devices / seconds, put_s / devices / seconds,
        unit=lambda s: f"{s * 1e6:.1f} us", what="storing it", bar=None,
    )  # fmt: skip
    ask = Queries(opening.open_reader(str(file)), SystemClock(), minute_days=1e5)
    window = load.START_T, load.START_T + seconds
    (fleet,) = ask.quantiles([0.99, 0.999], *window)
    ordered = np.sort(np.repeat(np.concatenate([one.ravel() for one in truth]), seconds // variants))
    assert fleet.answers == len(ordered)
    for share in (0.99, 0.999):
        exact = ordered[math.ceil(share * len(ordered)) - 1]
        error = abs(fleet.latency_ms[f"{share:g}"] / exact - 1) * 100
        yield Row(
            f"fleet p{share * 100:g} against the truth",
            f"{error:.2f} %",
            "the bar is 0.6 %",
            round(float(error) / 0.6, 2),
            1.0,
        )
    yield _bounded("p99 of each of 100 devices over 1 h", lambda: ask.quantiles([0.99], *window, by=["device"]), 0.05)
    yield _bounded(
        "one metric of one device over 1 h", lambda: ask.series("power_w", *window, scope=Scope(("dev-7",))), None
    )


def _thousand(file):
    base = load.base_sample(np.random.default_rng(2))
    opened = opening.open_store(str(file))
    now = time.time()
    for seq in range(10):
        samples = [msgspec.structs.replace(base, device=f"dev-{number}", seq=seq, t=now) for number in range(1000)]
        with opened.transaction():
            opened.add_samples(
                [
                    SampleRow(one.device, "plant", load.BOOT, seq, now, now, codec.to_bytes(one).decode())
                    for one in samples
                ]
            )
    opened.close()
    answering = Answering(CollectorSettings(database=str(file), web="127.0.0.1:0"), dict, SystemClock())
    try:
        yield _bounded("latest of 1,000 devices", answering._queries.latest, 0.03)
        lines = answering.metrics_page().count("\n")
        yield _bounded(f"/metrics of 1,000 devices ({lines:,} lines)", answering.metrics_page, 0.05)
    finally:
        answering.close()


def _bounded(figure, act, bar_s):
    """Gives the median of eleven beside its bar: no peer answers the same question of the same file."""
    act()
    times = []
    for _ in range(11):
        start = time.perf_counter()
        act()
        times.append(time.perf_counter() - start)
    value = sorted(times)[len(times) // 2]
    if bar_s is None:
        return Row(figure, ms(value), "-", None, None)
    return Row(figure, ms(value), f"the bar is {bar_s * 1e3:.0f} ms", round(value / bar_s, 2), 1.0)


def measure(options):
    for part in (flood, paced, store, scale):
        if options.only in (None, part.__name__):
            yield from part(options)


def _connections(url):
    port = int(url.rpartition(":")[2])
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    return sum(row[1].endswith(f":{port:04X}") and row[3] == "01" for row in rows)


if __name__ == "__main__":
    sys.exit(main("collector", measure, add_options))
