"""Tensors that hold nothing: where a graph makes the first one, on inputs of given shapes."""

import math
from collections.abc import Mapping

import onnx
import onnx.helper
import onnx.shape_inference

from edge_sdk import errors
from edge_sdk.host.convert import onnx_checks

_FLOATS = (onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16, onnx.TensorProto.DOUBLE, onnx.TensorProto.BFLOAT16)
_CONSTANTS = ("Constant", "ConstantOfShape")
"""What may hold nothing on purpose, such as the region of a Resize that uses none."""

_SMALL_VALUES = 256
"""Constants up to this size may say where something is cut; of larger ones only the shape matters."""


def check_not_empty(proto: onnx.ModelProto, shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Refuses a model that does not run because a node gives a tensor with an axis of 0. Ask only when it does not run.

    Args:
        proto: the model, whose weights need not be there.
        shapes: of its inputs.

    Raises:
        ModelError: naming the first node that makes nothing of something.
    """
    inferred = _inferred(proto, shapes)
    sizes = {value.name: _sizes(value) for value in (*inferred.graph.value_info, *inferred.graph.output)}
    sizes |= {tensor.name: tuple(tensor.dims) for tensor in proto.graph.initializer}
    for node in proto.graph.node:
        if node.op_type in _CONSTANTS or any(0 in sizes.get(name, ()) for name in node.input):
            continue
        for size in (sizes[name] for name in node.output if 0 in sizes.get(name, ())):
            taken = ", ".join(f"{name} {list(shape)}" for name, shape in shapes.items())
            raise errors.ModelError(
                f"{onnx_checks.node_text(node)} gives a tensor of shape {list(size)}, which holds nothing, on inputs "
                f"of shape {taken}; expected 1 or more on each axis: mend what the node cuts out and export the model "
                "again, or feed larger inputs where their axes are free"
            )


def _inferred(proto: onnx.ModelProto, shapes: Mapping[str, tuple[int, ...]]) -> onnx.ModelProto:
    shell = onnx.ModelProto(ir_version=proto.ir_version, opset_import=proto.opset_import, functions=proto.functions)
    graph = shell.graph
    graph.name = proto.graph.name
    graph.node.extend(proto.graph.node)
    weights = {tensor.name for tensor in proto.graph.initializer}
    for value in proto.graph.input:
        if value.name not in weights:
            kind = value.type.tensor_type.elem_type
            graph.input.append(onnx.helper.make_tensor_value_info(value.name, kind, shapes[value.name]))
    for tensor in proto.graph.initializer:
        if math.prod(tensor.dims) <= _SMALL_VALUES and tensor.data_location != onnx.TensorProto.EXTERNAL:
            graph.initializer.append(tensor)
        else:
            graph.input.append(onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims))
    for value in proto.graph.output:
        graph.output.append(onnx.helper.make_tensor_value_info(value.name, value.type.tensor_type.elem_type, None))
    return onnx.shape_inference.infer_shapes(shell, data_prop=True)


def _sizes(value: onnx.ValueInfoProto) -> tuple[int | None, ...]:
    """Gives the axes of a tensor of floats, None where unknown; lists of axes and sizes may well be empty."""
    given = value.type.tensor_type
    if given.elem_type not in _FLOATS:
        return ()
    return tuple(axis.dim_value if axis.HasField("dim_value") else None for axis in given.shape.dim)
