"""From histograms to the thresholds and scales of one method, and the method with the least measured error."""

from collections.abc import Callable, Mapping
from typing import NamedTuple

from edge_sdk import errors, imports
from edge_sdk.host.calibrate.collect import Collected, Histograms
from edge_sdk.numerics import quantize, thresholds
from edge_sdk.records.bundle import Range

AUTO = "auto"


class Choice(NamedTuple):
    """The method taken, its range per tensor, and what each method tried measured (dB; empty if none was)."""

    method: str
    ranges: dict[str, Range]
    sqnr_db: dict[str, float]


def check_method(method: str) -> None:
    """Raises UsageError for a method that does not exist."""
    known = (AUTO, *thresholds.METHODS)
    if method not in known:
        raise errors.UsageError(f"no method {method!r}{imports.nearest(method, known)}; known: {', '.join(known)}")


def ranges_by_method(histograms: Histograms, method: str) -> dict[str, Range]:
    """Gives the range of each tensor by one method."""
    found = {}
    for name, histogram in histograms.items():
        threshold = thresholds.METHODS[method](histogram)
        scale = quantize.scale_from_threshold(threshold)
        found[name] = Range(histogram.minimum, histogram.maximum, threshold, scale)
    return found


def chosen(collected: Collected, method: str, sqnr_of: Callable[[Mapping[str, Range]], float]) -> Choice:
    """Gives the ranges by `method`; ``auto`` takes the one with the highest SQNR on the held-out samples.

    Each method is tried on ranges that never saw the held-out samples; the ranges it gets in the end are of all.

    Args:
        collected: of the calibration data, with a held-out part if `method` is ``auto``.
        method: a key of `thresholds.METHODS`, or ``auto``.
        sqnr_of: measures the INT8 model made with some ranges on the held-out samples, in dB.
    """
    measured = {}
    if method == AUTO:
        measured = {name: sqnr_of(ranges_by_method(collected.fitted, name)) for name in thresholds.METHODS}
        method = max(measured, key=lambda name: measured[name])
    return Choice(method, ranges_by_method(collected.histograms(), method), measured)
