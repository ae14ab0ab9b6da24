"""The spool with its file: commits, restarts, damage, a disk that fails, a disk that is full."""

import contextlib
import os
import sqlite3
import stat
import threading
import time

import msgspec
import pytest

from edge_sdk import errors
from edge_sdk.device.spool import packing
from edge_sdk.device.spool.forwarding import Forwarder
from edge_sdk.device.spool.held import Limits
from edge_sdk.device.spool.queue_file import QueueFile
from edge_sdk.device.spool.records import Kind, News, Service
from edge_sdk.device.spool.spool import Spool, SpoolSettings
from edge_sdk.records import telemetry
from edge_sdk.testing.clock import FakeClock
from edge_sdk.wire import codec

WAIT_S = 20.0


def until(condition, what):
    deadline = time.monotonic() + WAIT_S
    while not (result := condition()):
        assert time.monotonic() < deadline, what
        time.sleep(0.002)
    return result


class Failing(QueueFile):
    """A file on a disk that fails when it is told to, as SQLite words it."""

    trouble = None

    def apply(self, *args, **more):
        if Failing.trouble:
            raise sqlite3.OperationalError(Failing.trouble)
        super().apply(*args, **more)


class Bench:
    def __init__(self, folder):
        self.file = folder / "spool" / "queue.db"
        self.clock = FakeClock()
        self.spools = []

    def open(self, capacity=1000, memory=1000, open_file=QueueFile, limit_bytes=2**24, **limits):
        limits = Limits(capacity, memory, limits.pop("resend_s", 10.0), **limits)
        settings = SpoolSettings(self.file, limits, limit_bytes, horizon_s=5.0)
        self.spools.append(
            Spool(settings, name_boot=self._name, word=self._word, clocks=self.clock, open_file=open_file)
        )
        return self.spools[-1]

    def _name(self, last):
        return f"{int(last, 16) + 1 if last else 1:08x}"

    def _word(self, boot, seq, news):
        return f"{news.kind} {news.details}".encode()

    def count_on_disk(self):
        with contextlib.closing(sqlite3.connect(self.file)) as db:
            return db.execute("SELECT COUNT(*) FROM records WHERE key < 1 << 62").fetchone()[0]

    def close(self):
        for spool in self.spools:
            spool.close()


@pytest.fixture
def bench(tmp_path):
    Failing.trouble = None
    one = Bench(tmp_path)
    yield one
    Failing.trouble = None
    one.close()


def payloads(spool, kind=None):
    """Everything that is due, as often as it takes to read it."""
    found, deadline = [], time.monotonic() + 2.0
    while time.monotonic() < deadline:
        due = spool.take_due(1000)
        found += due
        state = spool.snapshot()
        if not due and len(found) >= state.held + state.events:
            break
        time.sleep(0.005)
    return [record.payload for record in found if kind is None or record.kind is kind]


def events(spool):
    return [payload.decode() for payload in payloads(spool, Kind.EVENT)]


def test_a_durable_put_is_on_disk_when_it_returns(bench):
    spool = bench.open()
    spool.put(0, b"a", Service.DURABLE)
    assert spool.snapshot().on_disk == 1
    bench.close()
    assert bench.count_on_disk() == 1


def test_best_effort_is_on_disk_when_the_horizon_has_passed_and_not_before(bench):
    spool = bench.open()
    spool.put(0, b"a")
    spool.flush()
    spool.put(1, b"b")
    assert spool.snapshot().on_disk == 1
    bench.clock.advance(5.0)
    spool.put(2, b"c")
    until(lambda: spool.snapshot().on_disk == 3, "the horizon's commit")


def test_what_has_its_receipt_before_its_commit_never_touches_the_disk(bench):
    spool = bench.open()
    spool.put(0, b"first", Service.DURABLE)
    spool.receipt(spool.boot, 0)
    written = os.stat(bench.file.parent / "queue.db-wal").st_mtime_ns
    for seq in range(1, 101):
        spool.put(seq, b"x" * 500)
        spool.receipt(spool.boot, seq)
        bench.clock.advance(0.5)  # 50 s in all: after a minute the file is told what had its receipt
    assert os.stat(bench.file.parent / "queue.db-wal").st_mtime_ns == written
    assert spool.snapshot().receipted == 101
    bench.close()
    assert bench.count_on_disk() == 0


