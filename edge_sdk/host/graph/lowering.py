"""The INT8 model once more, in the form that ONNX Runtime's integer kernels take: same scales, same weights.

TensorRT wants explicit Q/DQ with zero point 0, float biases, and no Q/DQ behind a layer. ONNX Runtime on a CPU fuses
a layer into an integer kernel only if everything around it is an integer, so the same graph runs there as float
kernels between conversions, at half the speed of the float model. What is rewritten:

- Activations become unsigned, which the x86 kernels multiply at full rate: a tensor that is never negative gets zero
  point 0, so that a ReLU before it costs nothing, any other zero point 128. The scale stays, so every value that INT8
  did not clip keeps its code but for that offset. (On a CPU without VNNI, two products of a code up to 127 with a
  weight do not overflow the 16 bits that its kernels add them in.)
- Biases become int32 with the scale of the sum, input scale times weight scale: exact to half such a step.
- What a layer gives is quantised too, and what sums, pools and moves such tensors takes codes and gives codes. These
  further scales come from sample inputs. This is the one thing that adds error, so the result is a candidate: the
  builder measures it, and the device checks it before use.

A CPU with ARM's dot products takes these unsigned codes as well as signed ones; the device measures what is faster.

Left as they are: products and layers whose result goes out of the graph or into softmax and the like (R6 of
`placement`), and whatever the INT8 model computes in float.
"""

import hashlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnx
import onnx.checker
import onnx.helper
import onnx.numpy_helper
from numpy.typing import NDArray

from edge_sdk.engines import ort
from edge_sdk.host.graph import clean
from edge_sdk.host.graph import model as models
from edge_sdk.host.graph.stripped import Stripped
from edge_sdk.numerics import quantize, ranges, thresholds

SIGNED_ZERO = 128
"""Zero point of a tensor that may be negative: an int8 code plus 128 is the uint8 code."""

_SUMMING = ("Gemm", "MatMul")
_JOINING = ("Add", "Mul", "Concat", "GlobalAveragePool", "AveragePool", "Sigmoid", "LeakyRelu")
_MOVING = ("Flatten", "Reshape", "Transpose", "Squeeze", "Unsqueeze", "MaxPool", "Slice")


class Coding(NamedTuple):
    """How a tensor is stored as uint8: ``(code - zero_point) * scale``."""

    scale: float
    zero_point: int


_ENOUGH_VALUES = 2**25
"""Of all tensors together: after so many, a large network's scales hardly move with another sample."""

RULES = ("mse", "percentile", "max")
"""Which of `thresholds.METHODS` are tried for the further scales; none is the best for every network."""


def write_lowered(int8: bytes, feeds: Iterable[Mapping[str, NDArray[Any]]], folder: Path) -> dict[str, Path]:
    """Writes models for ONNX Runtime's integer kernels, one by each rule for the scales that INT8 lacks.

    Args:
        int8: serialised, as `qdq.quantized_model` makes it.
        feeds: sample inputs, from which those scales are taken.
        folder: where the files go; together they are three times as large as the model.

    Returns:
        The files by the rule's name, none of them like another; nothing where no layer can use integer kernels.

    Raises:
        EngineError: the INT8 model can't be run on the sample inputs.
    """
    if not _plan(int8).layers:
        return {}
    histograms = _histograms(int8, _plan(int8).unscaled(), feeds)
    ort.give_back()  # what those runs took, before the forms are written
    plan = _plan(int8)  # anew, which is quick: it holds the weights, and the runs before it need much memory
    made: dict[str, Path] = {}
    known: set[str] = set()
    for rule in RULES:
        graph = Stripped(onnx.load_model_from_string(int8))
        scales = {name: _scale(histogram, rule) for name, histogram in histograms.items()}
        proto = _written(graph, plan, _codings(graph, plan, scales))
        onnx.checker.check_model(proto)
        content = models.serialized(proto)
        digest = hashlib.sha256(content).hexdigest()
        if digest not in known:
            known.add(digest)
            made[rule] = folder / f"{rule}.onnx"
            made[rule].write_bytes(content)
    return made


