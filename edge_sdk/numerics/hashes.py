"""What a picture looks like in a few bytes: a 64-bit perceptual hash, and a thumbnail that confirms what it suggests.

The hash alone is made for photographs: among small pictures of like things (28x28 shoes) strangers share it. So a near
duplicate is a pair whose hashes differ in few bits *and* whose thumbnails correlate almost perfectly, which a picture
keeps when it is encoded again, resized, or made a little brighter.
"""

import functools
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

NEAR_BITS = 8
"""Of 64: usual for this hash; pictures that were encoded again differ in 0 to 4."""

NEAR_CORRELATION = 0.97
"""Of two thumbnails of pictures with LARGE pixels a side: kept by JPEG at quality 30, half the size, noise, a shift by
a pixel (0.998 and more, measured on drawn scenes), and a brightness of 1.25 that clips (0.97 in 19 of 20)."""

NEAR_CORRELATION_SMALL = 0.995
"""Of smaller pictures: none of 512 x 10,000 pairs of Fashion-MNIST's calibration and test pictures reach it together
with NEAR_BITS, and JPEG at quality 50 keeps it in 19 of 20."""

LARGE = 64
"""Pixels on the shorter side from which a picture is no mere icon."""

SIDE = 16
"""Of a thumbnail."""

_GRID, _WAVES = 32, 8
_CHUNK = 1 << 20
_ONES = np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1).sum(axis=1, dtype=np.uint8)


class Fingerprints(NamedTuple):
    """Of n pictures: uint64[n] hashes, and int8[n, SIDE * SIDE] thumbnails of mean 0 and length 508 each."""

    hashes: NDArray[np.uint64]
    thumbnails: NDArray[np.int8]


class Near(NamedTuple):
    """Two pictures that look the same: their indices."""

    first: int
    second: int


def fingerprints(pictures: NDArray[np.generic], *, is_channels_first: bool) -> Fingerprints:
    """Gives the fingerprints of ``[N, C, H, W]`` or ``[N, H, W, C]`` pictures of any real dtype.

    Source of the hash: C. Zauner, "Implementation and Benchmarking of Perceptual Image Hash Functions" (2010): the
    signs of the lowest 8x8 cosine waves of the 32x32 picture, against their median.
    """
    grey = _shrunk(pictures.mean(axis=1 if is_channels_first else 3, dtype=np.float32))
    small = _resized(grey, _GRID)
    waves = _cosines()
    spectrum = (waves @ small @ waves.T).reshape(len(small), -1)
    bits = spectrum > np.median(spectrum[:, 1:], axis=1, keepdims=True)  # the first is the brightness alone
    hashes = np.packbits(bits, axis=1).view(">u8").reshape(-1).astype(np.uint64)
    thumbnails = _resized(grey, SIDE).reshape(len(grey), -1)
    thumbnails = thumbnails - thumbnails.mean(axis=1, keepdims=True)
    lengths = np.linalg.norm(thumbnails, axis=1, keepdims=True)
    unit = np.divide(thumbnails, lengths, out=np.zeros_like(thumbnails), where=lengths > 0)
    # The length is spread over 256 values, so that few come near 1: a quarter of it is the largest that is told apart.
    return Fingerprints(hashes, np.clip(np.rint(unit * 508), -127, 127).astype(np.int8))


def joined(parts: list[Fingerprints]) -> Fingerprints:
    """Gives the fingerprints of several batches as one."""
    if not parts:
        return Fingerprints(np.zeros(0, np.uint64), np.zeros((0, SIDE * SIDE), np.int8))
    return Fingerprints(*(np.concatenate(arrays) for arrays in zip(*parts, strict=True)))


def near_pairs(first: Fingerprints, second: Fingerprints, *, side: int) -> list[Near]:
    """Gives the pairs of pictures that look the same, in order.

    Args:
        first: of some pictures.
        second: of others.
        side: pixels on the shorter side of the pictures; small ones must be more alike.
    """
    needed = NEAR_CORRELATION if side >= LARGE else NEAR_CORRELATION_SMALL
    rows = max(1, _CHUNK // max(len(second.hashes), 1))
    found = []
    for start in range(0, len(first.hashes), rows):
        apart = _ones(first.hashes[start : start + rows, None] ^ second.hashes)
        for row, column in np.argwhere(apart <= NEAR_BITS).tolist():
            if correlation(first.thumbnails[start + row], second.thumbnails[column]) >= needed:
                found.append(Near(start + row, column))
    return found


def correlation(one: NDArray[np.int8], other: NDArray[np.int8]) -> float:
    """Gives the correlation of two thumbnails, -1 to 1; 0 when one has no contrast."""
    a, b = one.astype(np.float32), other.astype(np.float32)
    length = float(np.linalg.norm(a) * np.linalg.norm(b))
    return float(a @ b) / length if length else 0.0


def _shrunk(pictures: NDArray[np.float32]) -> NDArray[np.float32]:
    """Gives large ``[N, H, W]`` pictures as the means of whole pixels, at most 2 * _GRID a side and exact enough."""
    small = pictures
    for axis in (1, 2):  # rows first: neighbours in memory add up at once
        length = small.shape[axis]
        if length > 2 * _GRID:
            starts = np.arange(2 * _GRID) * length // (2 * _GRID)
            widths = np.diff([*starts, length]).astype(np.float32)
            small = np.add.reduceat(small, starts, axis=axis)
            small /= widths if axis == 2 else widths[:, None]
    return small


def _resized(pictures: NDArray[np.float32], side: int) -> NDArray[np.float32]:
    """Gives ``[N, side, side]``: the mean over each cell, cells cut through pixels in proportion."""
    down, across = (_averaging(length, side) for length in pictures.shape[1:])
    resized: NDArray[np.float32] = down @ pictures @ across.T
    return resized


@functools.lru_cache(maxsize=16)
def _averaging(length: int, side: int) -> NDArray[np.float32]:
    """Gives the matrix that averages `length` pixels into `side` cells."""
    edges = np.arange(side + 1) * (length / side)
    pixels = np.arange(length)
    overlap = np.minimum(edges[1:, None], pixels + 1) - np.maximum(edges[:-1, None], pixels)
    weights = np.clip(overlap, 0, None)
    averaging: NDArray[np.float32] = (weights / weights.sum(axis=1, keepdims=True)).astype(np.float32)
    return averaging


@functools.lru_cache(maxsize=1)
def _cosines() -> NDArray[np.float32]:
    """Gives the first waves of the discrete cosine transform over the grid."""
    steps = np.pi / _GRID * (np.arange(_GRID) + 0.5)
    waves: NDArray[np.float32] = np.cos(np.arange(_WAVES)[:, None] * steps).astype(np.float32)
    return waves


def _ones(values: NDArray[np.uint64]) -> NDArray[np.uint8]:
    """Gives the number of bits that are set in each value (numpy has a function for it from 2.0 on only)."""
    octets = np.ascontiguousarray(values)[..., None].view(np.uint8)
    counted: NDArray[np.uint8] = _ONES[octets].sum(axis=-1, dtype=np.uint8)
    return counted
