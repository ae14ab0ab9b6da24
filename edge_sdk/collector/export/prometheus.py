"""The fleet as a page that Prometheus scrapes: the newest Sample of each device, and the collector's own counts.

Names follow Prometheus: base units spelt out, seconds instead of milliseconds. A device that has been silent for five
minutes keeps only its age, so that an old value is never taken for a present one.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec

from edge_sdk.records import answers, metrics

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
SILENT_S = 300.0
"""After it the last values are no longer shown."""

GAUGES = tuple(
    metric for metric in metrics.METRICS if not metric.is_map and metric.name not in ("power_boundary", "power_mode")
)
"""The metrics that are shown."""


class ShownWindow(msgspec.Struct):
    """What is shown of a model."""

    model: str
    throughput_hz: float
    latency_p50_ms: float | None
    latency_p99_ms: float | None
    energy_per_inference_j: float | None


_Shown: type[msgspec.Struct] = msgspec.defstruct(
    "_Shown",
    [
        ("models", list[ShownWindow], msgspec.field(default_factory=list)),
        *((metric.name, float | bool | None, None) for metric in GAUGES),
    ],
)
DECODER = msgspec.json.Decoder(_Shown)
"""Of a stored Sample: gives its models and, after them, each of GAUGES."""

MODELS = (
    ("edge_model_throughput_hertz", "answers per second over the last interval", 1.0),
    ("edge_model_latency_p50_seconds", "median latency inside the daemon over the last interval", 1e-3),
    ("edge_model_latency_p99_seconds", "99th percentile of that latency", 1e-3),
    ("edge_model_energy_per_inference_joules", "energy of the last interval per answer", 1.0),
)
"""Name, meaning and factor of each number of `ShownWindow`."""


def page(latest: Sequence[answers.Latest], own: Mapping[str, float], now_t: float) -> str:
    """Gives the page.

    Args:
        latest: of each device.
        own: the collector's own counts by name.
        now_t: Unix time.
    """
    lines: list[str] = []
    for name, value in own.items():
        lines += _head(f"edge_collector_{name}", "of this collector since its start")
        lines.append(f"edge_collector_{name} {value:.10g}")
    labels = [f'{{device="{one.device}",site="{one.site}"}}' for one in latest]
    lines += _head("edge_sample_age_seconds", "since the newest Sample of the device arrived")
    lines += [
        f"edge_sample_age_seconds{label} {max(0.0, now_t - one.received_t):.3f}"
        for label, one in zip(labels, latest, strict=True)
    ]
    present = [
        (label, one, msgspec.structs.astuple(DECODER.decode(one.sample)))
        for label, one in zip(labels, latest, strict=True)
        if now_t - one.received_t <= SILENT_S
    ]
    for column, metric in enumerate(GAUGES, 1):
        name = metrics.prometheus_name(metric.name)
        lines += _head(name, metric.meaning)
        lines += [f"{name}{label} {value!r}" for label, value in _values(present, column)]
    lines += _model_lines(present)
    lines.append("")
    return "\n".join(lines)


def _values(present: Iterable[tuple[str, Any, tuple[Any, ...]]], column: int) -> Iterable[tuple[str, float]]:
    return ((label, float(values[column])) for label, _, values in present if values[column] is not None)


def _model_lines(present: Sequence[tuple[str, answers.Latest, tuple[Any, ...]]]) -> list[str]:
    rows = [
        (f'{label[:-1]},model="{_escaped(window.model)}"}}', msgspec.structs.astuple(window)[1:])
        for label, _, (windows, *_) in present
        for window in windows
    ]
    lines: list[str] = []
    for column, (name, meaning, factor) in enumerate(MODELS):
        lines += _head(name, meaning)
        lines += [f"{name}{label} {values[column] * factor!r}" for label, values in rows if values[column] is not None]
    return lines


def _head(name: str, meaning: str) -> tuple[str, str]:
    return f"# HELP {name} {meaning}", f"# TYPE {name} gauge"


def _escaped(text: str) -> str:
    return text.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
