"""Where Q/DQ goes, by TensorRT's rules for explicit quantisation, and what stays in float, with the reason.

The rules, as NVIDIA's parser and compiler enforce or recommend them ("Working with Quantized Types", Q/DQ placement):

R1  symmetric INT8: zero point 0.
R2  weights per channel (Conv axis 0, ConvTranspose axis 1, Gemm and MatMul the output axis), activations per tensor.
R3  biases stay in float.
R4  nothing between a weighted layer and its batch norm or activation.
R5  all inputs of weighted layers, and of a residual Add the skip input only, so that layer + Add (+ ReLU) fuses.
R6  graph outputs are never quantised.
R7  standard operators only, opset 13 or higher.
R8  no per-channel scale on an activation.
R9  layers too small to gain stay in float: a convolution with fewer than 16 channels that are no multiple of 8, a
    matrix product with fewer than 16 terms or a single result, products of two activations (attention).

A Concat whose result goes into an INT8 layer is quantised behind it, as one: all its inputs then share a scale, which
is what NVIDIA's compiler needs to move Q to the inputs. An Add behind an activation (Conv, SiLU, Add) fuses with no
layer and stays in float.

The first convolution, with 1 or 3 channels of an image, is the exception from R9: NVIDIA's compiler takes it in INT8
(checked with TensorRT for RTX 1.7), and its input, 8-bit pixels, loses least of all tensors.
"""

from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from typing import NamedTuple

import onnx

from edge_sdk.host.graph import model as models
from edge_sdk.records.bundle import Pinned

_RELABELLING = ("Cast", "Identity", "Reshape", "Squeeze", "Transpose", "Unsqueeze")
"""What exporters put between an input and the first layer; the values stay those of the input."""

RECURRENT = ("GRU", "LSTM", "RNN")
NEVER_INT8 = (*RECURRENT, "Einsum")
"""Operators whose arithmetic counts and that no Q/DQ makes INT8."""

SMALL_CHANNELS = 16
CHANNEL_STEP = 8
SMALL_DEPTH = 16


class WeightUse(NamedTuple):
    """A weight that becomes INT8: which input slot of which node, and along which axis the channels run."""

    tensor: str
    node: str
    slot: int
    axis: int


class ActivationUse(NamedTuple):
    """An activation that gets Q/DQ on its way into one input of one node, for the sake of the INT8 layer `layer`."""

    tensor: str
    node: str
    slot: int
    layer: str


class Placement(NamedTuple):
    """What is quantised and what is not.

    Attributes:
        weights: in graph order.
        activations: in graph order; one Q/DQ pair per tensor serves all its uses.
        pinned: weighted nodes and NEVER_INT8 ones, left in float, each with its reason.
    """

    weights: tuple[WeightUse, ...]
    activations: tuple[ActivationUse, ...]
    pinned: tuple[Pinned, ...]

    @property
    def tensors(self) -> tuple[str, ...]:
        """Gives the activations to calibrate, each once, in graph order."""
        return tuple(dict.fromkeys(use.tensor for use in self.activations))

    @property
    def nodes(self) -> frozenset[str]:
        """Gives the weighted nodes that run in INT8."""
        return frozenset(use.node for use in self.weights)

    def only(self, nodes: Collection[str]) -> "Placement":
        """Gives the placement with nothing but these weighted nodes in INT8."""
        weights = tuple(use for use in self.weights if use.node in nodes)
        return self._replace(weights=weights, activations=tuple(u for u in self.activations if u.layer in nodes))

    def without(self, pinned: Iterable[Pinned]) -> "Placement":
        """Gives the placement with these weighted nodes in float too; no new activation needs calibration for it."""
        more = tuple(pinned)
        return self.only(self.nodes - {entry.node for entry in more})._replace(pinned=self.pinned + more)


def placement_from_model(model: models.Model) -> Placement:
    """Gives the placement for a cleaned model."""
    wiring = Wiring(model.proto.graph)
    weights: list[WeightUse] = []
    floats: list[Pinned] = []
    for node in wiring.graph.node:
        if node.op_type in NEVER_INT8:
            floats.append(Pinned(node.name, f"{node.op_type} has no INT8 in explicit quantisation"))
        if node.op_type not in models.WEIGHTED:
            continue
        reason = _reason_for_float(node, wiring)
        if reason:
            floats.append(Pinned(node.name, reason))
        else:
            weights.append(WeightUse(node.input[1], node.name, 1, channel_axis(node)))
    quantized = {use.node for use in weights}
    activations: list[ActivationUse] = []
    for node in wiring.graph.node:
        if node.name in quantized:
            activations.append(ActivationUse(node.input[0], node.name, 0, node.name))
        elif node.op_type == "Add":
            activations.extend(_skip_use(node, wiring, quantized))
    return Placement(tuple(weights), tuple(activations), tuple(floats))


