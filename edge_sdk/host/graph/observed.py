"""The float model as calibration runs it: cut behind the last tensor that is looked at, the rest for a few samples.

Heads that stay in float, the last layer of a classifier and whatever follows it change no range: on a detector they are
a tenth of the time of a run, on a reader of text with 8,000 classes a third.
"""

from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple

import onnx
import onnx.helper
from numpy.typing import NDArray

from edge_sdk.engines import ort
from edge_sdk.engines.model_file import Serialized
from edge_sdk.engines.protocol import Tensors
from edge_sdk.host.graph import model as models
from edge_sdk.host.graph import qdq


class Cut(NamedTuple):
    """A model in two parts.

    Attributes:
        head: serialised; gives the tensors that are looked at, and the seams.
        seams: what the head hands on: tensors that the tail takes, and outputs of the model that are in the head.
        tail: what is left of the model, whose inputs have no types yet; None where nothing is.
    """

    head: Serialized
    seams: tuple[str, ...]
    tail: onnx.ModelProto | None


class Observed:
    """A float model that gives any of its tensors, and its own outputs where somebody asks for them.

    Args:
        model: cleaned.
        tensors: names of what is looked at; those that are inputs are passed over.
        is_frugal: give the memory of a run back at once; of large activations this takes no longer.
    """

    def __init__(self, model: models.Model, tensors: Sequence[str], *, is_frugal: bool = False) -> None:
        inputs = {spec.name for spec in model.inputs}
        self._outputs = [spec.name for spec in model.outputs]
        cut = cut_behind(model, [name for name in tensors if name not in inputs])
        self._tail = cut.tail
        self._run_tail: ort.Run | None = None
        names = list(dict.fromkeys([*(name for name in tensors if name not in inputs), *cut.seams]))
        self.run = ort.runner_from_model(cut.head, names, is_frugal=is_frugal)
        """Gives the tensors for some feeds."""

    def outputs(self, values: Mapping[str, NDArray[Any]]) -> Tensors:
        """Gives the model's outputs for what `run` gave and what it was given."""
        if self._tail is None:
            return {name: values[name] for name in self._outputs}
        own = [value.name for value in self._tail.graph.output]
        taken = [value.name for value in self._tail.graph.input]
        if self._run_tail is None:
            self._run_tail = ort.runner_from_model(_typed(self._tail, values), own, is_brief=True)
        found = {**values, **self._run_tail({name: values[name] for name in taken})}
        return {name: found[name] for name in self._outputs}


def cut_behind(model: models.Model, tensors: Collection[str]) -> Cut:
    """Gives the part of a model that `tensors` need, and the rest.

    A model of more than one message, or with graphs inside nodes, is not cut: all of it is the head.
    """
    graph = model.proto.graph
    outputs = [spec.name for spec in model.outputs]
    has_bodies = any(attribute.HasField("g") or attribute.graphs for node in graph.node for attribute in node.attribute)
    is_plain = not (has_bodies or graph.sparse_initializer or models.size_bytes(model.proto) > model.inline_bytes)
    needed = set(tensors)
    head: list[onnx.NodeProto] = []
    tail: list[onnx.NodeProto] = []
    for node in reversed(graph.node):
        is_needed = not is_plain or not needed.isdisjoint(node.output)
        (head if is_needed else tail).append(node)
        needed.update(node.input if is_needed else ())
    if not tail or not head:
        return Cut(qdq.with_outputs(model, tensors), tuple(outputs), None)
    made = {name for node in head for name in node.output}
    taken = {name for node in tail for name in node.input}
    seams = tuple(sorted(made & (taken | set(outputs))))
    given = {value.name for value in graph.input}
    constants = {tensor.name for tensor in graph.initializer}
    first, last = (_part(model.proto, part[::-1]) for part in (head, tail))
    first.graph.input.extend(graph.input)
    first.graph.output.extend(onnx.ValueInfoProto(name=name) for name in dict.fromkeys((*tensors, *seams)))
    last.graph.input.extend(value for value in graph.input if value.name in taken - constants)
    last.graph.input.extend(onnx.ValueInfoProto(name=name) for name in seams if name in taken - given)
    last.graph.output.extend(value for value in graph.output if value.name not in made)
    return Cut(models.serialized(first), seams, last)


def _part(proto: onnx.ModelProto, nodes: Sequence[onnx.NodeProto]) -> onnx.ModelProto:
    """Gives a model of some of the nodes, with their weights, without inputs and outputs."""
    part = onnx.ModelProto(ir_version=proto.ir_version, opset_import=proto.opset_import, functions=proto.functions)
    part.graph.name = proto.graph.name
    part.graph.node.extend(nodes)
    used = {name for node in nodes for name in node.input}
    part.graph.initializer.extend(tensor for tensor in proto.graph.initializer if tensor.name in used)
    return part


def _typed(tail: onnx.ModelProto, values: Mapping[str, NDArray[Any]]) -> bytes:
    """Gives the tail serialised, with the types that its inputs turned out to have."""
    for value in tail.graph.input:
        if not value.HasField("type"):
            dtype = onnx.helper.np_dtype_to_tensor_dtype(values[value.name].dtype)
            value.type.tensor_type.elem_type = dtype
    return models.serialized(tail)
