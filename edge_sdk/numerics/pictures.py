"""A picture of any size to the raw input of a network: colours, size, layout; the same on the host and on the device.

What runs on the device must see what calibration saw, so both use these functions, and no library whose resizing
differs from the next one's.
"""

import functools
import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from edge_sdk.records.bundle import Preprocess

Pixels = NDArray[np.uint8]
"""``uint8[height, width, channels]``, three channels in the order red, green, blue."""

_GREY = (19595, 38470, 7471)
"""Luma of ITU-R 601 in 65536ths."""


class Layout(NamedTuple):
    """How a network takes a picture.

    Attributes:
        channels: 1 (grey) or 3.
        height, width: None where that axis is free: the picture keeps its own size.
        is_channels_first: ``[N, C, H, W]``, else ``[N, H, W, C]``.
    """

    channels: int
    height: int | None
    width: int | None
    is_channels_first: bool


def layout_from_shape(shape: tuple[int | None, ...], rule: Preprocess) -> Layout:
    """Gives the layout of an input that takes pictures.

    Raises:
        ValueError: not 4 axes with 1 or 3 channels where the rule's layout says.

    >>> layout_from_shape((None, 3, 224, 224), Preprocess())
    Layout(channels=3, height=224, width=224, is_channels_first=True)
    """
    if len(shape) == 4:
        first, last = Layout(shape[1] or 0, shape[2], shape[3], True), Layout(shape[3] or 0, shape[1], shape[2], False)
        fits = {"nchw": (first,), "nhwc": (last,), "auto": (first, last)}[rule.layout]
        for found in fits:
            if found.channels in (1, 3):
                return found
    said = "" if rule.layout == "auto" else f", and its layout is {rule.layout}"
    raise ValueError(f"pictures fit an input [N, C, H, W] or [N, H, W, C] with 1 or 3 channels; it is {shape}{said}")


def raw_from_picture(pixels: Pixels, layout: Layout, rule: Preprocess) -> Pixels:
    """Gives a picture as the raw input of a network, with a batch axis of 1, C-contiguous.

    Args:
        pixels: 1 or 3 channels.
        layout: of the input.
        rule: how size and colours are made to fit.
    """
    fitted = _fitted(_with_channels(pixels, layout.channels), layout, rule)
    if rule.color == "bgr" and layout.channels == 3:
        fitted = fitted[:, :, ::-1]
    ordered = fitted.transpose(2, 0, 1) if layout.is_channels_first else fitted
    return np.ascontiguousarray(ordered[None])


class Region(NamedTuple):
    """Where in the network's input a picture lies, in its pixels; what was cropped away lies outside."""

    top: int
    left: int
    height: int
    width: int


def region(height: int, width: int, layout: Layout, rule: Preprocess) -> Region:
    """Gives where a picture of that size comes to lie.

    >>> region(480, 640, Layout(3, 320, 320, True), Preprocess(resize="letterbox"))
    Region(top=40, left=0, height=240, width=320)
    """
    if layout.height is None or layout.width is None:
        return Region(0, 0, layout.height or height, layout.width or width)
    ratios = layout.height / height, layout.width / width
    if rule.resize == "letterbox":
        size = max(1, round(height * min(ratios))), max(1, round(width * min(ratios)))
    elif rule.resize == "crop":
        size = max(layout.height, round(height * max(ratios))), max(layout.width, round(width * max(ratios)))
    else:
        size = layout.height, layout.width
    return Region((layout.height - size[0]) // 2, (layout.width - size[1]) // 2, *size)


def resized(pixels: Pixels, height: int, width: int) -> Pixels:
    """Gives the picture at another size: bilinear, and over all the pixels that fall into one where it shrinks.

    The filter is a triangle as wide as the step between two output pixels, at least one input pixel, first along
    rows, then along columns, rounded in between; Pillow's ``BILINEAR`` is the same to one level.

    >>> resized(np.array([[[0], [100]]], np.uint8), 1, 4)[0, :, 0].tolist()
    [0, 25, 75, 100]
    """
    across = _filtered(pixels, width, axis=1) if pixels.shape[1] != width else pixels
    return _filtered(across, height, axis=0) if pixels.shape[0] != height else across


def _with_channels(pixels: Pixels, channels: int) -> Pixels:
    if pixels.shape[2] == channels:
        return pixels
    if channels == 3:
        return np.repeat(pixels, 3, axis=2)
    grey: Pixels = ((pixels.astype(np.uint32) @ np.array(_GREY, np.uint32) + 0x8000) >> 16).astype(np.uint8)[..., None]
    return grey


def _fitted(pixels: Pixels, layout: Layout, rule: Preprocess) -> Pixels:
    """Gives the picture at the network's size."""
    at = region(pixels.shape[0], pixels.shape[1], layout, rule)
    inner = resized(pixels, at.height, at.width)
    height, width = layout.height or at.height, layout.width or at.width
    if at.top >= 0 and at.left >= 0 and (at.height, at.width) != (height, width):
        framed = np.full((height, width, pixels.shape[2]), rule.fill, np.uint8)
        framed[at.top : at.top + at.height, at.left : at.left + at.width] = inner
        return framed
    return inner[-at.top : height - at.top, -at.left : width - at.left]


def _filtered(pixels: Pixels, size: int, *, axis: int) -> Pixels:
    taken, weights = _taps(pixels.shape[axis], size)
    shape = [1, 1, 1]
    shape[axis] = size
    total = np.zeros([size if position == axis else length for position, length in enumerate(pixels.shape)], np.float32)
    for index, weight in zip(taken, weights, strict=True):
        total += pixels.take(index, axis=axis) * weight.reshape(shape)
    total += 0.5
    out: Pixels = total.astype(np.uint8)  # every weighted mean of pixels is a level below 255.5
    return out


@functools.lru_cache(maxsize=32)
def _taps(before: int, after: int) -> tuple[NDArray[np.intp], NDArray[np.float32]]:
    """Gives for each tap which input pixel it takes for each output pixel, and with which weight."""
    step = before / after
    reach = max(step, 1.0)
    centers = (np.arange(after) + 0.5) * step
    first = np.maximum((centers - reach + 0.5).astype(np.intp), 0)
    last = np.minimum((centers + reach + 0.5).astype(np.intp), before)
    offsets = np.arange(math.ceil(reach) * 2 + 1)[:, None]
    taken = first + offsets
    weights = np.maximum(0.0, 1 - np.abs((taken + 0.5 - centers) / reach)) * (taken < last)
    weights /= weights.sum(axis=0)
    return np.minimum(taken, before - 1), weights.astype(np.float32)
