"""From a histogram of magnitudes to the threshold that INT8's code 127 stands for; four rules, all of one pass."""

import functools
import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from edge_sdk.numerics import quantize
from edge_sdk.numerics.ranges import BINS, MagnitudeHistogram

PERCENTILE = 99.999
"""Of the magnitudes, zeros included; the usual choice for networks without outliers on purpose."""

LOWER_PERCENTILE = 99.99
"""For networks whose few outliers carry nothing."""

_CANDIDATES = np.linspace(0.1, 1.0, 181)
"""Shares of the peak that the least-error rule tries: steps of half a percent."""

_ENTROPY_STRIDE = 16
"""Bins between two candidates of the entropy rule: 1.6 % at worst, and 16 times fewer candidates."""


def max_threshold(histogram: MagnitudeHistogram) -> float:
    """Gives the largest magnitude: nothing is clipped."""
    return _usable(histogram.peak)


def percentile_threshold(histogram: MagnitudeHistogram, percentile: float = PERCENTILE) -> float:
    """Gives the magnitude that `percentile` per cent of all values do not exceed, to the upper edge of its bin."""
    total = histogram.zeros + int(histogram.counts.sum())
    rank = math.ceil(total * percentile / 100)
    index = int(np.searchsorted(np.cumsum(histogram.counts) + histogram.zeros, rank))
    return _usable(min((index + 1) * histogram.bin_width, histogram.peak))


def mse_threshold(histogram: MagnitudeHistogram) -> float:
    """Gives the threshold with the least squared error of quantise-and-clip, over 181 shares of the peak.

    Inside a bin values are taken as uniform: to the error of its centre comes ``width**2 / 12`` where nothing is
    clipped, so that a bin as wide as a quantiser's step is not taken for exact.
    """
    used = np.flatnonzero(histogram.counts)
    if used.size == 0:
        return _usable(histogram.peak)
    width = histogram.bin_width
    centers, counts = (used + 0.5) * width, histogram.counts[used].astype(np.float64)
    steps = _CANDIDATES[:, None] * histogram.peak / quantize.LEVELS
    codes = np.minimum(np.rint(centers / steps), quantize.LEVELS)
    squares = (centers - codes * steps) ** 2 + width**2 / 12
    return _usable(float(_CANDIDATES[int(np.argmin(squares @ counts))]) * histogram.peak)


def entropy_threshold(histogram: MagnitudeHistogram) -> float:
    """Gives the threshold whose 128-level distribution has the least KL divergence from the clipped original.

    Source: S. Migacz, "8-bit Inference with TensorRT", GTC 2017. Exact zeros are not in the histogram and the first
    bin is set to its neighbour, since a spike at zero would make every clipping look good.
    """
    counts = histogram.counts.astype(np.float64)
    counts[0] = min(counts[0], counts[1])
    end = math.ceil(histogram.peak / histogram.bin_width)
    if end <= quantize.LEVELS + 1 or counts.sum() == 0:
        return _usable(histogram.peak)
    ends = [*range(quantize.LEVELS + 1, end, _ENTROPY_STRIDE), min(end, BINS)]
    divergences = [_divergence(counts, stop) for stop in ends]
    return _usable(min(ends[int(np.argmin(divergences))] * histogram.bin_width, histogram.peak))


METHODS: dict[str, Callable[[MagnitudeHistogram], float]] = {
    "max": max_threshold,
    "percentile": percentile_threshold,
    "percentile-99.99": functools.partial(percentile_threshold, percentile=LOWER_PERCENTILE),
    "mse": mse_threshold,
    "entropy": entropy_threshold,
}
"""The rules by name."""


def _divergence(counts: NDArray[np.float64], stop: int) -> float:
    """Gives KL(P || Q): P is the first `stop` bins with all outliers in the last, Q the same bins in 128 levels."""
    inside = counts[:stop]
    reference = inside.copy()
    reference[-1] += counts[stop:].sum()
    starts = np.arange(quantize.LEVELS + 1) * stop // (quantize.LEVELS + 1)
    is_used = inside > 0
    mass, used = np.add.reduceat(inside, starts), np.add.reduceat(is_used.astype(np.float64), starts)
    level = np.repeat(mass / np.maximum(used, 1), np.diff([*starts, stop]))
    level[~is_used] = 0
    if reference.sum() == 0 or level.sum() == 0:
        return math.inf
    p, q = reference / reference.sum(), level / level.sum()
    smallest = 1e-12  # the last bin may hold outliers only: Q is zero where P is not, which a finite cost stands for
    return float(np.sum(p[p > 0] * np.log(p[p > 0] / np.maximum(q[p > 0], smallest))))


def _usable(threshold: float) -> float:
    """Gives `threshold`, or 1 for a tensor that was always zero: a scale must be positive, and none fits better."""
    return threshold if threshold > 0 else 1.0
