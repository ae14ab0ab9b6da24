"""The collector on an in-memory broker: stored first, receipted then; what is refused changes nothing."""

import contextlib
import json
import queue
import random
import sqlite3
import threading
import time

import pytest

from edge_sdk import errors
from edge_sdk.clock import SystemClock
from edge_sdk.collector import intake
from edge_sdk.collector.backlog import MESSAGE_BYTES, Backlog, Waiting
from edge_sdk.collector.clocks import DeviceClocks
from edge_sdk.collector.service import Collector
from edge_sdk.collector.settings import CollectorSettings
from edge_sdk.collector.store import opening
from edge_sdk.link.memory import MemoryBroker, MemoryLink
from edge_sdk.link.protocol import Message
from edge_sdk.records import telemetry
from edge_sdk.wire import codec, compact

WAIT_S = 10.0
BOOT = "00c0ffee"


def sample(seq, *, device="cam-7", boot=BOOT, **more):
    return codec.to_bytes(
        telemetry.Sample(v=1, device=device, boot=boot, seq=seq, t=1.75e9 + seq, up_s=1.0 + seq, interval_s=1.0, **more)
    )


def until(condition, what):
    deadline = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.005)


class Plant:
    """A broker, a collector and one device's side of the conversation."""

    def __init__(self, file, **settings):
        self.file = file
        self.settings = CollectorSettings(database=str(file), **{"batch_wait_s": 0.0, "retry_s": 0.02, **settings})
        self.broker = MemoryBroker()
        self.receipts = queue.SimpleQueue()
        self.device = MemoryLink(self.broker)
        self.device.subscribe("edge/v1/+/+/down/receipt", self.receipts.put)
        self.device.open()
        assert self.device.wait_for_connected(WAIT_S)
        self.collector = None

    def start(self):
        link = MemoryLink(self.broker)
        self.collector = Collector(self.settings, link, SystemClock())
        self.collector.start()
        assert link.wait_for_connected(WAIT_S)

    def send(self, payload, topic="edge/v1/plant/cam-7/up/telemetry"):
        self.device.publish(topic, payload)

    def receipt(self):
        message = self.receipts.get(timeout=WAIT_S)
        return message.topic, codec.from_bytes(message.payload, telemetry.Receipt)

    def wait_for_upto(self, upto):
        while self.receipt()[1].upto != upto:
            pass

    def settle(self):
        """Gives the state once nothing waits any more."""
        until(
            lambda: self.collector.snapshot().waiting == 0 and self.device.snapshot().published <= self.taken(), "rest"
        )
        return self.collector.snapshot()

    def taken(self):
        return self.collector.snapshot().received

    def stop(self):
        self.collector.close()
        state = self.collector.snapshot()
        assert state.received == (
            state.stored + state.duplicates + state.others + state.refused + state.overflowed + state.abandoned
        )
        return state

    def query(self, text):
        with contextlib.closing(sqlite3.connect(self.file)) as db:
            return db.execute(text).fetchall()


@pytest.fixture
def make_plant(tmp_path):
    plants = []

    def make(**settings):
        plants.append(Plant(tmp_path / "t.db", **settings))
        return plants[-1]

    yield make
    for plant in plants:
        if plant.collector:
            plant.collector.close(0.2)
        plant.device.close()


@pytest.fixture
def plant(make_plant):
    plant = make_plant()
    plant.start()
    return plant


def test_a_sample_is_stored_and_then_receipted_to_its_device(plant):
    plant.send(sample(0))
    assert plant.receipt() == ("edge/v1/plant/cam-7/down/receipt", telemetry.Receipt(BOOT, 0))
    assert plant.query("SELECT device, site, boot, seq, t FROM samples") == [("cam-7", "plant", BOOT, 0, 1.75e9)]
    assert plant.query("SELECT payload FROM samples") == [(sample(0).decode(),)]


def test_what_comes_twice_is_stored_once_and_receipted_again(plant):
    for _ in range(2):
        plant.send(sample(0))
        assert plant.receipt()[1].upto == 0
    state = plant.stop()
    assert (state.stored, state.duplicates, state.receipts) == (1, 1, 2)
    assert plant.query("SELECT COUNT(*) FROM samples") == [(1,)]


