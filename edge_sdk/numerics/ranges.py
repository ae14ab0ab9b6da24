"""What calibration keeps of a tensor: a histogram of |x| that merges exactly; and the thresholds that follow from it.

The histogram has a fixed number of bins and a limit that is a power of two. When a larger value comes, the limit
doubles and neighbouring bins add up. Scaling by a power of two is exact in binary floating point, so a value falls
into the same final bin whenever it arrives: the result does not depend on batch size, order or number of workers.
"""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

BINS = 2048

_BITS = 11
_SMALLEST_EXPONENT = -100
"""Limits below 2**-100 are not needed, and ``2048 / limit`` must stay a float32."""

_CHUNK = 1 << 14
"""Elements at a time: the temporaries stay in the processor's second-level cache."""

SAMPLED_ABOVE = 32_768
"""Elements of one sample's tensor above which SAMPLED of them stand for all; smaller tensors would lose their outliers
(measured: an OCR network that sampled all its tensors read nothing at all)."""

SAMPLED = 16_384
_BLOCK = 16
"""Neighbours that are taken together, since a cache line is loaded as a whole anyway."""

_GOLDEN, _FIRST, _SECOND = (np.uint64(value) for value in (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB))
_HALF = np.uint64(32)


class MagnitudeHistogram(NamedTuple):
    """Counts of |x| in BINS equal bins over [0, 2**exponent); exact zeros are counted apart.

    Zeros lose nothing by quantisation, and behind a ReLU they are half of everything: kept out of the bins they
    can't pull a threshold down.

    Attributes:
        exponent: of the limit; every magnitude seen is below it.
        counts: int64[BINS].
        zeros: how many values were exactly zero.
        minimum: smallest value seen, with its sign.
        maximum: largest value seen, with its sign.
    """

    exponent: int
    counts: NDArray[np.int64]
    zeros: int
    minimum: float
    maximum: float

    @property
    def peak(self) -> float:
        """Largest magnitude seen."""
        return max(abs(self.minimum), abs(self.maximum))

    @property
    def bin_width(self) -> float:
        """Width of one bin."""
        return 2.0 ** (self.exponent - _BITS)


def histogram_from_tensor(values: NDArray[Any]) -> MagnitudeHistogram:
    """Gives the histogram of all elements of a non-empty tensor.

    Raises:
        ValueError: an element is NaN or infinite.
    """
    flat = np.ascontiguousarray(values, np.float32).reshape(-1)
    return _histogram(flat, *_extremes(flat))


def draws_from_seeds(seeds: Sequence[int]) -> NDArray[np.uint64]:
    """Gives pseudo-random numbers for `histogram_from_samples`, a row for each sample, one below 2**32 for each block.

    Source: S. Vigna, SplitMix64: a counter and a mixer, so that all rows are made at once.

    Args:
        seeds: one for each sample, 0 to 2**64 - 1.
    """
    count = np.arange(1, SAMPLED // _BLOCK + 1, dtype=np.uint64)
    mixed = np.array(seeds, np.uint64)[:, None] + count * _GOLDEN
    mixed = (mixed ^ (mixed >> np.uint64(30))) * _FIRST
    mixed = (mixed ^ (mixed >> np.uint64(27))) * _SECOND
    drawn: NDArray[np.uint64] = (mixed ^ (mixed >> np.uint64(31))) >> _HALF
    return drawn


def histogram_from_samples(values: NDArray[Any], draws: NDArray[np.uint64]) -> MagnitudeHistogram:
    """Gives the histogram of some samples' tensors; of large ones by SAMPLED elements each, extremes by all.

    The elements are drawn pseudo-randomly, never in strides, which beat with the layout of the tensor. The same seed
    draws the same elements, so that a seed from the sample's content makes the result independent of its company.

    Args:
        values: non-empty, one row for each sample.
        draws: of `draws_from_seeds`, by sample.

    Raises:
        ValueError: an element is NaN or infinite.
    """
    flat = np.ascontiguousarray(values, np.float32).reshape(-1)
    extremes = _extremes(flat)
    size = flat.size // len(draws)
    if size <= SAMPLED_ABOVE:
        return _histogram(flat, *extremes)
    blocks = np.uint64(size // _BLOCK)
    neighbours = flat.reshape(len(draws), size)[:, : int(blocks) * _BLOCK].reshape(-1, _BLOCK)
    drawn = ((draws * blocks) >> _HALF) + np.arange(len(draws), dtype=np.uint64)[:, None] * blocks
    return _histogram(neighbours.take(drawn.astype(np.intp).reshape(-1), axis=0).reshape(-1), *extremes)


def _extremes(flat: NDArray[np.float32]) -> tuple[float, float]:
    minimum, maximum = float(flat.min()), float(flat.max())
    if not (math.isfinite(minimum) and math.isfinite(maximum)):
        raise ValueError("a value is NaN or infinite")
    return minimum, maximum


def _histogram(flat: NDArray[np.float32], minimum: float, maximum: float) -> MagnitudeHistogram:
    """Gives the histogram of `flat`, whose limit the extremes decide."""
    peak = max(abs(minimum), abs(maximum))
    exponent = max(math.frexp(peak)[1], _SMALLEST_EXPONENT) if peak else _SMALLEST_EXPONENT
    gain = np.float32(2.0 ** (_BITS - exponent))
    counts = np.zeros(BINS, np.int64)
    most = min(flat.size, _CHUNK)
    magnitudes, bins, places = np.empty(most, np.float32), np.empty(most, np.int32), np.empty(most, np.intp)
    zeros = 0
    for start in range(0, flat.size, _CHUNK):
        part = flat[start : start + _CHUNK]
        scaled, index, place = (array[: part.size] for array in (magnitudes, bins, places))
        np.multiply(part, gain, out=scaled)
        np.abs(scaled, out=scaled)
        np.copyto(index, scaled, casting="unsafe")  # towards zero; by way of 32 bits it takes half as long
        np.copyto(place, index)
        counts += np.bincount(place, minlength=BINS)
        zeros += int(np.count_nonzero(part == 0))
    counts[0] -= zeros
    return MagnitudeHistogram(exponent, counts, zeros, minimum, maximum)


def merge(first: MagnitudeHistogram, second: MagnitudeHistogram) -> MagnitudeHistogram:
    """Gives the histogram of both parts' values: exact, associative and commutative."""
    exponent = max(first.exponent, second.exponent)
    return MagnitudeHistogram(
        exponent,
        _widened(first, exponent) + _widened(second, exponent),
        first.zeros + second.zeros,
        min(first.minimum, second.minimum),
        max(first.maximum, second.maximum),
    )


def _widened(histogram: MagnitudeHistogram, exponent: int) -> NDArray[np.int64]:
    """Gives the counts over [0, 2**exponent): groups of 2**k bins add up."""
    if exponent == histogram.exponent:
        return histogram.counts
    group = min(1 << min(exponent - histogram.exponent, _BITS), BINS)
    counts = np.zeros(BINS, np.int64)
    counts[: BINS // group] = histogram.counts.reshape(-1, group).sum(axis=1)
    return counts
