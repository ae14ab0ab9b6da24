"""What INT8 does to each layer by itself: the noise in its output, and the shift of its mean that a bias takes back.

Each layer is compared with its own INT8 twin on the same float input, so that no layer corrects, or is blamed for, what
an earlier one did. Source of the correction: M. Nagel et al., "Data-Free Quantization Through Weight Equalization and
Bias Correction", ICCV 2019; here with means measured on calibration samples.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import onnx
import onnx.helper
import onnx.numpy_helper
from numpy.typing import NDArray

from edge_sdk.engines.model_file import Serialized
from edge_sdk.host.graph import model as models
from edge_sdk.host.graph import placement, qdq

_AXES_ARE_INPUTS = 18
"""ReduceMean takes its axes as an input from this opset on."""


class Outputs(NamedTuple):
    """What the model of twins gives of one layer.

    Attributes:
        power: sum of the squares of its output in float.
        noise: sum of the squares of what INT8 changes of it.
        mean: what INT8 takes from the mean of each channel; empty where the layer can have no bias to take it back.
    """

    power: str
    noise: str
    mean: str


def model_of_twins(
    model: models.Model, placed: placement.Placement, scales: Mapping[str, float]
) -> tuple[Serialized, dict[str, Outputs]]:
    """Gives a serialised model with an INT8 twin beside each layer, and by layer the outputs that compare both.

    Args:
        model: cleaned.
        placed: what is in INT8.
        scales: of every activation in `placed.tensors`.
    """
    proto = onnx.ModelProto()
    proto.CopyFrom(model.proto)
    wiring = placement.Wiring(model.proto.graph)
    writer = qdq.Writer(proto.graph)
    weights = {use.node: use for use in placed.weights}
    activations = {use.node: use for use in placed.activations if use.node in weights}
    names: dict[str, Outputs] = {}
    ordered = []
    for node in proto.graph.node:
        ordered.append(node)
        if node.name in weights:
            twin = onnx.NodeProto()
            twin.CopyFrom(node)
            twin.name, twin.output[0] = (writer.name(f"{text}_twin") for text in (node.name, node.output[0]))
            twin.input[0] = writer.activation(node.input[0], scales[activations[node.name].tensor])
            twin.input[1] = writer.weight(node.input[1], weights[node.name].axis)
            names[node.name], more = _compared(node, twin, writer, wiring, model.opset)
            ordered += [twin, *more]
    del proto.graph.node[:]
    proto.graph.node.extend(ordered)
    proto.graph.output.extend(onnx.ValueInfoProto(name=name) for found in names.values() for name in found if name)
    writer.finish()
    return models.stored(proto, 0), names  # as files, from which the session maps the weights


def with_biases(model: models.Model, shifts: Mapping[str, NDArray[np.float32]]) -> models.Model:
    """Gives the model with `shifts`, one value per channel, added to the biases of the layers they name."""
    proto = onnx.ModelProto()
    proto.CopyFrom(model.proto)
    wiring = placement.Wiring(proto.graph)
    writer = qdq.Writer(proto.graph)
    values = {tensor.name: tensor for tensor in proto.graph.initializer}
    for node in proto.graph.node:
        if node.name not in shifts:
            continue
        slot = _bias_slot(node, wiring)
        assert slot is not None
        name = node.input[slot] if slot < len(node.input) else ""
        old = onnx.numpy_helper.to_array(values[name]) if name else np.float32(0)
        del node.input[slot:]
        node.input.append(writer.constant(f"{node.name}_bias", (old + shifts[node.name]).astype(np.float32)))
    writer.finish()
    return model._replace(proto=proto)


def _bias_slot(node: onnx.NodeProto, wiring: placement.Wiring) -> int | None:
    """Gives the input that is, or can become, the layer's bias per channel; None where it has none."""
    if node.op_type == "MatMul":
        return None
    if len(node.input) < 3 or not node.input[2]:
        return 2
    is_plain = wiring.shapes.get(node.input[2]) == (_channels(node, wiring),)
    return 2 if is_plain and placement.attributes(node).get("beta", 1.0) == 1.0 else None


def _channels(node: onnx.NodeProto, wiring: placement.Wiring) -> int:
    shape = wiring.shapes[node.input[1]]
    groups = placement.attributes(node).get("group", 1)
    assert isinstance(groups, int)
    channels: int = shape[placement.channel_axis(node)]
    return channels * (groups if node.op_type == "ConvTranspose" else 1)


def _compared(
    node: onnx.NodeProto, twin: onnx.NodeProto, writer: qdq.Writer, wiring: placement.Wiring, opset: int
) -> tuple[Outputs, list[onnx.NodeProto]]:
    """Gives the outputs that compare a layer with its twin, and the nodes that compute them."""
    plain, other = node.output[0], twin.output[0]
    difference, power, noise = (writer.name(f"{plain}_{what}") for what in ("difference", "power", "noise"))
    made = [
        onnx.helper.make_node("Sub", [plain, other], [difference], writer.name(f"{difference}_node")),
        onnx.helper.make_node("ReduceSumSquare", [plain], [power], writer.name(f"{power}_node"), keepdims=0),
        onnx.helper.make_node("ReduceSumSquare", [difference], [noise], writer.name(f"{noise}_node"), keepdims=0),
    ]
    if _bias_slot(node, wiring) is None:
        return Outputs(power, noise, ""), made
    mean = writer.name(f"{plain}_mean")
    axes = [0] if node.op_type == "Gemm" else [0, *range(2, len(wiring.shapes[node.input[1]]))]
    inputs, attributes = [difference], dict[str, Any](keepdims=0)
    if opset >= _AXES_ARE_INPUTS:
        inputs.append(writer.constant(f"{mean}_axes", np.array(axes, np.int64)))
    else:
        attributes["axes"] = axes
    made.append(onnx.helper.make_node("ReduceMean", inputs, [mean], writer.name(f"{mean}_node"), **attributes))
    return Outputs(power, noise, mean), made
