"""Writes a placement into the graph as explicit QuantizeLinear and DequantizeLinear nodes, weights as INT8."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.helper
import onnx.numpy_helper

from edge_sdk.engines.model_file import ModelFile, Serialized
from edge_sdk.host.graph import clean, placement
from edge_sdk.host.graph.model import Model, model_from_proto, without_weights
from edge_sdk.numerics import quantize


def quantized_model(model: Model, placed: placement.Placement, scales: Mapping[str, float]) -> Model:
    """Gives the model with explicit Q/DQ: what TensorRT compiles to INT8 and ONNX Runtime runs as it is.

    Args:
        model: cleaned.
        placed: what is quantised.
        scales: of every activation in `placed.tensors`.

    Raises:
        ModelError: onnx or ONNX Runtime refuses the result.
    """
    return model_from_proto(quantized_proto(model, placed, scales), model.opset, inline_bytes=model.inline_bytes)


def quantized_proto(model: Model, placed: placement.Placement, scales: Mapping[str, float]) -> onnx.ModelProto:
    """Gives what `quantized_model` gives, not passed through the checks: for the many variants of a search."""
    proto = without_weights(model.proto)  # most of them become INT8, and a message never gives back a copy's memory
    writer = Writer(proto.graph, model.proto.graph.initializer)
    by_node = {node.name: node for node in proto.graph.node}
    rewired = {
        (use.node, use.slot): writer.activation(use.tensor, scales[use.tensor]) for use in placed.activations
    } | {(use.node, use.slot): writer.weight(use.tensor, use.axis) for use in placed.weights}
    for (node, slot), name in rewired.items():
        by_node[node].input[slot] = name
    writer.finish()
    return proto


def with_outputs(model: Model, names: Iterable[str]) -> Serialized:
    """Gives the serialised model with further tensors as outputs, so that a run can give them back.

    Names that are inputs or outputs already are passed over.
    """
    content, further = model.content(), _further_outputs(model, names)
    return content.extended(further) if isinstance(content, ModelFile) else content + further


def add_outputs(file: Path, model: Model, names: Iterable[str]) -> None:
    """Adds further tensors to the outputs of an ONNX file of the model, as `with_outputs` does to the model."""
    with file.open("ab") as stream:
        stream.write(_further_outputs(model, names))


def _further_outputs(model: Model, names: Iterable[str]) -> bytes:
    """Gives what is written behind a serialised model to give it more outputs.

    Two messages one after the other read as one, with the lists joined: the weights are not copied for it.
    """
    known = {value.name for value in (*model.proto.graph.input, *model.proto.graph.output)}
    more = onnx.ModelProto()
    more.graph.output.extend(onnx.ValueInfoProto(name=name) for name in dict.fromkeys(names) if name not in known)
    return bytes(more.SerializeToString())


class Writer:
    """Adds Q/DQ to one graph; asked twice for the same tensor, it gives the same name.

    Args:
        graph: to be changed.
        weights: of the graph, where it does not hold them itself; those that it needs in the end are copied into it.
    """

    def __init__(self, graph: onnx.GraphProto, weights: Iterable[onnx.TensorProto] = ()) -> None:
        self._graph = graph
        self._weights = {tensor.name: tensor for part in (graph.initializer, weights) for tensor in part}
        self._taken = {name for node in graph.node for name in (node.name, *node.output)} | set(self._weights)
        self._taken |= {value.name for value in graph.input}
        self._made: dict[tuple[str, int | None], str] = {}
        self._pending: dict[str, list[onnx.NodeProto]] = {}

    def activation(self, tensor: str, scale: float) -> str:
        """Gives the name of `tensor` after a per-tensor Q/DQ pair."""
        key = (tensor, None)
        if key not in self._made:
            constants = [
                self.constant(f"{tensor}_scale", np.float32(scale)),
                self.constant(f"{tensor}_zero_point", np.int8(0)),
            ]
            codes = self.name(f"{tensor}_quantized")
            quantize_node = self._node("QuantizeLinear", tensor, [tensor, *constants], codes)
            self._made[key] = self._dequantize(tensor, [codes, *constants], quantize_node)
        return self._made[key]

    def weight(self, tensor: str, axis: int) -> str:
        """Gives the name of a weight that is stored as INT8 and dequantised per channel along `axis`."""
        key = (tensor, axis)
        if key not in self._made:
            values = onnx.numpy_helper.to_array(self._weights[tensor])
            codes, scales = quantize.quantized_weights(values, axis=axis)
            name = self.constant(f"{tensor}_quantized", codes)
            constants = [
                self.constant(f"{tensor}_scale", scales),
                self.constant(f"{tensor}_zero_point", np.zeros(scales.shape, np.int8)),
            ]
            self._made[key] = self._dequantize(tensor, [name, *constants], axis=axis)
        return self._made[key]

    def finish(self) -> None:
        """Puts the new nodes right before their first user, and drops float weights that nobody takes any more."""
        ordered: list[onnx.NodeProto] = []
        for node in self._graph.node:
            for name in node.input:
                ordered.extend(self._pending.pop(name, ()))
            ordered.append(node)
        del self._graph.node[:]
        self._graph.node.extend(ordered)
        used = {name for node in ordered for name in node.input} | {value.name for value in self._graph.output}
        kept = self._graph.initializer  # changed in place: a message never gives back the memory of a copy
        for index in reversed(range(len(kept))):
            if kept[index].name not in used:
                del kept[index]
        there = {tensor.name for tensor in kept}
        kept.extend(tensor for name, tensor in self._weights.items() if name in used - there)
        kept.sort(key=lambda tensor: str(tensor.name))

    def _dequantize(self, tensor: str, inputs: list[str], *before: onnx.NodeProto, **attributes: Any) -> str:
        output = self.name(f"{tensor}_dequantized")
        self._pending[output] = [*before, self._node("DequantizeLinear", tensor, inputs, output, **attributes)]
        return output

    def _node(self, op_type: str, tensor: str, inputs: list[str], output: str, **attributes: Any) -> onnx.NodeProto:
        name = self.name(f"{tensor}_{op_type}")
        return onnx.helper.make_node(op_type, inputs, [output], name, **attributes)

    def constant(self, wanted: str, values: np.generic | np.ndarray) -> str:
        """Gives the name of a new constant."""
        name = self.name(wanted)
        self._weights[name] = onnx.numpy_helper.from_array(np.asarray(values), name)
        return name

    def name(self, wanted: str) -> str:
        """Gives `wanted`, or something like it that is not taken yet."""
        name = clean.unique_name(wanted, self._taken)
        self._taken.add(name)
        return name
