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
from edge_sdk.engines.model_file import ModelFile
from edge_sdk.host.graph import model as models
from edge_sdk.host.graph.model import Model
from edge_sdk.numerics import closeness

_LOG = logging.getLogger(__name__)


def cleaned(model: Model, probe: Mapping[str, NDArray[Any]], *, is_folded: bool = False) -> Model:
    """Gives an equivalent model with constants folded, or the model as it is where folding would change its answers.

    Args:
        model: as read.
        probe: one batch of real, prepared inputs, on which both are compared.
        is_folded: conversion did it already. It can't where it finds no inputs to compare on; here they are. Nothing is
            run then.

    Raises:
        EngineError: the model can't be run on `probe`.
        ModelError: its outputs on `probe` are not finite.
    """
    if not is_folded:
        before = ort.runner_from_model(model.content(), is_brief=True)(probe)
        check_finite(before)
        folded = _folded(model)
        if folded is not None:
            after = ort.runner_from_model(folded.content(), is_brief=True)(probe)
            if closeness.difference(before, after).is_within_tolerance:
                return folded
            _LOG.warning("folding constants would change the model; it is left as it is")
    proto = onnx.ModelProto()
    proto.CopyFrom(model.proto)
    return model._replace(proto=_tidied(proto))


def check_finite(outputs: Mapping[str, NDArray[Any]]) -> None:
    """Raises ModelError for an answer of the float model to the probe that is not finite."""
    for name, values in outputs.items():
        if values.dtype.kind == "f" and not np.isfinite(values).all():
            raise errors.ModelError(
                f"output {name!r} of the float model is NaN or infinite on the first evaluation samples; "
                "check the preprocessing (--preprocess) and the model"
            )


def _folded(model: Model) -> Model | None:
    """Gives the model after ONNX Runtime's basic optimiser; None where it left the standard operators, or can't."""
    content = model.content()
    if isinstance(content, ModelFile):
        return None
    with tempfile.TemporaryDirectory(prefix="edge-sdk-") as folder:
        file = Path(folder) / "folded.onnx"
        ort.save_optimized(content, file)
        proto = onnx.load_model_from_string(file.read_bytes())
    if any(node.domain not in models.STANDARD_DOMAINS for node in proto.graph.node):
        return None
    return models.model_from_proto(_tidied(proto), model.opset, inline_bytes=model.inline_bytes)


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