def test_a_put_does_not_wait_for_a_disk_that_hangs(bench):
    hangs, goes_on = threading.Event(), threading.Event()

    class Hanging(QueueFile):
        def apply(self, *args, **more):
            hangs.set()
            goes_on.wait(WAIT_S)
            super().apply(*args, **more)

    spool = bench.open(open_file=Hanging)
    assert hangs.wait(WAIT_S)
    start = time.monotonic()
    for seq in range(100):
        spool.put(seq, b"x")
        spool.take_due(10)
        spool.receipt(spool.boot, seq - 1)
    assert time.monotonic() - start < 2.0
    goes_on.set()


def test_what_had_no_receipt_is_sent_after_a_restart_and_the_boot_is_closed_when_all_of_it_has_one(bench):
    first = bench.open()
    for seq in range(10):
        first.put(seq, b"%d" % seq)
    first.receipt(first.boot, 3)
    first.close()
    second = bench.open()
    assert second.boot > first.boot
    assert payloads(second, Kind.SAMPLE) == [b"%d" % seq for seq in range(4, 10)]
    assert second.oldest_of(first.boot) == (4, 0)
    assert second.snapshot().oldest_seq == 0
    assert second.receipt(first.boot, 9) == 6
    assert until(lambda: events(second), "the end of the boot") == [
        f"boot_closed {{'of_boot': '{first.boot}', 'newest_seq': 9, 'dropped': 0}}"
    ]


def test_a_boot_that_was_killed_says_of_its_newest_what_is_known(bench, tmp_path):
    first = bench.open()
    first.put(0, b"0", Service.DURABLE)
    killed = Bench(tmp_path / "killed")
    killed.file.parent.mkdir(parents=True)
    for suffix in ("", "-wal"):
        (killed.file.parent / f"queue.db{suffix}").write_bytes((bench.file.parent / f"queue.db{suffix}").read_bytes())
    second = killed.open()
    assert payloads(second, Kind.SAMPLE) == [b"0"]
    second.receipt(first.boot, 0)
    (event,) = until(lambda: events(second), "the end of the boot")
    assert "'newest_seq': 0" in event  # as far as it is known
    killed.close()


def test_events_are_committed_at_once_and_outlive_a_restart_until_their_receipt(bench):
    first = bench.open()
    first.tell(News("throttled", "hot", {"c": 99}))
    first.flush()
    first.close()
    second = bench.open()
    assert events(second)[0] == "throttled {'c': 99}"
    assert second.receipt(first.boot, -1, [0]) == 1
    second.close()
    assert not any("throttled" in event for event in events(bench.open()))


def test_the_file_is_the_owners_and_its_groups(bench):
    bench.open().flush()
    assert stat.S_IMODE(bench.file.parent.stat().st_mode) == 0o750
    for file in bench.file.parent.iterdir():
        assert stat.S_IMODE(file.stat().st_mode) == 0o640, file


def test_the_spool_drops_the_oldest_beyond_its_capacity_counted_exactly_and_says_so_once(bench):
    spool = bench.open(capacity=50)
    for seq in range(80):
        spool.put(seq, b"%d" % seq)
        if seq % 7 == 0:
            spool.flush()
    state = spool.snapshot()
    assert (state.held, state.dropped, state.oldest_seq) == (50, 30, 30)
    assert [event.split()[0] for event in events(spool)] == ["records_dropped"]
    spool.close()
    again = bench.open(capacity=50)
    assert again.oldest_of(spool.boot) == (30, 30)
    assert payloads(again, Kind.SAMPLE) == [b"%d" % seq for seq in range(30, 80)]


def test_the_file_stays_within_its_bytes_and_what_gives_way_is_counted(bench):
    spool = bench.open(capacity=100_000, memory=100_000, limit_bytes=300_000)
    for seq in range(3000):
        spool.put(seq, os.urandom(400))
        if seq % 50 == 0:
            spool.flush()
    spool.flush()
    until(lambda: spool.snapshot().dropped and not spool._writer._is_tight, "the oldest to give way")
    state = spool.snapshot()
    assert state.held + state.dropped == 3000
    assert state.oldest_seq == state.dropped
    assert bench.file.stat().st_size <= 300_000 * 1.25


