"""A day of a flaky device in compressed time: spool, link, broker and collector, with faults at random and overlapping.

Spool, forwarder, ingest and store are the real ones, on a real disk whose power is really cut; only the network is
made up, and time passes by the step. Everything is drawn from one seed.
"""

import contextlib
import ctypes
import json
import logging
import os
import random
import sqlite3
import sys
from pathlib import Path

import msgspec
from power import Disk

sys.path.insert(0, str(Path(__file__).parents[1]))  # it is a program of its own, not a test

import stepped  # noqa: E402 - see above

from edge_sdk import errors
from edge_sdk.collector import intake
from edge_sdk.collector.backlog import Waiting
from edge_sdk.collector.clocks import DeviceClocks
from edge_sdk.collector.store import opening
from edge_sdk.device import reports
from edge_sdk.device.spool import records
from edge_sdk.device.spool.forwarding import Forwarder
from edge_sdk.device.spool.held import Limits
from edge_sdk.device.spool.queue_file import QueueFile
from edge_sdk.device.spool.records import Kind
from edge_sdk.device.spool.spool import SpoolSettings
from edge_sdk.link.protocol import Message
from edge_sdk.records import telemetry
from edge_sdk.testing.clock import FakeClock
from edge_sdk.wire import codec, topics

STEP_S = 30.0
DAY_S = 86_400.0
NOW_S = 1_790_000_000.0
TOPICS = {name: topics.up("plant", "cam-7", name) for name in ("telemetry", "event")}
FAULTS = {  # chance per step, shortest and longest in seconds
    "link": (0.010, 30, 3600),
    "broker": (0.010, 30, 300),
    "collector": (0.010, 30, 1800),
    "clock": (0.005, 60, 7200),
    "disk full": (0.006, 60, 1800),
    "disk error": (0.004, 60, 600),
    "power": (0.008, 0, 0),
    "kill": (0.008, 0, 0),
}


