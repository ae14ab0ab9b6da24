"""What a SCADA system sees of a Sample: flat metrics with datatype and unit; what was not read is null, not 0.

Latency histograms stay out: Sparkplug has no type for them, and a SCADA system can't add them up.
"""

import types
import typing
from collections.abc import Iterator, Mapping
from typing import Any

import msgspec

from edge_sdk.records import metrics, telemetry
from edge_sdk.wire.sparkplug import Kind, Metric, Value

_KINDS: Mapping[type, Kind] = {bool: "Boolean", int: "Int64", float: "Double", str: "String"}
_OWN = ("boot", "seq", "up_s", "interval_s", "dropped", "simulated")
_UNITS = {metric.name: metric.unit for metric in metrics.METRICS}
_WINDOW: dict[str, tuple[Kind, str]] = {
    "digest": ("String", ""),
    "engine": ("String", ""),
    "count": ("Int64", "1"),
    "throughput_hz": ("Double", "Hz"),
    "queue_depth_max": ("Int64", "1"),
    "latency_p50_ms": ("Double", "ms"),
    "latency_p99_ms": ("Double", "ms"),
    "energy_j": ("Double", "J"),
    "energy_per_inference_j": ("Double", "J"),
}


def _kind_of(annotation: Any) -> Kind:
    """Gives the datatype of a Sample's field from its annotation: what it is beside None."""
    while typing.get_origin(annotation) is typing.Annotated:
        annotation = typing.get_args(annotation)[0]
    if typing.get_origin(annotation) in (types.UnionType, typing.Union):
        return _kind_of(next(one for one in typing.get_args(annotation) if one is not type(None)))
    return _KINDS[annotation]


_SAMPLE_TYPES = {field.name: field.type for field in msgspec.structs.fields(telemetry.Sample)}
_SCALARS: tuple[tuple[str, Kind], ...] = tuple(
    (name, _kind_of(_SAMPLE_TYPES[name]))
    for name in (*_OWN, *(metric.name for metric in metrics.METRICS if not metric.is_map))
)


def metrics_of(sample: telemetry.Sample) -> dict[str, Metric]:
    """Gives the metrics of a Sample by name, each with its unit, or the reason why it has no value."""
    t_ms = int(sample.t * 1000)
    return {metric.name: metric._replace(t_ms=t_ms) for metric in _metrics(sample)}


def properties_of(birth: telemetry.Birth) -> dict[str, Metric]:
    """Gives what a birth record says of the device, as text below ``Properties``."""
    t_ms = int(birth.t * 1000)
    texts: dict[str, object] = {"sdk": birth.sdk, **birth.machine}
    return {
        f"Properties/{_level(key)}": Metric(
            f"Properties/{_level(key)}", "String", None if text is None else str(text), t_ms
        )
        for key, text in texts.items()
    }


def _metrics(sample: telemetry.Sample) -> Iterator[Metric]:
    for name, kind in _SCALARS:
        yield _metric(name, kind, getattr(sample, name), _UNITS.get(name, ""), sample.missing.get(name, ""))
    for name in metrics.MAPS:
        parts = dict.fromkeys(_missing_parts(sample, name)) | (getattr(sample, name) or {})
        for part, value in parts.items():
            reason = sample.missing.get(f"{name}.{part}", "")
            yield _metric(f"{name}/{_level(part)}", "Double", value, _UNITS[name], reason)
    for window in sample.models:
        folder = f"models/{_level(window.model)}"
        for name, (kind, unit) in _WINDOW.items():
            yield _metric(f"{folder}/{name}", kind, getattr(window, name), unit, "")
        yield _metric(f"{folder}/errors", "Int64", sum(window.errors.values()), "1", "")
        for stage, mean_ms in window.stage_ms.items():
            yield _metric(f"{folder}/stage_ms/{_level(stage)}", "Double", mean_ms, "ms", "")


def _missing_parts(sample: telemetry.Sample, name: str) -> Iterator[str]:
    """Gives the parts of a map that could not be read."""
    return (key.partition(".")[2] for key in sample.missing if key.startswith(f"{name}."))


def _metric(name: str, kind: Kind, value: Value, unit: str, reason: str) -> Metric:
    properties = {"engUnit": unit} if unit not in ("", "1") else {}
    if value is None and reason:
        properties["reason"] = reason
    return Metric(name, kind, value, properties=properties)


def _level(text: str) -> str:
    """Gives `text` as one level of a metric's name."""
    return text.replace("/", "-") or "-"