def test_a_gap_holds_the_receipt_until_it_is_filled(plant):
    plant.send(sample(0))
    plant.wait_for_upto(0)
    plant.send(sample(2))
    assert plant.receipt()[1].upto == 0
    plant.send(sample(1))
    plant.wait_for_upto(2)
    assert plant.stop().lost == 0


def test_what_a_device_had_to_drop_is_lost_and_counted_exactly(plant):
    plant.send(sample(0))
    plant.wait_for_upto(0)
    plant.send(sample(5, oldest_seq=4, dropped=3))
    plant.wait_for_upto(3)
    assert plant.settle().lost == 3
    plant.send(sample(4, oldest_seq=0))
    plant.wait_for_upto(5)
    plant.send(sample(2, oldest_seq=0))
    plant.wait_for_upto(5)
    assert plant.stop().lost == 2
    assert plant.query("SELECT upto, lost FROM marks") == [(5, 2)]


def test_devices_and_boots_are_counted_apart(plant):
    plant.send(sample(0))
    plant.send(sample(0, boot="11c0ffee"))
    plant.send(sample(0, device="cam-8"), "edge/v1/other/cam-8/up/telemetry")
    got = {(topic, receipt.boot, receipt.upto) for topic, receipt in (plant.receipt() for _ in range(3))}
    assert got == {
        ("edge/v1/plant/cam-7/down/receipt", BOOT, 0),
        ("edge/v1/plant/cam-7/down/receipt", "11c0ffee", 0),
        ("edge/v1/other/cam-8/down/receipt", BOOT, 0),
    }
    assert plant.stop().devices == 2


POISON = {
    "not JSON": b"cpu=3",
    "not our schema": b'{"temperature": 21.5}',
    "too large": b'{"x": "' + b"x" * 70_000 + b'"}',
    "a NUL": sample(0).replace(b"cam-7", b"cam\x007"),
    "bad UTF-8": sample(0)[:-1] + b',"x":"\xff"}',
    "deep nesting": b"[" * 60_000,
    "a seq beyond 64 bits": sample(0).replace(b'"seq":0', b'"seq":18446744073709551616'),
    "an infinite time": sample(0).replace(b"1750000000.0", b"1e999"),
    "another device's": sample(0, device="cam-8"),
    "empty": b"",
}


@pytest.mark.parametrize("poison", POISON.values(), ids=POISON.keys())
def test_poison_is_counted_and_kept_and_the_next_good_record_stored(plant, poison):
    plant.send(poison)
    plant.send(sample(0))
    plant.wait_for_upto(0)
    state = plant.stop()
    assert (state.refused, state.stored, state.lost) == (1, 1, 0)
    assert plant.query("SELECT topic, size_bytes FROM refused") == [("edge/v1/plant/cam-7/up/telemetry", len(poison))]
    assert plant.query("SELECT payload FROM refused")[0][0] == poison[:4096]
    assert plant.query("SELECT device, seq FROM samples") == [("cam-7", 0)]


def test_topics_that_are_not_ours_are_refused(plant):
    plant.send(sample(0), "edge/v1/plant/CAM/up/telemetry")
    plant.send(sample(0), "edge/v1/plant/cam-7/up/strange")
    plant.send(sample(0))
    plant.wait_for_upto(0)
    assert plant.stop().refused == 2
    assert plant.query("SELECT kind, count FROM refused_counts") == [("topic", 2)]


def test_a_flood_of_poison_is_kept_only_up_to_the_limit(make_plant):
    plant = make_plant(refused_kept=5)
    plant.start()
    for number in range(50):
        plant.send(b"poison %d" % number)
    plant.send(sample(0))
    plant.wait_for_upto(0)
    assert plant.stop().refused == 50
    assert [row[0] for row in plant.query("SELECT payload FROM refused")] == [b"poison %d" % n for n in range(5)]


def test_status_birth_and_events_are_kept(plant):
    status = telemetry.Status("online", BOOT, 1.0)
    event = telemetry.Event(v=1, device="cam-7", boot=BOOT, t=2.0, kind="throttled", message="hot")
    birth = telemetry.Birth(
        v=1, device="cam-7", boot=BOOT, t=3.0, sdk="1", machine={}, models=(), metrics=(), interval_s=1.0
    )
    for what, record in (("status", status), ("event", event), ("birth", birth), ("event", event)):
        plant.send(codec.to_bytes(record), f"edge/v1/plant/cam-7/up/{what}")
    until(lambda: plant.collector.snapshot().others == 4, "all four")
    plant.stop()
    states = plant.query("SELECT site, device, kind, payload FROM states ORDER BY kind")
    assert states == [
        ("plant", "cam-7", "birth", codec.to_bytes(birth).decode()),
        ("plant", "cam-7", "status", codec.to_bytes(status).decode()),
    ]
    assert [json.loads(row[0])["kind"] for row in plant.query("SELECT payload FROM events")] == ["throttled"]


