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
    ends = np.array([*range(quantize.LEVELS + 1, end, _ENTROPY_STRIDE), min(end, BINS)])
    best = ends[int(np.argmin(_divergences(counts, ends)))]
    return _usable(min(int(best) * histogram.bin_width, histogram.peak))


METHODS: dict[str, Callable[[MagnitudeHistogram], float]] = {
    "max": max_threshold,
    "percentile": percentile_threshold,
    "percentile-99.99": functools.partial(percentile_threshold, percentile=LOWER_PERCENTILE),
    "mse": mse_threshold,
    "entropy": entropy_threshold,
}
"""The rules by name."""


def _divergences(counts: NDArray[np.float64], ends: NDArray[np.int64]) -> NDArray[np.float64]:
    """Gives KL(P || Q) for each end: P is the bins before it with all outliers in the last, Q the same in 128 levels.

    A level holds one value in all of its used bins, so that the sum over bins is one over levels, of differences
    between running sums: ``sum(p log p) - sum(mass of the level * log of its q)``, the last bin apart.
    """
    total = float(counts.sum())
    is_used = counts > 0
    own = np.multiply(counts, np.log(counts, out=np.zeros_like(counts), where=is_used))
    masses, useds, owns = (np.concatenate([[0.0], np.cumsum(values)]) for values in (counts, is_used, own))
    edges = np.arange(quantize.LEVELS + 2) * ends[:, None] // (quantize.LEVELS + 1)
    mass, used = np.diff(masses[edges]), np.diff(useds[edges])
    inside, last = masses[ends], counts[ends - 1]
    level = np.divide(mass, used * inside[:, None], out=np.zeros_like(mass), where=used > 0)
    logs = np.log(level, out=np.zeros_like(level), where=level > 0)
    smallest = 1e-12  # the last bin may hold outliers only: Q is zero where P is not, which a finite cost stands for
    last_q = np.where(last > 0, logs[:, -1], math.log(smallest))
    final = last + total - inside
    final_own = np.multiply(final, np.log(final, out=np.zeros_like(final), where=final > 0))
    before = owns[ends - 1] - ((mass * logs).sum(axis=1) - last * logs[:, -1])
    found: NDArray[np.float64] = (before + final_own - final * last_q) / total - math.log(total)
    return np.where(inside > 0, found, math.inf)


def _usable(threshold: float) -> float:
    """Gives `threshold`, or 1 for a tensor that was always zero: a scale must be positive, and none fits better."""
    return threshold if threshold > 0 else 1.0
