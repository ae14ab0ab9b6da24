"""Tensors as JSON text, both ways: strict, and only small ones. Pure."""

import functools
import math
from typing import Annotated, Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from edge_sdk import errors
from edge_sdk.device.serve import v2

MAX_JSON_BYTES = 64 * 1024
"""Largest tensor as JSON text, either way: it takes 160 to 390 times as long as the same bytes as they are."""

WAY_OUT = "send it with the binary extension (Inference-Header-Content-Length and binary_data_size)"

_WIDE = {"b": np.bool_, "i": np.int64, "u": np.uint64, "f": np.float64}
"""What JSON's numbers are first, so that a value out of range is refused and not wrapped."""


def array_from_json(name: str, datatype: str, shape: tuple[int, ...], data: msgspec.Raw) -> NDArray[Any]:
    """Gives a tensor from its values, nested as the shape or flat.

    Raises:
        InputError: no values, another number of them, or one that the type does not hold.
    """
    dtype = v2.dtype_of(name, datatype)
    if not data:
        raise errors.InputError(f"input {name!r} has neither data nor binary_data_size")
    found = _numbers(name, datatype, shape, data)
    if found.size == math.prod(shape) == 0:
        return np.zeros(shape, dtype)
    if found.size != math.prod(shape) or found.shape not in (shape, (found.size,)):
        given = list(found.shape)
        raise errors.InputError(f"data of input {name!r} has the shape {given}, expected {list(shape)} or flat")
    with np.errstate(over="ignore"):
        values: NDArray[Any] = found.astype(dtype).reshape(shape)
    if dtype.kind == "f" and not np.all(np.isfinite(values)):
        raise errors.InputError(f"data of input {name!r} has values outside {datatype}")
    return values


def values_from_array(name: str, array: NDArray[Any]) -> list[Any]:
    """Gives a tensor's values, flat.

    Raises:
        InputError: it is too large, or has values that JSON has no word for.
    """
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


def _numbers(name: str, datatype: str, shape: tuple[int, ...], data: msgspec.Raw) -> NDArray[Any]:
    """Gives the values of `data`, nested as the shape or flat; each is one that the type holds, in a wide dtype."""
    dtype = v2.dtype_of(name, datatype)
    is_nested = bytes(data)[1:].lstrip(b" \t\r\n").startswith(b"[")
    try:
        values = msgspec.json.decode(data, type=_list_type(dtype, len(shape) if is_nested else 1))
        return np.array(values, _WIDE[dtype.kind])
    except (msgspec.DecodeError, ValueError, OverflowError, RecursionError) as error:
        raise errors.InputError(f"data of input {name!r} does not hold {datatype}{list(shape)}: {error}") from error


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
