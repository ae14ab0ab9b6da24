"""A float model in FP16: the graph for NVIDIA's compilers, and the same with FP16's rounding for a CPU to measure.

From 11 on TensorRT takes a graph's own types and has no FP16 switch any more, so that FP16 must stand in the graph.
"""

import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import onnx.helper
import onnx.numpy_helper
import onnx.shape_inference
from onnxruntime.transformers import float16

from edge_sdk import errors
from edge_sdk.engines import ort
from edge_sdk.host.graph import clean
from edge_sdk.host.graph import model as models

_CONVERTERS = str(Path(float16.__file__).parent)
if _CONVERTERS in sys.path:  # its package puts itself there, with modules named optimizer, benchmark, metrics, ...
    sys.path.remove(_CONVERTERS)

_MOVING = ("Concat", "Expand", "Flatten", "Gather", "Identity", "MaxPool", "Pad", "Relu", "Reshape", "Slice", "Split",
           "Squeeze", "Transpose", "Unsqueeze")  # fmt: skip
"""Operators that give none but values they were given: there is nothing to round again."""


def half_model(model: models.Model) -> models.Model:
    """Gives the model in FP16 inside, with the same inputs and outputs as before.

    Operators that have no FP16 form stay in float, with casts around them.

    Raises:
        ModelError: it can't be converted; with the converter's or ONNX Runtime's own words.
    """
    proto = onnx.ModelProto()
    proto.CopyFrom(model.proto)
    try:
        converted = float16.convert_float_to_float16(proto, keep_io_types=True)
    except Exception as error:  # boundary: the converter raises whatever a graph that it does not know makes it raise
        raise errors.ModelError(f"the model can't be written in FP16: {error}; build with --precision float") from error
    del converted.graph.value_info[:]
    _sort(converted.graph)  # the converter puts its casts at the end
    half = model._replace(proto=converted)
    inputs, outputs = ort.specs_from_model(half.to_bytes())
    return half._replace(inputs=inputs, outputs=outputs)


def rounded_bytes(half: models.Model) -> bytes:
    """Gives a serialised float model that rounds to FP16 whatever `half` holds in FP16: sums in float, results in half.

    ONNX Runtime computes most FP16 operators on a CPU in float and drops the casts between two of them: run as it is,
    `half` would neither round nor overflow there. Casts that stand in the graph are kept.
    """
    proto = onnx.shape_inference.infer_shapes(half.proto)
    graph = proto.graph
    halves = {
        value.name
        for value in (*graph.value_info, *graph.input, *graph.output)
        if value.type.tensor_type.elem_type == onnx.TensorProto.FLOAT16
    }
    taken = {name for node in graph.node for name in node.output}
    ordered = [made for node in graph.node for made in _rounded(node, halves, taken)]
    del graph.node[:]
    graph.node.extend(ordered)
    del graph.value_info[:]
    for tensor in graph.initializer:
        _widen(tensor)
    return models.serialized(proto)


def _sort(graph: onnx.GraphProto) -> None:
    """Puts every node behind those that make its inputs, and else leaves the order as it is."""
    made = {name for node in graph.node for name in node.output}
    waiting, ready = list(graph.node), set[str]()
    ordered: list[onnx.NodeProto] = []
    while waiting:
        later = []
        for node in waiting:
            if all(name in ready or name not in made for name in node.input):
                ready.update(node.output)
                ordered.append(node)
            else:
                later.append(node)
        if len(later) == len(waiting):
            raise errors.ModelError(f"{models.node_text(later[0])} waits for its own result; export the model again")
        waiting = later
    del graph.node[:]
    graph.node.extend(ordered)


def _rounded(node: onnx.NodeProto, halves: set[str], taken: set[str]) -> Iterator[onnx.NodeProto]:
    """Gives the node in float, and after it what rounds its results."""
    for attribute in node.attribute:
        if attribute.type == onnx.AttributeProto.TENSOR:
            _widen(attribute.t)
        elif node.op_type == "Cast" and attribute.name == "to" and attribute.i == onnx.TensorProto.FLOAT16:
            attribute.i = onnx.TensorProto.FLOAT
    yield node
    for index, name in enumerate(node.output):
        if name not in halves or node.op_type in _MOVING:
            continue
        exact, half = (clean.unique_name(f"{name}_{what}", taken) for what in ("exact", "half"))
        taken.update((exact, half))
        node.output[index] = exact
        yield onnx.helper.make_node("Cast", [exact], [half], to=onnx.TensorProto.FLOAT16)
        yield onnx.helper.make_node("Cast", [half], [name], to=onnx.TensorProto.FLOAT)


def _widen(tensor: onnx.TensorProto) -> None:
    """Makes a constant of FP16 one of float with the same values."""
    if tensor.data_type == onnx.TensorProto.FLOAT16:
        values = onnx.numpy_helper.to_array(tensor).astype(np.float32)
        tensor.CopyFrom(onnx.numpy_helper.from_array(values, tensor.name))
