"""The page for Prometheus, under Triton's names, so that boards and load generators made for Triton read it.

Source: Triton's ``docs/user_guide/metrics.md``. Text only: no client library takes part.
"""

from collections.abc import Iterable

from edge_sdk.device.serve.models import Model
from edge_sdk.records import telemetry

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
    return "\n".join(lines) + "\n"
