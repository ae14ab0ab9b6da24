"""Telemetry records as JSON bytes and back: size first, then a validating decode, then what types can't say."""

from typing import TypeVar

import msgspec

from edge_sdk import errors
from edge_sdk.records import telemetry

MAX_PAYLOAD_BYTES = 64 * 1024
"""A Sample is about 1 kB; 64 models with histograms stay below this. Larger payloads are refused unread."""

_Record = TypeVar("_Record", telemetry.Sample, telemetry.Birth, telemetry.Status, telemetry.Event, telemetry.Receipt)

_ENCODER = msgspec.json.Encoder()
_DECODERS: dict[type, msgspec.json.Decoder[object]] = {
    kind: msgspec.json.Decoder(kind)
    for kind in (telemetry.Sample, telemetry.Birth, telemetry.Status, telemetry.Event, telemetry.Receipt)
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


def from_bytes(payload: bytes, kind: type[_Record]) -> _Record:
    """Gives the record in `payload`.

    Raises:
        PayloadError: too large, not JSON, not that record, or a value outside its bounds.
    """
    if len(payload) > MAX_PAYLOAD_BYTES:
        raise errors.PayloadError(f"payload of {len(payload)} bytes; at most {MAX_PAYLOAD_BYTES} are read")
    try:
        record = _DECODERS[kind].decode(payload)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise errors.PayloadError(f"not a {kind.__name__}: {error}") from error
    if b"\\u0000" in payload:
        raise errors.PayloadError(f"not a {kind.__name__}: a NUL character in a string")
    assert isinstance(record, kind)
    return record
