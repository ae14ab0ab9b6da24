"""Golden messages: what version 1 sent and version 2 sends is read in full, what version 3 may send but for its news.

The files of a version are never written again once it is out: they are what devices in the field say.
"""

import json
import random
from pathlib import Path

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from edge_sdk import errors
from edge_sdk.collector import ingest
from edge_sdk.link.protocol import Message
from edge_sdk.records import metrics, telemetry
from edge_sdk.records.histograms import Histogram
from edge_sdk.wire import codec, compact, histograms

GOLDEN = Path(__file__).parents[1] / "golden" / "messages"
KINDS = {leaf.rpartition("/")[2]: kind for leaf, kind in codec.UP_RECORDS.items()} | {"receipt": telemetry.Receipt}
FILES = sorted(GOLDEN.glob("*/*.json"))


def compact_of(version, kind=""):
    """`float32`: with short floats where they say all, as devices send it since; each version reads both."""
    return bytes.fromhex((GOLDEN / version / f"telemetry{kind and '.'}{kind}.msgpack.hex").read_text())


def sample_of(version):
    return codec.from_bytes((GOLDEN / version / "telemetry.json").read_bytes(), telemetry.Sample)


@pytest.mark.parametrize("file", FILES, ids=lambda file: f"{file.parent.name}-{file.stem}")
def test_a_message_of_every_version_is_read_with_every_field_that_is_known(file):
    record = codec.from_bytes(file.read_bytes(), KINDS[file.stem])
    said, understood = json.loads(file.read_bytes()), json.loads(codec.to_bytes(record))
    unknown = {"from_the_future", "npu_utilization_ratio"} if file.parent.name == "v3" else set()
    for model in said.get("models", []):
        model.pop("tokens_hz", None)
    assert {name: understood[name] for name in said.keys() - unknown} == {
        name: value for name, value in said.items() if name not in unknown
    }


def test_this_version_still_says_what_its_golden_messages_say():
    assert telemetry.WIRE_VERSION == 2, "a new version needs golden messages of its own"
    for name in KINDS:
        golden = (GOLDEN / "v2" / f"{name}.json").read_bytes().strip()
        assert codec.to_bytes(codec.from_bytes(golden, KINDS[name])) == golden
    assert compact.to_bytes(sample_of("v2")) == compact_of("v2", "float32")


def test_every_kind_of_message_has_its_golden_one_in_every_version():
    assert {file.stem for file in FILES} == set(KINDS)
    assert len(FILES) == 3 * len(KINDS)


@pytest.mark.parametrize("kind", ["", "float32"])
def test_the_compact_form_says_the_same_as_json(kind):
    found = compact.from_bytes(compact_of("v2", kind))
    assert (found.sample, found.unknown) == (sample_of("v2"), 0)
    assert found.json == codec.to_bytes(found.sample)
    assert codec.from_bytes(compact_of("v2", kind), telemetry.Sample) == sample_of("v2")


def test_a_version_that_knows_no_short_floats_reads_them_to_seven_digits():
    said, understood = (msgspec.msgpack.decode(compact_of("v2", kind)) for kind in ("", "float32"))
    assert said != understood
    assert [pytest.approx(one, rel=1e-7) if isinstance(one, float) else one for one in said[:9]] == understood[:9]
    assert understood[AT["cpu_utilization_ratio"]] == pytest.approx(said[AT["cpu_utilization_ratio"]], rel=1e-7)


def test_places_that_a_later_version_adds_are_left_out_and_counted():
    found = compact.from_bytes(compact_of("v3"))
    assert (found.sample, found.unknown) == (sample_of("v3"), 2)


def test_an_earlier_compact_sample_without_the_last_places_is_read():
    short = msgspec.msgpack.decode(compact_of("v2"))[:-3]
    found = compact.from_bytes(msgspec.msgpack.encode(short))
    assert found.sample.fan_ratio is None
    assert found.sample.power_w == sample_of("v2").power_w


def test_every_reading_of_the_catalogue_has_its_place():
    assert sorted(compact.READINGS) == sorted(metrics.NAMES), "a new metric comes last in wire/compact.py READINGS"


