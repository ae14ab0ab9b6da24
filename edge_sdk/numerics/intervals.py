"""95 % intervals where no formula is at hand (seeded bootstrap), and of the difference of two paired shares."""

import math
from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import NDArray

from edge_sdk.numerics import scores
from edge_sdk.records.bundle import Score

DRAWS = 400
"""Resamples: the 2.5 and 97.5 percentiles then rest on ten draws beyond each."""

SEED = 0

_CHUNK = 1 << 20
"""Indices drawn at a time: 8 MB."""


def resampled(rows: NDArray[np.float64], *, draws: int = DRAWS, seed: int = SEED) -> NDArray[np.float64]:
    """Gives float64[draws, columns]: the column means of `draws` resamples of the rows, with replacement.

    Source: B. Efron, "Bootstrap methods: another look at the jackknife", Annals of Statistics 7 (1979).
    The same rows and seed give the same figures on every machine.
    """
    counts = np.concatenate(list(_counts(len(rows), draws, np.random.default_rng(seed))))
    means: NDArray[np.float64] = counts @ rows / len(rows)
    return means


def bootstrap_score(
    rows: NDArray[np.float64], statistic: Callable[[NDArray[np.float64]], NDArray[np.float64]]
) -> Score:
    """Gives a statistic of the column means with its 95 % interval.

    Args:
        rows: float64[samples, columns].
        statistic: float64[n, columns] of column means to float64[n].

    >>> score = bootstrap_score(np.array([[0.0], [1.0]] * 50), lambda means: means[:, 0])
    >>> (score.value, 0.3 < score.low < 0.5 < score.high < 0.7)
    (0.5, True)
    """
    value = float(statistic(rows.mean(axis=0, keepdims=True))[0])
    if len(rows) < 2:
        return Score(value, value, value)
    low, high = np.percentile(statistic(resampled(rows)), (2.5, 97.5)).tolist()
    return Score(value, min(low, value), max(high, value))


def paired_drop(both: int, only_first: int, only_second: int, neither: int) -> Score:
    """Gives by how much the first of two shares of the same samples is larger, with its 95 % interval.

    Source: R. G. Newcombe, "Improved confidence intervals for the difference between binomial proportions based on
    paired data", Statistics in Medicine 17 (1998), method 10. Unlike the normal approximation it has a width even where
    no sample differs.

    >>> drop = paired_drop(900, 10, 5, 85)
    >>> (drop.value, drop.low < 0 < drop.high)
    (0.005, True)
    """
    count = both + only_first + only_second + neither
    first, second = (scores.wilson_score(both + only, count) for only in (only_first, only_second))
    phi = _correlation(both, only_first, only_second, neither)
    value = (only_first - only_second) / count

    def reach(one: float, other: float) -> float:
        return math.sqrt(max(0.0, one * one - 2 * phi * one * other + other * other))

    low = value - reach(first.value - first.low, second.high - second.value)
    high = value + reach(first.high - first.value, second.value - second.low)
    return Score(value, max(-1.0, low), min(1.0, high))


def _correlation(both: int, only_first: int, only_second: int, neither: int) -> float:
    margins = (both + only_first) * (only_second + neither) * (both + only_second) * (only_first + neither)
    if not margins:
        return 0.0
    cross = both * neither - only_first * only_second
    if cross > 0:
        cross = max(0, cross - (both + only_first + only_second + neither) // 2)
    return cross / math.sqrt(margins)


def _counts(samples: int, draws: int, rng: np.random.Generator) -> Iterator[NDArray[np.float64]]:
    """Gives how often each row is taken in each resample, some resamples at a time."""
    step = max(1, _CHUNK // samples)
    for start in range(0, draws, step):
        some = min(step, draws - start)
        picked = rng.integers(0, samples, (some, samples)) + samples * np.arange(some)[:, None]
        yield np.bincount(picked.ravel(), minlength=some * samples).reshape(some, samples).astype(np.float64)
