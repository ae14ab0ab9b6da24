"""How far two runs of the same network lie apart: what may come from the order of float sums, and what may not."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

FLOAT_TOLERANCE = 1e-4
"""Of the largest value: reordered float32 sums move outputs by 1e-7 to 1e-5 of it, a wrong operator by over 1e-2."""

HALF_TOLERANCE = 1e-2
"""The same for float16, whose sums carry 11 bits instead of 24."""


class Difference(NamedTuple):
    """How far apart two sets of outputs are.

    Attributes:
        maximum: largest absolute difference.
        ratio: the same over the largest expected magnitude of its output; the worst output counts.
        output: name of the worst output.
        is_within_tolerance: whether the order of float sums explains it; integers and booleans must be equal.
    """

    maximum: float
    ratio: float
    output: str
    is_within_tolerance: bool


def difference(expected: Mapping[str, NDArray[Any]], given: Mapping[str, NDArray[Any]]) -> Difference:
    """Gives how far `given` lies from `expected`, by output name; infinite where names, dtypes or shapes differ.

    Where both are NaN, or the same infinity, they count as equal.

    >>> difference({"y": np.array([4.0, 1.0])}, {"y": np.array([4.0, 1.5])})
    Difference(maximum=0.5, ratio=0.125, output='y', is_within_tolerance=False)
    """
    missing = sorted(expected.keys() ^ given.keys())
    if missing:
        return Difference(np.inf, np.inf, missing[0], is_within_tolerance=False)
    worst = Difference(0.0, 0.0, min(expected, default=""), is_within_tolerance=True)
    for name, values in expected.items():
        found = _difference_of_one(name, values, given[name])
        if (found.is_within_tolerance, -found.ratio) < (worst.is_within_tolerance, -worst.ratio):
            worst = found
    return worst


def _difference_of_one(name: str, expected: NDArray[Any], given: NDArray[Any]) -> Difference:
    if expected.shape != given.shape or expected.dtype != given.dtype:
        return Difference(np.inf, np.inf, name, is_within_tolerance=False)
    wanted, got = expected.astype(np.float64), given.astype(np.float64)
    is_finite = np.isfinite(wanted)
    if not np.array_equal(wanted[~is_finite], got[~is_finite], equal_nan=True):
        return Difference(np.inf, np.inf, name, is_within_tolerance=False)
    maximum = float(np.abs(wanted[is_finite] - got[is_finite]).max(initial=0.0))
    ratio = maximum / float(np.abs(wanted[is_finite]).max(initial=1e-6))
    return Difference(maximum, ratio, name, is_within_tolerance=ratio <= _tolerance(expected.dtype))


def _tolerance(dtype: np.dtype[Any]) -> float:
    if dtype.kind != "f":
        return 0.0
    return HALF_TOLERANCE if dtype.itemsize == 2 else FLOAT_TOLERANCE
