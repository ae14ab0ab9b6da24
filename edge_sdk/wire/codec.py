"""Telemetry records as bytes and back: size first, then a validating decode, then what types can't say."""

import functools
import re
from typing import TypeVar

import msgspec

from edge_sdk import errors
from edge_sdk.records import telemetry
from edge_sdk.wire import compact

MAX_PAYLOAD_BYTES = 64 * 1024
"""A Sample is about 1 kB; 64 models with histograms stay below this. Larger payloads are refused unread."""

PAYLOADS = ("json", "compact")
"""The forms that a Sample may have."""

_Record = TypeVar("_Record", telemetry.Sample, telemetry.Birth, telemetry.Status, telemetry.Event, telemetry.Receipt)

_BACKSLASH = ord("\\")  # to look for a number takes a tenth of the time of looking for a byte in bytes
_ENCODER = msgspec.json.Encoder()
_SAMPLE_DECODER = msgspec.json.Decoder(telemetry.Sample)
_DECODERS: dict[type, msgspec.json.Decoder[object]] = {
    kind: msgspec.json.Decoder(kind) for kind in (telemetry.Birth, telemetry.Status, telemetry.Event, telemetry.Receipt)
}
UP_RECORDS: dict[str, type] = {
    "up/status": telemetry.Status,
    "up/birth": telemetry.Birth,
    "up/telemetry": telemetry.Sample,
    "up/event": telemetry.Event,
}
"""What travels on which leaf of the topic."""


def to_bytes(record: msgspec.Struct) -> bytes:
    """Gives the JSON form of a record.

    >>> to_bytes(telemetry.Receipt(boot="00c0ffee", upto=41))
    b'{"boot":"00c0ffee","upto":41}'
    """
    return _ENCODER.encode(record)


def sample_to_bytes(sample: telemetry.Sample, *, payload: str) -> bytes:
    """Gives a Sample in the form that its device's birth names: ``json`` or ``compact``."""
    return compact.to_bytes(sample) if payload == "compact" else to_bytes(sample)


def from_bytes(payload: bytes, kind: type[_Record]) -> _Record:
    """Gives the record in `payload`; a Sample may come in either form.

    Raises:
        PayloadError: too large, not JSON (or, for a Sample, MessagePack), not that record, or a value outside its
            bounds.
    """
    if kind is telemetry.Sample:
        sample, _ = sample_and_json(payload)
        return sample
    _check_size(payload)
    try:
        record = _DECODERS[kind].decode(payload)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise errors.PayloadError(f"not a {kind.__name__}: {error}") from error
    if _BACKSLASH in payload:
        _check_strings(payload, kind)
    assert isinstance(record, kind)
    return record


def sample_and_json(payload: bytes) -> tuple[telemetry.Sample, bytes]:
    """Gives the Sample in `payload`, and its JSON: `payload` itself, where that is not the compact form.

    Raises:
        PayloadError: as `from_bytes`.
    """
    _check_size(payload)
    try:
        if compact.is_compact(payload):
            sample, payload, _ = compact.from_bytes(payload)
        else:
            sample = _SAMPLE_DECODER.decode(payload)
            if _BACKSLASH in payload:
                _check_strings(payload, telemetry.Sample)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise errors.PayloadError(f"not a Sample: {error}") from error
    if not (_is_device(sample.device) and is_boot(sample.boot)):
        raise errors.PayloadError(
            f"not a Sample: device {sample.device!r} must match {_DEVICE.pattern}, boot {sample.boot!r} {_BOOT.pattern}"
        )
    return sample, payload


def _check_size(payload: bytes) -> None:
    if len(payload) > MAX_PAYLOAD_BYTES:
        raise errors.PayloadError(f"payload of {len(payload)} bytes; at most {MAX_PAYLOAD_BYTES} are read")


def _check_strings(payload: bytes, kind: type) -> None:
    if b"\\u0000" in payload:
        raise errors.PayloadError(f"not a {kind.__name__}: a NUL character in a string")


_DEVICE = re.compile(r"[a-z0-9-]{1,63}")
_BOOT = re.compile(r"[0-9a-f]{8,32}")


@functools.lru_cache(maxsize=65536)
def _is_device(text: str) -> bool:
    return _DEVICE.fullmatch(text) is not None


@functools.lru_cache(maxsize=65536)
def is_boot(text: str) -> bool:
    """Tells whether `text` can be the name of a boot; remembered, as is the device's, for the next Sample."""
    return _BOOT.fullmatch(text) is not None
