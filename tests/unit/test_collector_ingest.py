"""One message to a record or a refusal, and how far records have arrived."""

import random

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_sdk.collector import ingest
from edge_sdk.collector.ingest import Mark
from edge_sdk.link.protocol import Message
from edge_sdk.records import telemetry
from edge_sdk.wire import codec

TELEMETRY = "edge/v1/plant-1/cam-7/up/telemetry"
SAMPLE = {"v": 1, "device": "cam-7", "boot": "00c0ffee", "seq": 3, "t": 1.75e9, "up_s": 5.0, "interval_s": 1.0}
WINDOW = {
    "model": "m", "digest": "d", "count": 1, "errors": {}, "throughput_hz": 1.0, "queue_depth_max": 1,
    "latency_p50_ms": 1.0, "latency_p99_ms": 1.0, "latency_hist": "", "stage_ms": {}, "energy_j": None,
    "energy_per_inference_j": None,
}  # fmt: skip


def parse(payload, topic=TELEMETRY):
    if not isinstance(payload, bytes):
        payload = msgspec.json.encode(payload)
    return ingest.parse_message(Message(topic, payload, False), 99.0)


def test_a_sample_is_taken_as_it_came():
    payload = msgspec.json.format(msgspec.json.encode({**SAMPLE, "from_the_future": "ü"}), indent=2)
    arrival = parse(payload)
    assert (arrival.topic.site, arrival.topic.device) == ("plant-1", "cam-7")
    assert arrival.record.seq == 3
    assert arrival.text.encode() == payload
    assert arrival.received_t == 99.0


@pytest.mark.parametrize(
    ("leaf", "record"),
    [
        ("up/status", telemetry.Status("online", "00c0ffee", 1.0)),
        ("up/event", telemetry.Event(v=1, device="cam-7", boot="00c0ffee", t=1.0, kind="k", message="m")),
    ],
)
def test_other_records_are_taken_on_their_topics(leaf, record):
    assert parse(codec.to_bytes(record), f"edge/v1/plant-1/cam-7/{leaf}").record == record


@pytest.mark.parametrize(
    ("kind", "payload", "topic", "words"),
    [
        ("topic", SAMPLE, "edge/v1/plant-1/Cam-7/up/telemetry", "not a topic"),
        ("topic", SAMPLE, "edge/v1/plant-1/cam-7/down/receipt", "no device speaks on down/receipt"),
        ("topic", SAMPLE, "x" * 5000, "not a topic"),
        ("topic", SAMPLE, "edge/v1/\ud800/cam-7/up/telemetry", "not a topic"),
        ("size", b" " * (codec.MAX_PAYLOAD_BYTES + 1), TELEMETRY, "at most"),
        ("schema", b"", TELEMETRY, "not a Sample"),
        ("schema", b"\xff\xfe", TELEMETRY, "not a Sample"),
        ("schema", {**SAMPLE, "seq": -1}, TELEMETRY, "seq"),
        ("schema", {**SAMPLE, "oldest_seq": 4}, TELEMETRY, "oldest_seq 4 is above"),
        ("schema", msgspec.json.encode(SAMPLE)[:-1] + b',"x":"\xff"}', TELEMETRY, "not UTF-8"),
        ("schema", msgspec.json.encode(SAMPLE)[:-1] + b',"x":' + b"[" * 30000 + b"]" * 30000 + b"}", TELEMETRY, ""),
        ("schema", {**SAMPLE, "models": [{**WINDOW, "latency_hist": "!!"}]}, TELEMETRY, "histogram"),
        ("schema", SAMPLE, "edge/v1/plant-1/cam-7/up/status", "not a Status"),
        ("device", SAMPLE, "edge/v1/plant-1/cam-8/up/telemetry", "says device 'cam-7', its topic 'cam-8'"),
    ],
)  # fmt: skip
def test_what_is_not_what_it_should_be_is_refused_with_the_reason(kind, payload, topic, words):
    refusal = parse(payload, topic)
    assert isinstance(refusal, ingest.Refusal), refusal
    assert refusal.kind == kind
    assert words in refusal.reason
    assert len(refusal.payload) <= ingest.KEPT_BYTES
    assert len(refusal.topic) <= 300
    refusal.topic.encode()
    refusal.reason.encode()


def test_a_refusal_says_how_large_the_whole_payload_was():
    refusal = parse(b"x" * 100_000)
    assert (refusal.size_bytes, len(refusal.payload)) == (100_000, ingest.KEPT_BYTES)


def advance(mark, above, *, oldest_seq=0, dropped=0, late=0):
    return ingest.advance(mark, oldest_seq=oldest_seq, dropped=dropped, late=late, above=above).mark


