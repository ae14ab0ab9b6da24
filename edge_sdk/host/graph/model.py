"""A model file to a checked Model; every reason not to go on is found here, before any long work."""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import onnx
import onnx.checker
import onnx.defs
import onnx.external_data_helper
import onnx.inliner
import onnx.numpy_helper

from edge_sdk import errors
from edge_sdk.engines import ort
from edge_sdk.records.tensors import TensorSpec

MIN_OPSET = 13
"""QuantizeLinear and DequantizeLinear take per-channel scales from opset 13 on."""

MAX_BYTES = 2**31 - 1
"""What protobuf can serialise, and so what ONNX Runtime and NVIDIA's parser take as one buffer."""

WEIGHTED = ("Conv", "ConvTranspose", "Gemm", "MatMul")
"""Operators with weights, whose multiply-accumulates INT8 is for."""

STANDARD_DOMAINS = ("", "ai.onnx")

_NORMALISERS = ("BatchNormalization", "InstanceNormalization", "LayerNormalization", "GroupNormalization", "PRelu")


class Model(NamedTuple):
    """A model that passed every check.

    Attributes:
        proto: the graph, with all weights inside.
        inputs: what it takes; the first axis of each is the batch, free or 1.
        outputs: what it gives.
        opset: version of the standard operators.
    """

    proto: onnx.ModelProto
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    opset: int

    def to_bytes(self) -> bytes:
        """Gives the serialised model; equal graphs give equal bytes."""
        return serialized(self.proto)


def read_model(path: Path) -> Model:
    """Gives the model in an ONNX file, after checking that INT8 can be made of it.

    External data is read only from plain files in the model's own folder.

    Raises:
        ModelError: not ONNX, opset below 13, operators outside the standard or unknown to ONNX Runtime, quantised
            already, control flow, no weights, weights that are not finite, inputs that can't be fed; the message
            names the node and says what to do.
    """
    proto = _proto_from_file(path)
    if proto.functions:
        proto = onnx.inliner.inline_local_functions(proto)
    _check_not_quantized(proto.graph)
    opset = _checked_opset(proto, path)
    for node in proto.graph.node:
        _check_node(node, opset)
    _load_external_data(proto, path)
    _check_weights(proto.graph)
    return model_from_proto(proto, opset)


def model_from_proto(proto: onnx.ModelProto, opset: int) -> Model:
    """Gives a Model of a graph whose nodes were checked: passes it through onnx's checker and ONNX Runtime.

    Raises:
        ModelError: one of them refuses it, with its own words; or an input can't be fed.
    """
    try:
        onnx.checker.check_model(proto)
    except onnx.checker.ValidationError as error:
        raise errors.ModelError(f"the model breaks the ONNX standard: {error}; export it again") from error
    inputs, outputs = ort.specs_from_model(serialized(proto))
    _check_inputs(inputs)
    return Model(proto, inputs, outputs, opset)


def serialized(proto: onnx.ModelProto) -> bytes:
    """Gives the bytes of a graph, the same for the same graph.

    Raises:
        ModelError: it is above 2 GB.
    """
    size_bytes = proto.ByteSize()
    if size_bytes > MAX_BYTES:
        raise errors.ModelError(
            f"the model has {size_bytes} bytes; up to {MAX_BYTES} can be handed to a compiler at once"
        )
    content: bytes = proto.SerializeToString(deterministic=True)
    return content


def node_text(node: onnx.NodeProto) -> str:
    """Gives how messages name a node: its operator and name, or its first output where it has no name."""
    return f"{node.op_type} node {node.name or (node.output[0] if node.output else '?')!r}"


def _proto_from_file(path: Path) -> onnx.ModelProto:
    if not path.is_file():
        raise errors.ModelError(f"there is no model file {path}; expected an .onnx file")
    if path.stat().st_size > MAX_BYTES:
        raise errors.ModelError(f"{path} has {path.stat().st_size} bytes; save weights above 2 GB as external data")
    try:
        proto = onnx.load_model_from_string(path.read_bytes())
    except Exception as error:  # boundary: protobuf raises classes of its own that differ between its versions
        raise errors.ModelError(
            f"{path} is not an ONNX file: {error}; expected what torch.onnx.export writes"
        ) from error
    if not proto.ir_version or not proto.graph.node:
        raise errors.ModelError(
            f"{path} is not an ONNX file, or its graph is empty; expected what torch.onnx.export writes"
        )
    return proto


def _checked_opset(proto: onnx.ModelProto, path: Path) -> int:
    opset = max((entry.version for entry in proto.opset_import if entry.domain in STANDARD_DOMAINS), default=0)
    if opset < MIN_OPSET:
        raise errors.ModelError(
            f"{path} has opset {opset}, INT8 with per-channel weights needs {MIN_OPSET} or higher: export it again "
            "with opset_version=17, or raise it with onnx.version_converter.convert_version(model, 17)"
        )
    return opset


