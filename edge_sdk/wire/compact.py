"""A Sample in MessagePack without names: about a third of its JSON. The birth says which of the two a device sends.

An array whose places are fixed for ever and only added to at the end, so that a version reads its neighbours: a place
that is not there yet has its default, one that is not known is left out. The first byte tells the form: a MessagePack
array here, an opening brace in JSON. Four things are said shorter than in JSON, and none of them differently:

- boot, digest and latency_hist, which are hexadecimal digits and base64, as the bytes they stand for;
- `missing` as reason to metrics, as several metrics often share a reason; a metric by its place among READINGS;
- the mean of each stage as a list, where the stages are the usual six;
- a number as a float of 32 bits, where its seven leading digits say all of it, and back by these digits.
"""

import functools
import math
import re
import struct
from collections.abc import Iterable
from typing import Annotated, Any, NamedTuple

import msgspec

from edge_sdk import errors
from edge_sdk.records import metrics, telemetry
from edge_sdk.wire import histograms

STAGES = ("queue", "pre", "copy_in", "compute", "copy_out", "post")
"""In the order in which a compact Window lists them."""

READINGS = (
    "cpu_utilization_ratio",
    "cpu_frequency_hz",
    "gpu_utilization_ratio",
    "gpu_frequency_hz",
    "gpu_memory_used_bytes",
    "emc_utilization_ratio",
    "emc_frequency_hz",
    "dla_frequency_hz",
    "memory_used_bytes",
    "memory_total_bytes",
    "swap_used_bytes",
    "process_memory_bytes",
    "process_cpu_ratio",
    "disk_used_ratio",
    "power_w",
    "power_boundary",
    "energy_j",
    "rails_w",
    "power_mode",
    "temperature_cpu_c",
    "temperature_gpu_c",
    "temperature_max_c",
    "temperatures_c",
    "throttled",
    "throttle_events",
    "overcurrent_events",
    "fan_ratio",
)
"""In the order of their places. What a later version adds has its place after `synced`, which follows these."""

_PLACES = {name: place for place, name in enumerate(READINGS)}
_FIRST_FIELDS = ("v", "device", "seq", "t", "up_s", "interval_s", "oldest_seq", "dropped", "simulated")
_TIMES = ("t", "up_s")
"""To the millisecond more than seven digits, soon; so they are never a float of 32 bits."""

_Reasons = Annotated[
    dict[telemetry.ShortText, Annotated[list[int | telemetry.Key], msgspec.Meta(max_length=64)]],
    msgspec.Meta(max_length=64),
]
_Digits = Annotated[bytes, msgspec.Meta(min_length=1, max_length=65)]
_DIGITS, _TEXT = b"\0", b"\1"  # what stands before the bytes of digits, or before any other text


class _Window(msgspec.Struct, array_like=True, gc=False):
    model: telemetry.Key
    digest: _Digits
    count: telemetry.Count
    errors: Annotated[dict[telemetry.Key, telemetry.Count], msgspec.Meta(max_length=32)]
    throughput_hz: Annotated[float, msgspec.Meta(ge=0)]
    queue_depth_max: telemetry.Count
    latency_p50_ms: float | None
    latency_p99_ms: float | None
    latency_hist: Annotated[bytes, msgspec.Meta(max_length=6144)]
    stage_ms: Annotated[list[float], msgspec.Meta(max_length=6)]
    other_stage_ms: Annotated[dict[telemetry.Key, float], msgspec.Meta(max_length=16)]
    energy_j: float | None
    energy_per_inference_j: float | None
    engine: telemetry.Key = ""