def test_only_the_chosen_site_is_collected(make_plant):
    plant = make_plant(site="plant")
    plant.start()
    plant.send(sample(0, device="cam-9"), "edge/v1/other/cam-9/up/telemetry")
    plant.send(sample(0))
    plant.wait_for_upto(0)
    assert plant.stop().received == 1


def test_no_receipt_while_the_database_does_not_commit(plant):
    plant.send(sample(0))
    plant.wait_for_upto(0)
    holder = sqlite3.connect(plant.file, isolation_level=None)
    holder.execute("BEGIN IMMEDIATE")
    plant.send(sample(1))
    until(lambda: plant.collector.snapshot().store_failures > 0, "a failed commit")
    state = plant.collector.snapshot()
    assert (state.stored, state.receipts, state.waiting) == (1, 1, 1)
    assert "locked" in state.last_error
    assert plant.receipts.empty()
    holder.execute("ROLLBACK")
    holder.close()
    plant.wait_for_upto(1)
    assert plant.stop().stored == 2


def test_a_collector_that_ends_while_the_database_is_locked_gives_no_receipt(plant):
    plant.send(sample(0))
    plant.wait_for_upto(0)
    with contextlib.closing(sqlite3.connect(plant.file, isolation_level=None)) as holder:
        holder.execute("BEGIN IMMEDIATE")
        plant.send(sample(1))
        until(lambda: plant.collector.snapshot().received == 2, "the second Sample")
        started = time.monotonic()
        state = plant.stop()
        assert time.monotonic() - started < 3.0
    assert (state.stored, state.receipts, state.abandoned) == (1, 1, 1)
    assert plant.receipts.empty()


def test_a_restart_goes_on_where_the_last_one_ended(plant):
    plant.send(sample(0))
    plant.send(sample(2))
    plant.send(sample(7, boot="11c0ffee", oldest_seq=7, dropped=7))
    until(lambda: plant.collector.snapshot().stored == 3, "three Samples")
    assert plant.stop().lost == 7
    plant.start()
    assert (plant.collector.snapshot().lost, plant.collector.snapshot().devices) == (7, 1)
    while not plant.receipts.empty():
        plant.receipts.get()
    plant.send(sample(1))
    assert plant.receipt()[1] == telemetry.Receipt(BOOT, 2)


def test_receipts_that_could_not_be_sent_go_out_later(plant):
    class Busy:
        """The device's broker with a link that takes nothing for a while."""

        def __init__(self, link):
            self.link, self.refusals = link, 3

        def publish(self, topic, payload, *, retain=False):
            if self.refusals:
                self.refusals -= 1
                raise errors.LinkError("too many messages in flight")
            self.link.publish(topic, payload, retain=retain)

    busy = plant.collector._link
    plant.collector._link = Busy(busy)
    plant.send(sample(0))
    plant.wait_for_upto(0)
    assert plant.collector._link.refusals == 0
    plant.collector._link = busy


def test_a_broker_that_comes_back_finds_the_collector_again(plant):
    plant.send(sample(0))
    plant.wait_for_upto(0)
    plant.broker.stop()
    plant.broker.start()
    assert plant.device.wait_for_connected(WAIT_S)
    until(lambda: len(plant.broker._connected) == 2, "both to be connected again")
    plant.send(sample(1))
    plant.wait_for_upto(1)


def test_a_collector_without_a_usable_database_does_not_open_its_link(make_plant):
    plant = make_plant()
    plant.file.write_bytes(b"x" * 5000)
    link = MemoryLink(plant.broker)
    collector = Collector(plant.settings, link, SystemClock())
    with pytest.raises(errors.SettingsError, match="not a database"):
        collector.start()
    assert not link.wait_for_connected(0)
    collector.close()
    assert not collector.snapshot().is_running


def waiting(size, number=0):
    return Waiting([Message(f"t/{number}", b"x" * size, False)], 0.0)


