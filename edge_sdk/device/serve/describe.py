"""What a model is and did, in the documents of the protocol and of Triton's extensions: the same for every transport.

Sources: Triton's ``extension_model_configuration.md``, ``extension_statistics.md``, ``extension_model_repository.md``.
"""

from typing import Any

from edge_sdk import __version__
from edge_sdk.device.serve import oip, v2
from edge_sdk.device.serve.gate import DEFAULT_PRIORITY, PRIORITY_LEVELS
from edge_sdk.device.serve.models import Model
from edge_sdk.records import tensors

_EXTENSIONS = ("binary_tensor_data", "model_configuration", "model_repository", "schedule_policy", "statistics")


def server(*, has_shared_memory: bool) -> dict[str, Any]:
    """Gives who answers, and what it can do beyond the base protocol."""
    extensions = [*_EXTENSIONS, *(["system_shared_memory"] if has_shared_memory else [])]
    return {"name": "edge_sdk", "version": __version__, "extensions": extensions}


def metadata(model: Model, versions: tuple[Model, ...]) -> dict[str, Any]:
    """Gives what a model takes and gives."""
    return {
        "name": model.name,
        "versions": [each.version for each in versions],
        "platform": model.engine.name,
        "inputs": [oip.tensor_metadata(spec) for spec in model.engine.inputs],
        "outputs": [oip.tensor_metadata(spec) for spec in model.engine.outputs],
    }


def configuration(model: Model) -> dict[str, Any]:
    """Gives a model's configuration as Triton writes it: with a free first axis everywhere, `dims` leave it out."""
    scheduling = model.scheduling
    config: dict[str, Any] = {
        "name": model.name,
        "platform": model.engine.name,
        "backend": model.engine.name,
        "version_policy": {"latest": {"num_versions": 1}},
        "max_batch_size": max(1, scheduling.max_batch) if model.can_batch else 0,
        "input": [_tensor_config(spec, is_batched=model.can_batch) for spec in model.engine.inputs],
        "output": [_tensor_config(spec, is_batched=model.can_batch) for spec in model.engine.outputs],
        "instance_group": [{"name": model.name, "kind": "KIND_CPU", "count": model.instances, "gpus": []}],
        "parameters": {},
    }
    if model.can_batch and scheduling.max_batch > 1:
        config["dynamic_batching"] = {
            "preferred_batch_size": [scheduling.max_batch],
            "max_queue_delay_microseconds": scheduling.batch_wait_us,
            "priority_levels": PRIORITY_LEVELS,
            "default_priority_level": DEFAULT_PRIORITY,
            "default_queue_policy": {
                "default_timeout_microseconds": scheduling.timeout_us,
                "allow_timeout_override": True,
                "max_queue_size": scheduling.queue_size,
            },
        }
    return config


def statistics(model: Model) -> dict[str, Any]:
    """Gives what a model did since it was loaded; every request passes the queue, also one that does not wait."""
    totals = model.recorder.totals()
    count, stage_ns = totals.requests, totals.stage_ns
    parts_ns = {
        "queue": stage_ns["queue"],
        "compute_input": stage_ns["pre"] + stage_ns["copy_in"],
        "compute_infer": stage_ns["compute"],
        "compute_output": stage_ns["copy_out"] + stage_ns["post"],
    }
    return {
        "name": model.name,
        "version": model.version,
        "last_inference": totals.last_ms,
        "inference_count": totals.inferences,
        "execution_count": totals.executions,
        "inference_stats": {
            "success": {"count": count, "ns": sum(stage_ns.values())},
            "fail": {"count": totals.failed, "ns": totals.failed_ns},
            **{part: {"count": count, "ns": spent} for part, spent in parts_ns.items()},
            "cache_hit": {"count": 0, "ns": 0},
            "cache_miss": {"count": 0, "ns": 0},
        },
        "batch_stats": [],
    }


def _tensor_config(spec: tensors.TensorSpec, *, is_batched: bool) -> dict[str, Any]:
    shape = spec.shape[1:] if is_batched else spec.shape
    # A scalar per row has no axis left; the configuration writes that as one of length 1.
    dims = [-1 if axis is None else axis for axis in shape] or [1]
    return {"name": spec.name, "data_type": f"TYPE_{v2.datatype_of(spec.dtype)}", "dims": dims}
