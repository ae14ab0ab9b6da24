"""What conversion left to a Model that INT8 can be made of, and its serialised form at any size."""

import math
from pathlib import Path
from typing import NamedTuple

import onnx
import onnx.checker
import onnx.helper
from google.protobuf.message import Message

from edge_sdk import errors
from edge_sdk.engines import ort
from edge_sdk.engines.model_file import WEIGHTS_SUFFIX, Folder, ModelFile, Serialized
from edge_sdk.records.tensors import TensorSpec
from edge_sdk.wire import bundles

MIN_OPSET = 13
"""QuantizeLinear and DequantizeLinear take per-channel scales from opset 13 on."""

MAX_BYTES = 2**31 - 1
"""What protobuf can serialise, and so what ONNX Runtime and NVIDIA's parser take as one buffer."""

INLINE_BYTES = 1_900_000_000
"""Weights above this lie in a file beside the model; what else it holds then still fits into one message."""

WEIGHTED = ("Conv", "ConvTranspose", "Gemm", "MatMul")
"""Operators with weights, whose multiply-accumulates INT8 is for."""

STANDARD_DOMAINS = ("", "ai.onnx")

_COUNTED_BYTES = 2**20
"""Up to here serialising a model to count its bytes costs nothing."""

_SMALL_BYTES = 1024
"""Tensors up to this size stay in the model: shapes and axes, which a reader needs before it maps the weights."""


class Model(NamedTuple):
    """A model that INT8 can be made of.

    Attributes:
        proto: the graph, with all weights inside.
        inputs: what it takes; the first axis of each is the batch, free or 1.
        outputs: what it gives.
        opset: version of the standard operators.
        inline_bytes: weights above this lie beside the model when it is written.
    """

    proto: onnx.ModelProto
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    opset: int
    inline_bytes: int = INLINE_BYTES

    def to_bytes(self) -> bytes:
        """Gives the serialised model as one message; equal graphs give equal bytes.

        Raises:
            ModelError: it is above 2 GB.
        """
        return serialized(self.proto)

    def content(self) -> Serialized:
        """Gives the serialised model, as files where it is too large for one message; equal graphs, equal bytes."""
        return stored(self.proto, self.inline_bytes)


def read_model(path: Path, *, inline_bytes: int = INLINE_BYTES) -> Model:
    """Gives the model in an ONNX file that conversion left: whether it is sound and of the standard was checked there.

    Raises:
        ModelError: there are no weights to make INT8 of, or an input has no batch axis that is free or 1.
    """
    proto = onnx.load(path)
    _check_has_weights(proto.graph)
    opset = max((entry.version for entry in proto.opset_import if entry.domain in STANDARD_DOMAINS), default=0)
    inputs, outputs = ort.specs_from_model(str(path))
    for spec in inputs:
        if not spec.shape:
            raise errors.ModelError(f"input {spec.name!r} is {spec}; expected a batch axis first: export it again")
        if spec.shape[0] not in (None, 1):
            raise errors.ModelError(
                f"input {spec.name!r} is {spec}: its batch is fixed at {spec.shape[0]}; export it with a free batch "
                "axis (dynamic_axes) or with batch 1"
            )
    return Model(proto, inputs, outputs, opset, inline_bytes)


def model_from_proto(proto: onnx.ModelProto, opset: int, *, inline_bytes: int = INLINE_BYTES) -> Model:
    """Gives a Model of a graph that was changed: passes it through onnx's checker and ONNX Runtime.

    Raises:
        ModelError: one of them refuses it, with its own words.
    """
    content = stored(proto, inline_bytes)
    try:
        onnx.checker.check_model(str(content.path) if isinstance(content, ModelFile) else content)
    except onnx.checker.ValidationError as error:
        raise errors.ModelError(f"the model breaks the ONNX standard: {error}; export it again") from error
    inputs, outputs = ort.specs_from_model(content)
    return Model(proto, inputs, outputs, opset, inline_bytes)


