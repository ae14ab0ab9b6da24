"""Figures of merit: proportions with their confidence interval, signal-to-noise of an output, top classes."""

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_sdk.records.bundle import Score

_Z95 = 1.959963984540054
"""Two-sided 95 % quantile of the normal distribution."""

MAX_SQNR_DB = 200.0
"""Stands for no error at all: above what float32 can show, and unlike infinity it is a JSON number."""


def wilson_score(successes: int, count: int) -> Score:
    """Gives a proportion with its 95 % Wilson interval.

    Source: E. B. Wilson, "Probable inference, the law of succession, and statistical inference", JASA 22 (1927).
    Unlike the normal approximation it stays inside [0, 1] and does not collapse at 0 or 1.

    >>> score = wilson_score(90, 100)
    >>> (score.value, round(score.low, 4), round(score.high, 4))
    (0.9, 0.8256, 0.9448)
    """
    share = successes / count
    shrink = 1 + _Z95**2 / count
    middle = (share + _Z95**2 / (2 * count)) / shrink
    half = _Z95 * math.sqrt(share * (1 - share) / count + _Z95**2 / (4 * count**2)) / shrink
    return Score(share, max(0.0, min(share, middle - half)), min(1.0, max(share, middle + half)))


def mean_score(values: NDArray[np.float64]) -> Score:
    """Gives the mean of per-sample values with its 95 % interval (normal approximation of the mean)."""
    mean = float(values.mean())
    half = _Z95 * float(values.std(ddof=1)) / math.sqrt(values.size) if values.size > 1 else 0.0
    return Score(mean, mean - half, mean + half)


def sqnr_db(signal_power: float, noise_power: float) -> float:
    """Gives the signal-to-quantisation-noise ratio in dB, within +-MAX_SQNR_DB.

    >>> sqnr_db(100.0, 1.0)
    20.0
    """
    if noise_power <= 0:
        return MAX_SQNR_DB
    if signal_power <= 0:
        return -MAX_SQNR_DB
    return max(-MAX_SQNR_DB, min(MAX_SQNR_DB, 10 * math.log10(signal_power / noise_power)))


def top_classes(values: NDArray[Any], count: int = 5) -> list[tuple[int, float]]:
    """Gives the `count` largest entries of a vector as (index, value), largest first; ties by index.

    >>> top_classes(np.array([0.1, 0.7, 0.2]), 2)
    [(1, 0.7), (2, 0.2)]
    """
    flat = np.asarray(values).ravel()
    order = np.argsort(-flat.astype(np.float64), kind="stable")[:count]
    return [(int(i), float(flat[i])) for i in order]
