"""ONNX files: parsed without trust, weights that lie beside the model found, checked and taken along."""

import math
import os
import stat
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO, NamedTuple

import numpy as np
import onnx
import onnx.checker
import onnx.helper
import onnx.numpy_helper
from google.protobuf.message import DecodeError, Message
from numpy.typing import NDArray

from edge_sdk import errors

MESSAGE_BYTES_MAX = 2**31 - 1
"""What protobuf takes as one message."""

_CHUNK_BYTES = 16 * 2**20


class Stored(NamedTuple):
    """A tensor whose values lie in a file beside the model, which was checked to be there and to hold them."""

    tensor: onnx.TensorProto
    file: Path
    offset: int
    length: int


def read_proto(path: Path) -> onnx.ModelProto:
    """Gives what an ONNX file holds; weights stored beside it stay there.

    Raises:
        ModelError: there is no such file, or it is not ONNX.
    """
    if not path.is_file():
        raise errors.ModelError(f"there is no model file {path}; expected an .onnx file")
    size_bytes = path.stat().st_size
    if size_bytes > MESSAGE_BYTES_MAX:
        raise errors.ModelError(
            f"{path} has {size_bytes} bytes; an ONNX file has {MESSAGE_BYTES_MAX} at most: save it with external data"
        )
    proto = onnx.ModelProto()
    try:
        proto.ParseFromString(path.read_bytes())
    except DecodeError as error:
        raise errors.ModelError(
            f"{path} is not an ONNX file, or only part of one ({error}); expected what torch.onnx.export writes"
        ) from error
    if not proto.ir_version or not proto.graph.node:
        raise errors.ModelError(
            f"{path} is not an ONNX file, or its graph is empty; expected what torch.onnx.export writes"
        )
    if not _is_text_sound(proto):
        raise errors.ModelError(f"{path} holds names that are no text; the file is damaged, export it again")
    return proto


def stored_tensors(proto: onnx.ModelProto, path: Path) -> list[Stored]:
    """Gives every tensor of a model whose values lie in another file, each of which was checked.

    Raises:
        ModelError: a file is missing, too short, a link, not plain, or outside the model's folder.
    """
    return [_checked(tensor, path) for tensor in tensors_in(proto) if _lies_in_file(tensor)]


def tensors_in(message: Message) -> Iterator[onnx.TensorProto]:
    """Gives every tensor anywhere inside: weights, attributes, functions, bodies, sparse parts, training."""
    for field, value in message.ListFields():
        if field.message_type is None:
            continue
        for part in [value] if isinstance(value, Message) else value:
            if isinstance(part, onnx.TensorProto):
                yield part
            else:
                yield from tensors_in(part)


def take_in(stored: Sequence[Stored]) -> None:
    """Moves values from their files into the model."""
    for tensor, file, offset, length in stored:
        with _opened(file) as stream:
            stream.seek(offset)
            tensor.raw_data = stream.read(length)
        _forget_file(tensor)


def write_beside(stored: Sequence[Stored], target: Path) -> None:
    """Copies values into one file, in pieces, and points the tensors at it.

    Args:
        stored: what to copy.
        target: the new file, in the folder where the model will be.
    """
    with target.open("wb") as sink:
        for tensor, file, offset, length in stored:
            start = -(-sink.tell() // 4096) * 4096  # on a page, so that it can be mapped into memory
            sink.seek(start)
            with _opened(file) as stream:
                stream.seek(offset)
                _copy(stream, sink, length)
            _forget_file(tensor)
            tensor.data_location = onnx.TensorProto.EXTERNAL
            for key, value in (("location", target.name), ("offset", start), ("length", length)):
                tensor.external_data.add(key=key, value=str(value))
        sink.truncate()  # to here, also after a hole


def check_standard(path: Path) -> None:
    """Passes a file through onnx's own checker, which reads it by path, so that its size does not matter.

    Raises:
        ModelError: it breaks the standard; with the checker's words.
    """
    try:
        onnx.checker.check_model(str(path))
    except (onnx.checker.ValidationError, ValueError, RuntimeError) as error:
        first = str(error).strip().split("\n\n")[0]
        raise errors.ModelError(f"{path} breaks the ONNX standard: {first}; export it again") from error


def values_of(tensor: onnx.TensorProto, path: Path) -> NDArray[Any]:
    """Gives a tensor's values; those in a file beside the model at `path` are mapped, not read.

    Raises:
        ModelError: there are more or fewer bytes than its shape and dtype say.
    """
    if not _lies_in_file(tensor):
        try:
            return np.asarray(onnx.numpy_helper.to_array(tensor))
        except (ValueError, TypeError, KeyError) as error:
            raise errors.ModelError(
                f"weight {tensor.name!r} of {path} can't be read: {error}; export it again"
            ) from error
    stored = _checked(tensor, path)
    dtype = np.dtype(onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type))
    if dtype.kind not in "fiub" or not stored.length:
        return np.empty(0, np.float32)  # packed four-bit values and the like, which can't be NaN
    wanted = dtype.itemsize * math.prod(tensor.dims)
    if wanted != stored.length:
        raise errors.ModelError(
            f"weight {tensor.name!r} of {path} takes {wanted} bytes, but {stored.length} are stored; export it again"
        )
    return np.memmap(stored.file, dtype, "r", offset=stored.offset, shape=tuple(tensor.dims))