def test_the_backlog_takes_no_more_than_its_bytes_and_counts_the_rest():
    backlog = Backlog(3 * (1000 + MESSAGE_BYTES))
    for number in range(5):
        backlog.put(waiting(1000, number))
    assert (backlog.received, backlog.overflowed, len(backlog)) == (5, 2, 3)
    batch = backlog.take(2, wait_s=0, gather_s=0)
    assert [message.topic for entry in batch for message in entry.messages] == ["t/0", "t/1"]
    backlog.put(waiting(1000, 5))
    assert [message.topic for entry in backlog.take(9, wait_s=0, gather_s=0) for message in entry.messages] == [
        "t/2",
        "t/5",
    ]


def test_a_closed_backlog_takes_nothing_and_keeps_nobody_waiting():
    backlog = Backlog(100_000)
    backlog.put(waiting(1))
    backlog.close()
    backlog.put(waiting(1))
    started = time.monotonic()
    assert len(backlog.take(9, wait_s=60, gather_s=60)) == 1
    assert backlog.take(9, wait_s=60, gather_s=60) == []
    assert time.monotonic() - started < 5
    assert (backlog.overflowed, backlog.turned_away) == (0, 1)


def test_a_batch_larger_than_is_asked_for_is_taken_in_parts_and_in_order():
    backlog = Backlog(100_000)
    backlog.put(Waiting([Message(f"t/{number}", b"x", False) for number in range(5)], 1.0))
    first, rest = (backlog.take(limit, wait_s=0, gather_s=0) for limit in (3, 9))
    assert [message.topic for entry in first + rest for message in entry.messages] == [f"t/{n}" for n in range(5)]
    assert [len(entry.messages) for entry in first + rest] == [3, 2]
    assert len(backlog) == 0


def test_a_full_backlog_waits_for_the_taker_before_it_drops():
    backlog = Backlog(1000 + MESSAGE_BYTES)
    backlog.put(waiting(1000))
    taker = threading.Timer(0.05, backlog.take, args=(1,), kwargs={"wait_s": 0, "gather_s": 0})
    taker.start()
    backlog.put(waiting(1000), wait_s=WAIT_S)
    taker.join()
    assert (backlog.overflowed, len(backlog)) == (0, 1)


def gaps_of(plant):
    rows = plant.query("SELECT payload FROM events ORDER BY id")
    found = [codec.from_bytes(payload.encode(), telemetry.Event) for (payload,) in rows]
    return [event for event in found if event.kind == "gap"]


def test_a_database_put_back_from_an_old_copy_reports_the_exact_hole(plant, tmp_path):
    for seq in range(5):
        plant.send(sample(seq))
    plant.wait_for_upto(4)
    plant.stop()
    copy = tmp_path / "copy.db"
    copy.write_bytes(plant.file.read_bytes())
    plant.start()
    for seq in range(5, 10):
        plant.send(sample(seq))
    plant.wait_for_upto(9)
    plant.stop()
    plant.file.write_bytes(copy.read_bytes())
    plant.start()
    plant.send(sample(10, oldest_seq=10))  # all before was receipted, so the device has deleted it
    plant.wait_for_upto(10)
    state = plant.collector.snapshot()
    assert (state.lost, state.unseen) == (5, 5)
    (gap,) = gaps_of(plant)
    assert "seq 5-9" in gap.message
    assert {name: gap.details[name] for name in ("missing", "dropped", "unseen", "first", "last")} == {
        "missing": 5, "dropped": 0, "unseen": 5, "first": 5, "last": 9,
    }  # fmt: skip


def test_a_new_database_says_what_an_earlier_one_had(plant):
    plant.send(sample(8, oldest_seq=7, dropped=3))
    plant.send(sample(7, oldest_seq=7, dropped=3))
    plant.wait_for_upto(8)
    state = plant.settle()
    assert (state.lost, state.unseen) == (3, 4)
    (gap,) = gaps_of(plant)
    assert "3 gave way" in gap.message
    assert "4 were receipted" in gap.message
    assert "seq 0-6" in gap.message