@pytest.mark.parametrize(
    ("mark", "above", "more", "after"),
    [
        pytest.param(None, [0], {}, Mark(0, 0), id="first record"),
        pytest.param(None, [2], {}, Mark(-1, 0), id="a gap at the start is waited for"),
        pytest.param(Mark(4), [5, 6, 8], {}, Mark(6, 0), id="up to the gap"),
        pytest.param(Mark(4), [6], {}, Mark(4, 0), id="nothing new is contiguous"),
        pytest.param(Mark(6), [], {}, Mark(6, 0), id="a duplicate changes nothing"),
        pytest.param(Mark(4), [8], {"oldest_seq": 8, "dropped": 3}, Mark(8, 3), id="what the device dropped is lost"),
        pytest.param(Mark(4), [6, 8], {"oldest_seq": 8}, Mark(8, 2), id="what arrived of the dropped is not"),
        pytest.param(Mark(4), [6, 7], {"oldest_seq": 9}, Mark(8, 2), id="a lost tail"),
        pytest.param(Mark(9), [10], {"oldest_seq": 5}, Mark(10, 0), id="an older word on what is held"),
        pytest.param(Mark(8, 3), [9], {"late": 2, "oldest_seq": 8}, Mark(9, 1), id="late ones were not lost after all"),
        pytest.param(Mark(8, 1), [], {"late": 2}, Mark(8, 0), id="never below none"),
        pytest.param(None, [100], {"oldest_seq": 100}, Mark(100, 0), id="receipted by an earlier collector"),
        pytest.param(None, [9], {"oldest_seq": 9, "dropped": 4}, Mark(9, 4), id="dropped before we came"),
        pytest.param(None, [2, 9], {"oldest_seq": 9, "dropped": 8}, Mark(9, 8), id="dropped, but one of them arrived"),
        pytest.param(
            Mark(0), [2**63 - 1], {"oldest_seq": 2**63 - 1}, Mark(2**63 - 1, 2**63 - 3 + 1), id="a device that lies"
        ),
    ],
)  # fmt: skip
def test_marks_advance(mark, above, more, after):
    assert advance(mark, above, **more) == after


def test_lost_stays_within_what_a_database_holds():
    mark = advance(Mark(0, 2**63 - 1), [], oldest_seq=2**63 - 1)
    assert mark.lost == 2**63 - 1


@pytest.mark.parametrize(
    ("mark", "above", "more", "gaps", "missing", "unseen"),
    [
        pytest.param(Mark(4), [5, 6], {}, [], 0, 0, id="none"),
        pytest.param(Mark(4), [6], {}, [], 0, 0, id="one that is waited for is none yet"),
        pytest.param(Mark(4), [8], {"oldest_seq": 8, "dropped": 3}, [(5, 7)], 3, 0, id="dropped by the device"),
        pytest.param(Mark(4), [101], {"oldest_seq": 101}, [(5, 100)], 96, 96, id="an old copy was put back"),
        pytest.param(Mark(4), [7, 20], {"oldest_seq": 20, "dropped": 3}, [(5, 6), (8, 19)], 14, 11, id="some of both"),
        pytest.param(None, [100], {"oldest_seq": 100, "dropped": 4}, [(0, 99)], 100, 96, id="a new database"),
        pytest.param(Mark(9, 5), [12], {"oldest_seq": 12, "dropped": 7}, [(10, 11)], 2, 0, id="drops told before"),
    ],
)  # fmt: skip
def test_what_will_not_come_is_told_range_by_range(mark, above, more, gaps, missing, unseen):
    step = ingest.advance(mark, **{"oldest_seq": 0, "dropped": 0, "late": 0, **more}, above=above)
    assert (list(step.gaps), step.missing, step.unseen) == (gaps, missing, unseen)
    assert sum(gap.last - gap.first + 1 for gap in step.gaps) == missing


class Device:
    """A spool as a device has it: drops its oldest when full, resends what has no receipt."""

    def __init__(self, capacity):
        self.capacity, self.held, self.dropped, self.oldest, self.next = capacity, {}, 0, 0, 0

    def sample(self):
        if len(self.held) == self.capacity:
            gone = min(self.held)
            del self.held[gone]
            self.dropped += 1
            self.oldest = gone + 1
        self.held[self.next] = (self.oldest, self.dropped)
        self.next += 1

    def receipt(self, upto):
        self.held = {seq: said for seq, said in self.held.items() if seq > upto}


@given(st.integers(0, 2**32), st.integers(1, 8))
def test_whatever_the_network_does_nothing_is_counted_twice_and_only_what_was_dropped_is_lost(seed, capacity):
    rng = random.Random(seed)
    device, stored, mark = Device(capacity), set(), None
    for _ in range(60):
        device.sample()
        delivered = [seq for seq in device.held if rng.random() < 0.5]
        rng.shuffle(delivered)
        if delivered:
            late = sum(mark is not None and seq <= mark.upto and seq not in stored for seq in delivered)
            stored.update(delivered)
            said = [device.held[seq] for seq in delivered]
            above = sorted(seq for seq in stored if mark is None or seq > mark.upto)
            mark = advance(mark, above, oldest_seq=max(o for o, _ in said), dropped=max(d for _, d in said), late=late)
            if rng.random() < 0.7:
                device.receipt(mark.upto)
    if mark is not None:
        arrived = sum(seq <= mark.upto for seq in stored)
        assert arrived + mark.lost == mark.upto + 1
        assert mark.lost <= device.dropped
    assert len(stored) + device.dropped + len(device.held) >= device.next
