"""What goes over the control socket of the local fast path. Pure.

A client says once what it will send, hands over a sealed piece of memory (memfd) that both sides map, and from then
on each inference is one short message there and one back. Tensors never pass the socket.

    client  JSON {"model", "version", "inputs": [{"name", "dtype", "shape"}]}     once, LENGTH before it
    server  JSON {"inputs": [...], "outputs": [...], "byte_size"}                 each with dtype, shape, offset
    client  one byte, and with it the memory's descriptor (SCM_RIGHTS)
    server  JSON {}                                                               the memory is as it has to be
    client  ASK (sequence, priority, timeout)                                     per inference
    server  REPLY (sequence, length), then JSON of that length: {} or what went wrong
"""

import math
import struct
from typing import Annotated, Any

import msgspec
import numpy as np

from edge_sdk import errors
from edge_sdk.device.serve import v2

LENGTH = struct.Struct("<I")
ASK = struct.Struct("<IIQ")
REPLY = struct.Struct("<II")
MAX_JSON_BYTES = 64 * 1024
ALIGNMENT = 64
"""Of every tensor, so that kernels that want aligned data get it."""

_Axis = Annotated[int, msgspec.Meta(ge=1, le=2**31)]


class Tensor(msgspec.Struct):
    """One tensor of a session.

    Attributes:
        name: of the model's input or output.
        dtype: numpy's name.
        shape: no axis is free in a session.
        offset: in the shared memory; -1 until the server has placed it.
    """

    name: Annotated[str, msgspec.Meta(max_length=1024)]
    dtype: Annotated[str, msgspec.Meta(max_length=16)]
    shape: Annotated[tuple[_Axis, ...], msgspec.Meta(max_length=32)]
    offset: int = -1

    @property
    def byte_size(self) -> int:
        """Bytes of the tensor."""
        return math.prod(self.shape) * np.dtype(self.dtype).itemsize


class Hello(msgspec.Struct):
    """What a client will send."""

    model: Annotated[str, msgspec.Meta(max_length=256)]
    inputs: Annotated[list[Tensor], msgspec.Meta(min_length=1, max_length=64)]
    version: Annotated[str, msgspec.Meta(max_length=256)] = ""


class Layout(msgspec.Struct):
    """Where everything lies in the memory, and how large it has to be; or why there is no session."""

    inputs: list[Tensor] = []
    outputs: list[Tensor] = []
    byte_size: int = 0
    error: str = ""
    kind: str = ""


class Outcome(msgspec.Struct, omit_defaults=True):
    """How an inference ended: `error` is empty when it went well. `kind` names the class of the error."""

    error: str = ""
    kind: str = ""


OK = msgspec.json.encode(Outcome())
KINDS = {
    "input": errors.InputError,
    "busy": errors.BusyError,
    "engine": errors.EngineError,
    "usage": errors.UsageError,
}


def kind_of(error: errors.EdgeError) -> str:
    """Gives the name of the most specific class that the other side knows."""
    for kind in ("input", "busy", "usage"):
        if isinstance(error, KINDS[kind]):
            return kind
    return "engine"


def checked_inputs(hello: Hello) -> list[Tensor]:
    """Gives the inputs of a session.

    Raises:
        InputError: one has an element type that is not served, or is named twice.
    """
    for tensor in hello.inputs:
        if tensor.dtype not in v2.DATATYPES:
            known = ", ".join(v2.DATATYPES)
            raise errors.InputError(f"input {tensor.name!r} has the dtype {tensor.dtype!r}; known: {known}")
    if len({tensor.name for tensor in hello.inputs}) != len(hello.inputs):
        raise errors.InputError("an input is named twice")
    return hello.inputs


def placed(inputs: list[Tensor], outputs: list[Tensor], *, max_bytes: int) -> Layout:
    """Gives the layout of a session: inputs, then outputs, each aligned.

    Raises:
        InputError: it would take more than `max_bytes`.
    """
    at = 0
    for tensor in (*inputs, *outputs):
        tensor.offset = at
        at += -(-tensor.byte_size // ALIGNMENT) * ALIGNMENT
    if at > max_bytes:
        raise errors.InputError(f"the tensors of this session take {at} bytes; at most {max_bytes} are mapped")
    return Layout(inputs, outputs, at)


def decoded(payload: bytes, kind: Any) -> Any:
    """Gives the record in `payload`.

    Raises:
        InputError: it is not one.
    """
    try:
        return msgspec.json.decode(payload, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise errors.InputError(f"not a message of the frames socket: {error}") from error
