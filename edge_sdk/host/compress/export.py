"""A torch network to ONNX with a free batch axis, checked against torch, and written whole or not at all."""

import copy
import io
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from edge_sdk import errors
from edge_sdk.engines import ort
from edge_sdk.host.compress.pytorch import Module, first_output, quiet, torch, worded
from edge_sdk.records.tensors import TensorSpec

_CLASSIC_OPSET, _DYNAMO_OPSET = 17, 18
_TOLERANCE = 1e-3
"""Of the largest output; float32 kernels of two libraries differ by 1e-5 or so."""


class Exported(NamedTuple):
    """A serialised ONNX model, its exporter, and how far its outputs are from torch's (share of the largest)."""

    content: bytes
    exporter: str
    difference: float


def onnx_from_net(net: Module, spec: TensorSpec, samples: NDArray[np.float32], exporter: str = "auto") -> Exported:
    """Gives `net` as ONNX, batch axis free, after comparing it with torch on one and on all `samples`.

    Args:
        net: on any device; it is left as it is.
        spec: of its input.
        samples: a few, prepared.
        exporter: ``dynamo``, ``classic``, or ``auto``: the first that does it.

    Raises:
        ModelError: no exporter takes the network (in their own words), or ONNX Runtime's outputs differ from torch's.
    """
    plain = copy.deepcopy(net).cpu().to(memory_format=torch.contiguous_format).eval()
    refusals = []
    for name, write in _EXPORTERS.items():
        if exporter not in (name, "auto"):
            continue
        try:
            with quiet(), worded(f"the {name} exporter refuses the network"):
                content = write(plain, spec, torch.from_numpy(samples[:2]))
            return Exported(content, name, _difference(plain, content, spec, samples))
        except errors.ModelError as refusal:
            refusals.append(refusal)
    raise errors.ModelError("; ".join(map(str, refusals))) from refusals[-1]


def check_target(file: Path) -> None:
    """Raises UsageError unless an ONNX file can be written there; call it before the long work."""
    if file.suffix != ".onnx":
        raise errors.UsageError(f"the output {file} should end in .onnx")
    if not file.parent.is_dir() or not os.access(file.parent, os.W_OK):
        raise errors.UsageError(f"the output's folder {file.parent} can't be written to; make it first")
    if file.is_dir():
        raise errors.UsageError(f"the output {file} is a folder; name a file")


def save(content: bytes, file: Path) -> None:
    """Writes the file under another name first, so that it is there whole or not at all."""
    with tempfile.NamedTemporaryFile(dir=file.parent, prefix=f".{file.name}.", delete=False) as stream:
        part = Path(stream.name)
        try:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
            part.chmod(0o644)
            part.replace(file)
        finally:
            part.unlink(missing_ok=True)  # still there only when something, Ctrl-C too, came between


def _dynamo(net: Module, spec: TensorSpec, samples: Any) -> bytes:
    free = torch.export.Dim("N", min=1, max=65536)
    program = torch.onnx.export(
        net,
        (samples,),
        dynamo=True,
        opset_version=_DYNAMO_OPSET,
        input_names=[spec.name],
        output_names=["logits"],
        dynamic_shapes=({0: free},),
        verbose=False,
    )
    _forget_sources(program.model)
    content: bytes = program.model_proto.SerializeToString(deterministic=True)
    return content


def _classic(net: Module, spec: TensorSpec, samples: Any) -> bytes:
    stream = io.BytesIO()
    torch.onnx.export(
        net,
        (samples,),
        stream,
        dynamo=False,
        opset_version=_CLASSIC_OPSET,
        input_names=[spec.name],
        output_names=["logits"],
        dynamic_axes={spec.name: {0: "N"}, "logits": {0: "N"}},
    )
    return stream.getvalue()


_EXPORTERS: dict[str, Callable[[Module, TensorSpec, Any], bytes]] = {"dynamo": _dynamo, "classic": _classic}


def _forget_sources(model: Any) -> None:
    """Drops the stack traces that the exporter adds to each node: they hold paths and lines of the author's code."""
    for node in model.graph.all_nodes():
        for holder in (node, *node.outputs):
            holder.metadata_props.clear()
            holder.doc_string = None
    for value in (*model.graph.inputs, *model.graph.initializers.values()):
        value.metadata_props.clear()


def _difference(net: Module, content: bytes, spec: TensorSpec, samples: NDArray[np.float32]) -> float:
    run = ort.runner_from_model(content, threads=1)
    worst = 0.0
    for part in (samples[:1], samples):
        with torch.no_grad():
            wanted = first_output(net(torch.from_numpy(part))).numpy()
        try:
            given = next(iter(run({spec.name: part}).values())).reshape(len(part), -1)
        except (errors.EngineError, ValueError) as error:
            raise errors.ModelError(f"the exported network fails on a batch of {len(part)}: {error}") from error
        if given.shape != wanted.shape or not np.isfinite(given).all():
            raise errors.ModelError(
                f"the exported network gives {given.shape} where torch gives {wanted.shape}, or NaN"
            )
        worst = max(worst, float(np.abs(given - wanted).max() / max(float(np.abs(wanted).max()), 1e-6)))
    if worst > _TOLERANCE:
        raise errors.ModelError(
            f"ONNX Runtime's outputs differ from torch's by {worst:.2g} of the largest; an operator was exported "
            "wrongly: try the other exporter (--exporter classic or dynamo)"
        )
    return worst
