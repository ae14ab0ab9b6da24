"""Sparkplug B: its topics and payloads, as far as an edge node needs them.

Source: Eclipse Sparkplug 3.0.0, chapters "Topics" and "Payloads" (``sparkplug_b.proto``).
"""

from collections.abc import Iterable, Mapping
from typing import Any, Literal, NamedTuple

import msgspec

from edge_sdk import errors
from edge_sdk.wire import protobuf
from edge_sdk.wire.protobuf import Field, Fields

ROOT = "spBv1.0"
BD_SEQ = "bdSeq"
REBIRTH = "Node Control/Rebirth"

Kind = Literal["Int64", "Double", "Boolean", "String"]
Value = int | float | bool | str | None

_CODES: dict[Kind, int] = {"Int64": 4, "Double": 10, "Boolean": 11, "String": 12}
_KINDS: dict[int, Kind] = {code: kind for kind, code in _CODES.items()}
_PLACES: dict[Kind, str] = {
    "Int64": "long_value",
    "Double": "double_value",
    "Boolean": "boolean_value",
    "String": "string_value",
}
_VALUES = ("int_value", "long_value", "float_value", "double_value", "boolean_value", "string_value")


def _explicit(name: str, kind: str) -> Field:
    return Field(name, kind, is_explicit=True)


_PROPERTY: Fields = {1: _explicit("type", "int"), 8: _explicit("string_value", "string")}
_PROPERTIES: Fields = {
    1: Field("keys", "string", is_repeated=True),
    2: Field("values", "message", is_repeated=True, fields=_PROPERTY),
}
_METRIC: Fields = {
    1: _explicit("name", "string"),
    2: _explicit("alias", "int"),
    3: _explicit("timestamp", "int"),
    4: _explicit("datatype", "int"),
    5: Field("is_historical", "bool"),
    7: Field("is_null", "bool"),
    9: Field("properties", "message", fields=_PROPERTIES),
    10: _explicit("int_value", "int"),
    11: _explicit("long_value", "int"),
    12: _explicit("float_value", "float"),
    13: _explicit("double_value", "double"),
    14: _explicit("boolean_value", "bool"),
    15: _explicit("string_value", "string"),
}
_PAYLOAD: Fields = {
    1: _explicit("timestamp", "int"),
    2: Field("metrics", "message", is_repeated=True, fields=_METRIC),
    3: _explicit("seq", "int"),
}


class Metric(NamedTuple):
    """One metric of a payload.

    Attributes:
        name: with ``/`` between folders; empty where the alias stands for it.
        kind: datatype of the value; None where the sender left it out.
        value: None goes as ``is_null``, without a value.
        t_ms: when it was measured, Unix milliseconds; None for a certificate of death.
        alias: number that stands for the name after the birth; None for none.
        is_historical: an earlier value that does not change the current one.
        properties: text by key, such as ``engUnit``.
    """

    name: str
    kind: Kind | None
    value: Value
    t_ms: int | None = None
    alias: int | None = None
    is_historical: bool = False
    properties: Mapping[str, str] = {}


class Payload(NamedTuple):
    """One message: when it was sent (Unix milliseconds), its place among the node's messages, its metrics."""

    metrics: tuple[Metric, ...]
    t_ms: int | None = None
    seq: int | None = None


class HostState(msgspec.Struct, frozen=True):
    """What a host application says of itself on its STATE topic."""

    online: bool
    timestamp: int


def topic(group: str, kind: str, node: str, device: str | None = None) -> str:
    """Gives the topic of a message.

    >>> topic("edge", "DDATA", "plant-1", "cam-7")
    'spBv1.0/edge/DDATA/plant-1/cam-7'
    """
    return "/".join((ROOT, group, kind, node) if device is None else (ROOT, group, kind, node, device))


def state_topic(host: str) -> str:
    """Gives the topic on which a host application says whether it is there."""
    return f"{ROOT}/STATE/{host}"


def check_id(kind: str, text: str) -> str:
    """Gives `text` back if it may stand in a topic.

    Raises:
        UsageError: it may not.
    """
    if not text or any(character in text for character in "+/#\0") or len(text) > 200:
        raise errors.UsageError(f"{kind} {text[:200]!r} can't stand in a Sparkplug topic: 1 to 200 of any but + / #")
    return text


def encode(payload: Payload) -> bytes:
    """Gives the bytes of a payload."""
    metrics = [_values_of(metric) for metric in payload.metrics]
    return protobuf.encode({"timestamp": payload.t_ms, "metrics": metrics, "seq": payload.seq}, _PAYLOAD)


def decode(payload: bytes) -> Payload:
    """Gives what is in the bytes; datatypes that are not used here have neither kind nor value.

    Raises:
        PayloadError: they are no Sparkplug B payload.
    """
    try:
        found = protobuf.decode(memoryview(payload), _PAYLOAD)
    except errors.InputError as error:
        raise errors.PayloadError(f"not a Sparkplug B payload: {error}") from error
    metrics = tuple(_metric_of(values) for values in found.get("metrics", ()))
    return Payload(metrics, found.get("timestamp"), found.get("seq"))


def host_state(payload: bytes) -> HostState:
    """Gives what a host application says of itself.

    Raises:
        PayloadError: it is not what the specification asks for.
    """
    try:
        return msgspec.json.decode(payload, type=HostState)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise errors.PayloadError(f"not a STATE message: {error}") from error


def _values_of(metric: Metric) -> dict[str, Any]:
    values: dict[str, Any] = {
        "name": metric.name or None,
        "alias": metric.alias,
        "timestamp": metric.t_ms,
        "datatype": None if metric.kind is None else _CODES[metric.kind],
        "is_historical": metric.is_historical,
        "is_null": metric.value is None,
        "properties": _properties_of(metric.properties.items()),
    }
    if metric.value is not None and metric.kind is not None:
        values[_PLACES[metric.kind]] = metric.value
    return values


def _properties_of(items: Iterable[tuple[str, str]]) -> dict[str, Any]:
    pairs = list(items)
    values = [{"type": _CODES["String"], "string_value": value} for _, value in pairs]
    return {"keys": [key for key, _ in pairs], "values": values} if pairs else {}


def _metric_of(values: Mapping[str, Any]) -> Metric:
    properties = values.get("properties", {})
    texts = [one.get("string_value", "") for one in properties.get("values", ())]
    found = [values[place] for place in _VALUES if place in values]
    return Metric(
        values.get("name", ""),
        _KINDS.get(values.get("datatype", 0)),
        None if values.get("is_null") or not found else found[0],
        values.get("timestamp"),
        values.get("alias"),
        is_historical=values.get("is_historical", False),
        properties=dict(zip(properties.get("keys", ()), texts, strict=False)),
    )
