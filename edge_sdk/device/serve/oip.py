"""Open Inference Protocol v2 over HTTP: requests and responses, as JSON and with the binary extension. Pure.

Who asks again and again sends the same JSON before other tensors, and is given the same JSON back. Both are remembered,
so that such a request costs neither parsing nor writing it.

Source: open-inference-protocol ``inference_rest.md``; Triton's ``extension_binary_data.md`` and
``extension_shared_memory.md``.
"""

import functools
import math
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

_REMEMBERED_BYTES = 4096
"""JSON before raw tensors is remembered up to this length."""
_REMEMBERED = 64
"""So many of each: more than a device has callers, and less than a megabyte whatever they send."""


class _Part(NamedTuple):
    """Where one input comes from, and what it is to be.

    Attributes:
        name, datatype, shape: as sent.
        place: in shared memory, if it lies there.
        length: of its raw bytes, if they follow the JSON.
        data: its values, if they are in the JSON.
        dtype: numpy's, where type, shape and length agree and any bytes will do; else None.
    """

    name: str
    datatype: str
    shape: tuple[int, ...]
    place: Place | None
    length: int | None
    data: msgspec.Raw
    dtype: np.dtype[Any] | None


class _Plan(NamedTuple):
    """What the JSON of a request says: its inputs, and the rest of it with no tensors yet."""

    parts: tuple[_Part, ...]
    rest: Request


class _Told(NamedTuple):
    """One output as an answer tells of it; `size_bytes` where it follows the JSON, else None."""

    name: str
    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    size_bytes: int | None


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
    if header_bytes is None or size > _REMEMBERED_BYTES:
        parts, rest = _planned(bytes(body[:size]))
    else:
        parts, rest = _remembered(bytes(body[:size]))
    feeds: dict[str, NDArray[Any]] = {}
    at = size
    for part in parts:
        length = part.length or 0
        if part.dtype is not None and at + length <= len(body):
            flat: NDArray[Any] = np.frombuffer(body[at : at + length], part.dtype)
            feeds[part.name] = flat.reshape(part.shape)
        else:
            feeds[part.name] = _tensor(part, body[at : at + length], read, unfold)
        at += length
    if at != len(body):
        raise errors.InputError(f"the body has {len(body) - at} bytes after the last tensor")
    return Request(rest.id, feeds, rest.wanted, rest.is_binary, rest.places, rest.priority, rest.timeout_us)


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
    told: list[_Told] = []
    raw: list[NDArray[Any]] = []
    values: dict[str, list[Any]] = {}
    for name, as_binary in wanted.items():
        array = outputs[name]
        size_bytes = None
        if name in request.places and write is not None:
            write(request.places[name], array)
        elif as_binary:
            size_bytes = array.nbytes
            raw.append(np.ascontiguousarray(array))
        else:
            values[name] = json_tensors.values_from_array(name, array)
        told.append(_Told(name, array.dtype, array.shape, size_bytes))
    if values or request.id:
        return Response(_answer_text(model, version, tuple(told), request.id, values), raw)
    return Response(_remembered_answer(model, version, tuple(told)), raw)


def tensor_metadata(spec: tensors.TensorSpec) -> dict[str, Any]:
    """Gives a tensor as the protocol describes it: a free axis is -1."""
    shape = [-1 if axis is None else axis for axis in spec.shape]
    return {"name": spec.name, "datatype": v2.datatype_of(spec.dtype), "shape": shape}


def _planned(text: bytes) -> _Plan:
    """Gives what JSON says; what is remembered of it is shared by requests, and nobody writes to it."""
    try:
        header = _DECODER.decode(text)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise errors.InputError(f"failed to parse the request JSON: {error}") from error
    parts: dict[str, _Part] = {}
    for given in header.inputs:
        if given.name in parts:
            raise errors.InputError(f"input {given.name!r} is given twice")
        parts[given.name] = _part(given)
    return _Plan(tuple(parts.values()), _request(header))


_remembered = functools.lru_cache(_REMEMBERED)(_planned)


def _part(given: _Input) -> _Part:
    place = v2.place_of(given.name, given.parameters)
    length = None if place is not None else _binary_size(given)
    dtype = v2.number_type(given.datatype)
    if not length or dtype is None or length != math.prod(given.shape) * dtype.itemsize:
        dtype = None
    return _Part(given.name, given.datatype, given.shape, place, length, given.data, dtype)


def _request(header: _Header) -> Request:
    """Gives what the request wants beside its tensors; it has none yet."""
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
    priority, timeout_us = (v2.whole_number(parameters, key) for key in ("priority", "timeout"))
    return Request(header.id, {}, wanted, is_binary, places, priority, timeout_us)


def _tensor(part: _Part, raw: memoryview, read: v2.Read | None, unfold: v2.Unfold | None) -> NDArray[Any]:
    """Gives one input; `raw` is what the body has of it."""
    if part.place is not None:
        if read is None:
            raise errors.InputError(f"input {part.name!r} lies in shared memory, which is not taken here")
        return v2.tensor_from_shared(part.name, part.datatype, part.shape, read(part.place), unfold)
    if part.length is None:
        return json_tensors.array_from_json(part.name, part.datatype, part.shape, part.data)
    if part.length > len(raw):
        if part.datatype != v2.BYTES:
            v2.check_size(part.name, part.datatype, part.shape, part.length)
        raise errors.InputError(f"input {part.name!r} needs {part.length} bytes, but the body has only {len(raw)} more")
    return v2.tensor_from_raw(part.name, part.datatype, part.shape, raw, unfold)


def _binary_size(part: _Input) -> int | None:
    size = part.parameters.get(_BINARY_SIZE)
    if size is None:
        return None
    if isinstance(size, bool) or not isinstance(size, int) or size < 0:
        raise errors.InputError(f"{_BINARY_SIZE} of input {part.name!r} is {size!r}; expected a number of bytes")
    if part.data:
        raise errors.InputError(f"input {part.name!r} has both data and {_BINARY_SIZE}; give one")
    return size


def _answer_text(
    model: str, version: str, told: tuple[_Told, ...], given_id: str = "", values: Mapping[str, list[Any]] | None = None
) -> bytes:
    """Gives the JSON of an answer; `values` are of the outputs that go in it."""
    parts: list[dict[str, Any]] = []
    for name, dtype, shape, size_bytes in told:
        part: dict[str, Any] = {"name": name, "datatype": v2.datatype_of_dtype(dtype), "shape": shape}
        # None of shared memory has parameters: NVIDIA's C++ client looks for binary_data_size in any that it finds.
        if size_bytes is not None:
            part["parameters"] = {_BINARY_SIZE: size_bytes}
        elif values and name in values:
            part["data"] = values[name]
        parts.append(part)
    answer: dict[str, Any] = {"model_name": model, "model_version": version, "outputs": parts}
    if given_id:
        answer["id"] = given_id
    return _ENCODER.encode(answer)


_remembered_answer = functools.lru_cache(_REMEMBERED)(_answer_text)