_TYPES = {field.name: field.type for field in msgspec.structs.fields(telemetry.Sample)}
_Sample = msgspec.defstruct(
    "_Sample",
    [
        ("v", Annotated[int, msgspec.Meta(ge=1, le=1000)]),
        ("device", telemetry.SampleDevice),
        ("seq", telemetry.Seq),
        ("t", telemetry.UnixTime),
        ("up_s", Annotated[float, msgspec.Meta(ge=0)]),
        ("interval_s", Annotated[float, msgspec.Meta(gt=0, le=86400)]),
        ("oldest_seq", telemetry.Seq),
        ("dropped", telemetry.Count),
        ("simulated", bool),
        ("boot", _Digits),
        ("missing", _Reasons),
        ("models", Annotated[tuple[_Window, ...], msgspec.Meta(max_length=64)]),
        *((name, _TYPES[name], None) for name in READINGS),
        ("synced", bool | None, None),
    ],
    array_like=True,
    gc=False,
    module=__name__,
)
PLACES: tuple[str, ...] = _Sample.__struct_fields__
MODEL_PLACES: tuple[str, ...] = _Window.__struct_fields__
_READ_NUMBERS = ("interval_s", *(name for name in READINGS if _TYPES[name] == float | None))
_WINDOW_NUMBERS = ("throughput_hz", "latency_p50_ms", "latency_p99_ms", "energy_j", "energy_per_inference_j")
# How a float of 64 or 32 bits begins that is not finite; where these bytes are nowhere, no number has to be looked at.
_NOT_FINITE = re.compile(rb"\xcb[\x7f\xff][\xf0-\xff]|\xca[\x7f\xff][\x80-\xff]")
_JSON_ENCODER = msgspec.json.Encoder()
_ENCODER = msgspec.msgpack.Encoder()
_DECODER: msgspec.msgpack.Decoder[Any] = msgspec.msgpack.Decoder(_Sample)


class Decoded(NamedTuple):
    """A Sample, its JSON, and how many places it has that this version does not know."""

    sample: telemetry.Sample
    json: bytes
    unknown: int


def is_compact(payload: bytes) -> bool:
    """Tells a MessagePack array from JSON by its first byte."""
    return payload[:1] >= b"\x90"


def to_bytes(sample: telemetry.Sample) -> bytes:
    """Gives the compact form.

    >>> sample = telemetry.Sample(v=2, device="cam-7", boot="00c0ffee", seq=3, t=0, up_s=0, interval_s=1)
    >>> len(to_bytes(sample)), from_bytes(to_bytes(sample)).sample == sample
    (54, True)
    """
    first = {name: getattr(sample, name) for name in _FIRST_FIELDS}
    place = [_whole(value) if name in _TIMES else _shortest(value) for name, value in first.items()]
    place += [
        _bytes_from_hex(sample.boot),
        _reasons(sample.missing),
        [_window(window) for window in sample.models],
        *(_shortest(getattr(sample, name)) for name in READINGS),
        None if sample.synced is msgspec.UNSET else sample.synced,
    ]
    return _ENCODER.encode(place)


def from_bytes(payload: bytes) -> Decoded:
    """Gives the Sample in `payload`.

    Raises:
        PayloadError: not that form, or a histogram that is none.
        msgspec.DecodeError: not MessagePack, or a value outside its bounds.
    """
    found = _DECODER.decode(payload)
    values = msgspec.structs.asdict(found)
    if _NOT_FINITE.search(payload):
        _check_finite(values, found.models)
    for name in _READ_NUMBERS:
        if (value := values[name]) is not None:
            values[name] = _leading_digits(value)
    for name in metrics.MAPS:
        if parts := values[name]:
            values[name] = {part: _leading_digits(value) for part, value in parts.items()}
    values["boot"] = _hex_from_bytes(found.boot)
    values["missing"] = _missing(found.missing)
    values["synced"] = msgspec.UNSET if found.synced is None else found.synced
    values["models"] = tuple(_full_window(window) for window in found.models)
    sample = telemetry.Sample(**values)
    json = _JSON_ENCODER.encode(sample)
    if b"\\u0000" in json:
        raise errors.PayloadError("not a Sample: a NUL character in a string")
    return Decoded(sample, json, _length(payload) - len(PLACES))


def _length(payload: bytes) -> int:
    """Gives the number of places, from the header."""
    return payload[0] & 15 if payload[0] < 0xA0 else int.from_bytes(payload[1 : 3 if payload[0] == 0xDC else 5], "big")


def _reasons(missing: dict[str, str]) -> dict[str, list[int | str]]:
    reasons: dict[str, list[int | str]] = {}
    for metric, reason in missing.items():
        reasons.setdefault(reason, []).append(_PLACES.get(metric, metric))
    return reasons


def _missing(reasons: dict[str, list[int | str]]) -> dict[str, str]:
    missing = {_name(metric): reason for reason, listed in reasons.items() for metric in listed}
    if len(missing) > 64:
        raise errors.PayloadError(f"not a Sample: {len(missing)} reasons; at most 64 are read")
    return dict(sorted(missing.items(), key=lambda row: _PLACES.get(row[0], len(_PLACES))))