class Wiring:
    """Who makes and who takes each tensor of a graph."""

    def __init__(self, graph: onnx.GraphProto) -> None:
        self.graph = graph
        self.shapes = {tensor.name: tuple(tensor.dims) for tensor in graph.initializer}
        self.dtypes = {tensor.name: tensor.data_type for tensor in graph.initializer}
        self.producer: dict[str, onnx.NodeProto] = {name: node for node in graph.node for name in node.output}
        self.uses = Counter(name for node in graph.node for name in node.input)
        self.inputs = {value.name for value in graph.input}
        self.outputs = {value.name for value in graph.output}
        self.depth = _depths(graph)

    def is_constant(self, name: str) -> bool:
        """Says whether a tensor is a weight."""
        return name in self.shapes


def channel_axis(node: onnx.NodeProto) -> int:
    """Gives the axis of a weighted node's weight along which its output channels run (R2)."""
    if node.op_type == "ConvTranspose":
        return 1
    if node.op_type == "Conv":
        return 0
    return 0 if attributes(node).get("transB", 0) else 1


def attributes(node: onnx.NodeProto) -> dict[str, object]:
    """Gives a node's attributes as Python values."""
    return {attribute.name: onnx.helper.get_attribute_value(attribute) for attribute in node.attribute}


def _reason_for_float(node: onnx.NodeProto, wiring: Wiring) -> str:
    """Gives why a weighted node stays in float, or an empty string."""
    data, weight = node.input[0], node.input[1]
    if wiring.is_constant(data) or not wiring.is_constant(weight):
        if wiring.is_constant(data):
            return "its first input is a constant"
        is_product = node.op_type in ("MatMul", "Gemm")
        return "a product of two activations, as in attention (R9)" if is_product else "its weights are computed (R9)"
    if wiring.dtypes[weight] != onnx.TensorProto.FLOAT:
        kind = onnx.TensorProto.DataType.Name(wiring.dtypes[weight]).lower()
        return f"its weights are {kind}, INT8 is made from float32: export the model in float32, as with model.float()"
    shape = wiring.shapes[weight]
    if node.op_type in ("Conv", "ConvTranspose"):
        return _reason_for_small_convolution(node, shape, is_first=_comes_from_input(data, wiring))
    if len(shape) != 2:
        return f"its weights have {len(shape)} axes: they are no matrix whose columns could have a scale each"
    results, depth = shape[channel_axis(node)], shape[1 - channel_axis(node)]
    return (
        f"only {depth} terms for {results} results, too small to gain (R9)"
        if depth < SMALL_DEPTH or results < 2
        else ""
    )


def _comes_from_input(name: str, wiring: Wiring) -> bool:
    """Says whether a tensor is an input of the model, in another shape or dtype at most."""
    while (producer := wiring.producer.get(name)) is not None and producer.op_type in _RELABELLING:
        name = producer.input[0]
    return name in wiring.inputs


def _reason_for_small_convolution(node: onnx.NodeProto, shape: tuple[int, ...], *, is_first: bool) -> str:
    groups = attributes(node).get("group", 1)
    assert isinstance(groups, int)
    inner = shape[1] * groups
    takes, gives = (inner, shape[0]) if node.op_type == "Conv" else (shape[0], inner)
    small = [
        f"{count} {role} channels"
        for role, count, is_exempt in (("input", takes, is_first), ("output", gives, False))
        if count < SMALL_CHANNELS and count % CHANNEL_STEP and not is_exempt
    ]
    return f"{' and '.join(small)}: fewer than {SMALL_CHANNELS} and no multiple of {CHANNEL_STEP} (R9)" if small else ""


def _skip_use(node: onnx.NodeProto, wiring: Wiring, quantized: set[str]) -> list[ActivationUse]:
    """Gives the skip input of a residual Add (R5): the one that is not the layer which the Add fuses with.

    Where both inputs are layers (a projected short cut), the deeper branch is the one that fuses.
    """
    if any(wiring.is_constant(name) for name in node.input) or node.input[0] == node.input[1]:
        return []
    branches = [index for index, name in enumerate(node.input) if _is_branch(name, wiring, quantized)]
    if not branches:
        return []
    fused = max(branches, key=lambda index: (wiring.depth[node.input[index]], -index))
    layer = wiring.producer[node.input[fused]].name
    return [ActivationUse(node.input[1 - fused], node.name, 1 - fused, layer)]


def _is_branch(name: str, wiring: Wiring, quantized: set[str]) -> bool:
    producer = wiring.producer.get(name)
    is_private = wiring.uses[name] == 1 and name not in wiring.outputs
    return producer is not None and producer.name in quantized and is_private


def _depths(graph: onnx.GraphProto) -> Mapping[str, int]:
    """Gives the number of nodes on the longest way from an input to each tensor; nodes are in topological order."""
    depths: Counter[str] = Counter()
    for node in graph.node:
        depth = 1 + max((depths[name] for name in node.input), default=0)
        depths.update(dict.fromkeys(node.output, depth))
    return depths