def test_a_clock_that_is_off_is_told_once_and_when_it_is_right_again():
    clocks, told = DeviceClocks(), []
    for seq in range(60):
        lag_s = 3600.0 if seq < 25 else 0.0
        taken = telemetry.Sample(
            v=2, device="cam-7", boot=BOOT, seq=seq, t=1.75e9 + seq - lag_s, up_s=100.0 + seq, interval_s=1.0
        )
        if news := clocks.note(taken, 1.75e9 + seq + 0.05):
            told.append((seq, news.kind, round(news.offset_s)))
    assert told == [(10, "clock_skewed", 3600), (25, "clock_set", 3600), (35, "clock_right", 0)]
    assert clocks.skewed() == 0
    assert clocks.offsets()["cam-7"] == pytest.approx(0.05, abs=0.01)


def test_a_clock_that_nobody_keeps_is_told_of_once_and_its_offset_is_no_alarm():
    clocks, told = DeviceClocks(), []
    for seq in range(60):
        is_synced = seq >= 30
        t = 1.75e9 + seq if is_synced else 5.0 + seq
        taken = telemetry.Sample(
            v=2, device="cam-7", boot=BOOT, seq=seq, t=t, up_s=10.0 + seq, interval_s=1.0, synced=is_synced
        )
        if news := clocks.note(taken, 1.75e9 + seq):
            told.append((seq, news.kind))
        assert clocks.skewed() == 0
    assert told == [(0, "clock_unsynced"), (30, "clock_synced")]


def test_a_clock_that_claims_to_be_right_and_is_not_is_an_alarm():
    clocks, told = DeviceClocks(), []
    for seq in range(30):
        taken = telemetry.Sample(
            v=2, device="cam-7", boot=BOOT, seq=seq, t=1.74e9 + seq, up_s=10.0 + seq, interval_s=1.0, synced=True
        )
        if news := clocks.note(taken, 1.75e9 + seq):
            told.append(news.kind)
    assert told == ["clock_skewed"]


def test_a_clock_at_1970_that_jumps_to_now_is_told_and_old_records_say_nothing_of_it():
    clocks, told = DeviceClocks(), []

    def note(seq, t, received_t, boot=BOOT):
        taken = telemetry.Sample(v=2, device="cam-7", boot=boot, seq=seq, t=t, up_s=10.0 + seq, interval_s=1.0)
        if news := clocks.note(taken, received_t):
            told.append(news.kind)

    for seq in range(12):
        note(seq, 5.0 + seq, 1.75e9 + seq)
    for seq in range(12, 40):
        note(seq, 1.75e9 + seq, 1.75e9 + seq)
        note(seq - 12, 1.75e9 + seq - 12, 1.75e9 + seq)  # sent again
        note(seq, 1.74e9, 1.75e9 + seq, boot="00000001")  # the rest of an earlier boot
    assert told == ["clock_skewed", "clock_set", "clock_right"]


def test_a_device_that_drains_its_spool_is_not_taken_for_one_whose_clock_is_behind():
    clocks = DeviceClocks()
    for step in range(30):
        for seq, age_s in ((3600 + step, 0.2), (step * 100, 3600.0)):  # live first, then the oldest
            taken = telemetry.Sample(
                v=2,
                device="cam-7",
                boot=BOOT,
                seq=seq,
                t=1.75e9 + step - age_s,
                up_s=4000.0 + step - age_s,
                interval_s=1,
            )
            assert clocks.note(taken, 1.75e9 + step) is None
    assert clocks.offsets()["cam-7"] == pytest.approx(0.2)


def test_a_clock_that_is_off_is_stored_as_an_event_and_counted(plant):
    for seq in range(3):
        plant.send(sample(seq))  # in 2025, as this collector's clock is not
    plant.wait_for_upto(2)
    plant.settle()
    clocks = plant.collector._device_clocks
    clocks._seen["cam-7"].ends_s = 0.0
    plant.send(sample(3))
    plant.wait_for_upto(3)
    assert plant.settle().clocks_off == 1
    ((payload,),) = plant.query("SELECT payload FROM events")
    event = codec.from_bytes(payload.encode(), telemetry.Event)
    assert (event.kind, event.device) == ("clock_skewed", "cam-7")
    assert "behind the collector's" in event.message


def test_a_sample_of_a_later_version_is_stored_as_it_came_and_counted(plant):
    payload = sample(0).replace(b'"v":1', b'"v":3')[:-1] + b',"npu_w":[1,{"x":null}]}'
    plant.send(payload)
    plant.wait_for_upto(0)
    assert plant.settle().newer == 1
    assert plant.query("SELECT payload FROM samples") == [(payload.decode(),)]