@pytest.mark.parametrize("damage", ["garbage", "truncated", "empty", "header", "folder"])
def test_a_damaged_file_is_set_aside_and_a_new_queue_is_there_at_once(bench, damage):
    first = bench.open()
    for seq in range(200):
        first.put(seq, os.urandom(300))
    first.close()
    size = bench.file.stat().st_size
    content = bytearray(bench.file.read_bytes())
    if damage == "garbage":
        bench.file.write_bytes(os.urandom(size))
    elif damage == "truncated":
        bench.file.write_bytes(content[: size // 2])
    elif damage == "empty":
        bench.file.write_bytes(b"")
    elif damage == "header":
        content[:100] = bytes(100)
        bench.file.write_bytes(content)
    else:
        bench.file.unlink()
        bench.file.mkdir()
    start = time.monotonic()
    second = bench.open()
    assert time.monotonic() - start < 1.0
    second.put(0, b"new")
    if damage != "folder":
        second.put(1, b"newer", Service.DURABLE)
    found = payloads(second)
    assert b"new" in found
    if damage in ("garbage", "truncated", "header"):
        assert any(payload.startswith(b"queue_reset") for payload in found)
        assert (bench.file.parent / "queue.db.damaged").stat().st_size > 0
    if damage == "folder":
        assert any(payload.startswith(b"spool_failed") for payload in found)
        assert not second.snapshot().is_durable


def test_what_can_be_read_of_a_damaged_file_is_carried_over(bench):
    first = bench.open()
    for seq in range(500):
        first.put(seq, b"%d " % seq + os.urandom(300))
    first.close()
    content = bytearray(bench.file.read_bytes())
    page = (len(content) // 1024 // 2) * 1024
    content[page : page + 1024] = bytes(1024)
    bench.file.write_bytes(content)
    second = bench.open()
    kept = [int(payload.split()[0]) for payload in payloads(second, Kind.SAMPLE)]
    assert len(kept) > 480
    assert kept == sorted(kept)


def test_a_flipped_bit_in_a_record_is_not_sent_and_the_rest_is(bench):
    first = bench.open()
    for seq in range(50):
        first.put(seq, b"%d" % seq + b"y" * 40)
    first.close()
    with contextlib.closing(sqlite3.connect(bench.file, isolation_level=None)) as db:
        key, body = db.execute("SELECT key, body FROM records ORDER BY key LIMIT 1 OFFSET 20").fetchone()
        db.execute("UPDATE records SET body = ? WHERE key = ?", (bytes([body[0] ^ 4]) + body[1:], key))
    second = bench.open()
    found = [int(payload.rstrip(b"y")) for payload in payloads(second, Kind.SAMPLE)]
    assert found == [seq for seq in range(50) if seq != 20]
    assert second.oldest_of(first.boot) == (0, 1)
    assert any(event.startswith("records_damaged {'lost': 1}") for event in events(bench_again(second)))


def bench_again(spool):
    """Makes everything due again."""
    spool._clock.advance(100.0)
    return spool


@pytest.mark.parametrize("words", ["disk I/O error", "attempt to write a readonly database"])
def test_a_disk_that_fails_is_no_commit_is_told_once_and_costs_nothing_when_it_is_back(bench, words):
    spool = bench.open(open_file=Failing)
    spool.put(0, b"0", Service.DURABLE)
    Failing.trouble = words
    with pytest.raises(errors.StoreError, match="not on disk"):
        spool.put(1, b"1", Service.DURABLE)
    assert not spool.snapshot().is_durable
    for seq in range(2, 40):
        bench.clock.advance(6.0)
        spool.put(seq, b"%d" % seq)
    Failing.trouble = None
    bench.clock.advance(6.0)
    spool.put(40, b"40")
    until(lambda: spool.snapshot().on_disk == 41, "everything on disk")
    assert [event.split()[0] for event in events(spool)].count("spool_failed") == 1
    assert spool.snapshot().dropped == 0
    spool.close()
    assert bench.count_on_disk() == 41
    assert (bench.file.parent / "queue.db.damaged").exists()  # the file whose sync failed is not trusted again


@pytest.mark.parametrize("reached_the_disk", [False, True])
def test_nothing_receipted_is_sent_again_after_the_file_was_opened_anew(bench, reached_the_disk):
    """A commit that failed may be on disk all the same: the write-ahead log had it, only its sync failed."""

    class Unsure(Failing):
        def apply(self, *args, **more):
            if Failing.trouble and reached_the_disk:
                QueueFile.apply(self, *args, **more)
            super().apply(*args, **more)

    first = bench.open(open_file=Unsure)
    first.tell(News("throttled", "hot", {}))
    first.tell(News("cooled", "fine", {}))
    for seq in range(5):
        first.put(seq, b"%d" % seq)
    first.flush()
    assert first.receipt(first.boot, 2, [0]) == 4
    Failing.trouble = "disk I/O error"
    with pytest.raises(errors.StoreError):
        first.put(5, b"5", Service.DURABLE)
    Failing.trouble = None
    bench.clock.advance(6.0)
    first.put(6, b"6")
    until(lambda: first.snapshot().is_durable and first.snapshot().on_disk == 4, "everything on disk")
    first.close()
    second = bench.open()
    due = payloads(second)
    assert [payload for payload in due if payload.isdigit()] == [b"3", b"4", b"5", b"6"]
    kinds = [payload.split()[0] for payload in due if not payload.isdigit()]
    assert b"throttled" not in kinds
    assert kinds.count(b"cooled") == 1


def test_starts_whose_file_cannot_be_opened_at_first_keep_apart(bench):
    bench.open().close()
    names = []
    for _ in range(2):
        holder = sqlite3.connect(bench.file, isolation_level=None)
        holder.execute("PRAGMA locking_mode = EXCLUSIVE")
        holder.execute("BEGIN EXCLUSIVE")
        late = bench.open()
        late.put(0, b"of " + late.boot.encode())
        assert not late.snapshot().is_durable
        holder.close()
        bench.clock.advance(6.0)
        late.put(1, b"more")
        until(lambda: late.snapshot().on_disk >= 2, "its place on disk")
        names.append(late._held.number)
        late.close()
    assert names == [2, 3]
    assert payloads(bench.open(), Kind.SAMPLE).count(b"more") == 2


def test_a_second_daemon_on_the_same_file_gets_none_of_it(bench):
    first = bench.open()
    first.put(0, b"0", Service.DURABLE)
    second = bench.open()
    assert not second.snapshot().is_durable
    with pytest.raises(errors.StoreError):
        second.put(0, b"second", Service.DURABLE)
    first.put(1, b"1", Service.DURABLE)
    first.close()
    assert bench.count_on_disk() == 2


@pytest.mark.parametrize(("memory", "times", "dropped"), [(1000, 1, 0), (1000, 2, 0), (100, 2, 64)])
def test_a_full_disk_gives_up_the_ballast_and_the_oldest_only_when_memory_is_short(bench, memory, times, dropped):
    spool = bench.open(open_file=Failing, memory=memory)
    for seq in range(300):
        spool.put(seq, b"%d" % seq)
        if seq % 50 == 49:
            spool.flush()
    ballast = bench.file.parent / "queue.db.ballast"
    assert ballast.stat().st_size == 2**20
    full = iter([True] * times)

    def apply(self, *args, **more):
        if next(full, False):
            raise sqlite3.OperationalError("database or disk is full")
        QueueFile.apply(self, *args, **more)

    failing, Failing.apply = Failing.apply, apply
    try:
        for seq in range(300, 360):
            spool.put(seq, b"%d" % seq)
        with contextlib.suppress(errors.StoreError):
            spool.flush()
        bench.clock.advance(6.0)
        spool.put(360, b"360")
        with contextlib.suppress(errors.StoreError):
            spool.flush()
        until(lambda: spool.snapshot().on_disk + spool.snapshot().dropped == 361, "the disk to go on")
    finally:
        Failing.apply = failing
    state = spool.snapshot()
    assert state.is_durable
    assert state.dropped == state.oldest_seq == dropped
    assert sum(event.startswith("disk_full") for event in events(spool)) == 1


def test_a_backlog_larger_than_the_window_is_read_in_order_as_receipts_come(bench):
    first = bench.open(capacity=5000, memory=5000)
    for seq in range(5000):
        first.put(seq, b"%d" % seq)
    first.close()
    second = bench.open(capacity=5000)
    found = []
    deadline = time.monotonic() + WAIT_S
    while len(found) < 5000:
        assert time.monotonic() < deadline
        due = [record for record in second.take_due(500) if record.kind is Kind.SAMPLE]
        found += [int(record.payload) for record in due]
        if due:
            second.receipt(first.boot, due[-1].seq, [])
        else:
            time.sleep(0.002)
    assert found == list(range(5000))
    assert len(second._held.backlog.cache) <= 1000


def test_packed_payloads_are_smaller_and_no_flipped_bit_gets_by():
    payload = b'{"v":2,"device":"cam-7","boot":"c0ffee00","seq":7,"cpu_utilization_ratio":0.25,"gpu_frequency_hz":null}'
    packed = packing.pack(7, payload)
    assert len(packed.body) < len(payload) * 0.7
    for bit in range(len(packed.body) * 8):
        body = bytearray(packed.body)
        body[bit // 8] ^= 1 << bit % 8
        assert packing.unpack(7, packing.Packed(packed.crc, packed.form, bytes(body))) is None
    for bit in range(32):
        assert packing.unpack(7, packing.Packed(packed.crc ^ 1 << bit, packed.form, packed.body)) is None
    assert packing.unpack(8, packed) is None


def test_the_spool_says_once_that_the_oldest_give_way_to_the_limit_of_its_file(bench):
    spool = bench.open(limit_bytes=2**18)
    for seq in range(3000):
        spool.put(seq, bytes((seq * 7 + i * i) % 251 for i in range(300)))
        if seq % 100 == 0:
            spool.flush()
    spool.flush()
    assert spool.snapshot().dropped > 0
    assert [event.split()[0] for event in events(spool)] == ["records_dropped"]


def sample_of(boot, seq):
    return codec.to_bytes(telemetry.Sample(v=2, device="cam-7", boot=boot, seq=seq, t=1.75e9, up_s=1.0, interval_s=1.0))


@pytest.mark.parametrize("damage", ["boot = 'f00d4ace'", "boot = x'00ff'", "dropped = -1", "newest_seq = 'x'"])
def test_a_damaged_row_of_a_boot_does_not_keep_its_records(bench, damage):
    first = bench.open()
    for seq in range(10):
        first.put(seq, sample_of(first.boot, seq))
    first.close()
    with contextlib.closing(sqlite3.connect(bench.file)) as db:
        db.execute(f"UPDATE boots SET {damage}")
        db.commit()
    second = bench.open()
    assert len(payloads(second, Kind.SAMPLE)) == 10
    assert second.receipt(first.boot, 9) == 10
    assert second.snapshot().held == 0


def test_what_is_set_aside_is_counted_told_and_kept(bench):
    spool = bench.open()
    for seq in range(3):
        spool.put(seq, b"%d" % seq)
    spool.flush()
    due = [record for record in spool.take_due(10) if record.kind is Kind.SAMPLE]
    assert spool.set_aside(due[0], "too large")
    assert not spool.set_aside(due[0], "too large")
    assert spool.oldest_of(spool.boot) == (1, 1)
    assert [event.split()[0] for event in events(spool)] == ["record_refused"]
    spool.close()
    assert bench.file.with_name("queue.db.refused").read_bytes() == b"0\n"
    assert bench.open().oldest_of(spool.boot) == (1, 1)


class Narrow:
    """A link to a broker that takes nothing above a size."""

    def __init__(self, limit_bytes):
        self.limit_bytes, self.sent = limit_bytes, []

    def publish(self, topic, payload):
        if len(payload) > self.limit_bytes:
            raise errors.OversizeError("too large")
        self.sent.append(payload)

    def snapshot(self):
        return msgspec.defstruct("State", [("is_connected", bool)])(True)


@pytest.mark.parametrize(("limit_bytes", "held", "dropped"), [(5, 3, 0), (50, 2, 1)])
def test_what_a_broker_never_takes_is_set_aside_only_where_others_pass(bench, limit_bytes, held, dropped, caplog):
    spool, link = bench.open(), Narrow(limit_bytes)
    forwarder = Forwarder(spool, link, telemetry_topic="t", event_topic="e", renew=lambda payload, *_: payload)
    for seq, size in enumerate((10, 100, 10)):
        forwarder.keep(seq, b"x" * size)
    for _ in range(3):
        forwarder.send_due()
        bench.clock.advance(11.0)
    assert (spool.snapshot().held, spool.snapshot().dropped) == (held, dropped)
    told = [record.message for record in caplog.records if "too large" in record.message]
    assert len(told) == 1 + dropped  # the event of it is too large here as well, and no other one tells of that
    assert spool.snapshot().events == 0
