"""Whether a parsed ONNX model is one to build from: each check names the node, and what to do."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.defs
from numpy.typing import NDArray

from edge_sdk import errors
from edge_sdk.host.convert import onnx_file
from edge_sdk.records.tensors import DTYPES, TensorSpec

MIN_OPSET = 7
"""ONNX 1.2: what ONNX Runtime still runs, so that the outputs can be compared."""

_DTYPES = {"FLOAT": "float32", "DOUBLE": "float64"} | {
    name.upper(): name for name in DTYPES if name not in ("float32", "float64")
}

STANDARD_DOMAINS = ("", "ai.onnx")

_NORMALIZERS = ("BatchNormalization", "InstanceNormalization", "LayerNormalization", "GroupNormalization")
_WITH_WEIGHTS = frozenset(("Conv", "ConvTranspose", "Gemm", "MatMul", "LSTM", "GRU", "RNN", "PRelu", *_NORMALIZERS))
_QUANTIZERS = ("QLinear", "QuantizeLinear", "DequantizeLinear", "DynamicQuantize", "QGemm", "QAttention")
_GRAPHS = (onnx.AttributeProto.GRAPH, onnx.AttributeProto.GRAPHS)
_CHUNK_VALUES = 4 * 2**20


def checked_opset(proto: onnx.ModelProto) -> int:
    """Gives the version of the standard operators.

    Raises:
        ModelError: older than any that can be raised, or newer than the installed onnx knows.
    """
    opset = max((entry.version for entry in proto.opset_import if entry.domain in STANDARD_DOMAINS), default=0)
    newest = onnx.defs.onnx_opset_version()
    if not MIN_OPSET <= opset <= newest:
        raise errors.ModelError(
            f"the model has ONNX opset {opset or 'none'}; expected {MIN_OPSET} to {newest}, which onnx "
            f"{onnx.__version__} knows: export it with opset_version=17, or install a newer onnx"
        )
    return opset


def checked_inputs(graph: onnx.GraphProto) -> tuple[TensorSpec, ...]:
    """Gives what a graph takes, after checking its inputs and outputs.

    Raises:
        ModelError: there are none, or one is no tensor of numbers with a known count of axes, each free or at least 1.
    """
    constants = {tensor.name for tensor in graph.initializer}
    inputs = [value for value in graph.input if value.name not in constants]
    for role, values in (("input", inputs), ("output", graph.output)):
        if not values:
            raise errors.ModelError(f"the model has no {role}s; export it again with its {role}s")
        for value in values:
            if not value.type.HasField("tensor_type"):
                kind = value.type.WhichOneof("value") or "value without a type"
                raise errors.ModelError(f"{role} {value.name!r} is a {kind}; only tensors can be fed and read back")
            if any(size is not None and size < 1 for size in _shape(value)):
                raise errors.ModelError(
                    f"{role} {value.name!r} has shape {_shape(value)}; an axis below 1 holds nothing: export it again "
                    "with real or free axes"
                )
    return tuple(_spec(value) for value in inputs)


def _spec(value: onnx.ValueInfoProto) -> TensorSpec:
    given = value.type.tensor_type
    names = {number: name for name, number in onnx.TensorProto.DataType.items()}
    dtype = _DTYPES.get(names.get(given.elem_type, ""))
    if dtype is None or not given.HasField("shape"):
        kind = names.get(given.elem_type, "UNDEFINED").lower()
        raise errors.ModelError(
            f"input {value.name!r} is {kind}{'' if given.HasField('shape') else ' without a shape'}; expected one of "
            f"{', '.join(_DTYPES.values())} with a known number of axes"
        )
    return TensorSpec(value.name, dtype, _shape(value))


def _shape(value: onnx.ValueInfoProto) -> tuple[int | None, ...]:
    axes = value.type.tensor_type.shape.dim
    return tuple(axis.dim_value if axis.HasField("dim_value") else None for axis in axes)


def check_operators(proto: onnx.ModelProto, opset: int) -> None:
    """Refuses operators that are not of the standard, and models that are quantised already.

    Raises:
        ModelError: naming the node.
    """
    local = {(function.domain, function.name) for function in proto.functions}
    for node in nodes_in(proto):
        if node.op_type.startswith(_QUANTIZERS) or node.op_type.endswith("Integer"):
            raise errors.ModelError(
                f"{node_text(node)}: the model is quantised already; give the float model that it was made from"
            )
        if (node.domain, node.op_type) not in local and not _is_standard(node, opset):
            raise errors.ModelError(
                f"{node_text(node)} is not an operator of the ONNX standard (domain {node.domain or 'ai.onnx'!r}, "
                f"opset {opset}), which TensorRT needs; export it again without custom operators"
            )


def check_no_bodies(graph: onnx.GraphProto, origin: onnx.GraphProto) -> None:
    """Refuses control flow.

    Args:
        graph: the model after cleaning, which decides branches that hang on constants.
        origin: the model as it came, whose names the user knows.

    Raises:
        ModelError: naming the node.
    """
    known = {name: node for node in origin.node for name in node.output}
    for node in graph.node:
        if any(attribute.type in _GRAPHS for attribute in node.attribute):
            shown = known.get(next(iter(node.output), ""), node)
            raise errors.ModelError(
                f"{node_text(shown)} holds a graph of its own (control flow), inside which INT8 can't be placed; "
                "export the model with its branches decided, for example by tracing it"
            )


def check_weights(proto: onnx.ModelProto, path: Path) -> None:
    """Refuses NaN in any constant, and infinity in weights; elsewhere it is what attention masks are made of.

    Args:
        proto: the model.
        path: its file, beside which values may lie.

    Raises:
        ModelError: naming the weight and the node that takes it.
    """
    takers = {name: node for node in nodes_in(proto) for name in node.input}
    weights = {name for node in nodes_in(proto) if node.op_type in _WITH_WEIGHTS for name in node.input}
    for name, tensor in _constants(proto):
        taker = takers.get(name)
        problem = _problem(onnx_file.values_of(tensor, path), is_weight=name in weights)
        if problem:
            place = f"constant {name!r}" if taker is None else f"weight {name!r} of {node_text(taker)}"
            raise errors.ModelError(
                f"{place} holds {problem}; the training diverged or the file is damaged: export it again from a good "
                "checkpoint"
            )


def nodes_in(message: onnx.ModelProto | onnx.GraphProto | onnx.FunctionProto) -> Iterator[onnx.NodeProto]:
    """Gives every node, those in bodies and local functions included."""
    if isinstance(message, onnx.ModelProto):
        for part in (message.graph, *message.functions):
            yield from nodes_in(part)
        return
    for node in message.node:
        yield from with_bodies(node)


def with_bodies(node: onnx.NodeProto) -> Iterator[onnx.NodeProto]:
    """Gives a node, and every node in its bodies."""
    yield node
    for attribute in node.attribute:
        for body in (attribute.g, *attribute.graphs) if attribute.type in _GRAPHS else ():
            yield from nodes_in(body)


def node_text(node: onnx.NodeProto) -> str:
    """Gives how messages name a node: its operator and name, or its first output where it has no name."""
    return f"{node.op_type} node {node.name or (node.output[0] if node.output else '?')!r}"


def _is_standard(node: onnx.NodeProto, opset: int) -> bool:
    if node.domain not in STANDARD_DOMAINS:
        return False
    try:
        onnx.defs.get_schema(node.op_type, max_inclusive_version=opset, domain="")
    except onnx.defs.SchemaError:
        return False
    return True


def _constants(proto: onnx.ModelProto) -> Iterator[tuple[str, onnx.TensorProto]]:
    """Gives every constant with the name by which nodes take it: weights, and what Constant nodes hold."""
    for tensor in proto.graph.initializer:
        yield tensor.name, tensor
    for node in nodes_in(proto):
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.TENSOR:
                yield node.output[0] if node.output else node.name, attribute.t
            for body in (attribute.g, *attribute.graphs) if attribute.type in _GRAPHS else ():
                yield from ((tensor.name, tensor) for tensor in body.initializer)


def _problem(values: NDArray[Any], *, is_weight: bool) -> str:
    if values.dtype.kind not in "fV":  # V: bfloat16 and the eight-bit floats
        return ""
    flat = values.reshape(-1)
    for start in range(0, flat.size, _CHUNK_VALUES):
        chunk = flat[start : start + _CHUNK_VALUES]
        if chunk.dtype.kind == "V":
            chunk = chunk.astype(np.float32)
        if np.isnan(chunk).any():
            return "NaN"
        if is_weight and np.isinf(chunk).any():
            return "infinity"
    return ""