class _Plan:
    """Which tensors become codes, and which nodes compute with them.

    Attributes:
        coded: tensors.
        layers: names of the first outputs of weighted nodes that become integer kernels.
        integer: the same of all nodes that take and give codes.
    """

    def __init__(self, graph: Stripped) -> None:
        self._graph = graph
        self.coded = set(graph.scales)
        self.layers: set[str] = set()
        self.integer: set[str] = set()
        self._root: dict[str, str] = {}
        for node in graph.nodes:
            self._consider(node)

    def members(self) -> dict[str, list[str]]:
        """Gives the coded tensors in groups that share a coding, by the tensor that each group comes from."""
        groups: dict[str, list[str]] = {}
        for name in sorted(self.coded):
            groups.setdefault(self._root.get(name, name), []).append(name)
        return groups

    def unscaled(self) -> list[str]:
        """Gives the tensors whose scale INT8 does not know, one of each group."""
        groups = self.members()
        return [root for root, names in groups.items() if not any(name in self._graph.scales for name in names)]

    def _consider(self, node: onnx.NodeProto) -> None:
        first = node.output[0]
        data = self._graph.data_inputs(node)
        if not data or not all(name in self.coded for name in data):
            return
        if node.op_type in _SUMMING and self._is_layer(node):
            self.layers.add(first)  # takes codes, gives floats; where INT8 wants codes behind it, ONNX Runtime fuses
        elif node.op_type == "Conv" and self._is_layer(node) and self._code(self._graph.activated(first)):
            self.layers.add(first)
            self.integer.add(first)
        elif node.op_type in _JOINING and len(data) == len(node.input) and self._code(self._graph.activated(first)):
            self.integer.add(first)
        elif node.op_type in _MOVING and self._code(first):
            self.integer.add(first)
            self._root[first] = self._root.get(node.input[0], node.input[0])

    def _is_layer(self, node: onnx.NodeProto) -> bool:
        scale = self._graph.scales.get(node.input[0], 1.0)
        return node.input[1] in self._graph.weights and self._graph.integer_bias(node, scale) is not None

    def _code(self, name: str) -> bool:
        if name in self._graph.outputs:
            return False
        self.coded.add(name)
        return True


def _plan(int8: bytes) -> _Plan:
    return _Plan(Stripped(onnx.load_model_from_string(int8)))


def _histograms(
    int8: bytes, names: list[str], feeds: Iterable[Mapping[str, NDArray[Any]]]
) -> dict[str, ranges.MagnitudeHistogram]:
    """Gives what the INT8 model's own tensors hold on sample inputs."""
    if not names:
        return {}
    more = onnx.ModelProto()
    more.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
    # Two messages in a row read as one.
    run = ort.runner_from_model(int8 + more.SerializeToString(), names, is_frugal=True)
    found: dict[str, ranges.MagnitudeHistogram] = {}
    values = 0
    for one in feeds:
        if values >= _ENOUGH_VALUES:
            break
        outputs = run(one)
        values += sum(output.size for output in outputs.values())
        for name in names:
            histogram = ranges.histogram_from_tensor(
                outputs.pop(name)
            )  # none is there any more when the next run's are
            found[name] = ranges.merge(found[name], histogram) if name in found else histogram
    return found


def _scale(histogram: ranges.MagnitudeHistogram, rule: str) -> float:
    return quantize.scale_from_threshold(thresholds.METHODS[rule](histogram))


def _codings(graph: Stripped, plan: _Plan, measured: Mapping[str, float]) -> dict[str, Coding]:
    codings: dict[str, Coding] = {}
    for root, names in plan.members().items():
        scale = max((graph.scales[name] for name in names if name in graph.scales), default=0.0) or measured[root]
        coding = Coding(scale, 0 if graph.is_never_negative(root) else SIGNED_ZERO)
        producer = graph.producer.get(root)
        if producer is not None and producer.op_type == "Clip" and coding.zero_point == 0:
            # A Clip is left out only if no code lies beyond it: the range ends where the threshold did.
            coding = Coding(min(scale * quantize.LEVELS, graph.highest(producer)) / 255, 0)
        codings.update(dict.fromkeys(names, coding))
    return codings