def _check_node(node: onnx.NodeProto, opset: int) -> None:
    if any(a.type in (onnx.AttributeProto.GRAPH, onnx.AttributeProto.GRAPHS) for a in node.attribute):
        raise errors.ModelError(
            f"{node_text(node)} holds a graph of its own (control flow), inside which INT8 can't be placed; "
            "export the model with its branches decided, for example by tracing it"
        )
    if node.domain not in STANDARD_DOMAINS or not onnx.defs.has(node.op_type):
        domain = node.domain or "ai.onnx"
        raise errors.ModelError(
            f"{node_text(node)} is not an operator of the ONNX standard (domain {domain!r}, opset {opset}), which "
            "TensorRT needs; export it again without custom operators, or write it with standard ones"
        )


def _check_not_quantized(graph: onnx.GraphProto) -> None:
    for node in graph.node:
        if is_quantizer(node.op_type):
            raise errors.ModelError(
                f"{node_text(node)}: the model is quantised already; give the float model that it was made from"
            )


def is_quantizer(op_type: str) -> bool:
    """Says whether an operator is one of a quantised model."""
    starts = ("QLinear", "QuantizeLinear", "DequantizeLinear", "DynamicQuantize", "QGemm", "QAttention")
    return op_type.startswith(starts) or op_type.endswith("Integer")


def _load_external_data(proto: onnx.ModelProto, path: Path) -> None:
    """Takes weights in from files beside the model; a location with a folder in it, or a link, is an escape."""
    for tensor in _tensors(proto.graph):
        if tensor.data_location != onnx.TensorProto.EXTERNAL:
            continue
        location = {entry.key: entry.value for entry in tensor.external_data}.get("location", "")
        file = path.parent / location
        if Path(location).name != location or file.is_symlink():
            raise errors.ModelError(
                f"weight {tensor.name!r} of {path} lies at {location!r}; external data is read only from a plain file "
                "beside the model: save the model again with its data in the same folder"
            )
        if not file.is_file():
            raise errors.ModelError(
                f"weight {tensor.name!r} of {path} lies in {location!r}, which is not beside the model; copy it there"
            )
        try:
            onnx.external_data_helper.load_external_data_for_tensor(tensor, str(path.parent))
        except (onnx.checker.ValidationError, OSError, ValueError) as error:
            raise errors.ModelError(f"weight {tensor.name!r} of {path} can't be read from {file}: {error}") from error
        tensor.data_location = onnx.TensorProto.DEFAULT
        del tensor.external_data[:]


def _tensors(graph: onnx.GraphProto) -> Iterator[onnx.TensorProto]:
    """Gives every constant of the graph: initialisers, and what Constant nodes hold."""
    yield from graph.initializer
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.TENSOR:
                yield attribute.t


def _check_weights(graph: onnx.GraphProto) -> None:
    """NaN is refused anywhere; infinity only in weights, since attention masks are made of it."""
    constants = {tensor.name: tensor for tensor in graph.initializer}
    for node in graph.node:
        if node.op_type == "Constant" and node.attribute and node.attribute[0].type == onnx.AttributeProto.TENSOR:
            constants[node.output[0]] = node.attribute[0].t
    weighted = [(node, [name for name in node.input if name in constants]) for node in graph.node]
    if not any(names and node.op_type in WEIGHTED for node, names in weighted):
        raise errors.ModelError(
            f"the model has no weights to make INT8 of: no {', '.join(WEIGHTED)} with constant weights; "
            "export it with its parameters (export_params=True)"
        )
    for node, names in weighted:
        for name in names:
            problem = _problem(constants[name], is_weight=node.op_type in (*WEIGHTED, *_NORMALISERS))
            if problem:
                raise errors.ModelError(
                    f"weight {name!r} of {node_text(node)} holds {problem}; the training diverged or the file is "
                    "damaged: export it again from a good checkpoint"
                )


def _problem(tensor: onnx.TensorProto, *, is_weight: bool) -> str:
    values = onnx.numpy_helper.to_array(tensor)
    if values.dtype.kind != "f":
        return ""
    if np.isnan(values).any():
        return "NaN"
    return "infinity" if is_weight and np.isinf(values).any() else ""


def _check_inputs(inputs: tuple[TensorSpec, ...]) -> None:
    if not inputs:
        raise errors.ModelError("the model has no inputs: nothing can be fed to it; export it with its inputs")
    for spec in inputs:
        if 0 in spec.shape or not spec.shape:
            raise errors.ModelError(
                f"input {spec.name!r} is {spec}; expected a batch axis first and no axis of size 0: export it again"
            )
        if spec.shape[0] not in (None, 1):
            raise errors.ModelError(
                f"input {spec.name!r} is {spec}: its batch is fixed at {spec.shape[0]}; export it with a free batch "
                "axis (dynamic_axes) or with batch 1"
            )
