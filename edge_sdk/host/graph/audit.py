"""Names every rule of TensorRT that a Q/DQ model breaks, whichever tool made it: rule, node, remedy.

`is_refused` is what NVIDIA's parser and compiler really refuse, held to TensorRT for RTX in the tests; the other
violations build, but run slower, lose accuracy or are outside what TensorRT documents. The rules are listed in
`edge_sdk.host.graph.placement`.
"""

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import onnx
import onnx.numpy_helper
from numpy.typing import NDArray

from edge_sdk import errors
from edge_sdk.host.graph import model as models
from edge_sdk.host.graph import placement
from edge_sdk.records.audit import Audit, Violation

QUANTIZE, DEQUANTIZE = "QuantizeLinear", "DequantizeLinear"
FOLLOWERS = ("BatchNormalization", "Relu", "Clip", "LeakyRelu", "PRelu", "Sigmoid", "HardSwish", "HardSigmoid", "Elu")
"""What fuses into the layer before it when nothing stands between."""

_OPERATOR_FORM = ("QLinear", "DynamicQuantize", "QGemm", "QAttention")


class Graph:
    """A Q/DQ graph and what the rules ask of it."""

    def __init__(self, proto: onnx.ModelProto) -> None:
        self.proto = proto
        self.wiring = placement.Wiring(proto.graph)
        self.constants = {tensor.name: tensor for tensor in proto.graph.initializer}
        for node in proto.graph.node:
            if node.op_type == "Constant" and node.attribute and node.attribute[0].name == "value":
                self.constants[node.output[0]] = node.attribute[0].t
        self.takers: dict[str, list[onnx.NodeProto]] = {}
        for node in proto.graph.node:
            for name in node.input:
                self.takers.setdefault(name, []).append(node)
        self.opset = max((i.version for i in proto.opset_import if i.domain in models.STANDARD_DOMAINS), default=0)

    @property
    def nodes(self) -> list[onnx.NodeProto]:
        """Gives the nodes in order."""
        return list(self.proto.graph.node)

    def array(self, name: str) -> "NDArray[np.generic] | None":
        """Gives a constant's value, None for what is computed at run time."""
        tensor = self.constants.get(name)
        return None if tensor is None else onnx.numpy_helper.to_array(tensor)

    def dequantizer(self, name: str) -> onnx.NodeProto | None:
        """Gives the DequantizeLinear that makes a tensor, if one does."""
        node = self.wiring.producer.get(name)
        return node if node is not None and node.op_type == DEQUANTIZE else None

    def is_weight(self, node: onnx.NodeProto) -> bool:
        """Says whether a Q or DQ works on a constant."""
        source = node.input[0]
        if source in self.constants:
            return True
        producer = self.wiring.producer.get(source)
        return producer is not None and producer.op_type == QUANTIZE and producer.input[0] in self.constants

    def before(self, node: onnx.NodeProto) -> str:
        """Gives the tensor that goes into the Q/DQ pair which ends in the DequantizeLinear `node`."""
        producer = self.wiring.producer.get(node.input[0])
        source: str = producer.input[0] if producer is not None and producer.op_type == QUANTIZE else node.input[0]
        return source


Rule = Callable[[Graph], Iterator[Violation]]


def audit_file(path: Path) -> Audit:
    """Gives the audit of an ONNX file that was checked; raises as `audit_model` does."""
    return audit_model(onnx.load(path))


def audit_model(proto: onnx.ModelProto) -> Audit:
    """Gives every violation in a model, rule by rule in graph order.

    Raises:
        ModelError: the model is not quantised: there is nothing to audit.
    """
    graph = Graph(proto)
    quantized = [node for node in graph.nodes if models.is_quantizer(node.op_type)]
    if not quantized:
        raise errors.ModelError("the model has no quantised operator; `edge-sdk build` makes an INT8 model of it")
    return Audit(
        opset=graph.opset,
        pairs=sum(node.op_type == DEQUANTIZE for node in graph.nodes),
        violations=tuple(violation for rule in RULES for violation in rule(graph)),
    )


def _violation(rule: str, node: onnx.NodeProto, message: str, remedy: str, *, is_refused: bool) -> Violation:
    return Violation(rule=rule, node=models.node_text(node), message=message, remedy=remedy, is_refused=is_refused)


def _symmetric(graph: Graph) -> Iterator[Violation]:
    for node in graph.nodes:
        if node.op_type not in (QUANTIZE, DEQUANTIZE):
            continue
        zero = graph.array(node.input[2]) if len(node.input) > 2 and node.input[2] else None
        if node.op_type == QUANTIZE and zero is None:
            yield _violation(
                "R1", node, "has no zero point, so it gives uint8", "give an int8 zero point of 0", is_refused=True
            )
        elif zero is not None and zero.dtype in (np.uint8, np.uint16):
            remedy = "quantise symmetrically to int8"
            yield _violation("R1", node, f"quantises to {zero.dtype}", remedy, is_refused=bool(np.any(zero)))
        elif zero is not None and np.any(zero):
            yield _violation(
                "R1",
                node,
                f"has the zero point {zero.ravel()[0]}",
                "quantise symmetrically: zero point 0",
                is_refused=True,
            )
        scale = graph.array(node.input[1])
        if scale is not None and not (np.all(np.isfinite(scale)) and np.all(np.greater(scale, 0))):
            yield _violation("R1", node, "has a scale that is not above 0", "calibrate again", is_refused=True)


