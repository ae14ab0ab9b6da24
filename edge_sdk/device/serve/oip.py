"""Open Inference Protocol v2 over HTTP: requests and responses, as JSON and with the binary extension. Pure.

Source: open-inference-protocol ``inference_rest.md``; Triton's ``extension_binary_data.md`` and
``extension_shared_memory.md``.
"""

from collections.abc import Callable, Mapping
from typing import Annotated, Any, NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from edge_sdk import errors
from edge_sdk.device.serve import json_tensors, v2
from edge_sdk.device.serve.json_tensors import MAX_JSON_BYTES, WAY_OUT
from edge_sdk.device.serve.v2 import Place, Request
from edge_sdk.records import tensors

_BINARY = "binary_data"
_BINARY_SIZE = "binary_data_size"
_Axis = Annotated[int, msgspec.Meta(ge=0, le=2**40)]
_Shape = Annotated[tuple[_Axis, ...], msgspec.Meta(max_length=32)]
_Parameters = dict[str, str | int | float | bool]


class _Input(msgspec.Struct):
    name: str
    shape: _Shape
    datatype: str
    parameters: _Parameters = {}
    data: msgspec.Raw = msgspec.Raw()


class _Wanted(msgspec.Struct):
    name: str
    parameters: _Parameters = {}


class _Header(msgspec.Struct):
    inputs: Annotated[list[_Input], msgspec.Meta(max_length=64)]
    id: Annotated[str, msgspec.Meta(max_length=1024)] = ""
    parameters: _Parameters = {}
    outputs: Annotated[list[_Wanted], msgspec.Meta(max_length=64)] = []


_DECODER = msgspec.json.Decoder(_Header)
_ENCODER = msgspec.json.Encoder()


class Response(NamedTuple):
    """One answer: its JSON, then the raw tensors in order."""

    header: bytes
    raw: list[NDArray[Any]]


def parse_request(
    body: memoryview,
    header_bytes: int | None = None,
    *,
    read: v2.Read | None = None,
    unfold: v2.Unfold | None = None,
) -> Request:
    """Gives the request in `body`.

    Args:
        body: JSON, and after it the raw tensors if `header_bytes` is given.
        header_bytes: length of the JSON, from ``Inference-Header-Content-Length``; None when all of it is JSON.
        read: gives the bytes at a place in shared memory.
        unfold: gives the input that a BYTES tensor stands for.

    Raises:
        InputError: not the protocol, an unknown datatype, or data that does not fit its shape.
    """
    if header_bytes is not None and header_bytes > len(body):
        raise errors.InputError(
            f"Inference-Header-Content-Length is {header_bytes}, but the body has {len(body)} bytes"
        )
    size = len(body) if header_bytes is None else header_bytes
    if size > MAX_JSON_BYTES:
        raise errors.InputError(f"{size} bytes of JSON; at most {MAX_JSON_BYTES} are read, so {WAY_OUT}")
    header = _header(body[:size])
    feeds: dict[str, NDArray[Any]] = {}
    at = size
    for part in header.inputs:
        if part.name in feeds:
            raise errors.InputError(f"input {part.name!r} is given twice")
        feeds[part.name], used = _tensor(part, body[at:], read, unfold)
        at += used
    if at != len(body):
        raise errors.InputError(f"the body has {len(body) - at} bytes after the last tensor")
    return _request(header, feeds)


def response_from_outputs(
    request: Request,
    *,
    model: str,
    version: str,
    outputs: Mapping[str, NDArray[Any]],
    write: Callable[[Place, NDArray[Any]], None] | None = None,
) -> Response:
    """Gives the answer to `request`.

    Args:
        request: says which outputs are wanted, and how.
        model: that answered.
        version: of it.
        outputs: of the model.
        write: puts an output at a place in shared memory.

    Raises:
        InputError: it wants an output that the model has not, or one as JSON that JSON can't carry.
    """
    wanted = request.wanted or dict.fromkeys(outputs, request.is_binary)
    v2.check_wanted(model, wanted, outputs)
    parts: list[dict[str, Any]] = []
    raw: list[NDArray[Any]] = []
    for name, as_binary in wanted.items():
        array = outputs[name]
        part: dict[str, Any] = {"name": name, "datatype": v2.datatype_of_array(array), "shape": array.shape}
        if name in request.places and write is not None:
            # No parameters here: NVIDIA's C++ client looks for binary_data_size in any that it finds.
            write(request.places[name], array)
        elif as_binary:
            part["parameters"] = {_BINARY_SIZE: array.nbytes}
            raw.append(np.ascontiguousarray(array))
        else:
            part["data"] = json_tensors.values_from_array(name, array)
        parts.append(part)
    answer: dict[str, Any] = {"model_name": model, "model_version": version, "outputs": parts}
    if request.id:
        answer["id"] = request.id
    return Response(_ENCODER.encode(answer), raw)


def tensor_metadata(spec: tensors.TensorSpec) -> dict[str, Any]:
    """Gives a tensor as the protocol describes it: a free axis is -1."""
    shape = [-1 if axis is None else axis for axis in spec.shape]
    return {"name": spec.name, "datatype": v2.datatype_of(spec.dtype), "shape": shape}


def _header(text: memoryview) -> _Header:
    try:
        return _DECODER.decode(text)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise errors.InputError(f"failed to parse the request JSON: {error}") from error


def _request(header: _Header, feeds: dict[str, NDArray[Any]]) -> Request:
    parameters = header.parameters
    is_binary = parameters.get("binary_data_output") is True
    wanted, places = {}, {}
    for output in header.outputs:
        wanted[output.name] = output.parameters.get(_BINARY, is_binary) is True
        if output.parameters:
            if output.parameters.get("classification"):
                raise errors.InputError("the classification extension is not spoken here; take the raw output")
            if place := v2.place_of(output.name, output.parameters):
                places[output.name] = place
    if "priority" not in parameters and "timeout" not in parameters:
        return Request(header.id, feeds, wanted, is_binary, places)
    priority, timeout_us = (v2.whole_number(parameters, key) for key in ("priority", "timeout"))
    return Request(header.id, feeds, wanted, is_binary, places, priority, timeout_us)


def _tensor(part: _Input, rest: memoryview, read: v2.Read | None, unfold: v2.Unfold | None) -> tuple[NDArray[Any], int]:
    """Gives one input, and how many bytes of the body it took."""
    if place := v2.place_of(part.name, part.parameters):
        if read is None:
            raise errors.InputError(f"input {part.name!r} lies in shared memory, which is not taken here")
        return v2.tensor_from_shared(part.name, part.datatype, part.shape, read(place), unfold), 0
    length = _binary_size(part)
    if length is None:
        return json_tensors.array_from_json(part.name, part.datatype, part.shape, part.data), 0
    if length > len(rest):
        if part.datatype != v2.BYTES:
            v2.check_size(part.name, part.datatype, part.shape, length)
        raise errors.InputError(f"input {part.name!r} needs {length} bytes, but the body has only {len(rest)} more")
    return v2.tensor_from_raw(part.name, part.datatype, part.shape, rest[:length], unfold), length


def _binary_size(part: _Input) -> int | None:
    size = part.parameters.get(_BINARY_SIZE)
    if size is None:
        return None
    if isinstance(size, bool) or not isinstance(size, int) or size < 0:
        raise errors.InputError(f"{_BINARY_SIZE} of input {part.name!r} is {size!r}; expected a number of bytes")
    if part.data:
        raise errors.InputError(f"input {part.name!r} has both data and {_BINARY_SIZE}; give one")
    return size
