"""Cross-layer equalisation: channels of a tensor between two layers are scaled alike, so that one scale fits them all.

Source: M. Nagel et al., "Data-Free Quantization Through Weight Equalization and Bias Correction", ICCV 2019. Weights
have a scale per channel here, so that it is the activation between the layers that gains; its range is taken from data,
as in G. Xiao et al., "SmoothQuant", ICML 2023. All factors are powers of two: the float model's outputs stay as they
were, bit for bit but for overflow.
"""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import onnx
import onnx.numpy_helper
from numpy.typing import NDArray

from edge_sdk.host.graph import model as models
from edge_sdk.host.graph import placement

HOMOGENEOUS = ("Relu", "LeakyRelu", "PRelu")
"""Activations f with f(s x) = s f(x) for s > 0."""

_LARGEST_STEP = 6
"""A channel is scaled by 2**6 at most: beyond, it was all but unused."""


class Chain(NamedTuple):
    """Two INT8 layers with nothing but such activations between them.

    Attributes:
        first: name of the layer whose outputs are scaled down.
        second: name of the layer whose weights take it back.
        tensor: what goes into `second`.
        is_depthwise: `second` has a weight scale for each channel of `tensor`, so that the factors cost it nothing.
    """

    first: str
    second: str
    tensor: str
    is_depthwise: bool


def chains(model: models.Model, placed: placement.Placement) -> tuple[Chain, ...]:
    """Gives the chains of a cleaned model in graph order; a layer may end one and begin the next."""
    wiring = placement.Wiring(model.proto.graph)
    found = []
    for second in model.proto.graph.node:
        if second.name in placed.nodes:
            first = _layer_before(second.input[0], wiring)
            if first is not None and first.name in placed.nodes and _fits(first, second, wiring):
                groups = placement.attributes(second).get("group", 1)
                found.append(Chain(first.name, second.name, second.input[0], groups != 1))
    return tuple(found)


def factors(model: models.Model, chain: Chain, peaks: NDArray[np.float32]) -> NDArray[np.float32]:
    """Gives what each channel of the chain's tensor is divided by: powers of two.

    A depthwise `second` lets every channel reach the same peak; otherwise the larger peaks of the activation and of the
    weights that meet it are shared evenly between both.

    Args:
        model: cleaned.
        chain: of it.
        peaks: largest magnitude of each channel of the tensor on calibration data.
    """
    weight = _weights(model.proto.graph)[_node(model, chain.second).input[1]]
    reach = np.ones(len(peaks)) if chain.is_depthwise else _reach(_node(model, chain.second), weight)
    is_used = (peaks > 0) & (reach > 0)
    if not is_used.any():
        return np.ones(len(peaks), np.float32)
    ratio = np.log2(np.where(is_used, peaks, 1.0) / np.where(is_used, reach, 1.0))
    steps = ratio if chain.is_depthwise else ratio / 2
    steps = np.rint(steps - np.median(steps[is_used]))
    return np.exp2(np.where(is_used, np.clip(steps, -_LARGEST_STEP, _LARGEST_STEP), 0.0)).astype(np.float32)


def equalised(model: models.Model, divisors: Mapping[Chain, NDArray[np.float32]]) -> models.Model:
    """Gives the model with the tensor of each chain divided by its factors; its outputs are as before."""
    proto = onnx.ModelProto()
    proto.CopyFrom(model.proto)
    nodes = {node.name: node for node in proto.graph.node}
    arrays = _weights(proto.graph)
    for chain, by in divisors.items():
        first, second = nodes[chain.first], nodes[chain.second]
        axis = _output_axis(first)
        arrays[first.input[1]] = arrays[first.input[1]] / _along(by, axis, arrays[first.input[1]].ndim)
        if len(first.input) > 2 and first.input[2]:
            arrays[first.input[2]] = arrays[first.input[2]] / by
        axis = 0 if chain.is_depthwise else _input_axis(second)
        arrays[second.input[1]] = arrays[second.input[1]] * _along(by, axis, arrays[second.input[1]].ndim)
    for tensor in proto.graph.initializer:
        if tensor.name in arrays:
            tensor.CopyFrom(onnx.numpy_helper.from_array(arrays[tensor.name].astype(np.float32), tensor.name))
    return model._replace(proto=proto)


def _layer_before(name: str, wiring: placement.Wiring) -> onnx.NodeProto | None:
    """Gives the node that makes `name`, looking through activations; None where anybody else takes a tensor between."""
    while name in wiring.producer and wiring.uses[name] == 1 and name not in wiring.outputs:
        node = wiring.producer[name]
        if node.op_type not in HOMOGENEOUS:
            return node
        name = node.input[0]
    return None


def _fits(first: onnx.NodeProto, second: onnx.NodeProto, wiring: placement.Wiring) -> bool:
    """Says whether both are convolutions, or both matrix layers, whose own weights and bias can be scaled."""
    kinds = {first.op_type, second.op_type}
    if kinds not in ({"Conv"}, {"Gemm"}) or any(placement.attributes(n).get("transA", 0) for n in (first, second)):
        return False
    own = [*first.input[1:], second.input[1]]
    if any(name and (not wiring.is_constant(name) or wiring.uses[name] != 1) for name in own):
        return False
    channels: int = wiring.shapes[first.input[1]][_output_axis(first)]
    has_bias = len(first.input) > 2 and bool(first.input[2])
    if has_bias and wiring.shapes[first.input[2]] != (channels,):
        return False
    groups, shape = placement.attributes(second).get("group", 1), wiring.shapes[second.input[1]]
    return bool(shape[_input_axis(second)] == channels if groups == 1 else groups == channels == shape[0])


def _output_axis(node: onnx.NodeProto) -> int:
    return placement.channel_axis(node)


def _input_axis(node: onnx.NodeProto) -> int:
    return 1 - placement.channel_axis(node)


def _reach(second: onnx.NodeProto, weight: NDArray[np.float32]) -> NDArray[np.float64]:
    """Gives the largest weight that meets each input channel."""
    axis = _input_axis(second)
    found: NDArray[np.float64] = (
        np.abs(weight).max(axis=tuple(i for i in range(weight.ndim) if i != axis)).astype(float)
    )
    return found


def _along(values: NDArray[np.float32], axis: int, rank: int) -> NDArray[np.float32]:
    return values.reshape([-1 if i == axis else 1 for i in range(rank)])


def _weights(graph: onnx.GraphProto) -> dict[str, NDArray[np.float32]]:
    """Gives the constants of the weighted layers."""
    wanted = {name for node in graph.node if node.op_type in models.WEIGHTED for name in node.input[1:]}
    return {t.name: onnx.numpy_helper.to_array(t) for t in graph.initializer if t.name in wanted}


def _node(model: models.Model, name: str) -> onnx.NodeProto:
    nodes: dict[str, onnx.NodeProto] = {node.name: node for node in model.proto.graph.node}
    return nodes[name]
