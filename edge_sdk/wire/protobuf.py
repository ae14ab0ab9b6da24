"""Protocol buffers on the wire, driven by tables of fields: enough for gRPC v2 and Sparkplug B, without a generator.

Bytes fields are views into the message, so a camera frame is not copied when it is read; and no generated code ties
the package to a release of the protobuf runtime.

Source: protobuf.dev, "Encoding".
"""

import struct
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from edge_sdk import errors

_VARINT, _FIXED64, _LENGTH, _FIXED32 = 0, 1, 2, 5
_PACKED = {"int": _VARINT, "bool": _VARINT, "enum": _VARINT, "float": _FIXED32, "double": _FIXED64}
_STRUCTS = {"float": struct.Struct("<f"), "double": struct.Struct("<d")}


class Field(NamedTuple):
    """One field of a message.

    Attributes:
        name: key in the dict.
        kind: ``int`` (any integer but zigzag), ``bool``, ``float``, ``double``, ``string``, ``bytes``, ``enum``,
            ``message``, or ``map`` (from strings to messages).
        is_repeated: the value is a list.
        fields: of the message, or of a map's values.
        names: of an enum's values, in order.
        is_explicit: a zero is written too; what is not set is None or absent.
    """

    name: str
    kind: str
    is_repeated: bool = False
    fields: "Fields | None" = None
    names: tuple[str, ...] = ()
    is_explicit: bool = False


Fields = Mapping[int, Field]


def decode(payload: memoryview, fields: Fields) -> dict[str, Any]:
    """Gives the fields that are present, by name; unknown ones are skipped.

    Raises:
        InputError: the bytes are no message.
    """
    found: dict[str, Any] = {}
    try:
        at = 0
        while at < len(payload):
            tag, at = _read_varint(payload, at)
            raw, at = _read_value(payload, at, tag & 7)
            field = fields.get(tag >> 3)
            if field is not None:
                _put(found, field, tag & 7, raw)
    except (IndexError, struct.error, UnicodeDecodeError, ValueError, TypeError) as error:
        raise errors.InputError(f"not a protocol buffers message: {error}") from error
    return found


def encode(values: Mapping[str, Any], fields: Fields) -> bytes:
    """Gives the bytes of a message; absent, zero or empty fields take none, except in lists and explicit ones."""
    return b"".join(_pieces(values, fields))


def _pieces(values: Mapping[str, Any], fields: Fields) -> Iterable[bytes | memoryview]:
    for number, field in fields.items():
        value = values.get(field.name)
        if value is None or not (value or field.is_explicit):
            continue
        if field.kind == "map":
            for key, each in value.items():
                entry = {"key": key, "value": each}
                assert field.fields is not None
                yield from _delimited(number, encode(entry, _entry(field.fields)))
        elif field.is_repeated and field.kind in _PACKED:
            yield from _delimited(number, b"".join(_scalar(field, each) for each in value))
        else:
            for each in value if field.is_repeated else (value,):
                yield from _one(number, field, each)


def _one(number: int, field: Field, value: Any) -> Iterable[bytes | memoryview]:
    if field.kind == "message":
        assert field.fields is not None
        return _delimited(number, encode(value, field.fields))
    if field.kind == "string":
        return _delimited(number, value.encode())
    if field.kind == "bytes":
        return _delimited(number, value)
    return (_varint(number << 3 | _PACKED[field.kind]), _scalar(field, value))


def _delimited(number: int, payload: bytes | memoryview) -> tuple[bytes, bytes | memoryview]:
    return _varint(number << 3 | _LENGTH) + _varint(len(payload)), payload


def _scalar(field: Field, value: Any) -> bytes:
    if field.kind in _STRUCTS:
        return _STRUCTS[field.kind].pack(value)
    return _varint(field.names.index(value) if field.kind == "enum" else int(value))


def _varint(value: int) -> bytes:
    value &= 0xFFFF_FFFF_FFFF_FFFF  # negative numbers go as their two's complement
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def _read_varint(payload: memoryview, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = payload[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value & 0xFFFF_FFFF_FFFF_FFFF, at
        shift += 7
        if shift > 63:
            raise ValueError("a number of more than 64 bits")


def _read_value(payload: memoryview, at: int, wire: int) -> tuple[Any, int]:
    if wire == _VARINT:
        return _read_varint(payload, at)
    if wire == _LENGTH:
        size, at = _read_varint(payload, at)
    elif wire in (_FIXED32, _FIXED64):
        size = 4 if wire == _FIXED32 else 8
    else:
        raise ValueError(f"wire type {wire}")
    if at + size > len(payload):
        raise ValueError("it ends in the middle of a field")
    return payload[at : at + size], at + size


def _put(found: dict[str, Any], field: Field, wire: int, raw: Any) -> None:
    if field.kind == "map":
        assert field.fields is not None
        entry = decode(raw, _entry(field.fields))
        found.setdefault(field.name, {})[entry.get("key", "")] = entry.get("value", {})
    elif not field.is_repeated:
        found[field.name] = _value(field, wire, raw)
    elif wire == _LENGTH and field.kind in _PACKED:
        found.setdefault(field.name, []).extend(_unpacked(field, raw))
    else:
        found.setdefault(field.name, []).append(_value(field, wire, raw))


def _value(field: Field, wire: int, raw: Any) -> Any:
    if wire != _PACKED.get(field.kind, _LENGTH):
        raise ValueError(f"field {field.name} has wire type {wire}")
    if field.kind == "message":
        assert field.fields is not None
        return decode(raw, field.fields)
    if field.kind == "string":
        return str(raw, "utf-8")
    if field.kind in _STRUCTS:
        return _STRUCTS[field.kind].unpack(raw)[0]
    if field.kind == "bool":
        return bool(raw)
    if field.kind == "enum":
        return field.names[raw]
    return raw - (1 << 64) if field.kind == "int" and raw >> 63 else raw


def _unpacked(field: Field, raw: memoryview) -> list[Any]:
    if field.kind in _STRUCTS:
        return [each[0] for each in _STRUCTS[field.kind].iter_unpack(raw)]
    values, at = [], 0
    while at < len(raw):
        value, at = _read_varint(raw, at)
        values.append(_value(field, _VARINT, value))
    return values


def _entry(fields: Fields) -> Fields:
    return {1: Field("key", "string"), 2: Field("value", "message", fields=fields)}
