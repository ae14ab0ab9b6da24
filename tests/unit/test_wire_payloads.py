"""Payloads that are not what they should be, by what is wrong with them."""

import msgspec
import pytest

from edge_sdk import errors
from edge_sdk.records import telemetry
from edge_sdk.wire import codec, histograms, topics

GOOD = {"v": 1, "device": "cam-7", "boot": "00c0ffee", "seq": 3, "t": 1.75e9, "up_s": 5.0, "interval_s": 1.0}
WINDOW = {
    "model": "m",
    "digest": "d",
    "count": 1,
    "errors": {},
    "throughput_hz": 1.0,
    "queue_depth_max": 1,
    "latency_p50_ms": 1.0,
    "latency_p99_ms": None,
    "latency_hist": "",
    "stage_ms": {},
    "energy_j": None,
    "energy_per_inference_j": None,
}


def payload(**changes):
    return msgspec.json.encode({**GOOD, **changes})


def without(key):
    return msgspec.json.encode({name: value for name, value in GOOD.items() if name != key})


HOSTILE = {
    "empty": b"",
    "not JSON": b"cpu=3",
    "cut short": payload()[:-1],
    "two documents": payload() + payload(),
    "a list": b"[1, 2, 3]",
    "a number": b"7",
    "null": b"null",
    "bad UTF-8": payload().replace(b"cam-7", b"cam\xff7"),
    "a byte order mark": b"\xef\xbb\xbf" + payload(),
    "UTF-16": payload().decode().encode("utf-16"),
    "gzip": b"\x1f\x8b\x08\x00" + payload(),
    "a NUL in a string": payload(missing={"power_w": "a\0b"}),
    "a raw NUL": payload().replace(b"cam-7", b"cam\x007"),
    "a lone surrogate": payload().replace(b"cam-7", rb"cam\ud800"),
    "nested a million deep": b'{"x":' + b"[" * 30_000 + b"]" * 30_000 + b"," + payload()[1:],
    "too large": payload(missing={"power_w": "x" * 70_000}),
    "NaN": payload().replace(b"1750000000.0", b"NaN"),
    "infinity": payload().replace(b"1750000000.0", b"1e999"),
    "no device": without("device"),
    "no boot": without("boot"),
    "no seq": without("seq"),
    "a device with capitals": payload(device="Cam-7"),
    "a device with a slash": payload(device="a/b"),
    "a device with a wildcard": payload(device="+"),
    "a long device": payload(device="a" * 64),
    "a device with a line break at the end": payload(device="cam-7\n"),
    "a boot that is no hex": payload(boot="zzzzzzzz"),
    "a short boot": payload(boot="1234567"),
    "a negative seq": payload(seq=-1),
    "a seq of 64 bits": payload(seq=2**63),
    "a seq beyond 64 bits": payload(seq=2**64),
    "a fractional seq": payload(seq=1.5),
    "a boolean seq": payload(seq=True),
    "a seq in quotes": payload(seq="3"),
    "a time before 1970": payload(t=-1.0),
    "a time after 3000": payload(t=1e12),
    "an interval of 0": payload(interval_s=0),
    "version 0": payload(v=0),
    "a power in quotes": payload(power_w="5.1"),
    "a power that is a list": payload(power_w=[5.1]),
    "too many reasons": payload(missing={f"m{number}": "" for number in range(65)}),
    "a long reason": payload(missing={"power_w": "x" * 301}),
    "too many models": payload(models=[WINDOW] * 65),
    "a model without a name": payload(models=[{k: v for k, v in WINDOW.items() if k != "model"}]),
    "a negative count": payload(models=[{**WINDOW, "count": -1}]),
    "a negative throughput": payload(models=[{**WINDOW, "throughput_hz": -0.1}]),
    "a long histogram": payload(models=[{**WINDOW, "latency_hist": "A" * 8193}]),
    "too many kinds of error": payload(models=[{**WINDOW, "errors": {f"e{number}": 1 for number in range(33)}}]),
}


