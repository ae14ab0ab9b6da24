"""Picture files to pixels, by whichever library is here; arrays need none."""

import functools
from collections.abc import Callable
from pathlib import Path
from typing import cast

import numpy as np

from edge_sdk import errors, imports
from edge_sdk.numerics.pictures import Pixels

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".webp", ".tif", ".tiff", ".pgm", ".ppm", ".npy"})
"""An ``.npy`` holds ``uint8[height, width]`` or ``[height, width, channels]``, red first."""

Reader = Callable[[Path], Pixels]
"""Raises DataError with the reason alone, since the caller knows the file."""

Decoder = Callable[[bytes, int], Pixels]

_DECODERS = ("edge_sdk.device.feed.pillow:picture_from_bytes", "edge_sdk.device.feed.camera:picture_from_bytes")
_READERS = ("edge_sdk.device.feed.pillow:read_picture", "edge_sdk.device.feed.camera:read_picture")
"""Pillow first, since that is what calibration read its pictures with."""


def decode_picture(content: bytes, max_pixels: int) -> Pixels:
    """Gives the picture that the content of a JPEG or PNG file holds.

    Raises:
        DataError: it is none, is damaged, or has more than `max_pixels`, or no library for pictures is installed;
            the message is the reason alone.
    """
    return _decoder()(content, max_pixels)


@functools.cache
def _decoder() -> Decoder:
    for spec in _DECODERS:
        try:
            return cast("Decoder", imports.object_from_spec(spec))
        except ModuleNotFoundError:
            continue
    return _decode_without_library


def _decode_without_library(_content: bytes, _max_pixels: int) -> Pixels:
    raise errors.DataError("the daemon has neither Pillow nor OpenCV: pip install 'edge_sdk[pictures]' there")


def find_reader() -> Reader:
    """Gives a function that reads a picture file.

    Raises:
        UsageError: (when it is called for anything but an array) no library for pictures is installed.
    """
    for spec in _READERS:
        try:
            found = cast("Reader", imports.object_from_spec(spec))
        except ModuleNotFoundError:
            continue
        return lambda file: read_array(file) if file.suffix.lower() == ".npy" else found(file)
    return _read_without_library


def read_array(file: Path) -> Pixels:
    """Gives the picture in an ``.npy`` file; raises DataError with the reason alone."""
    try:
        values = np.load(file, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise errors.DataError(str(error)) from error
    pixels: Pixels = values[..., None] if values.ndim == 2 else values
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] not in (1, 3) or 0 in pixels.shape:
        given = f"{values.dtype}{list(values.shape)}"
        raise errors.DataError(f"expected uint8[height, width] or uint8[height, width, 1 or 3], it holds {given}")
    return pixels


def _read_without_library(file: Path) -> Pixels:
    if file.suffix.lower() == ".npy":
        return read_array(file)
    raise errors.UsageError(
        f"reading {file.name} needs Pillow or OpenCV: pip install 'edge_sdk[camera]', or give .npy arrays"
    )
