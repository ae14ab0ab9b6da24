"""Records, topics and histograms survive the wire unchanged; whatever else comes is refused, never a crash."""

import base64

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_sdk import errors
from edge_sdk.records import telemetry
from edge_sdk.records.histograms import Histogram
from edge_sdk.wire import codec, histograms, topics

names = st.from_regex(r"[a-z0-9-]{1,63}", fullmatch=True)
leaves = st.sampled_from([*(f"up/{what}" for what in topics.UP), "down/receipt"]) | names.map("down/cmd/{}".format)
boots = st.from_regex(r"[0-9a-f]{8,32}", fullmatch=True)
numbers = st.none() | st.floats(allow_nan=False, allow_infinity=False)
texts = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=64)
counts = st.integers(0, 2**63 - 1)

counted = st.builds(
    Histogram,
    st.integers(-20, 20),
    counts,
    st.integers(-(2**31), 2**31),
    st.lists(st.just(0) | st.integers(0, 2**40), max_size=300).map(tuple),
)
windows = st.builds(
    telemetry.Window,
    model=texts,
    digest=texts,
    count=counts,
    errors=st.dictionaries(texts, counts, max_size=4),
    throughput_hz=st.floats(0, 1e9),
    queue_depth_max=counts,
    latency_p50_ms=numbers,
    latency_p99_ms=numbers,
    latency_hist=counted.map(histograms.to_text),
    stage_ms=st.dictionaries(texts, st.floats(0, 1e6), max_size=4),
    energy_j=numbers,
    energy_per_inference_j=numbers,
    engine=texts,
)
samples = st.builds(
    telemetry.Sample,
    v=st.integers(1, 1000),
    device=names,
    boot=boots,
    seq=counts,
    t=st.floats(0, 32503680000),
    up_s=st.floats(0, 1e9),
    interval_s=st.floats(0.001, 86400),
    power_w=numbers,
    throttled=st.none() | st.booleans(),
    memory_used_bytes=st.none() | counts,
    missing=st.dictionaries(texts, texts, max_size=4),
    models=st.lists(windows, max_size=2).map(tuple),
)


@given(names, names, leaves)
def test_topics_are_parsed_back(site, device, leaf):
    topic = topics.Topic(site, device, leaf)
    assert topics.parse(str(topic)) == topic


@given(
    st.text(max_size=100)
    | st.lists(names | st.sampled_from(["up", "down", "edge", "v1", ""]), max_size=8).map("/".join)
)
def test_a_text_is_a_topic_of_ours_or_is_refused(text):
    try:
        topic = topics.parse(text)
    except errors.PayloadError:
        return
    assert str(topic) == text


@given(samples)
def test_samples_survive_the_wire(sample):
    assert codec.from_bytes(codec.to_bytes(sample), telemetry.Sample) == sample


@given(boots, st.integers(-1, 2**63 - 1))
def test_receipts_survive_the_wire(boot, upto):
    receipt = telemetry.Receipt(boot, upto)
    assert codec.from_bytes(codec.to_bytes(receipt), telemetry.Receipt) == receipt


@given(samples, st.dictionaries(texts.map("x_{}".format), st.integers() | texts | st.lists(texts), max_size=3))
def test_fields_of_a_newer_device_are_passed_over(sample, more):
    document = msgspec.json.decode(codec.to_bytes(sample))
    assert codec.from_bytes(msgspec.json.encode({**more, **document}), telemetry.Sample) == sample


@given(counted)
def test_histograms_survive_the_wire(histogram):
    text = histograms.to_text(histogram)
    assert histograms.from_text(text) == histogram
    assert text.isascii()


@given(st.binary(max_size=200).map(lambda raw: base64.b64encode(raw).decode()) | st.text(max_size=50))
def test_a_text_is_a_histogram_or_is_refused(text):
    try:
        histogram = histograms.from_text(text)
    except errors.PayloadError:
        return
    assert len(histogram.counts) <= histograms.MAX_BUCKETS
    assert histogram.count >= 0


@given(st.binary(max_size=300), st.sampled_from([telemetry.Sample, telemetry.Status, telemetry.Birth, telemetry.Event]))
def test_bytes_are_a_record_or_are_refused(payload, kind):
    with pytest.raises(errors.PayloadError):
        codec.from_bytes(payload, kind)


@given(samples, st.data())
def test_a_damaged_sample_is_another_sample_or_is_refused(sample, data):
    payload = bytearray(codec.to_bytes(sample))
    position = data.draw(st.integers(0, len(payload) - 1))
    payload[position] = data.draw(st.integers(0, 255))
    try:
        codec.from_bytes(bytes(payload), telemetry.Sample)
    except errors.PayloadError:
        pass