class Day:
    """One run; `without` names the protection that is taken away."""

    def __init__(self, folder, seed, *, without="", hours=24):
        self.random = random.Random(seed)
        self.folder, self.without, self.end_s = folder, without, hours * 3600.0
        self.clock = FakeClock(wall_s=NOW_S)
        self.ends_s = {}
        self.counts = dict.fromkeys(FAULTS, 0)
        self.in_broker, self.to_device, self.arrivals = [], [], {}
        self.acknowledged, self.taken = set(), set()
        self.is_new_connection = False

    def run(self):
        with Disk(self.folder, size_mb=24) as self.disk:
            self.store = opening.open_store(str(self.folder / "telemetry.db"))
            self.settled, self.clocks = intake.Settled(), DeviceClocks()
            self.lost = self.unseen = 0
            self.start()
            now_s = 0.0
            while now_s < self.end_s:
                now_s += STEP_S
                self.clock.advance(STEP_S)
                self.inject(now_s)
                self.step()
            self.ends_s = {}
            (self.disk.root / "other-program").unlink(missing_ok=True)
            self.clock.set_wall(NOW_S + now_s)
            self.put(1)
            self.forwarder.send_due()
            self.begin("broker")  # with what it was just given, so that no restart mends what was sent only once
            self.is_new_connection = True
            for _ in range(3000):
                self.clock.advance(STEP_S)
                self.deliver()
                state = self.spool.snapshot()
                if state.held == 0 and state.events == 0:
                    break
            self.spool._writer._queue.close() if self.spool._writer._queue else None
            self.left = self.spool.snapshot().held
            return self.judge()

    def is_on(self, fault):
        return fault in self.ends_s

    def inject(self, now_s):
        for fault, ends_s in list(self.ends_s.items()):
            if now_s >= ends_s:
                del self.ends_s[fault]
                if fault == "disk full":
                    (self.disk.root / "other-program").unlink(missing_ok=True)
                if fault == "clock":
                    self.clock.set_wall(NOW_S + now_s)
                self.is_new_connection |= fault in ("link", "broker")
        for fault, (chance, shortest_s, longest_s) in FAULTS.items():
            if self.random.random() >= chance or self.is_on(fault):
                continue
            self.counts[fault] += 1
            if longest_s:
                self.ends_s[fault] = now_s + self.random.uniform(shortest_s, longest_s)
            self.begin(fault)

    def begin(self, fault):
        if fault == "broker":
            self.in_broker, self.to_device = [], []  # acknowledged to the device, and gone
        elif fault == "collector":
            if self.without == "commit":
                self.in_broker = []
            self.settled = intake.Settled()
        elif fault == "clock":
            self.clock.set_wall(12.0)
        elif fault == "disk full":
            self.fill()
        elif fault == "link":
            self.to_device = []
        elif fault in ("power", "kill"):
            self.restart(is_cut=fault == "power")

    def fill(self):
        """Another program takes all that is left."""
        status = os.statvfs(self.disk.root)
        with (self.disk.root / "other-program").open("wb") as file, contextlib.suppress(OSError):
            size, piece = 0, status.f_bfree * status.f_frsize
            while piece >= 1024:
                try:
                    os.posix_fallocate(file.fileno(), size, piece)
                    size += piece
                except OSError:
                    piece //= 2

    def restart(self, *, is_cut):
        self.put(1)  # taken, and the power goes before anything is done with it
        if is_cut:
            self.disk.cut()
        queue = self.spool._writer._queue
        if queue is not None:
            queue._db.interrupt()
            queue.close() if is_cut else self.leave(queue)
        if is_cut:
            self.disk.restore()
            if self.is_on("disk full"):
                self.fill()
        self.to_device = []
        self.start()

    def leave(self, queue):
        """A killed process closes its files, and SQLite does nothing more in them."""
        file = self.disk.root / "spool" / "queue.db"
        kept = {suffix: (file.parent / f"{file.name}{suffix}") for suffix in ("", "-wal")}
        content = {suffix: path.read_bytes() for suffix, path in kept.items() if path.exists()}
        queue.close()
        (self.disk.root / "other-program").unlink(missing_ok=True)
        for suffix, path in kept.items():
            path.unlink(missing_ok=True)
            if suffix in content:
                path.write_bytes(content[suffix])
        descriptor = os.open(self.disk.root, os.O_RDONLY)
        ctypes.CDLL(None).syncfs(descriptor)  # what was synced before the kill stays so; these are new files
        os.close(descriptor)
        if self.is_on("disk full"):
            self.fill()

    def start(self):
        day = self

        class File(QueueFile):
            def apply(self, *args, **more):
                trouble = "disk I/O error" if day.is_on("disk error") else ""
                if trouble and day.without == "error":
                    return
                if not trouble or day.random.random() < 0.5:  # only its sync failed: it is there all the same
                    super().apply(*args, **more)
                if trouble:
                    raise sqlite3.OperationalError(trouble)

        def open_file(file, *, limit_bytes):
            return File(file, limit_bytes=limit_bytes, synchronous="NORMAL" if day.without == "sync" else "FULL")

        self.spool = stepped.open_spool(
            SpoolSettings(
                self.disk.root / "spool" / "queue.db",
                Limits(100_000, 100_000, 1e12 if self.without == "resend" else 60.0, 2000, 2000),
                2**26,
            ),
            name_boot=lambda last: reports.boot_id(
                started_s=self.clock.wall_s(), random_bits=self.random.getrandbits(32), last=last
            ),
            word=self.word,
            clocks=self.clock,
            open_file=open_file,
        )
        self.seq = 0
        self.forwarder = Forwarder(
            self.spool, self, telemetry_topic=TOPICS["telemetry"], event_topic=TOPICS["event"], renew=reports.renewed
        )

    def word(self, boot, seq, news):
        identity = reports.Identity("plant", "cam-7", boot)
        return codec.to_bytes(
            reports.event(identity, news.kind, news.message, wall_s=self.clock.wall_s(), details=news.details, seq=seq)
        )

    # The link, as the forwarder sees it.

    def publish(self, topic, payload, *, retain=False):
        if self.is_on("link") or self.is_on("broker"):
            raise errors.LinkError("away")
        self.in_broker.append(Message(topic, payload, False))

    def snapshot(self):
        return msgspec.defstruct("State", [("is_connected", bool)])(not self.is_on("link"))

    def put(self, count):
        for _ in range(count):
            state = self.forwarder.make_room()
            sample = telemetry.Sample(
                v=2,
                device="cam-7",
                boot=self.spool.boot,
                seq=self.seq,
                t=self.clock.wall_s(),
                up_s=self.clock.boot_s(),
                interval_s=STEP_S,
                oldest_seq=state.oldest_seq,
                dropped=state.dropped,
            )
            self.forwarder.keep(self.seq, codec.to_bytes(sample))
            self.taken.add((self.spool.boot, self.seq))
            self.seq += 1

    def step(self):
        self.put(1)
        self.deliver()

    def deliver(self):
        if self.is_new_connection and not (self.is_on("link") or self.is_on("broker")):
            self.is_new_connection = False
            if self.without != "resend":
                self.forwarder.reconnected()
        before = len(self.in_broker)
        self.forwarder.send_due()
        if self.without == "receipt":  # deletes what the broker has acknowledged
            for message in self.in_broker[before:]:
                if message.topic == TOPICS["telemetry"]:
                    sample = codec.from_bytes(message.payload, telemetry.Sample)
                    self.acknowledged.add((sample.boot, sample.seq))
                    self.spool.receipt(sample.boot, sample.seq)
        if not self.is_on("collector") and not self.is_on("broker"):
            self.collect()
        if not self.is_on("link"):
            for message in self.to_device:
                self.take_receipt(message)
            self.to_device = []
        self.turn_of_the_disk()

    def collect(self):
        batch, self.in_broker = self.in_broker, []
        if self.random.random() < 0.02:  # the collector is killed with a batch in hand
            if self.without == "commit":
                self.acknowledge(batch)
            self.settled = intake.Settled()
            return
        for message in batch:
            if message.topic == TOPICS["telemetry"]:
                sample = codec.from_bytes(message.payload, telemetry.Sample)
                self.arrivals[sample.boot, sample.seq] = self.arrivals.get((sample.boot, sample.seq), 0) + 1
        outcome = intake.commit(
            self.store, intake.sort([Waiting(batch, self.clock.wall_s())], self.clocks), self.settled
        )
        self.lost += outcome.lost
        self.unseen += outcome.unseen
        for boot, owed in outcome.receipts.items():
            receipt = codec.to_bytes(telemetry.Receipt(boot.boot, owed.upto, owed.events))
            if self.random.random() > 0.02:  # some are lost on the way
                self.to_device.append(Message("receipt", receipt, False))

    def acknowledge(self, batch):
        """A receipt before the commit."""
        for message in batch:
            if message.topic == TOPICS["telemetry"]:
                sample = codec.from_bytes(message.payload, telemetry.Sample)
                receipt = codec.to_bytes(telemetry.Receipt(sample.boot, sample.seq))
                self.to_device.append(Message("receipt", receipt, False))

    def take_receipt(self, message):
        """What the device deletes for it had better be stored."""
        before = self.held()
        self.forwarder.take_receipt(message)
        self.acknowledged |= before - self.held()

    def held(self):
        held = self.spool._held
        keys = [*held.backlog.keys, *held._staged]
        split = [(held.boots.rows.get(records.boot_number_of(key)), records.seq_of(key)) for key in keys]
        return {(boot.boot if boot else "", seq) for boot, seq in split}

    def turn_of_the_disk(self):
        before = {entry.key for entry in self.spool._held.staged()}
        stepped.turn(self.spool)
        for key in before - {entry.key for entry in self.spool._held.staged()}:
            if records.kind_of(key) is Kind.SAMPLE:
                self.acknowledged.add((self.spool.boot, records.seq_of(key)))

    def judge(self):
        self.store.close()
        with contextlib.closing(sqlite3.connect(self.folder / "telemetry.db")) as db:
            rows = db.execute("SELECT boot, seq FROM samples").fetchall()
            lost = db.execute("SELECT SUM(lost) FROM marks").fetchone()[0]
            marks = dict(db.execute("SELECT boot, upto FROM marks"))
        stored = set(rows)
        gaps = sum(1 for boot, upto in marks.items() for seq in range(upto + 1) if (boot, seq) not in stored)
        return {
            "taken": len(self.taken),
            "acknowledged": len(self.acknowledged),
            "lost": len(self.acknowledged - stored),
            "held": self.left,
            "twice": len(rows) - len(stored),
            "came twice": sum(count - 1 for count in self.arrivals.values()),
            "boots": len({boot for boot, _ in self.taken}),
            "gaps": gaps,
            "gaps told": lost,
            "faults": self.counts,
        }


if __name__ == "__main__":
    logging.disable(logging.CRITICAL)
    place, drawn, taken_away, span = sys.argv[1:]
    print(json.dumps(Day(Path(place), int(drawn), without=taken_away, hours=float(span)).run()))
