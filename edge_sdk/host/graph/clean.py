"""A checked model to the plain form that Q/DQ is placed on: constants and batch norms folded, every node named."""

import logging
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from edge_sdk import errors
from edge_sdk.engines import ort
from edge_sdk.host.graph import model as models
from edge_sdk.host.graph.model import Model

RELATIVE_TOLERANCE = 1e-4
"""Of the largest output: folding a batch norm reorders float32 sums, which moves outputs by about 1e-6."""

_LOG = logging.getLogger(__name__)


def cleaned(model: Model, probe: Mapping[str, NDArray[Any]]) -> Model:
    """Gives an equivalent model with constants folded, or the model as it is where folding would change its answers.

    Args:
        model: as read.
        probe: one batch of real, prepared inputs, on which both are compared.

    Raises:
        EngineError: the model can't be run on `probe`.
        ModelError: its outputs on `probe` are not finite.
    """
    before = ort.runner_from_model(model.to_bytes())(probe)
    for name, values in before.items():
        if values.dtype.kind == "f" and not np.isfinite(values).all():
            raise errors.ModelError(
                f"output {name!r} of the float model is NaN or infinite on the first evaluation samples; "
                "check the preprocessing (--preprocess) and the model"
            )
    folded = _folded(model)
    if folded is not None and _is_same(before, ort.runner_from_model(folded.to_bytes())(probe)):
        return folded
    _LOG.warning("folding constants would change the model; it is left as it is")
    proto = onnx.ModelProto()
    proto.CopyFrom(model.proto)
    return model._replace(proto=_tidied(proto))


def _folded(model: Model) -> Model | None:
    """Gives the model after ONNX Runtime's basic optimiser; None where that left the standard operators."""
    with tempfile.TemporaryDirectory(prefix="edge-sdk-") as folder:
        file = Path(folder) / "folded.onnx"
        ort.save_optimized(models.serialized(_pruned(model.proto)), file)
        proto = onnx.load_model_from_string(file.read_bytes())
    if any(node.domain not in models.STANDARD_DOMAINS for node in proto.graph.node):
        return None
    return models.model_from_proto(_tidied(proto), model.opset)


def _pruned(proto: onnx.ModelProto) -> onnx.ModelProto:
    """Gives a copy without nodes that no output needs; ONNX Runtime keeps them, and folds nothing that they touch."""
    pruned = onnx.ModelProto()
    pruned.CopyFrom(proto)
    needed = {value.name for value in pruned.graph.output}
    live = []
    for node in reversed(pruned.graph.node):
        if needed.intersection(node.output):
            needed.update(node.input)
            live.append(node)
    kept = live[::-1]
    del pruned.graph.node[:]
    pruned.graph.node.extend(kept)
    return pruned


def _tidied(proto: onnx.ModelProto) -> onnx.ModelProto:
    """Drops what says nothing to a compiler (other domains, doc strings with paths), sorts weights, names nodes."""
    standard = [entry for entry in proto.opset_import if entry.domain in models.STANDARD_DOMAINS]
    del proto.opset_import[:]
    proto.opset_import.extend(standard)
    graph = proto.graph
    graph.initializer.sort(key=lambda tensor: str(tensor.name))  # in place: a message never gives back a copy's memory
    proto.doc_string = graph.doc_string = ""
    del proto.metadata_props[:]
    del graph.value_info[:]
    taken = {node.name for node in graph.node}
    for index, node in enumerate(graph.node):
        node.doc_string = ""
        del node.metadata_props[:]
        node.name = node.name or unique_name(f"{node.op_type}_{index}", taken)
        taken.add(node.name)
    return proto


def unique_name(wanted: str, taken: set[str]) -> str:
    """Gives `wanted`, or the first of ``wanted_2``, ``wanted_3``, ... that is not taken."""
    name, number = wanted, 2
    while name in taken:
        name, number = f"{wanted}_{number}", number + 1
    return name


def _is_same(before: Mapping[str, NDArray[Any]], after: Mapping[str, NDArray[Any]]) -> bool:
    return before.keys() == after.keys() and all(_is_near(values, after[name]) for name, values in before.items())


def _is_near(expected: NDArray[Any], given: NDArray[Any]) -> bool:
    if expected.shape != given.shape or expected.dtype != given.dtype:
        return False
    wanted = expected.astype(np.float64)
    peak = float(np.abs(wanted).max(initial=1e-6))
    return bool(np.abs(wanted - given.astype(np.float64)).max(initial=0.0) <= RELATIVE_TOLERANCE * peak)