@pytest.mark.parametrize("payload", ["json", "compact"])
def test_the_collector_stores_json_whatever_the_form(payload):
    sample = sample_of("v2")
    arrival = ingest.parse_message(
        Message("edge/v1/plant/cam-7/up/telemetry", codec.sample_to_bytes(sample, payload=payload), False), 1.0
    )
    assert arrival.record == sample
    assert json.loads(arrival.text) == json.loads(codec.to_bytes(sample))


def test_a_later_json_sample_is_stored_with_what_is_not_understood():
    payload = (GOLDEN / "v3" / "telemetry.json").read_bytes()
    arrival = ingest.parse_message(Message("edge/v1/plant/cam-7/up/telemetry", payload, False), 1.0)
    assert arrival.text.encode() == payload


def changed(place, value):
    document = msgspec.msgpack.decode(compact_of("v2"))
    document[place] = value
    return msgspec.msgpack.encode(document)


AT = {name: place for place, name in enumerate(compact.PLACES)}


def changed_window(name, value):
    (window,) = msgspec.msgpack.decode(compact_of("v2"))[AT["models"]][:1]
    return changed(
        AT["models"], [[value if place == name else old for place, old in zip(compact.MODEL_PLACES, window)]]
    )


def test_a_window_that_is_changed_for_another_of_its_kind_is_read():
    assert codec.from_bytes(changed_window("latency_p99_ms", 1.0), telemetry.Sample).models[0].latency_p99_ms == 1.0
    assert codec.from_bytes(changed(AT["power_w"], 0.0), telemetry.Sample).power_w == 0.0


@pytest.mark.parametrize(
    "payload",
    [
        pytest.param(compact_of("v2")[:-1], id="cut short"),
        pytest.param(compact_of("v2") + b"\0", id="more after the end"),
        pytest.param(b"\x90", id="an empty array"),
        pytest.param(b"\xdd\xff\xff\xff\xff", id="an array of four thousand million"),
        pytest.param(b"\x91" * 5000, id="nested five thousand deep"),
        pytest.param(changed(AT["t"], float("nan")), id="a time that is no number"),
        pytest.param(changed(AT["power_w"], float("inf")), id="infinite power"),
        pytest.param(changed(AT["rails_w"], {"VDD_IN": float("nan")}), id="a rail that is no number"),
        pytest.param(changed(AT["power_w"], -float("inf")), id="power below everything"),
        pytest.param(changed(AT["power_w"], 0.0).replace(b"\xcb" + bytes(8), b"\xca\x7f\x80\0\0"), id="infinite in 32 bits"),
        pytest.param(changed(AT["power_w"], 0.0).replace(b"\xcb" + bytes(8), b"\xca\xff\xc0\0\1"), id="no number in 32 bits"),
        pytest.param(changed_window("stage_ms", [float("nan")]), id="a stage that is no number"),
        pytest.param(changed_window("other_stage_ms", {"x": float("inf")}), id="another stage without end"),
        pytest.param(changed_window("latency_p99_ms", float("inf")), id="a latency without end"),
        pytest.param(changed(AT["power_boundary"], "mod\0ule"), id="a NUL in a string"),
        pytest.param(changed(AT["device"], "Cam-7"), id="a device with capitals"),
        pytest.param(changed(AT["boot"], b"\0\1\2"), id="a short boot"),
        pytest.param(changed(AT["boot"], b"\1not hex."), id="a boot that is no hex"),
        pytest.param(changed(AT["boot"], b"\1\xff\xff\xff\xff\xff\xff\xff\xff"), id="a boot that is no text"),
        pytest.param(changed(AT["seq"], -1), id="a negative seq"),
        pytest.param(changed(AT["seq"], 2**63), id="a seq beyond 63 bits"),
        pytest.param(changed(AT["missing"], {"x": list(range(26)), "y": ["a"] * 64, "z": [f"m{n}" for n in range(60)]}), id="too many reasons"),
    ],
)  # fmt: skip
def test_what_is_no_compact_sample_is_refused(payload):
    with pytest.raises(errors.PayloadError):
        codec.from_bytes(payload, telemetry.Sample)