def test_a_compact_sample_is_stored_as_json(plant):
    plant.send(compact.to_bytes(codec.from_bytes(sample(0), telemetry.Sample)))
    plant.wait_for_upto(0)
    assert plant.query("SELECT payload FROM samples") == [(sample(0).decode(),)]


def test_what_a_collector_has_in_mind_of_a_boot_never_changes_what_it_stores_and_receipts(tmp_path):
    for seed in range(8):
        rng = random.Random(seed)
        stores = [opening.open_store(str(tmp_path / f"{seed}-{which}.db"), refused_kept=0) for which in "ab"]
        minds = [intake.Settled(), None]
        pending = list(range(60))
        oldest = 0
        while pending:
            batch = rng.sample(pending[:12], rng.randint(1, min(6, len(pending))))
            again = [rng.randrange(60 - len(pending) + 1)] if rng.random() < 0.3 else []
            pending = [seq for seq in pending if seq not in batch]
            if rng.random() < 0.1 and pending:
                oldest, pending = pending[0] + 1, pending[1:]
            messages = [
                Message("edge/v1/plant/cam-7/up/telemetry", sample(seq, oldest_seq=min(seq, oldest)), False)
                for seq in [*batch, *again]
            ]
            outcomes = []
            for store, mind in zip(stores, minds, strict=True):
                sorted_batch = intake.sort([Waiting(messages, 1.75e9)], DeviceClocks())
                outcomes.append(intake.commit(store, sorted_batch, mind or intake.Settled()))
            assert outcomes[0] == outcomes[1], (seed, batch)
        for store in stores:
            store.close()


def event(number, kind="throttled", **details):
    return codec.to_bytes(
        telemetry.Event(
            v=2, device="cam-7", boot=BOOT, t=2.0, kind=kind, message=f"{number}", details=details, seq=number
        )
    )


def test_events_with_a_number_are_receipted_once_stored_also_when_they_come_twice(plant):
    for number in (0, 1, 1):
        plant.send(event(number), "edge/v1/plant/cam-7/up/event")
    told = set()
    while told != {0, 1}:
        receipt = plant.receipt()[1]
        assert receipt.upto == -1
        told.update(receipt.events)
    plant.settle()
    assert plant.query("SELECT COUNT(*) FROM events") == [(2,)]
    assert plant.query("SELECT COUNT(*) FROM marks") == [(0,)]


def test_a_sample_after_an_event_gets_a_receipt_without_events(plant):
    plant.send(event(7), "edge/v1/plant/cam-7/up/event")
    assert plant.receipt()[1].events == (7,)
    plant.send(sample(0))
    assert plant.receipt()[1] == telemetry.Receipt(boot=BOOT, upto=0)


def test_the_end_of_an_earlier_boot_reports_what_of_it_never_came(plant):
    earlier = "000000aa"
    for seq in (0, 1, 2, 5):
        plant.send(sample(seq, boot=earlier))
    plant.wait_for_upto(2)
    plant.send(event(0, "boot_closed", of_boot=earlier, newest_seq=8, dropped=2), "edge/v1/plant/cam-7/up/event")
    plant.wait_for_upto(8)
    state = plant.settle()
    assert (state.lost, state.unseen) == (5, 3)
    (gap,) = gaps_of(plant)
    assert (gap.boot, gap.details["missing"]) == (earlier, 5)
    assert "seq 3-4, 6-8" in gap.message


@pytest.mark.parametrize(
    "details",
    [
        {"of_boot": "not hex!", "newest_seq": 8, "dropped": 0},
        {"of_boot": "000000aa", "newest_seq": True, "dropped": 0},
        {"of_boot": "000000aa", "newest_seq": 2**63 - 1, "dropped": 0},
        {"of_boot": 7, "newest_seq": 8, "dropped": 0},
        {},
    ],
)
def test_an_end_of_a_boot_that_makes_no_sense_is_kept_as_an_event_and_changes_nothing(plant, details):
    plant.send(event(0, "boot_closed", **details), "edge/v1/plant/cam-7/up/event")
    assert plant.receipt()[1].events == (0,)
    assert plant.settle().lost == 0
    assert plant.query("SELECT COUNT(*) FROM marks") == [(0,)]
