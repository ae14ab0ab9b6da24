"""Device, disk, link and collector in any order, with kills: nothing that was committed is lost uncounted, nothing is wrong.

The writer's thread is not started; its turns are rules, so every order of events is one that hypothesis chose.
"""

import shutil
import sqlite3
import tempfile
from pathlib import Path

import msgspec
import pytest
import stepped
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from edge_sdk import errors
from edge_sdk.device import reports
from edge_sdk.device.spool import spool as spools
from edge_sdk.device.spool.forwarding import Forwarder
from edge_sdk.device.spool.held import Limits
from edge_sdk.device.spool.queue_file import QueueFile
from edge_sdk.link.protocol import Message
from edge_sdk.records import telemetry
from edge_sdk.testing.clock import FakeClock
from edge_sdk.wire import codec

RESEND_S = 5.0


class Wire:
    """A link that takes so many messages, then none."""

    def __init__(self):
        self.room = 0
        self.messages = []

    def publish(self, topic, payload, *, retain=False):
        if self.room <= 0:
            raise errors.LinkError("full")
        self.room -= 1
        self.messages.append((topic, payload))

    def snapshot(self):
        return msgspec.defstruct("State", [("is_connected", bool)])(True)


class Faulty(QueueFile):
    """Fails when told to."""

    trouble = ""
    has_reached_the_disk = False  # what failed: the write-ahead log had it, only its sync failed

    def apply(self, *args, **more):
        if not Faulty.trouble or Faulty.has_reached_the_disk:
            super().apply(*args, **more)
        if Faulty.trouble:
            raise sqlite3.OperationalError(Faulty.trouble)


class Collected:
    """What a collector with a database of its own knows of one boot; the rules are those of collector/ingest."""

    def __init__(self):
        self.stored = set()
        self.floor = 0

    def take(self, sample):
        self.stored.add(sample.seq)
        self.floor = max(self.floor, sample.oldest_seq)
        while self.floor in self.stored:
            self.floor += 1

    @property
    def upto(self):
        return self.floor - 1


