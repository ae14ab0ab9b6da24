"""Inference over gRPC v2: its messages to requests, and answers to its messages. Pure."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_sdk import errors
from edge_sdk.device.serve import v2
from edge_sdk.device.serve.models import Model
from edge_sdk.device.serve.v2 import Place, Request

_FIELDS = {
    "BOOL": "bool_contents",
    **dict.fromkeys(("INT8", "INT16", "INT32"), "int_contents"),
    "INT64": "int64_contents",
    **dict.fromkeys(("UINT8", "UINT16", "UINT32"), "uint_contents"),
    "UINT64": "uint64_contents",
    "FP32": "fp32_contents",
    "FP64": "fp64_contents",
}


def request_from_message(message: Mapping[str, Any], read: v2.Read, unfold: v2.Unfold | None = None) -> Request:
    """Gives the request in a ModelInferRequest.

    Args:
        message: decoded.
        read: gives the bytes at a place in shared memory.
        unfold: gives the input that a BYTES tensor stands for.

    Raises:
        InputError: an unknown datatype, or data that does not fit its shape.
    """
    raws: list[memoryview] = message.get("raw_input_contents", [])
    feeds: dict[str, NDArray[Any]] = {}
    used = 0
    for tensor in message.get("inputs", []):
        name, datatype = tensor.get("name", ""), tensor.get("datatype", "")
        shape = tuple(tensor.get("shape", ()))
        if name in feeds:
            raise errors.InputError(f"input {name!r} is given twice")
        if any(axis < 0 for axis in shape):
            raise errors.InputError(f"input {name!r} has the shape {list(shape)}; no axis may be negative")
        if place := v2.place_of(name, _parameters(tensor)):
            feeds[name] = v2.tensor_from_shared(name, datatype, shape, read(place), unfold)
        elif tensor.get("contents"):
            feeds[name] = _from_contents(name, datatype, shape, tensor["contents"])
        elif used < len(raws):
            feeds[name] = v2.tensor_from_raw(name, datatype, shape, raws[used], unfold)
            used += 1
        else:
            raise errors.InputError(f"input {name!r} has no data: expected contents, or one more raw_input_contents")
    if used != len(raws):
        raise errors.InputError(f"{len(raws)} raw_input_contents came for {used} inputs without other data")
    wanted, places = _outputs(message)
    given = _parameters(message)
    return Request(
        message.get("id", ""),
        feeds,
        wanted,
        is_binary=True,
        places=places,
        priority=v2.whole_number(given, "priority"),
        timeout_us=v2.whole_number(given, "timeout"),
    )


def message_from_outputs(
    request: Request,
    model: Model,
    outputs: Mapping[str, NDArray[Any]],
    write: Callable[[Place, NDArray[Any]], None],
) -> dict[str, Any]:
    """Gives the ModelInferResponse; every output has its raw contents, empty for those in shared memory.

    Raises:
        InputError: an output is wanted that the model has not, or its place does not hold it.
    """
    wanted = request.wanted or outputs
    v2.check_wanted(model.name, wanted, outputs)
    described: list[dict[str, Any]] = []
    raw: list[memoryview | bytes] = []
    for name in wanted:
        array = outputs[name]
        described.append({"name": name, "datatype": v2.datatype_of_dtype(array.dtype), "shape": array.shape})
        if name in request.places:
            write(request.places[name], array)
            raw.append(b"")
        else:
            raw.append(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data if array.size else b"")
    return {
        "model_name": model.name,
        "model_version": model.version,
        "id": request.id,
        "outputs": described,
        "raw_output_contents": raw,
    }


def _outputs(message: Mapping[str, Any]) -> tuple[dict[str, bool], dict[str, Place]]:
    wanted, places = {}, {}
    for output in message.get("outputs", []):
        name, parameters = output.get("name", ""), _parameters(output)
        wanted[name] = True
        if parameters.get("classification"):
            raise errors.InputError("the classification extension is not spoken here; take the raw output")
        if place := v2.place_of(name, parameters):
            places[name] = place
    return wanted, places


def _parameters(message: Mapping[str, Any]) -> dict[str, Any]:
    """Gives the parameters by name; a value of zero has no bytes on the wire, so it is the absent one."""
    return {name: next(iter(value.values()), 0) for name, value in message.get("parameters", {}).items()}


def _from_contents(name: str, datatype: str, shape: tuple[int, ...], contents: Mapping[str, list[Any]]) -> NDArray[Any]:
    dtype = v2.dtype_of(name, datatype)
    field = _FIELDS.get(datatype)
    values = contents.get(field) if field else None
    if values is None:
        expected = f"{field} or raw_input_contents" if field else "raw_input_contents"
        raise errors.InputError(
            f"input {name!r} is {datatype} and has its data in {', '.join(contents)}; use {expected}"
        )
    v2.check_size(name, datatype, shape, len(values) * dtype.itemsize)
    try:
        return np.array(values, dtype).reshape(shape)
    except (OverflowError, ValueError) as error:
        raise errors.InputError(f"input {name!r} has a value that {datatype} does not hold: {error}") from error
