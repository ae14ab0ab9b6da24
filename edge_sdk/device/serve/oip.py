"""Open Inference Protocol v2: requests and responses, as JSON and with the binary extension. Pure: bytes and arrays.

Source: open-inference-protocol ``inference_rest.md``; Triton's ``extension_binary_data.md``.
"""

import functools
import math
from collections.abc import Mapping
from typing import Annotated, Any, NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from edge_sdk import errors
from edge_sdk.records import tensors

DTYPES = {
    "BOOL": "bool",
    **{f"{kind.upper()}{bits}": f"{kind}{bits}" for kind in ("int", "uint") for bits in (8, 16, 32, 64)},
    **{f"FP{bits}": f"float{bits}" for bits in (16, 32, 64)},
}
"""The protocol's names of element types, and numpy's."""

_WIDE = {"b": np.bool_, "i": np.int64, "u": np.uint64, "f": np.float64}
"""What JSON's numbers are first, so that a value out of range is refused and not wrapped."""

DATATYPES = {dtype: datatype for datatype, dtype in DTYPES.items()}

MAX_JSON_BYTES = 64 * 1024
"""Largest tensor as JSON text, either way: it takes 160 to 390 times as long as the same bytes as they are."""

_BINARY = "binary_data"
_BINARY_SIZE = "binary_data_size"
_WAY_OUT = "send it with the binary extension (Inference-Header-Content-Length and binary_data_size)"
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


class Request(NamedTuple):
    """One inference request.

    Attributes:
        id: the client's own, to be echoed; empty for none.
        feeds: arrays by input name; they may lie in the request's buffer.
        wanted: whether the answer is to be binary, by output name; empty means all outputs.
        is_binary: how outputs go that the request does not name.
    """

    id: str
    feeds: dict[str, NDArray[Any]]
    wanted: dict[str, bool]
    is_binary: bool


class Response(NamedTuple):
    """One answer: its JSON, then the raw tensors in order."""

    header: bytes
    raw: list[NDArray[Any]]


def parse_request(body: memoryview, header_bytes: int | None = None) -> Request:
    """Gives the request in `body`.

    Args:
        body: JSON, and after it the raw tensors if `header_bytes` is given.
        header_bytes: length of the JSON, from ``Inference-Header-Content-Length``; None when all of it is JSON.

    Raises:
        InputError: not the protocol, an unknown datatype, or data that does not fit its shape.
    """
    if header_bytes is not None and header_bytes > len(body):
        raise errors.InputError(
            f"Inference-Header-Content-Length is {header_bytes}, but the body has {len(body)} bytes"
        )
    size = len(body) if header_bytes is None else header_bytes
    if size > MAX_JSON_BYTES:
        raise errors.InputError(f"{size} bytes of JSON; at most {MAX_JSON_BYTES} are read, so {_WAY_OUT}")
    header = _header(body[:size])
    feeds: dict[str, NDArray[Any]] = {}
    at = size
    for part in header.inputs:
        if part.name in feeds:
            raise errors.InputError(f"input {part.name!r} is given twice")
        length = _binary_size(part)
        feeds[part.name] = _from_json(part) if length is None else _from_raw(part, body[at:], length)
        at += length or 0
    if at != len(body):
        raise errors.InputError(f"the body has {len(body) - at} bytes after the last tensor")
    is_binary = header.parameters.get("binary_data_output") is True
    wanted = {output.name: output.parameters.get(_BINARY, is_binary) is True for output in header.outputs}
    return Request(header.id, feeds, wanted, is_binary)


def response_from_outputs(
    request: Request, *, model: str, version: str, outputs: Mapping[str, NDArray[Any]]
) -> Response:
    """Gives the answer to `request`.

    Raises:
        InputError: it wants an output that the model has not, or one as JSON that JSON can't carry.
    """
    wanted = request.wanted or dict.fromkeys(outputs, request.is_binary)
    parts: list[dict[str, Any]] = []
    raw: list[NDArray[Any]] = []
    for name, as_binary in wanted.items():
        if name not in outputs:
            raise errors.InputError(
                f"unexpected inference output {name!r} for model {model!r}; it gives {sorted(outputs)}"
            )
        array = outputs[name]
        part: dict[str, Any] = {"name": name, "datatype": datatype_of(array.dtype.name), "shape": array.shape}
        if as_binary:
            part["parameters"] = {_BINARY_SIZE: array.nbytes}
            raw.append(np.ascontiguousarray(array))
        else:
            part["data"] = _json_values(name, array)
        parts.append(part)
    answer: dict[str, Any] = {"model_name": model, "model_version": version, "outputs": parts}
    if request.id:
        answer["id"] = request.id
    return Response(_ENCODER.encode(answer), raw)


def tensor_metadata(spec: tensors.TensorSpec) -> dict[str, Any]:
    """Gives a tensor as the protocol describes it: a free axis is -1."""
    shape = [-1 if axis is None else axis for axis in spec.shape]
    return {"name": spec.name, "datatype": datatype_of(spec.dtype), "shape": shape}