def _per_channel_weights(graph: Graph) -> Iterator[Violation]:
    for node in graph.nodes:
        dequantizer = graph.dequantizer(node.input[1]) if node.op_type in models.WEIGHTED else None
        if dequantizer is None or not graph.is_weight(dequantizer):
            continue
        weight, scale = graph.array(graph.before(dequantizer)), graph.array(dequantizer.input[1])
        if weight is None or scale is None or weight.ndim < 2:
            continue
        channels = weight.shape[placement.channel_axis(node)]
        if scale.size == 1 and channels > 1:
            yield _violation(
                "R2", node, f"has one scale for {channels} channels", "quantise weights per channel", is_refused=False
            )


def _float_biases(graph: Graph) -> Iterator[Violation]:
    for node in graph.nodes:
        if node.op_type in ("Conv", "ConvTranspose", "Gemm") and len(node.input) > 2:
            dequantizer = graph.dequantizer(node.input[2])
            if dequantizer is not None:
                yield _violation(
                    "R3", node, f"has a quantised bias, {node.input[2]!r}", "leave biases in float", is_refused=True
                )


def _nothing_between(graph: Graph) -> Iterator[Violation]:
    for node in graph.nodes:
        for name in node.output if node.op_type in models.WEIGHTED else ():
            for taker in graph.takers.get(name, []):
                followers = _after_pair(graph, taker)
                if any(follower.op_type in FOLLOWERS for follower in followers):
                    remedy = "quantise after the activation, not before it"
                    yield _violation(
                        "R4", node, f"is cut off from its {followers[0].op_type}", remedy, is_refused=False
                    )


def _after_pair(graph: Graph, node: onnx.NodeProto) -> list[onnx.NodeProto]:
    """Gives who takes the tensor behind the Q/DQ pair that begins with `node`; empty if none begins there."""
    if node.op_type != QUANTIZE:
        return []
    pairs = [taker for taker in graph.takers.get(node.output[0], []) if taker.op_type == DEQUANTIZE]
    return [taker for pair in pairs for taker in graph.takers.get(pair.output[0], [])]


def _whole_layers(graph: Graph) -> Iterator[Violation]:
    for node in graph.nodes:
        if node.op_type in models.WEIGHTED:
            is_quantized = [graph.dequantizer(name) is not None for name in node.input[:2]]
            if any(is_quantized) and not all(is_quantized):
                which = "weight" if is_quantized[0] else "input"
                remedy = "quantise both, or neither"
                yield _violation("R5", node, f"has its {which} in float, the other in INT8", remedy, is_refused=False)
        elif node.op_type == "Add":
            yield from _residual(graph, node)


def _residual(graph: Graph, node: onnx.NodeProto) -> Iterator[Violation]:
    pairs = [graph.dequantizer(name) for name in node.input]
    sources = [name if pair is None else graph.before(pair) for name, pair in zip(node.input, pairs, strict=True)]
    layers = [graph.wiring.producer.get(source) for source in sources]
    is_layer = [layer is not None and layer.op_type in models.WEIGHTED for layer in layers]
    if any(is_layer) and all(pair is not None and not graph.is_weight(pair) for pair in pairs):
        remedy = "quantise the skip input only, so that the layer and the Add fuse"
        yield _violation("R5", node, "has both its inputs quantised", remedy, is_refused=False)


def _float_outputs(graph: Graph) -> Iterator[Violation]:
    for name in graph.wiring.outputs:
        dequantizer = graph.dequantizer(name)
        if dequantizer is not None:
            remedy = "leave graph outputs in float"
            yield _violation("R6", dequantizer, f"quantises the output {name!r}", remedy, is_refused=False)


def _standard_operators(graph: Graph) -> Iterator[Violation]:
    if graph.opset < models.MIN_OPSET:
        remedy = f"raise the model to opset {models.MIN_OPSET} or higher"
        yield Violation("R7", "the model", f"has opset {graph.opset}", remedy, is_refused=False)
    for node in graph.nodes:
        if node.domain not in models.STANDARD_DOMAINS:
            remedy = "write it with standard operators"
            is_refused = node.op_type not in (QUANTIZE, DEQUANTIZE)  # NVIDIA's parser knows these two by name alone
            yield _violation("R7", node, f"is of the domain {node.domain!r}", remedy, is_refused=is_refused)
        elif node.op_type.startswith(_OPERATOR_FORM) or node.op_type.endswith("Integer"):
            remedy = "quantise with explicit QuantizeLinear and DequantizeLinear"
            yield _violation("R7", node, "computes on integers itself", remedy, is_refused=True)


def _per_tensor_activations(graph: Graph) -> Iterator[Violation]:
    for node in graph.nodes:
        if node.op_type not in (QUANTIZE, DEQUANTIZE) or graph.is_weight(node) or node.input[0] in graph.constants:
            continue
        scale = graph.array(node.input[1])
        if scale is not None and scale.size > 1:
            remedy = "give activations one scale per tensor"
            yield _violation("R8", node, f"has {scale.size} scales for an activation", remedy, is_refused=False)


def _shared_scales(graph: Graph) -> Iterator[Violation]:
    for node in graph.nodes:
        pairs = [graph.dequantizer(name) for name in node.input] if node.op_type == "Concat" else []
        scales = [graph.array(pair.input[1]) for pair in pairs if pair is not None]
        found = {float(scale.ravel()[0]) for scale in scales if scale is not None and scale.size == 1}
        if len(found) > 1:
            remedy = "give all its inputs the same scale, or quantise behind it"
            yield _violation("R9", node, f"joins inputs of {len(found)} scales", remedy, is_refused=False)


RULES: tuple[Rule, ...] = (
    _symmetric,
    _per_channel_weights,
    _float_biases,
    _nothing_between,
    _whole_layers,
    _float_outputs,
    _standard_operators,
    _per_tensor_activations,
    _shared_scales,
)