@pytest.mark.parametrize("hostile", HOSTILE.values(), ids=HOSTILE.keys())
def test_what_is_no_sample_is_refused(hostile):
    with pytest.raises(errors.PayloadError):
        codec.from_bytes(hostile, telemetry.Sample)


def test_the_good_one_is_read():
    sample = codec.from_bytes(payload(models=[WINDOW], a_field_from_the_future=[1, {"x": 2}]), telemetry.Sample)
    assert (sample.device, sample.seq, sample.models[0].model) == ("cam-7", 3, "m")


@pytest.mark.parametrize("size", [codec.MAX_PAYLOAD_BYTES, codec.MAX_PAYLOAD_BYTES + 1])
def test_the_size_limit_is_exact(size):
    padded = payload() + b" " * (size - len(payload()))
    if size <= codec.MAX_PAYLOAD_BYTES:
        assert codec.from_bytes(padded, telemetry.Sample).seq == 3
    else:
        with pytest.raises(errors.PayloadError, match=f"payload of {size} bytes"):
            codec.from_bytes(padded, telemetry.Sample)


@pytest.mark.parametrize(
    ("kind", "bad"),
    [
        (telemetry.Status, {"state": "on", "boot": "00c0ffee", "t": 1.0}),
        (telemetry.Status, {"state": "online\n", "boot": "00c0ffee", "t": 1.0}),
        (telemetry.Receipt, {"boot": "00c0ffee", "upto": -2}),
        (telemetry.Receipt, {"boot": "00c0ffee"}),
        (telemetry.Event, {"v": 1, "device": "d", "boot": "00c0ffee", "t": 1.0, "kind": "k", "message": "x" * 2001}),
        (telemetry.Birth, {"v": 1, "device": "d", "boot": "00c0ffee", "t": 1.0, "sdk": "1"}),
    ],
)
def test_other_records_are_bounded_too(kind, bad):
    with pytest.raises(errors.PayloadError, match=f"not a {kind.__name__}"):
        codec.from_bytes(msgspec.json.encode(bad), kind)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "edge/v1",
        "edge/v1/s/d/up",
        "edge/v1/s/d/up/other",
        "edge/v1/s/d/up/telemetry/",
        "edge/v1/s/d/up/telemetry\n",
        "/edge/v1/s/d/up/telemetry",
        "edge/v2/s/d/up/telemetry",
        "edge/v1//d/up/telemetry",
        "edge/v1/s/+/up/telemetry",
        "edge/v1/S/d/up/telemetry",
        "edge/v1/s/d/down/cmd",
        "edge/v1/s/d/down/cmd/a/b",
        "edge/v1/s/" + "d" * 64 + "/up/telemetry",
    ],
)
def test_what_is_no_topic_of_ours_is_refused(text):
    with pytest.raises(errors.PayloadError, match="not a topic"):
        topics.parse(text)


@pytest.mark.parametrize("name", ["", "Cam", "a/b", "+", "a b", "ä", "a" * 64, "a\n"])
def test_a_name_that_may_not_stand_in_a_topic_is_refused(name):
    with pytest.raises(errors.UsageError, match="must match"):
        topics.check_name("device", name)


@pytest.mark.parametrize(
    "text", ["", "A", "!!!!", "DAA=", "DACA", "DACAAgQB", "DACAAgQBAAIC00", "/////////////w==", "DACAAgQBAP8BAg==", "ä"]
)
def test_what_is_no_histogram_is_refused(text):
    with pytest.raises(errors.PayloadError, match="histogram"):
        histograms.from_text(text)


def test_a_histogram_of_more_buckets_than_anyone_needs_is_refused_before_it_is_made():
    with pytest.raises(errors.PayloadError, match="at most"):
        histograms.from_text("DAAA/////wEA")
