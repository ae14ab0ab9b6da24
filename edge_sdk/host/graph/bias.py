"""Bias correction: INT8 rounding shifts the mean of a layer's output, and its bias can take the shift back.

Source: M. Nagel et al., "Data-Free Quantization Through Weight Equalization and Bias Correction", ICCV 2019; here with
means measured on calibration samples. Each layer is compared with its own INT8 twin on the same float input, so that no
layer corrects what an earlier one has corrected already.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
import onnx.helper
import onnx.numpy_helper
from numpy.typing import NDArray

from edge_sdk.host.graph import model as models
from edge_sdk.host.graph import placement, qdq

_AXES_ARE_INPUTS = 18
"""ReduceMean takes its axes as an input from this opset on."""


def mean_error_model(
    model: models.Model, placed: placement.Placement, scales: Mapping[str, float]
) -> tuple[bytes, dict[str, str]]:
    """Gives a serialised model, and by layer the output that tells the mean of float minus INT8 for each channel.

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
    names: dict[str, str] = {}
    ordered = []
    for node in proto.graph.node:
        ordered.append(node)
        if node.name in weights and _bias_slot(node, wiring) is not None:
            twin = onnx.NodeProto()
            twin.CopyFrom(node)
            twin.name, twin.output[0] = (writer.name(f"{text}_twin") for text in (node.name, node.output[0]))
            twin.input[0] = writer.activation(node.input[0], scales[activations[node.name].tensor])
            twin.input[1] = writer.weight(node.input[1], weights[node.name].axis)
            mean, more = _mean_difference(node, twin, writer, wiring, model.opset)
            names[node.name] = mean
            ordered += [twin, *more]
    del proto.graph.node[:]
    proto.graph.node.extend(ordered)
    proto.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names.values())
    writer.finish()
    return models.serialized(proto), names


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


def _mean_difference(
    node: onnx.NodeProto, twin: onnx.NodeProto, writer: qdq.Writer, wiring: placement.Wiring, opset: int
) -> tuple[str, list[onnx.NodeProto]]:
    """Gives the name of the mean over everything but the channels, and the nodes that compute it."""
    difference, mean = (writer.name(f"{node.output[0]}_{what}") for what in ("difference", "mean"))
    is_matrix = node.op_type == "Gemm"
    axes = [0] if is_matrix else [0, *range(2, len(wiring.shapes[node.input[1]]))]
    inputs, attributes = [difference], dict[str, Any](keepdims=0)
    if opset >= _AXES_ARE_INPUTS:
        inputs.append(writer.constant(f"{mean}_axes", np.array(axes, np.int64)))
    else:
        attributes["axes"] = axes
    return mean, [
        onnx.helper.make_node("Sub", [node.output[0], twin.output[0]], [difference], writer.name(f"{mean}_sub")),
        onnx.helper.make_node("ReduceMean", inputs, [mean], writer.name(f"{mean}_node"), **attributes),
    ]