def _written(graph: Stripped, plan: _Plan, codings: Mapping[str, Coding]) -> onnx.ModelProto:
    proto = onnx.ModelProto()
    proto.CopyFrom(graph.proto)
    del proto.graph.node[:]
    writer = _Writer(graph, proto)
    for value in proto.graph.input:
        writer.code(value.name, codings)
    for node in graph.nodes:
        taken = node.input[0] if node.input else ""
        for slot, name in enumerate(node.input):
            if name in codings and _takes_codes(graph, plan, node, slot):
                node.input[slot] = writer.dequantized[name]
        if node.output[0] in plan.layers:
            writer.bias(node, codings[taken].scale)
        proto.graph.node.append(node)
        for name in node.output:
            writer.code(name, codings)
    writer.finish()
    return proto


def _takes_codes(graph: Stripped, plan: _Plan, node: onnx.NodeProto, slot: int) -> bool:
    """Says whether an input goes through Q/DQ: as in the INT8 model, and where integer kernels are on either side."""
    producer = graph.producer.get(node.input[slot])
    source = producer
    if producer is not None and producer.op_type in ("Relu", "Clip"):
        source = graph.producer.get(producer.input[0])  # a kernel that does its activation too
    is_integer = source is not None and source.output[0] in plan.integer
    return is_integer or node.output[0] in plan.integer or (node.output[0], slot) in graph.coded_slots


class _Writer:
    """Adds Q/DQ with uint8 codes and integer biases to `proto`."""

    def __init__(self, graph: Stripped, proto: onnx.ModelProto) -> None:
        self._source = graph
        self._graph = proto.graph
        self._taken = {name for node in graph.proto.graph.node for name in (node.name, *node.output)}
        self._taken |= set(graph.constants) | {value.name for value in proto.graph.input}
        self.dequantized: dict[str, str] = {}

    def code(self, tensor: str, codings: Mapping[str, Coding]) -> None:
        """Puts Q/DQ behind a tensor that has a coding."""
        if tensor not in codings:
            return
        scale, zero_point = codings[tensor]
        constants = [
            self._constant(f"{tensor}_cpu_scale", np.float32(scale)),
            self._constant(f"{tensor}_cpu_zero_point", np.uint8(zero_point)),
        ]
        codes = self._node("QuantizeLinear", tensor, [tensor, *constants])
        self.dequantized[tensor] = self._node("DequantizeLinear", tensor, [codes, *constants])

    def bias(self, node: onnx.NodeProto, scale: float) -> None:
        """Makes a layer's bias an integer; `scale` is of its input."""
        made = self._source.integer_bias(node, scale)
        if made is None or made[0].size == 0:
            return
        codes, steps = made
        constants = [
            self._constant(f"{node.output[0]}_cpu_bias", codes),
            self._constant(f"{node.output[0]}_cpu_bias_scale", steps),
            self._constant(f"{node.output[0]}_cpu_bias_zero_point", np.zeros(steps.shape, np.int32)),
        ]
        node.input[2] = self._node("DequantizeLinear", f"{node.output[0]}_bias", constants, axis=0)

    def finish(self) -> None:
        """Drops constants that nobody takes any more."""
        used = {name for node in self._graph.node for name in node.input}
        kept = sorted((tensor for tensor in self._graph.initializer if tensor.name in used), key=lambda t: str(t.name))
        del self._graph.initializer[:]
        self._graph.initializer.extend(kept)

    def _node(self, op_type: str, tensor: str, inputs: list[str], **attributes: Any) -> str:
        output = self._name(f"{tensor}_cpu_{'codes' if op_type == 'QuantizeLinear' else 'dequantized'}")
        name = self._name(f"{tensor}_cpu_{op_type}")
        self._graph.node.append(onnx.helper.make_node(op_type, inputs, [output], name, **attributes))
        return output

    def _constant(self, wanted: str, values: np.generic | NDArray[Any]) -> str:
        name = self._name(wanted)
        self._graph.initializer.append(onnx.numpy_helper.from_array(np.asarray(values), name))
        return name

    def _name(self, wanted: str) -> str:
        name = clean.unique_name(wanted, self._taken)
        self._taken.add(name)
        return name
