"""Pictures as they come from a camera or a disk, JPEG and PNG, to the raw input of a model.

How large a picture would become is read from its own head before any library sees it: a few kilobytes can unfold to
gigabytes.
"""

import math
import struct
from collections.abc import Callable, Sequence
from typing import TypeAlias

import numpy as np

from edge_sdk import errors
from edge_sdk.device.serve import v2
from edge_sdk.device.serve.models import Model
from edge_sdk.numerics import pictures
from edge_sdk.numerics.pictures import Pixels
from edge_sdk.records.bundle import Preprocess

CONTENT_TYPES = frozenset({"image/jpeg", "image/png"})
MAX_PIXELS = 25_000_000
"""Of all pictures of one request, decoded: 75 MB; cameras have 2 to 12 million."""

Decode: TypeAlias = Callable[[bytes, int], Pixels]
"""Takes a file's content and the most pixels that it may have; raises DataError with the reason alone."""

_PNG = b"\x89PNG\r\n\x1a\n"
_LENGTH = struct.Struct("<I")
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
"""Markers of JPEG that begin a frame and so say its size."""
_BARE = frozenset({0x01, *range(0xD0, 0xD8)})
"""Markers without a length."""


def elements_from_raw(name: str, shape: tuple[int, ...], raw: memoryview) -> list[memoryview]:
    """Gives the elements of a BYTES tensor: each is its length, 4 bytes little-endian, and so many bytes.

    Raises:
        InputError: they are more or fewer than the shape says, or one is cut off.
    """
    found: list[memoryview] = []
    at, count = 0, math.prod(shape)
    while at + _LENGTH.size <= len(raw) and len(found) < count:
        (size,) = _LENGTH.unpack_from(raw, at)
        at += _LENGTH.size
        if size > len(raw) - at:
            raise errors.InputError(f"element {len(found)} of input {name!r} has {size} bytes, {len(raw) - at} came")
        found.append(raw[at : at + size])
        at += size
    if at != len(raw) or len(found) != count or not count:
        raise errors.InputError(
            f"input {name!r} has {len(raw)} bytes, which are not {count} elements of {v2.BYTES}, each with its length "
            "before it"
        )
    return found


def unfolder(model: Model, decode: Decode) -> v2.Unfold:
    """Gives what makes an input of `model` from a BYTES tensor of pictures."""

    def unfold(name: str, shape: tuple[int, ...], raw: memoryview) -> Pixels:
        return tensor_from_pictures(model, name, elements_from_raw(name, shape, raw), decode)

    return unfold


def tensor_from_pictures(model: Model, name: str, contents: Sequence[memoryview | bytes], decode: Decode) -> Pixels:
    """Gives pictures as one raw input of a model, in the size, colours and layout that its bundle declares.

    Args:
        model: that is asked.
        name: of its input.
        contents: of the files, one for each row.
        decode: by whichever library is here.

    Raises:
        InputError: the input takes no pictures, or one is none, damaged, or too large.
    """
    layout, rule = _layout(model, name)
    left = MAX_PIXELS
    rows: list[Pixels] = []
    for number, content in enumerate(contents):
        try:
            check_pixels(content, left)
            pixels = decode(bytes(content), left)
        except errors.DataError as error:
            raise errors.InputError(f"picture {number} of input {name!r} is refused: {error}") from error
        left -= pixels.shape[0] * pixels.shape[1]
        rows.append(pictures.raw_from_picture(pixels, layout, rule))
    if len({row.shape for row in rows}) != 1:
        raise errors.InputError(f"input {name!r} has no fixed size, so the pictures of a request must be of one size")
    return rows[0] if len(rows) == 1 else np.concatenate(rows)


def check_pixels(content: memoryview | bytes, allowed: int) -> None:
    """Returns when a picture's own head says that it has no more pixels than that; raises DataError else."""
    width, height = size_of(content)
    if width * height > allowed:
        raise errors.DataError(f"it unfolds to {width} x {height}; a request may hold {MAX_PIXELS:,} pixels")


def size_of(content: memoryview | bytes) -> tuple[int, int]:
    """Gives width and height as the head of a JPEG or PNG says; nothing is decoded.

    Raises:
        DataError: it is neither, or ends before it says so.
    """
    if bytes(content[: len(_PNG)]) == _PNG and bytes(content[12:16]) == b"IHDR" and len(content) >= 24:
        width, height = struct.unpack_from(">II", content, 16)
        return _checked(width, height)
    if bytes(content[:2]) == b"\xff\xd8":
        return _size_of_jpeg(content)
    raise errors.DataError("expected a JPEG or a PNG, it is neither")


def only_input(model: Model) -> str:
    """Gives the name of the input that a bare picture goes to.

    Raises:
        InputError: the model has several.
    """
    names = [spec.name for spec in model.engine.inputs]
    if len(names) != 1:
        raise errors.InputError(
            f"model {model.name!r} has the inputs {names}; send the picture as a {v2.BYTES} tensor that names its input"
        )
    return names[0]


def _layout(model: Model, name: str) -> tuple[pictures.Layout, Preprocess]:
    spec = next((spec for spec in model.engine.inputs if spec.name == name), None)
    if spec is None:
        known = [spec.name for spec in model.engine.inputs]
        raise errors.InputError(f"unexpected inference input {name!r} for model {model.name!r}; it takes {known}")
    rule = model.rule(name)
    if rule is None and spec.dtype != "uint8":
        raise errors.InputError(
            f"input {name!r} takes {spec}, and its bundle declares no preprocessing; send the tensor itself, "
            "or build with --preprocess"
        )
    try:
        return pictures.layout_from_shape(spec.shape, rule or Preprocess()), rule or Preprocess()
    except ValueError as error:
        raise errors.InputError(f"input {name!r} takes no pictures: {error}") from error


def _size_of_jpeg(content: memoryview | bytes) -> tuple[int, int]:
    at = 2
    while at + 9 <= len(content) and content[at] == 0xFF:
        marker = content[at + 1]
        if marker in _FRAMES:
            height, width = struct.unpack_from(">HH", content, at + 5)
            return _checked(width, height)
        if marker == 0xFF or marker in _BARE:
            at += 1 if marker == 0xFF else 2
            continue
        at += 2 + int.from_bytes(content[at + 2 : at + 4], "big")
    raise errors.DataError("the JPEG ends before it says how large it is")


def _checked(width: int, height: int) -> tuple[int, int]:
    if not width or not height:
        raise errors.DataError(f"it says that it is {width} x {height}")
    return width, height
