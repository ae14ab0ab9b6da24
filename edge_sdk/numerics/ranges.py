"""What calibration keeps of a tensor: a histogram of |x| that merges exactly; and the thresholds that follow from it.

The histogram has a fixed number of bins and a limit that is a power of two. When a larger value comes, the limit
doubles and neighbouring bins add up. Scaling by a power of two is exact in binary floating point, so a value falls
into the same final bin whenever it arrives: the result does not depend on batch size, order or number of workers.
"""

import math
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

BINS = 2048

_BITS = 11
_SMALLEST_EXPONENT = -100
"""Limits below 2**-100 are not needed, and ``2048 / limit`` must stay a float32."""

_CHUNK = 1 << 15
"""Elements at a time: the temporaries stay in the processor's second-level cache."""

SAMPLED_ABOVE = 32_768
"""Elements of one sample's tensor above which SAMPLED of them stand for all; smaller tensors would lose their outliers
(measured: an OCR network that sampled all its tensors read nothing at all)."""

SAMPLED = 16_384
_BLOCK = 64
"""Neighbours that are taken together, since a cache line is loaded as a whole anyway."""


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


def histogram_from_sample(values: NDArray[Any], seed: int) -> MagnitudeHistogram:
    """Gives the histogram of one sample's tensor; of a large one by SAMPLED elements, minimum and maximum by all.

    The elements are drawn pseudo-randomly, never in strides, which beat with the layout of the tensor. The same seed
    draws the same elements, so that a seed from the sample's content makes the result independent of its company.

    Args:
        values: non-empty.
        seed: of the sample.

    Raises:
        ValueError: an element is NaN or infinite.
    """
    flat = np.ascontiguousarray(values, np.float32).reshape(-1)
    if flat.size <= SAMPLED_ABOVE:
        return _histogram(flat, *_extremes(flat))
    blocks = flat[: flat.size // _BLOCK * _BLOCK].reshape(-1, _BLOCK)
    drawn = np.random.default_rng([seed, flat.size]).integers(0, len(blocks), SAMPLED // _BLOCK)
    return _histogram(blocks[drawn].reshape(-1), *_extremes(flat))


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
    magnitudes, bins = np.empty(min(flat.size, _CHUNK), np.float32), np.empty(min(flat.size, _CHUNK), np.intp)
    zeros = 0
    for start in range(0, flat.size, _CHUNK):
        part = flat[start : start + _CHUNK]
        scaled, index = np.abs(part, out=magnitudes[: part.size]), bins[: part.size]
        scaled *= gain
        np.copyto(index, scaled, casting="unsafe")  # towards zero, into memory that is there already
        counts += np.bincount(index, minlength=BINS)
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