def _name(metric: int | str) -> str:
    """Gives the metric at a place of READINGS; one that only a later version knows keeps its number."""
    if isinstance(metric, str):
        return metric
    return READINGS[metric] if 0 <= metric < len(READINGS) else f"metric-{metric}"[:64]


def _window(window: telemetry.Window) -> list[object]:
    values = msgspec.structs.asdict(window)
    values["digest"] = _bytes_from_hex(window.digest)
    values["latency_hist"] = histograms.bytes_from_text(window.latency_hist)
    values["other_stage_ms"] = {}
    if tuple(window.stage_ms) == STAGES:
        values["stage_ms"] = list(window.stage_ms.values())
    else:
        values["stage_ms"], values["other_stage_ms"] = [], window.stage_ms
    return [_shortest(values[name]) for name in MODEL_PLACES]


def _full_window(window: _Window) -> telemetry.Window:
    stages = dict(zip(STAGES, window.stage_ms, strict=False)) | window.other_stage_ms
    numbers: dict[str, Any] = {name: getattr(window, name) for name in _WINDOW_NUMBERS}
    short: dict[str, Any] = {name: value and _leading_digits(value) for name, value in numbers.items()}
    return telemetry.Window(
        model=window.model,
        digest=_hex_from_bytes(window.digest),
        count=window.count,
        errors=window.errors,
        queue_depth_max=window.queue_depth_max,
        latency_hist=histograms.text_from_bytes(window.latency_hist),
        stage_ms={stage: _leading_digits(spent_ms) for stage, spent_ms in stages.items()},
        engine=window.engine,
        **short,
    )


def _shortest(value: object) -> object:
    """Gives the least bytes for a number: of an integer it takes one to nine, of 32 bits five, of 64 always nine."""
    if isinstance(value, float):
        return _shortest_number(value)
    if isinstance(value, dict):
        return {name: _shortest(part) for name, part in value.items()}
    if isinstance(value, list):
        return [_shortest(part) for part in value]
    return value


_FLOAT32 = struct.Struct(">f")
_FLOAT32_LEAST, _FLOAT32_MAX = 1.2e-38, 3.4e38  # below the first it has fewer digits


def _whole(value: float) -> float:
    """Gives a whole number as an integer."""
    return int(value) if value % 1 == 0 and abs(value) < 2**53 else value


@functools.lru_cache(maxsize=4096)
def _shortest_number(value: float) -> float | msgspec.Raw:
    if value.is_integer() or not _FLOAT32_LEAST < abs(value) < _FLOAT32_MAX:  # NaN is not either
        return _whole(value)
    short = _FLOAT32.pack(value)
    return msgspec.Raw(b"\xca" + short) if _leading_digits(_FLOAT32.unpack(short)[0]) == value else value


@functools.lru_cache(maxsize=16384)
def _leading_digits(value: float) -> float:
    """Gives the number whose seven leading digits a float of 32 bits stood for; any other as it is.

    >>> _leading_digits(_FLOAT32.unpack(_FLOAT32.pack(7.012))[0]), _leading_digits(1 / 3)
    (7.012, 0.3333333333333333)
    """
    if value.is_integer() or not _FLOAT32_LEAST < abs(value) < _FLOAT32_MAX:
        return value
    packed = _FLOAT32.pack(value)
    if _FLOAT32.unpack(packed)[0] != value:
        return value
    short = float(f"{value:.7g}")
    return short if _FLOAT32.pack(short) == packed else value


def _bytes_from_hex(text: str) -> bytes:
    """Gives the bytes that an even number of lower-case digits stands for, or the text, marked as which of the two."""
    try:
        raw = bytes.fromhex(text)
    except ValueError:
        return _TEXT + text.encode()
    return _DIGITS + raw if raw.hex() == text else _TEXT + text.encode()


def _hex_from_bytes(marked: bytes) -> str:
    return marked[1:].hex() if marked[:1] == _DIGITS else marked[1:].decode()


def _check_finite(values: dict[str, Any], windows: Iterable[_Window]) -> None:
    """Refuses what JSON could not say: MessagePack has NaN and infinity."""
    numbers = [*values.values(), *(number for name in metrics.MAPS for number in (values[name] or {}).values())]
    for window in windows:
        numbers += [*window.stage_ms, *window.other_stage_ms.values()]
        numbers += [getattr(window, name) for name in _WINDOW_NUMBERS]
    if not math.isfinite(sum([number for number in numbers if number.__class__ is float])):
        raise errors.PayloadError("not a Sample: a number that is not finite")
