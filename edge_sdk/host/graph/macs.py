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
    """By node: multiply-accumulates, and the elements that it reads (weights too) and writes."""

    macs: dict[str, int]
    elements: dict[str, int]


def costs_by_node(model: models.Model, probe: Mapping[str, NDArray[Any]], file: Path | None = None) -> Costs:
    """Gives what each Conv, ConvTranspose, Gemm and MatMul costs for the samples in `probe`.

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
    names = {name for node in nodes for name in (node.input[0], node.input[1], node.output[0])}
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
    return Costs({node.name: _macs(node, shapes) for node in nodes}, elements)


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
