"""Rows of tools/bench telemetry for the spool: what it writes to flash, and how fast a day of it drains."""

import contextlib
import ctypes
import json
import os
import random
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from rows import better_row, ratio_row

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "tests" / "faults"))

from power import Disk  # noqa: E402 - the disk whose bytes can be counted

from edge_sdk import clock  # noqa: E402
from edge_sdk.device import reports  # noqa: E402
from edge_sdk.device.spool.forwarding import Forwarder  # noqa: E402
from edge_sdk.device.spool.held import Limits  # noqa: E402
from edge_sdk.device.spool.spool import Spool, SpoolSettings  # noqa: E402
from edge_sdk.link import broker as brokers  # noqa: E402
from edge_sdk.link.mqtt import MqttLink, MqttSettings  # noqa: E402
from edge_sdk.records import telemetry  # noqa: E402
from edge_sdk.records.histograms import Histogram  # noqa: E402
from edge_sdk.testing.clock import FakeClock  # noqa: E402
from edge_sdk.wire import codec, histograms, topics  # noqa: E402

HORIZON_S = 5.0
DAY = 86_400
GOLDEN = ROOT / "tests" / "golden" / "samples" / "orin_nano.json"
RANDOM = random.Random(8)


def measure():
    if os.geteuid() == 0:
        yield from flash_rows()
    else:
        print("skipped: the flash rows need root, for a disk whose bytes can be counted", file=sys.stderr)
    yield from drain_rows()


def varied(value):
    """Every reading moves, so that nothing packs better than on a board that lives."""
    if isinstance(value, bool) or value is None or isinstance(value, str):
        return value
    if isinstance(value, dict):
        return {name: varied(part) for name, part in value.items()}
    moved = value * RANDOM.uniform(0.9, 1.1)
    return int(moved) if isinstance(value, int) else float(f"{moved:.6g}")


def samples(boot, *, device="bench-1"):
    """Gives a function that makes the Sample of a number, as bytes: a board's readings and one model."""
    told = {name: value for name, value in json.loads(GOLDEN.read_text()).items() if value != "of this machine"}
    fixed = {"v": 2, "device": device, "boot": boot, "interval_s": 1.0, "missing": told.pop("missing")}
    told = {name: value for name, value in told.items() if name not in {*fixed, "seq", "t", "up_s", "models"}}

    def sample(seq, wall_s, oldest_seq=0, dropped=0):
        counts = tuple(RANDOM.randrange(4) for _ in range(20))
        window = telemetry.Window(
            model="detector",
            digest="0123456789ab",
            count=sum(counts),
            errors={},
            throughput_hz=float(sum(counts)),
            queue_depth_max=RANDOM.randrange(4),
            latency_p50_ms=varied(12.3456),
            latency_p99_ms=varied(23.4567),
            latency_hist=histograms.to_text(Histogram(6, 0, 200 + RANDOM.randrange(50), counts)),
            stage_ms={name: varied(1.23456) for name in ("queue", "pre", "copy_in", "compute", "copy_out", "post")},
            energy_j=varied(1.23456),
            energy_per_inference_j=varied(0.0123456),
            engine="onnxruntime",
        )
        more = {name: varied(value) for name, value in told.items()} | {"oldest_seq": oldest_seq, "dropped": dropped}
        return codec.to_bytes(
            telemetry.Sample(**fixed, **more, seq=seq, t=round(wall_s, 3), up_s=round(seq + 9.123, 3), models=(window,))
        )

    return sample


def opened(file, clocks, *, horizon_s=HORIZON_S):
    return Spool(
        SpoolSettings(file, Limits(2 * DAY, 3600, 15.0), horizon_s=horizon_s),
        name_boot=lambda last: reports.boot_id(started_s=clocks.wall_s(), random_bits=7, last=last),
        word=lambda boot, seq, news: codec.to_bytes(
            telemetry.Event(
                v=2, device="bench-1", boot=boot, t=1.0, kind=news.kind, message="", details=news.details, seq=seq
            )
        ),
        clocks=clocks,
    )