def test_only_a_sample_has_a_compact_form():
    with pytest.raises(errors.PayloadError):
        codec.from_bytes(compact_of("v2"), telemetry.Event)


@given(st.binary(max_size=300))
def test_no_bytes_raise_anything_but_a_payload_error(payload):
    for begin in (b"", b"\x90", b"\xdc\x00\x26", compact_of("v2")[:40]):
        try:
            codec.from_bytes(begin + payload, telemetry.Sample)
        except errors.PayloadError:
            continue


counts = st.lists(st.one_of(st.just(0), st.integers(1, 3), st.integers(0, 2**40)), max_size=200)


@given(st.integers(-10, 20), st.integers(0, 2**62), st.integers(-5000, 5000), counts, st.randoms(use_true_random=False))
def test_a_quick_look_at_a_histogram_takes_and_refuses_what_reading_it_does(scale, zeros, offset, counts, rng):
    text = histograms.to_text(Histogram(scale, zeros, offset, tuple(counts)))
    histograms.check_text(text)
    raw = bytearray(histograms.bytes_from_text(text))
    for _ in range(rng.randint(1, 3)):
        raw[rng.randrange(len(raw))] = rng.choice([0, 1, 2, rng.randrange(256)])
    damaged = histograms.text_from_bytes(bytes(raw[: rng.randint(1, len(raw))]))
    assert outcome(histograms.check_text, damaged) == outcome(histograms.from_text, damaged)


def outcome(read, text):
    try:
        read(text)
    except errors.PayloadError:
        return "refused"
    return "taken"


@given(
    st.one_of(
        st.builds("{}e{}".format, st.integers(-999_999, 999_999), st.integers(-40, 34)).map(float),
        st.floats(allow_nan=False, allow_infinity=False).map(lambda value: float(f"{value:.6g}")),
        st.floats(allow_nan=False, allow_infinity=False, width=32).filter(lambda value: value.is_integer()),
    )
)
def test_a_number_of_six_digits_survives_the_compact_form_to_the_last(value):
    sample = msgspec.structs.replace(sample_of("v2"), power_w=value, rails_w={"VDD_IN": value})
    found = codec.from_bytes(compact.to_bytes(sample), telemetry.Sample)
    assert (found.power_w, found.rails_w) == (value, {"VDD_IN": value})


@given(st.floats(-1e300, 1e300))
@example(2.0**-149)
@example(-(2.0**-126))
def test_any_number_survives_the_compact_form_to_seven_digits(value):
    sample = msgspec.structs.replace(sample_of("v2"), power_w=value, up_s=abs(value), t=min(abs(value), 3e10))
    found = codec.from_bytes(compact.to_bytes(sample), telemetry.Sample)
    assert found.power_w == pytest.approx(value, rel=1e-7, abs=0)
    assert (found.up_s, found.t) == (sample.up_s, sample.t)


@given(st.integers(0, 2**32))
def test_any_sample_survives_the_compact_form(seed):
    rng = random.Random(seed)
    changes = {}
    for field in msgspec.structs.fields(telemetry.Sample)[10:36]:
        if rng.random() < 0.4:
            changes[field.name] = None
    boot = "".join(rng.choices("0123456789abcdef", k=rng.randint(8, 32)))
    window = msgspec.structs.replace(
        sample_of("v2").models[0],
        stage_ms={name: rng.random() for name in rng.sample(["queue", "decode", "compute"], rng.randint(0, 3))},
        digest=rng.choice(["", "xyz", "ABCD", "0a" * 32, "0a1"]),
        latency_p99_ms=None,
    )
    missing = {name: rng.choice(["no sensor", "denied", ""]) for name in [*changes, "rails_w.VDD_IN"]}
    sample = msgspec.structs.replace(
        sample_of("v2"),
        boot=boot,
        missing=missing,
        models=(window,) * rng.randint(0, 3),
        seq=rng.getrandbits(63),
        **changes,
    )
    assert codec.from_bytes(compact.to_bytes(sample), telemetry.Sample) == sample
