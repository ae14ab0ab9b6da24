"""From histograms to thresholds and scales: by one method, or by whichever measures best for each tensor."""

import math
from collections.abc import Callable, Mapping
from typing import NamedTuple

from edge_sdk import errors, imports
from edge_sdk.host.calibrate.collect import Collected, Histograms
from edge_sdk.numerics import quantize, thresholds
from edge_sdk.records.bundle import Range

AUTO = "auto"

MIXED = "mixed"
"""What ``auto`` is called in the results where no one method was best for all tensors."""

TRIALS = 8
"""Tensors that ``auto`` tries with another method, unless told otherwise."""

GAIN_DB = 0.1
"""Less than this on the held-out samples is chance, and no reason to leave the best method."""

GOOD_DB = 28.0
"""From here on what is left comes from rounding, which no choice mends: what held-out samples gained at 31 to 37 dB,
10,000 tests did not, or lost."""

PATIENCE = 3
"""Trials in a row without a gain after which no more are made: those to come are of tensors that matter less."""

BEHIND_DB = 10.0
"""A method so far behind the best on the first held-out samples is not measured on the others. Two samples may be 6 dB
off: with 3 dB a reader of text went without the method that was best on all of them, and lost 3 dB by it."""

_AGREED = 1.02
"""Thresholds that differ by less than 2 % are the same."""

Measure = Callable[[Mapping[str, Range]], float]


class Choice(NamedTuple):
    """What was taken, and what was measured for it.

    Attributes:
        method: of all tensors but those in `swapped`; MIXED where there are any.
        ranges: by tensor.
        sqnr_db: what each method measured, those far behind on the first samples only; empty if none was.
        swapped: the method of each tensor that does better with another than `base`.
        base: the best method for all tensors.
        best_db: what `ranges` measured; None if nothing was.
    """

    method: str
    ranges: dict[str, Range]
    sqnr_db: dict[str, float]
    swapped: dict[str, str] = {}  # noqa: RUF012 - never changed
    base: str = ""
    best_db: float | None = None


def check_method(method: str) -> None:
    """Raises UsageError for a method that does not exist."""
    known = (AUTO, *thresholds.METHODS)
    if method not in known:
        raise errors.UsageError(f"no method {method!r}{imports.nearest(method, known)}; known: {', '.join(known)}")


def ranges_by_method(histograms: Histograms, method: str, swapped: Mapping[str, str] | None = None) -> dict[str, Range]:
    """Gives the range of each tensor by one method, but for the tensors in `swapped` by theirs."""
    found = {}
    for name, histogram in histograms.items():
        threshold = thresholds.METHODS[(swapped or {}).get(name, method)](histogram)
        scale = quantize.scale_from_threshold(threshold)
        found[name] = Range(histogram.minimum, histogram.maximum, threshold, scale)
    return found


class Effort(NamedTuple):
    """What a search costs, in runs of one sample.

    Attributes:
        full: of one measurement on all held-out samples.
        quick: of one on the first few; 0 where none is made.
        add: told how many runs were made, or turned out not to be needed.
    """

    full: int = 0
    quick: int = 0
    add: Callable[[int], None] = lambda _runs: None

    def most(self, trials: int) -> int:
        """Gives the most runs that a search with so many trials takes."""
        return (len(thresholds.METHODS) + trials) * (self.full + self.quick)

    def counted(self, measure: Measure, runs: int) -> Measure:
        """Gives `measure`, which counts `runs` each time."""

        def measured_db(ranges: Mapping[str, Range]) -> float:
            found_db = measure(ranges)
            self.add(runs)
            return found_db

        return measured_db


_UNTOLD = Effort()


def chosen(
    collected: Collected,
    method: str,
    sqnr_of: Measure,
    *,
    quick_of: Measure | None = None,
    trials: int = TRIALS,
    effort: Effort = _UNTOLD,
) -> Choice:
    """Gives the ranges by `method`; ``auto`` takes what has the highest SQNR on the held-out samples.

    It measures each method for all tensors; then, starting from the best, it tries other methods on single tensors,
    those first on which the methods disagree most, and keeps what gains GAIN_DB, until PATIENCE trials in a row fail.
    None are made where the best method reaches GOOD_DB. So it is never worse there than the best single method that was
    measured on all of them. Everything is tried on ranges that never saw the held-out samples; the ranges in the end
    are of all samples.

    Args:
        collected: of the calibration data, with a held-out part if `method` is ``auto``.
        method: a key of `thresholds.METHODS`, or ``auto``.
        sqnr_of: measures the INT8 model made with some ranges on the held-out samples, in dB; of a detector what its
            boxes and scores are apart, see `gate.worst_sqnr_db`.
        quick_of: the same on the first few of them, at a part of the cost: what fails there is not measured on all.
        trials: how many tensors are tried; a bound in seconds would make two builds differ.
        effort: who is told how far it is, and what a measurement counts.
    """
    total = collected.histograms()
    if method != AUTO:
        return Choice(method, ranges_by_method(total, method), {}, base=method)
    sqnr_of = effort.counted(sqnr_of, effort.full)
    quick_of = effort.counted(quick_of, effort.quick) if quick_of else None
    by_method = {name: ranges_by_method(collected.fitted, name) for name in thresholds.METHODS}
    quick = {name: (quick_of or sqnr_of)(found) for name, found in by_method.items()}
    near = [name for name in quick if quick[name] >= max(quick.values()) - BEHIND_DB]
    measured = quick | ({name: sqnr_of(by_method[name]) for name in near} if quick_of else {})
    if quick_of:
        effort.add((len(quick) - len(near)) * effort.full)
    base = max(near, key=lambda name: measured[name])
    best_db, quick_db, current, swapped = measured[base], quick[base], dict(by_method[base]), dict[str, str]()
    failed = 0
    pairs = _disagreements(by_method, measured, base)[:trials] if best_db < GOOD_DB else []
    effort.add((trials - len(pairs)) * (effort.full + effort.quick))
    for tensor, other in pairs:
        if failed == PATIENCE:
            break
        failed += 1
        tried = current | {tensor: by_method[other][tensor]}
        tried_db = quick_of(tried) if quick_of else math.inf
        if tried_db < quick_db + GAIN_DB:
            effort.add(effort.full)
            continue
        if (sqnr_db := sqnr_of(tried)) < best_db + GAIN_DB:
            continue
        best_db, quick_db, current, failed = sqnr_db, tried_db, tried, 0
        swapped[tensor] = other
    ranges = ranges_by_method(total, base, swapped)
    return Choice(MIXED if swapped else base, ranges, measured, swapped, base, best_db)


def _disagreements(
    by_method: Mapping[str, Mapping[str, Range]], measured: Mapping[str, float], base: str
) -> list[tuple[str, str]]:
    """Gives the (tensor, method) pairs that are worth a trial.

    First each tensor with the method that did best for all among those that differ on it, the largest disagreement
    first; then each with the next method, and so on. Equals stay in graph order.
    """
    others = sorted((method for method in by_method if method != base), key=lambda method: -measured[method])
    found = []
    for order, (tensor, taken) in enumerate(by_method[base].items()):
        apart = {method: abs(math.log(by_method[method][tensor].threshold / taken.threshold)) for method in others}
        differing = [method for method in others if apart[method] > math.log(_AGREED)]
        found += [(turn, -apart[method], order, tensor, method) for turn, method in enumerate(differing)]
    return [(tensor, method) for *_, tensor, method in sorted(found)]
