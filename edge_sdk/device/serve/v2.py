"""Open Inference Protocol v2 apart from its transports: element types, requests, raw tensors. Pure."""

import math
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple, TypeAlias

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

DATATYPES = {dtype: datatype for datatype, dtype in DTYPES.items()}

_NUMPY = {datatype: np.dtype(dtype) for datatype, dtype in DTYPES.items()}
_FROM_NUMPY = {dtype: datatype for datatype, dtype in _NUMPY.items()}
"""Made once: numpy takes longer to name a type than all the rest of a small answer does."""

Parameters: TypeAlias = Mapping[str, str | int | float | bool]

_REGION, _OFFSET, _SIZE = "shared_memory_region", "shared_memory_offset", "shared_memory_byte_size"


class Place(NamedTuple):
    """Where a tensor lies in a registered region of shared memory."""

    region: str
    offset: int
    byte_size: int


Read: TypeAlias = Callable[[Place], memoryview]

Unfold: TypeAlias = Callable[[str, tuple[int, ...], memoryview], NDArray[Any]]
"""Gives the input that a BYTES tensor stands for: its name, shape and raw bytes are taken."""

BYTES = "BYTES"
"""Elements of any length: here pictures, JPEG or PNG, that become the input which their model takes."""


class Request(NamedTuple):
    """One inference request.

    Attributes:
        id: the client's own, to be echoed; empty for none.
        feeds: arrays by input name; they may lie in the request's buffer.
        wanted: whether the answer is to be binary, by output name; empty means all outputs.
        is_binary: how outputs go that the request does not name.
        places: where to put outputs that are to lie in shared memory, by name.
        priority: 1 is the most urgent; 0 for none.
        timeout_us: microseconds that it may wait for an engine; 0 for none.
    """

    id: str
    feeds: dict[str, NDArray[Any]]
    wanted: dict[str, bool]
    is_binary: bool
    places: Mapping[str, Place] = MappingProxyType({})
    priority: int = 0
    timeout_us: int = 0


def place_of(name: str, parameters: Parameters) -> Place | None:
    """Gives where a tensor's parameters say that it lies in shared memory; None if they say no such thing.

    Raises:
        InputError: they say it wrongly.
    """
    region = parameters.get(_REGION)
    if region is None:
        return None
    offset, size = whole_number(parameters, _OFFSET), whole_number(parameters, _SIZE)
    if not isinstance(region, str) or size == 0:
        raise errors.InputError(f"tensor {name!r} in shared memory needs {_REGION} and {_SIZE}")
    return Place(region, offset, size)


def whole_number(parameters: Parameters, key: str) -> int:
    """Gives a parameter that counts something; 0 without it.

    Raises:
        InputError: it is no number, or negative.
    """
    value = parameters.get(key, 0)
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise errors.InputError(f"{key} is {value!r}; expected a whole number that is not negative")
    return value


def dtype_of(name: str, datatype: str) -> np.dtype[Any]:
    """Gives numpy's type for the protocol's.

    Raises:
        InputError: the protocol has no such type, or it is not served here.
    """
    # The wire is little-endian, and so is every machine that this runs on.
    dtype = _NUMPY.get(datatype)
    if dtype is None:
        known = ", ".join(DTYPES)
        raise errors.InputError(f"input {name!r} has the datatype {datatype[:40]!r}; known: {known}")
    return dtype


def datatype_of(dtype: str) -> str:
    """Gives the protocol's name for numpy's.

    Raises:
        EngineError: the protocol has none.
    """
    if dtype not in DATATYPES:
        raise errors.EngineError(f"the model gives {dtype}, which the Open Inference Protocol cannot carry")
    return DATATYPES[dtype]


def datatype_of_dtype(dtype: np.dtype[Any]) -> str:
    """Gives the protocol's name of an array's element type; raises as `datatype_of` does."""
    return _FROM_NUMPY.get(dtype) or datatype_of(dtype.name)


def number_type(datatype: str) -> np.dtype[Any] | None:
    """Gives numpy's type where every pattern of bits is a value of it; None for all else."""
    return None if datatype == "BOOL" else _NUMPY.get(datatype)


def array_from_raw(name: str, datatype: str, shape: tuple[int, ...], raw: memoryview) -> NDArray[Any]:
    """Gives a tensor from its little-endian bytes, without a copy; `check_size` has been called for it.

    Raises:
        InputError: an unknown type, or a BOOL that is neither 0 nor 1.
    """
    dtype = dtype_of(name, datatype)
    if datatype == "BOOL" and np.any(np.frombuffer(raw, np.uint8) > 1):
        raise errors.InputError(f"input {name!r} is BOOL, but has bytes other than 0 and 1")
    return np.frombuffer(raw, dtype).reshape(shape)


def tensor_from_raw(
    name: str, datatype: str, shape: tuple[int, ...], raw: memoryview, unfold: Unfold | None
) -> NDArray[Any]:
    """Gives an input from its bytes, of whatever type it is.

    Raises:
        InputError: the bytes do not fit type and shape, or are no pictures.
    """
    if datatype == BYTES and unfold is not None:
        return unfold(name, shape, raw)
    check_size(name, datatype, shape, len(raw))
    return array_from_raw(name, datatype, shape, raw)


def tensor_from_shared(
    name: str, datatype: str, shape: tuple[int, ...], raw: memoryview, unfold: Unfold | None
) -> NDArray[Any]:
    """As `tensor_from_raw`, from memory that the client can still write to.

    Floats are numbers whatever it writes, so they are used where they lie; everything else is copied first, since an
    operator may use whole numbers as indices after it has checked them.
    """
    is_number = datatype.startswith("FP")
    found = tensor_from_raw(name, datatype, shape, raw if is_number else memoryview(bytes(raw)), unfold)
    return found if found.flags.aligned else found.copy()


def check_size(name: str, datatype: str, shape: tuple[int, ...], byte_size: int) -> None:
    """Raises InputError unless a tensor of that type and shape has so many bytes."""
    expected = math.prod(shape) * dtype_of(name, datatype).itemsize
    if byte_size != expected:
        raise errors.InputError(
            f"unexpected total byte size {byte_size} for input {name!r}, "
            f"expecting {expected} for {tensors.shape_text(datatype, shape)}"
        )


def check_wanted(model: str, wanted: Mapping[str, Any], outputs: Mapping[str, Any]) -> None:
    """Raises InputError unless the model gives every output that is wanted."""
    for name in wanted:
        if name not in outputs:
            raise errors.InputError(
                f"unexpected inference output {name!r} for model {model!r}; it gives {sorted(outputs)}"
            )
