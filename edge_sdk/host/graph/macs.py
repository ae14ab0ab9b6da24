"""How much of a model's arithmetic runs in INT8, in multiply-accumulates."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import onnx
from numpy.typing import NDArray

from edge_sdk.engines import ort
from edge_sdk.host.graph import clean, placement, qdq
from edge_sdk.host.graph import model as models


class Costs(NamedTuple):
    """By node: multiply-accumulates, and the elements that it reads (weights too) and writes.

    Attributes:
        macs: of nodes that may be in INT8.
        elements: of all.
        others: multiply-accumulates of `placement.NEVER_INT8`.
    """

    macs: dict[str, int]
    elements: dict[str, int]
    others: dict[str, int]

    @property
    def total(self) -> dict[str, int]:
        """Gives the multiply-accumulates of all nodes."""
        return self.macs | self.others


def costs_by_node(model: models.Model, probe: Mapping[str, NDArray[Any]], file: Path | None = None) -> Costs:
    """Gives what each weighted node and each of `placement.NEVER_INT8` costs for the samples in `probe`.

    The shapes come from running the model once: inference by rule stops at the first free axis.

    Args:
        model: cleaned.
        probe: prepared inputs.
        file: the model as an ONNX file that nobody else needs, which spares writing it; it is given more outputs.

    Raises:
        EngineError: the model can't be run on `probe`.
        ModelError: its outputs on `probe` are not finite.
    """
    nodes = [node for node in model.proto.graph.node if node.op_type in models.WEIGHTED]
    wiring = placement.Wiring(model.proto.graph)
    others = [node for node in model.proto.graph.node if node.op_type in placement.NEVER_INT8]
    names = {name for node in nodes for name in (node.input[0], node.input[1], node.output[0])}
    names |= {name for node in others for name in _operands(node)}
    wanted = sorted(name for name in names if not wiring.is_constant(name) and name not in probe)
    outputs = [spec.name for spec in model.outputs]
    asked = [*dict.fromkeys((*wanted, *outputs))]
    if file is not None:
        qdq.add_outputs(file, model, wanted)
    stored = qdq.with_outputs(model, wanted) if file is None else str(file)
    ran = ort.runner_from_model(stored, asked, is_brief=True)(probe)
    clean.check_finite({name: ran[name] for name in outputs})
    shapes = {name: array.shape for name, array in (*probe.items(), *ran.items())} | wiring.shapes
    elements = {
        node.name: sum(math.prod(shapes[name]) for name in (node.input[0], node.input[1], node.output[0]))
        for node in nodes
    }
    elements |= {node.name: sum(math.prod(shapes[name]) for name in _operands(node)) for node in others}
    return Costs(
        {node.name: _macs(node, shapes) for node in nodes},
        elements,
        {node.name: _macs_of_other(node, [shapes[name] for name in _operands(node)]) for node in others},
    )


def int8_compute_ratio(macs: Mapping[str, int], int8_nodes: frozenset[str]) -> float:
    """Gives the share of multiply-accumulates that the nodes in `int8_nodes` do, 0 to 1."""
    total = sum(macs.values())
    return sum(count for node, count in macs.items() if node in int8_nodes) / total if total else 0.0


def _macs(node: onnx.NodeProto, shapes: Mapping[str, tuple[int, ...]]) -> int:
    """Gives the multiply-accumulates of one node: every output element costs the terms that are summed for it."""
    data, weight, output = shapes[node.input[0]], shapes[node.input[1]], shapes[node.output[0]]
    if node.op_type == "Conv":
        return math.prod(output) * math.prod(weight[1:])
    if node.op_type == "ConvTranspose":
        return math.prod(data) * math.prod(weight[1:])
    depth = data[0] if node.op_type == "Gemm" and placement.attributes(node).get("transA", 0) else data[-1]
    return math.prod(output) * depth


def _operands(node: onnx.NodeProto) -> list[str]:
    """Gives the inputs of one of NEVER_INT8 that are multiplied: of a recurrent one data and both weights."""
    return list(node.input[:3] if node.op_type in placement.RECURRENT else node.input)


def _macs_of_other(node: onnx.NodeProto, shapes: list[tuple[int, ...]]) -> int:
    if node.op_type in placement.RECURRENT:
        data, *weights = shapes
        return math.prod(data[:2]) * sum(map(math.prod, weights))  # at every step of every sample each weight once
    equation = placement.attributes(node)["equation"]
    assert isinstance(equation, bytes)
    sizes: dict[str, int] = {}
    for term, shape in zip(equation.decode().replace(" ", "").split("->")[0].split(","), shapes, strict=True):
        before, dots, after = term.partition("...")
        free = shape[len(before) : len(shape) - len(after)] if dots else ()
        axes = [*before, *(f"...{index}" for index in range(-len(free), 0)), *after]
        for axis, size in zip(axes, shape, strict=True):
            sizes[axis] = max(size, sizes.get(axis, 1))
    return math.prod(sizes.values())
