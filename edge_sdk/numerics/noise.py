"""Whether values look made up: neighbouring pixels that have nothing in common, values too evenly distributed.

Real data has structure; a calibration on noise gives ranges of nothing.
"""

import math

import numpy as np
from numpy.typing import NDArray

UNRELATED = 0.1
"""Correlation of neighbouring pixels below which a picture is noise: photographs have 0.9 and more, drawings and
28x28 clothes 0.6 and more, spectrograms 0.3 and more; white noise 0 within a few hundredths."""

TOO_SMOOTH = 0.998
"""Normalised entropy above which a value's distribution is a textbook's: drawn noise has 0.9995 and more from 20,000
values on. Standardised features come near it at times, so that it is a reason to warn, never to refuse."""

ENTROPY_VALUES = 20_000
"""Fewer values say nothing about their distribution."""

_BINS = 64
_ERF = np.vectorize(math.erf, otypes=[np.float64])


def neighbour_correlations(pictures: NDArray[np.generic], *, is_channels_first: bool) -> NDArray[np.float64]:
    """Gives for each of ``[N, C, H, W]`` or ``[N, H, W, C]`` pictures how far neighbouring pixels go together, -1 to 1.

    It is the mean of the correlations along rows and along columns; 1 for a picture without contrast.

    >>> neighbour_correlations(np.ones((1, 1, 8, 8), np.uint8), is_channels_first=True)
    array([1.])
    """
    planes = pictures if is_channels_first else np.moveaxis(pictures, 3, 1)
    found = np.ones(len(planes))
    for index, picture in enumerate(planes):
        values = picture.astype(np.float32)
        values -= values.mean(axis=(1, 2), keepdims=True)
        power = float(np.vdot(values, values)) / values.size
        if power > 0:
            found[index] = (_along_rows(values) + _along_columns(values)) / (2 * power)
    return found


def _along_rows(values: NDArray[np.float32]) -> float:
    """Gives the mean product of neighbours in a row: of all in memory, less those between a row's end and the next."""
    flat = values.reshape(-1)
    rows = values.reshape(-1, values.shape[-1])
    count = flat.size - len(rows)
    return float(np.vdot(flat[:-1], flat[1:]) - np.vdot(rows[:-1, -1], rows[1:, 0])) / count if count else math.nan


def _along_columns(values: NDArray[np.float32]) -> float:
    """Gives the mean product of neighbours in a column."""
    width = values.shape[-1]
    planes = values.reshape(len(values), -1)
    count = planes.size - width * len(planes)
    return sum(float(np.vdot(plane[:-width], plane[width:])) for plane in planes) / count if count else math.nan


def textbook_noise(values: NDArray[np.generic]) -> str:
    """Gives ``uniform`` or ``normal`` where values follow that too well to be measured, else an empty text.

    The values go through the distribution's own function, after which they fill 64 bins evenly if they were drawn from
    it; the measure of evenness is the entropy of the bins.

    >>> textbook_noise(np.random.default_rng(0).normal(size=30_000))
    'normal'
    >>> textbook_noise(np.random.default_rng(0).gamma(2.0, size=30_000))
    ''
    """
    flat = values.astype(np.float64).ravel()
    low, high = flat.min(initial=math.inf), flat.max(initial=-math.inf)
    if flat.size < ENTROPY_VALUES or not high > low or len(np.unique(flat[:ENTROPY_VALUES])) < 4 * _BINS:
        return ""
    if _evenness((flat - low) / (high - low)) >= TOO_SMOOTH:
        return "uniform"
    spread = (flat - flat.mean()) / (flat.std() * math.sqrt(2))
    return "normal" if _evenness((1 + _ERF(spread)) / 2) >= TOO_SMOOTH else ""


def _evenness(shares: NDArray[np.float64]) -> float:
    """Gives the entropy of values between 0 and 1 over equal bins, as a share of the largest that it can be."""
    counts = np.bincount(np.minimum((shares * _BINS).astype(np.intp), _BINS - 1), minlength=_BINS)
    p = counts[counts > 0] / shares.size
    return float(-(p * np.log(p)).sum() / math.log(_BINS))
