"""The float model as calibration runs it: cut behind the last tensor that is looked at, the rest for a few samples.

Heads that stay in float, the last layer of a classifier and whatever follows it change no range: on a detector they are
a tenth of the time of a run, on a reader of text with 8,000 classes a third.
"""

import tempfile
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import onnx
import onnx.helper
from numpy.typing import NDArray

from edge_sdk.engines import ort
from edge_sdk.engines.model_file import Serialized
from edge_sdk.engines.protocol import Tensors
from edge_sdk.host.graph import model as models
from edge_sdk.host.graph import placement, qdq

_NATIVE_BYTES = 64 * 1024 * 1024
"""Above, loading the model twice takes longer than what it saves."""

_BLOCK = 16
"""Channels in the largest block of ONNX Runtime's convolutions; the others divide it."""


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
        native = _native(cut, [name for name in tensors if name not in inputs])
        self._names = native.names
        own = [*dict.fromkeys(native.names.values())]
        self._run = ort.runner_from_model(native.content, own, is_frugal=is_frugal, is_optimized=native.is_optimized)

    def run(self, feeds: Mapping[str, NDArray[Any]]) -> Tensors:
        """Gives the tensors for some feeds; of each sample all elements, in the order that the processor likes best."""
        found = self._run(feeds)
        return {name: found[own] for name, own in self._names.items()}

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

    A model of more than one message, with graphs inside nodes, or with an output that no node computes, is not cut: all
    of it is the head.
    """
    graph = model.proto.graph
    outputs = [spec.name for spec in model.outputs]
    has_bodies = any(attribute.HasField("g") or attribute.graphs for node in graph.node for attribute in node.attribute)
    is_large = models.size_bytes(model.proto) > model.inline_bytes
    is_computed = set(outputs) <= {name for node in graph.node for name in node.output}  # an input may be an output
    is_plain = is_computed and not (has_bodies or graph.sparse_initializer or is_large)
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
    first.graph.input.extend(value for value in graph.input if value.name not in constants)
    first.graph.output.extend(onnx.ValueInfoProto(name=name) for name in dict.fromkeys((*tensors, *seams)))
    last.graph.input.extend(value for value in graph.input if value.name in taken - constants)
    last.graph.input.extend(onnx.ValueInfoProto(name=name) for name in seams if name in taken - given)
    last.graph.output.extend(value for value in graph.output if value.name not in made)
    return Cut(models.serialized(first), seams, last)


class _Native(NamedTuple):
    """A head as it is run: its tensors' names by those of the model, and whether it is optimised already."""

    content: Serialized
    names: dict[str, str]
    is_optimized: bool


def _native(cut: Cut, tensors: Sequence[str]) -> _Native:
    """Gives the head optimised for this processor, without the steps that put looked-at tensors back in order.

    ONNX Runtime lets its convolutions work on blocks of channels, and reorders what leaves the graph: a tenth of the
    time. A histogram is the same in any order. Tensors whose channels do not fill the blocks keep the step, since the
    blocks are filled up with zeros, and so do the seams.
    """
    plain = {name: name for name in dict.fromkeys((*tensors, *cut.seams))}
    if not isinstance(cut.head, bytes) or len(cut.head) > _NATIVE_BYTES:
        return _Native(cut.head, plain, is_optimized=False)
    with tempfile.TemporaryDirectory(prefix="edge-sdk-") as folder:
        file = Path(folder) / "native.onnx"
        ort.save_optimized(cut.head, file, is_native=True)
        graph = (proto := onnx.load(file)).graph
    taken = {name for node in graph.node for name in node.input}
    blocked = {
        node.output[0]: node.input[0]
        for node in graph.node
        if node.op_type == "ReorderOutput"
        and int(str(placement.attributes(node)["channels"])) % _BLOCK == 0
        and node.output[0] not in taken.union(cut.seams)
    }
    if not blocked:
        return _Native(cut.head, plain, is_optimized=False)
    kept = [node for node in graph.node if node.output[0] not in blocked]
    del graph.node[:]
    graph.node.extend(kept)
    names = {name: blocked.get(name, name) for name in plain}
    del graph.output[:]
    graph.output.extend(onnx.ValueInfoProto(name=name) for name in dict.fromkeys(names.values()))
    return _Native(models.serialized(proto), names, is_optimized=True)


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