def _is_text_sound(message: Message) -> bool:
    """Whether every string inside is one: protobuf hands over what is no UTF-8 as bytes. No weight is read for it."""
    for field in message.DESCRIPTOR.fields:
        if field.message_type is None and field.type != field.TYPE_STRING:
            continue
        value = getattr(message, field.name)
        if field.message_type is None:
            values = [value] if isinstance(value, str | bytes) else value
            if any(isinstance(text, bytes) for text in values):
                return False
        elif not isinstance(value, Message):
            if not all(map(_is_text_sound, value)):
                return False
        elif message.HasField(field.name) and not _is_text_sound(value):
            return False
    return True


def _lies_in_file(tensor: onnx.TensorProto) -> bool:
    return bool(tensor.data_location == onnx.TensorProto.EXTERNAL or tensor.external_data)


def _checked(tensor: onnx.TensorProto, path: Path) -> Stored:
    entries = {entry.key: entry.value for entry in tensor.external_data}
    location = entries.get("location", "")
    file = _checked_file(tensor.name, location, path)
    size_bytes = file.stat().st_size
    try:
        offset = int(entries.get("offset") or 0)
        length = int(entries.get("length") or size_bytes - offset)
    except ValueError as error:
        raise errors.ModelError(
            f"weight {tensor.name!r} of {path} has no proper place in {location!r}: {error}"
        ) from error
    if offset < 0 or length < 0 or offset + length > size_bytes:
        raise errors.ModelError(
            f"weight {tensor.name!r} of {path} lies at bytes {offset} to {offset + length} of {location!r}, which has "
            f"only {size_bytes}; the file is not whole, copy or export it again"
        )
    return Stored(tensor, file, offset, length)


def _checked_file(name: str, location: str, path: Path) -> Path:
    """Follows a location step by step: each a plain folder, the last a plain file with no other name."""
    parts = PurePosixPath(location).parts
    where = f"weight {name!r} of {path} lies at {location!r}"
    advice = "external data is read only from plain files inside the model's folder: save the model again with its data"
    if not parts or "\0" in location or location.startswith("/") or ".." in parts:
        raise errors.ModelError(f"{where}, outside the model's folder; {advice}")
    place = path.parent
    for part in parts:
        place /= part
        try:
            status = place.lstat()
        except OSError as error:
            raise errors.ModelError(f"{where}, which is missing; copy it beside the model") from error
        if stat.S_ISLNK(status.st_mode):
            raise errors.ModelError(f"{where}, which leads over a link; {advice}, or copy the linked file there")
    if not stat.S_ISREG(status.st_mode) or status.st_nlink != 1:
        raise errors.ModelError(f"{where}, which is not a plain file with one name (a hard link is not); {advice}")
    return place


def _opened(file: Path) -> BinaryIO:
    return os.fdopen(os.open(file, os.O_RDONLY | os.O_NOFOLLOW), "rb")


def _copy(source: BinaryIO, sink: BinaryIO, length: int) -> None:
    while length:
        chunk = source.read(min(length, _CHUNK_BYTES))
        if not chunk:
            raise errors.ModelError("a file of weights became shorter while it was read; start again")
        if chunk.count(0) == len(chunk):
            sink.seek(len(chunk), os.SEEK_CUR)  # a hole stays a hole, which takes no disk
        else:
            sink.write(chunk)
        length -= len(chunk)


def _forget_file(tensor: onnx.TensorProto) -> None:
    del tensor.external_data[:]
    tensor.data_location = onnx.TensorProto.DEFAULT