def serialized(proto: onnx.ModelProto) -> bytes:
    """Gives the bytes of a graph, the same for the same graph.

    Raises:
        ModelError: it is above 2 GB.
    """
    total_bytes = size_bytes(proto)
    if total_bytes > MAX_BYTES:
        raise errors.ModelError(
            f"the model has {total_bytes} bytes; up to {MAX_BYTES} can be handed to a compiler at once"
        )
    content: bytes = proto.SerializeToString(deterministic=True)
    return content


def stored(proto: onnx.ModelProto, inline_bytes: int = INLINE_BYTES) -> Serialized:
    """Gives a graph serialised: one message, or a file and its weights beside it where they are above `inline_bytes`.

    The files are named as in a bundle, so that they can be put into one as they are.
    """
    if size_bytes(proto) <= inline_bytes:
        return serialized(proto)
    folder = Folder()
    path = folder.path / bundles.FLOAT_MODEL
    weights = path.with_name(path.name + WEIGHTS_SUFFIX)
    with weights.open("wb") as stream:
        shell = without_weights(proto)
        for tensor in proto.graph.initializer:
            kept = shell.graph.initializer.add()
            if _tensor_bytes(tensor) <= _SMALL_BYTES or not tensor.raw_data:
                kept.CopyFrom(tensor)
                continue
            kept.name, kept.data_type, kept.data_location = tensor.name, tensor.data_type, onnx.TensorProto.EXTERNAL
            kept.dims.extend(tensor.dims)
            start = -(-stream.tell() // 4096) * 4096  # on a page, so that it can be mapped into memory
            stream.seek(start)
            stream.write(tensor.raw_data)
            for key, value in (("location", weights.name), ("offset", start), ("length", len(tensor.raw_data))):
                kept.external_data.add(key=key, value=str(value))
    path.write_bytes(shell.SerializeToString(deterministic=True))
    return ModelFile(folder, path, weights)


def node_text(node: onnx.NodeProto) -> str:
    """Gives how messages name a node: its operator and name, or its first output where it has no name."""
    return f"{node.op_type} node {node.name or (node.output[0] if node.output else '?')!r}"


def is_quantizer(op_type: str) -> bool:
    """Says whether an operator is one of a quantised model."""
    starts = ("QLinear", "QuantizeLinear", "DequantizeLinear", "DynamicQuantize", "QGemm", "QAttention")
    return op_type.startswith(starts) or op_type.endswith("Integer")


def without_weights(proto: onnx.ModelProto) -> onnx.ModelProto:
    """Gives a copy without initialisers, which are not copied on the way."""
    shell = onnx.ModelProto()
    for source, target, left_out in ((proto, shell, "graph"), (proto.graph, shell.graph, "initializer")):
        for field, value in source.ListFields():
            if field.name == left_out:
                continue
            if isinstance(value, Message):
                getattr(target, field.name).CopyFrom(value)
            elif isinstance(value, str | bytes | int | float):
                setattr(target, field.name, value)
            else:
                getattr(target, field.name).extend(value)
    return shell


def size_bytes(proto: onnx.ModelProto) -> int:
    """Gives the size of a model; of one with large weights about, since protobuf serialises them all to count."""
    weights_bytes = sum(map(_tensor_bytes, proto.graph.initializer))
    is_near_limit = INLINE_BYTES // 2 < weights_bytes <= INLINE_BYTES
    return int(proto.ByteSize()) if is_near_limit or weights_bytes < _COUNTED_BYTES else weights_bytes


def _tensor_bytes(tensor: onnx.TensorProto) -> int:
    """Gives the size of a tensor's values by its shape: protobuf would copy or serialise them to tell it."""
    if not tensor.HasField("raw_data"):
        return int(tensor.ByteSize())
    size_bytes: int = math.prod(tensor.dims) * onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize
    return size_bytes


def _check_has_weights(graph: onnx.GraphProto) -> None:
    constants = {tensor.name for tensor in graph.initializer}
    constants |= {name for node in graph.node if node.op_type == "Constant" for name in node.output}
    if not any(node.op_type in WEIGHTED and constants.intersection(node.input) for node in graph.node):
        raise errors.ModelError(
            f"the model has no weights to make INT8 of: no {', '.join(WEIGHTED)} with constant weights; "
            "export it with its parameters (export_params=True)"
        )