def datatype_of(dtype: str) -> str:
    """Gives the protocol's name for numpy's.

    Raises:
        EngineError: the protocol has none.
    """
    if dtype not in DATATYPES:
        raise errors.EngineError(f"the model gives {dtype}, which the Open Inference Protocol cannot carry")
    return DATATYPES[dtype]


def _header(text: memoryview) -> _Header:
    try:
        return _DECODER.decode(text)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise errors.InputError(f"failed to parse the request JSON: {error}") from error


def _binary_size(part: _Input) -> int | None:
    size = part.parameters.get(_BINARY_SIZE)
    if size is None:
        return None
    if isinstance(size, bool) or not isinstance(size, int) or size < 0:
        raise errors.InputError(f"{_BINARY_SIZE} of input {part.name!r} is {size!r}; expected a number of bytes")
    if part.data:
        raise errors.InputError(f"input {part.name!r} has both data and {_BINARY_SIZE}; give one")
    return size


def _dtype(part: _Input) -> np.dtype[Any]:
    if part.datatype not in DTYPES:
        known = ", ".join(DTYPES)
        raise errors.InputError(f"input {part.name!r} has the datatype {part.datatype[:40]!r}; known: {known}")
    # The wire is little-endian, and so is every machine that this runs on.
    return np.dtype(DTYPES[part.datatype])


def _from_raw(part: _Input, rest: memoryview, length: int) -> NDArray[Any]:
    dtype = _dtype(part)
    expected = math.prod(part.shape) * dtype.itemsize
    if length != expected:
        raise errors.InputError(
            f"unexpected total byte size {length} for input {part.name!r}, expecting {expected} for {_text(part)}"
        )
    if length > len(rest):
        raise errors.InputError(f"input {part.name!r} needs {length} bytes, but the body has only {len(rest)} more")
    if dtype == np.bool_ and np.any(np.frombuffer(rest[:length], np.uint8) > 1):
        raise errors.InputError(f"input {part.name!r} is BOOL, but has bytes other than 0 and 1")
    return np.frombuffer(rest[:length], dtype).reshape(part.shape)


def _from_json(part: _Input) -> NDArray[Any]:
    dtype = _dtype(part)
    if not part.data:
        raise errors.InputError(f"input {part.name!r} has neither data nor {_BINARY_SIZE}")
    found = _numbers(part, dtype)
    if found.size == math.prod(part.shape) == 0:
        return np.zeros(part.shape, dtype)
    if found.size != math.prod(part.shape) or found.shape not in (part.shape, (found.size,)):
        given = list(found.shape)
        raise errors.InputError(
            f"data of input {part.name!r} has the shape {given}, expected {list(part.shape)} or flat"
        )
    with np.errstate(over="ignore"):
        values: NDArray[Any] = found.astype(dtype).reshape(part.shape)
    if dtype.kind == "f" and not np.all(np.isfinite(values)):
        raise errors.InputError(f"data of input {part.name!r} has values outside {part.datatype}")
    return values


def _numbers(part: _Input, dtype: np.dtype[Any]) -> NDArray[Any]:
    """Gives the values of `data`, nested as the shape or flat; each is one that `dtype` holds, in a wide dtype."""
    is_nested = bytes(part.data)[1:].lstrip(b" \t\r\n").startswith(b"[")
    try:
        values = msgspec.json.decode(part.data, type=_list_type(dtype, len(part.shape) if is_nested else 1))
        return np.array(values, _WIDE[dtype.kind])
    except (msgspec.DecodeError, ValueError, OverflowError, RecursionError) as error:
        raise errors.InputError(
            f"data of input {part.name!r} does not hold {part.datatype}{list(part.shape)}: {error}"
        ) from error


@functools.cache
def _list_type(dtype: np.dtype[Any], depth: int) -> Any:
    """Gives the type of lists that are `depth` deep and hold what `dtype` holds."""
    kind: Any = {"b": bool, "f": float}.get(dtype.kind)
    if kind is None:
        info = np.iinfo(dtype)
        # A bound above 63 bits can't be said here; numpy refuses what goes beyond it.
        kind = Annotated[int, msgspec.Meta(ge=int(info.min), le=None if dtype == np.uint64 else int(info.max))]
    for _ in range(depth):
        kind = list[kind]
    return kind


def _json_values(name: str, array: NDArray[Any]) -> list[Any]:
    if array.nbytes > MAX_JSON_BYTES:
        raise errors.InputError(
            f"output {name!r} has {array.nbytes} bytes; at most {MAX_JSON_BYTES} are given as JSON, "
            "so ask for it as binary (binary_data in the output's parameters, or binary_data_output for all)"
        )
    if array.dtype.kind == "f" and not np.all(np.isfinite(array)):
        raise errors.InputError(
            f"output {name!r} has values that JSON can't carry (NaN or infinity); ask for it as binary"
        )
    values: list[Any] = array.ravel().tolist()
    return values


def _text(part: _Input) -> str:
    return tensors.shape_text(part.datatype, part.shape)