class Spooling(RuleBasedStateMachine):
    @initialize(capacity=st.integers(3, 12), window=st.integers(1, 6), repeats=st.integers(1, 4))
    def begin(self, capacity, window, repeats):
        self.limits = Limits(capacity, max(2, capacity - 2), RESEND_S, window, repeats)
        self.folder = Path(tempfile.mkdtemp())
        self.clock = FakeClock()
        self.wire = Wire()
        self.collected = {}
        self.boots = []
        self.promised = set()  # committed: may be lost only if it is counted
        self.taken = set()  # put
        self.events_promised, self.events_stored = set(), set()
        self.receipted = set()  # the device was told
        self.life = 0
        Faulty.trouble, Faulty.has_reached_the_disk = "", False
        self.start()

    def start(self):
        self.spool = stepped.open_spool(
            spools.SpoolSettings(self.folder / str(self.life) / "queue.db", self.limits, 2**20, 2.0),
            name_boot=lambda last: reports.boot_id(started_s=self.clock.wall_s(), random_bits=7, last=last),
            word=lambda boot, seq, news: b"%s:%d" % (boot.encode(), seq),
            clocks=self.clock,
            open_file=Faulty,
        )
        self.boots.append(self.spool.boot)
        self.seq = 0
        self.forwarder = Forwarder(self.spool, self.wire, telemetry_topic="t", event_topic="e", renew=reports.renewed)

    def teardown(self):
        if hasattr(self, "spool"):
            if self.spool._writer._queue is not None:
                self.spool._writer._queue.close()
            shutil.rmtree(self.folder)

    @rule(count=st.integers(1, 4))
    def put(self, count):
        for _ in range(count):
            self.clock.advance(1.0)
            state = self.forwarder.make_room()
            sample = telemetry.Sample(
                v=2,
                device="cam-7",
                boot=self.spool.boot,
                seq=self.seq,
                t=self.clock.wall_s(),
                up_s=self.clock.boot_s(),
                interval_s=1.0,
                oldest_seq=state.oldest_seq,
                dropped=state.dropped,
            )
            self.forwarder.keep(self.seq, codec.to_bytes(sample))
            self.taken.add((self.spool.boot, self.seq))
            self.seq += 1

    @rule()
    def disk(self):
        before = {entry.key for entry in self.spool._held.staged()}
        stepped.turn(self.spool)
        held = self.spool._held
        for key in before - {entry.key for entry in held.staged()}:
            kind, seq = spools.records.kind_of(key), spools.records.seq_of(key)
            promised = self.promised if kind is spools.Kind.SAMPLE else self.events_promised
            promised.add((self.spool.boot, seq))

    @rule()
    def commit_now(self):
        self.spool._writer.is_flushing = True
        self.disk()

    @rule(
        words=st.sampled_from(["", "", "disk I/O error", "database or disk is full", "readonly database"]),
        has_reached_the_disk=st.booleans(),
    )
    def disk_weather(self, words, has_reached_the_disk):
        Faulty.trouble, Faulty.has_reached_the_disk = words, has_reached_the_disk and words == "disk I/O error"

    @rule(has_reached_the_disk=st.booleans())
    def a_commit_fails_and_the_file_is_opened_anew(self, has_reached_the_disk):
        self.put(1)
        self.disk_weather("disk I/O error", has_reached_the_disk)
        self.commit_now()
        self.disk_weather("", False)
        self.disk()

    @rule(room=st.integers(0, 12), seconds=st.sampled_from([0.0, 1.0, 6.0]))
    def send(self, room, seconds):
        self.clock.advance(seconds)
        self.wire.room = room
        self.forwarder.send_due()

    @rule(count=st.integers(0, 12), is_lost=st.booleans())
    def arrive(self, count, is_lost):
        """The collector takes some of what is under way, or the broker loses it; an acknowledgement is no receipt."""
        batch, self.wire.messages = self.wire.messages[:count], self.wire.messages[count:]
        if is_lost:
            return
        for topic, payload in batch:
            if topic == "e":
                boot, seq = payload.decode().split(":")
                self.events_stored.add((boot, int(seq)))
            else:
                sample = codec.from_bytes(payload, telemetry.Sample)
                assert (sample.boot, sample.seq) in self.taken
                self.collected.setdefault(sample.boot, Collected()).take(sample)

    @rule(data=st.data())
    def receipt(self, data):
        boot = data.draw(st.sampled_from(self.boots))
        events = tuple(seq for name, seq in sorted(self.events_stored) if name == boot)
        upto = self.collected[boot].upto if boot in self.collected else -1
        upto = data.draw(st.sampled_from([upto, upto, max(-1, upto - 2)]))  # receipts may come late, or twice
        self.forwarder.take_receipt(Message("r", codec.to_bytes(telemetry.Receipt(boot, upto, events)), False))
        self.receipted |= {(spools.Kind.EVENT, boot, seq) for seq in events}
        self.receipted |= {(spools.Kind.SAMPLE, boot, seq) for seq in range(upto + 1)}

    @rule()
    def reconnect(self):
        self.forwarder.reconnected()

    @precondition(lambda self: not Faulty.trouble)
    @rule(in_order=st.booleans())
    def restart(self, in_order):
        """The process ends: in order, or by a kill, which leaves the files as they are at that moment."""
        old = self.folder / str(self.life)
        if in_order:
            self.clock.advance(6.0)
            self.disk()
            self.spool._writer._is_closing = True
            self.disk()
            self.spool._writer._queue.close()
        self.life += 1
        shutil.copytree(old, self.folder / str(self.life))
        if self.spool._writer._queue is not None:
            self.spool._writer._queue.close()
        self.wire.messages = []
        self.start()
        if in_order:
            held = self.spool._held
            back = {(spools.records.kind_of(key), *split(key)) for key in [*held.backlog.keys, *held._events]}
            back = {
                (kind, held.boots.rows[number].boot, seq) for kind, number, seq in back if number in held.boots.rows
            }
            assert not back & self.receipted, "sent again although it had its receipt"
        else:
            self.receipted = set()  # a kill may come before the file was told

    @invariant()
    def what_was_committed_is_held_or_stored_or_counted(self):
        if not hasattr(self, "spool"):
            return
        held = self.spool._held
        keys = [*held.backlog.keys, *held._staged]
        at = {(held.boots.rows[n].boot, seq) for n, seq in map(split, keys) if n in held.boots.rows}
        missing = self.promised - at
        for boot in self.boots:
            stored = self.collected[boot].stored if boot in self.collected else set()
            gone = {seq for name, seq in missing if name == boot} - stored
            number = held.boots.number_of(boot)
            if number is not None:
                assert len(gone) <= held.boots.dropped(number), (boot, gone)
        events = {(held.boots.rows[n].boot, seq) for n, seq in map(split, held._events) if n in held.boots.rows}
        assert self.events_promised <= events | self.events_stored

    @invariant()
    def the_bounds_are_kept(self):
        if hasattr(self, "spool"):
            held = self.spool._held
            if self.seq:  # before the first put, what was dropped and not yet deleted when it was killed is back
                assert held.samples <= self.limits.capacity
            assert len(held._staged) <= self.limits.memory
            assert len(held.backlog.cache) <= self.limits.window + self.limits.capacity
            assert list(held.backlog.keys) == sorted(set(held.backlog.keys))

    @invariant()
    def nothing_before_the_oldest_is_held(self):
        if hasattr(self, "spool"):
            state = self.spool.snapshot()
            assert state.oldest_seq <= self.seq


def split(key):
    return spools.records.boot_number_of(key), spools.records.seq_of(key)


Spooling.TestCase.settings = settings(
    max_examples=60, stateful_step_count=40, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
TestSpooling = Spooling.TestCase


@pytest.mark.parametrize("last", [None, "00000000ffffffff", "fffffff000000000"])
def test_boots_sort_in_the_order_of_their_starts_whatever_the_clock_says(last):
    first = reports.boot_id(started_s=12.0, random_bits=5, last=last)
    second = reports.boot_id(started_s=3.0, random_bits=2, last=first)
    assert first < second


def test_a_boot_is_forgotten_no_earlier_than_its_last_record_on_disk():
    """Else a kill brings the record back, and what was dropped before it is not known any more."""
    spooling = Spooling()
    spooling.begin(capacity=3, window=1, repeats=1)
    try:
        for count, in_order in ((2, False), (2, True), (1, False)):
            spooling.put(count=count)
            spooling.commit_now()
            spooling.restart(in_order=in_order)
            spooling.what_was_committed_is_held_or_stored_or_counted()
    finally:
        spooling.teardown()