def flash_rows():
    for name, has_receipts, count, bar in (("online", True, 1000, 0.02), ("offline", False, 2000, 3.0)):
        with tempfile.TemporaryDirectory() as folder, Disk(Path(folder), size_mb=64) as disk:
            clocks = FakeClock()
            spool = opened(disk.root / "spool" / "queue.db", clocks)
            sample = samples(spool.boot)
            spool.flush()
            sync(disk.root)
            before, payload_bytes = disk.written_bytes(), 0
            for seq in range(count):
                payload = sample(seq, clocks.wall_s())
                payload_bytes += len(payload)
                spool.put(seq, payload)
                if has_receipts:
                    spool.take_due(10)
                    spool.receipt(spool.boot, seq, [])
                clocks.advance(1.0)
                if seq % 5 == 4:
                    wait_for(lambda: has_receipts or spool.snapshot().on_disk >= seq - 5)
                    sync(disk.root)  # ext4 writes its own part every 5 s
            written = disk.written_bytes() - before
            spool.close()
        yield ratio_row(
            f"bytes to flash {name}, {count} Samples of {payload_bytes // count} bytes, durable within {HORIZON_S:g} s",
            written,
            payload_bytes,
            unit=lambda size: f"{size / 1e3:.0f} kB",
            what="of payload",
            bar=bar,
        )


def sync(folder):
    descriptor = os.open(folder, os.O_RDONLY)
    ctypes.CDLL(None).syncfs(descriptor)
    os.close(descriptor)


def wait_for(condition, timeout_s=60.0):
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "not in time"
        time.sleep(0.001)


def resident_bytes():
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def drain_rows():
    with tempfile.TemporaryDirectory() as folder, brokers.open_broker(port=0) as broker:
        file, database = Path(folder) / "spool" / "queue.db", Path(folder) / "telemetry.db"
        clocks = clock.SystemClock()
        spool = opened(file, clocks)
        sample = samples(spool.boot)
        for seq in range(DAY):
            spool.put(seq, sample(seq, clocks.wall_s()))
            if seq % 1000 == 999:
                spool.flush()
        spool.close()
        del sample
        collector = subprocess.Popen(
            [
                sys.executable,
                "-m",
                "edge_sdk",
                "collector",
                "--broker",
                broker.url,
                "--database",
                str(database),
                "--web",
                "",
            ],
            stderr=subprocess.DEVNULL,
            cwd=ROOT,
        )
        try:
            wait_for(database.exists)
            time.sleep(1.0)
            child = subprocess.run(
                [sys.executable, __file__, broker.url, str(file)], capture_output=True, text=True, check=True, cwd=ROOT
            )
        finally:
            collector.send_signal(signal.SIGTERM)
            collector.wait(20)
        found = json.loads(child.stdout)
        with contextlib.closing(sqlite3.connect(database)) as db:
            ages = [row[0] for row in db.execute("SELECT received_t - t FROM samples WHERE boot = ?", (found["boot"],))]
            stored = db.execute("SELECT COUNT(*) FROM samples").fetchone()[0]
    yield better_row(
        f"{DAY} Samples of a day offline drained to the collector's commit ({stored - len(ages)} stored)",
        DAY / found["seconds"] if stored - len(ages) == DAY else 0.0,
        1000.0,
        unit=lambda rate: f"{rate:,.0f}/s",
        what="asked for",
        bar=1.0,
    )
    yield ratio_row(
        f"age of live Samples at the collector meanwhile, the oldest of {len(ages)}",
        max(ages),
        10.0,
        unit=lambda seconds: f"{seconds:.2f} s",
        what="at most",
        bar=1.0,
    )
    yield ratio_row(
        "more memory of the device process while it drains",
        found["grown_bytes"],
        32 * 2**20,
        unit=lambda size: f"{size / 2**20:.1f} MiB",
        what="at most",
        bar=1.0,
    )


def drain(url, file):
    """The device, in a process of its own: its backlog, and a live Sample a second."""
    clocks = clock.SystemClock()
    before = resident_bytes()
    spool = opened(Path(file), clocks, horizon_s=1.0)
    sample = samples(spool.boot)
    link = MqttLink(MqttSettings(url=url, client_id="bench-device"))
    topic = topics.up("default", "bench-1", "telemetry")
    forwarder = Forwarder(
        spool, link, telemetry_topic=topic, event_topic=topics.up("default", "bench-1", "event"), renew=reports.renewed
    )
    link.on_connect(forwarder.reconnected)
    link.subscribe(topics.receipt("default", "bench-1"), forwarder.take_receipt)
    start = time.monotonic()
    link.open()
    seq, grown = 0, 0
    while spool.snapshot().held and time.monotonic() < start + 240:
        state = forwarder.make_room()
        forwarder.keep(seq, sample(seq, clocks.wall_s(), state.oldest_seq, state.dropped))
        seq += 1
        forwarder.send_due()
        grown = max(grown, resident_bytes() - before)
        until = start + seq
        while time.monotonic() < until and spool.snapshot().held:
            time.sleep(0.005)
    seconds = time.monotonic() - start
    link.close()
    spool.close()
    print(json.dumps({"seconds": seconds, "grown_bytes": grown, "boot": spool.boot, "live": seq}))


if __name__ == "__main__":
    drain(*sys.argv[1:])
