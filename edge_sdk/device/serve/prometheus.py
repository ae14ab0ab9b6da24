"""The page for Prometheus: the board under our names, and under Triton's for what was made for Triton.

Sources: Triton's ``docs/user_guide/metrics.md``; Prometheus' text format 0.0.4. No client library takes part.
"""

from collections.abc import Iterable, Iterator

from edge_sdk.device.serve.models import Model
from edge_sdk.records import metrics, telemetry

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

_BOARD = (
    ("nv_gpu_utilization", "gpu_utilization_ratio", "busy share of the GPU [0.0 - 1.0]"),
    ("nv_gpu_power_usage", "power_w", "power in watts inside the board's power boundary"),
    ("nv_gpu_memory_used_bytes", "memory_used_bytes", "memory in use; on a Jetson CPU and GPU share it"),
    ("nv_gpu_memory_total_bytes", "memory_total_bytes", "memory of the machine"),
    ("nv_cpu_utilization", "cpu_utilization_ratio", "busy share of all CPU cores [0.0 - 1.0]"),
)


def page(models: Iterable[Model], device: str, sample: telemetry.Sample | None) -> str:
    """Gives the page.

    Args:
        models: that are served.
        device: name of the board.
        sample: its last readings; None before the first. A sensor that could not be read is left out.
    """
    lines: list[str] = []
    totals = [(f'{{model="{model.name}",version="{model.version}"}}', model.recorder.totals()) for model in models]
    counters = (
        ("nv_inference_request_success", "requests that were answered", [one.requests for _, one in totals]),
        ("nv_inference_request_failure", "requests that were not answered", [one.failed for _, one in totals]),
        ("nv_inference_count", "rows that were inferred", [one.inferences for _, one in totals]),
        ("nv_inference_exec_count", "runs of the engine", [one.executions for _, one in totals]),
        (
            "nv_inference_request_duration_us",
            "time of the answered requests",
            [sum(one.stage_ns.values()) // 1000 for _, one in totals],
        ),
        ("nv_inference_queue_duration_us", "time they waited", [one.stage_ns["queue"] // 1000 for _, one in totals]),
        (
            "nv_inference_compute_infer_duration_us",
            "time inside the engine",
            [one.stage_ns["compute"] // 1000 for _, one in totals],
        ),
    )
    for name, meaning, values in counters:
        lines += [f"# HELP {name} {meaning}", f"# TYPE {name} counter"]
        lines += [f"{name}{labels} {value}" for (labels, _), value in zip(totals, values, strict=True)]
    for name, metric, meaning in _BOARD:
        value = getattr(sample, metric, None)
        if value is not None:
            lines += [f"# HELP {name} {meaning}", f"# TYPE {name} gauge", f'{name}{{gpu_uuid="{device}"}} {value}']
    if sample is not None:
        lines += _own_lines(sample, device)
    return "\n".join(lines) + "\n"


def _own_lines(sample: telemetry.Sample, device: str) -> Iterator[str]:
    """Every metric of the catalogue by its name in Prometheus; what was not read is left out, and counted."""
    for metric in metrics.METRICS:
        found = dict(_values(getattr(sample, metric.name)))
        if found:
            name = metrics.prometheus_name(metric.name)
            yield f"# HELP {name} {metric.meaning}"
            yield f"# TYPE {name} gauge"
            yield from (f'{name}{{device="{device}"{labels}}} {value}' for labels, value in found.items())
    for name, meaning, value in (
        ("missing", "metrics of the catalogue that could not be read; the Sample says why", len(sample.missing)),
        ("simulated", "1 when the board was made up", int(sample.simulated)),
    ):
        yield from (
            f"# HELP edge_{name} {meaning}",
            f"# TYPE edge_{name} gauge",
            f'edge_{name}{{device="{device}"}} {value}',
        )
    energies = [one for one in sample.models if one.energy_per_inference_j is not None]
    if energies:
        yield "# HELP edge_model_energy_per_inference_joules energy of the last interval per answer"
        yield "# TYPE edge_model_energy_per_inference_joules gauge"
        for one in energies:
            labels = f'device="{device}",model="{_escaped(one.model)}"'
            yield f"edge_model_energy_per_inference_joules{{{labels}}} {one.energy_per_inference_j}"


def _values(value: object) -> Iterator[tuple[str, float | int]]:
    """Gives further labels and the value; a text becomes a label of a value 1."""
    if isinstance(value, dict):
        yield from ((f',part="{_escaped(str(part))}"', one) for part, one in value.items())
    elif isinstance(value, str):
        yield f',value="{_escaped(value)}"', 1
    elif isinstance(value, (bool, int, float)):
        yield "", int(value) if isinstance(value, bool) else value


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
