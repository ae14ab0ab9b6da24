"""Whether more calibration data would help: how ranges and error moved while samples came in."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

from edge_sdk.host.calibrate import choose
from edge_sdk.host.calibrate.choose import Choice, Measure
from edge_sdk.host.calibrate.collect import Collected, Mark
from edge_sdk.records.bundle import Range

MOVED = 0.05
"""A threshold that changed by more than this share has not settled yet: it is 0.4 dB of a tensor's noise."""

SETTLED_SHARE = 0.95
"""With this share of the thresholds settled at half the samples, the ranges count as converged."""

SETTLED_DB = 0.5
"""And with the held-out error within this of the last."""


class Point(NamedTuple):
    """The ranges after `samples` samples, against those after the last.

    Attributes:
        samples: calibration samples behind them.
        moved_share: share of the tensors whose threshold is more than MOVED off, 0 to 1.
        largest_change: of any tensor's threshold, as a share of its last one.
        sqnr_db: of the worst output on the held-out samples; None if none were held out.
    """

    samples: int
    moved_share: float
    largest_change: float
    sqnr_db: float | None


def curve(
    collected: Collected, choice: Choice, sqnr_of: Measure | None, *, on_points: Callable[[int], None] | None = None
) -> tuple[Point, ...]:
    """Gives the points of the coverage curve, the last one of all samples; empty if there were too few for any.

    Args:
        collected: with the marks of the pass.
        choice: whose methods are applied to each mark.
        sqnr_of: measures ranges on the held-out samples; None leaves the error out.
        on_points: told how many points are there, each time.
    """
    if not collected.marks:
        return ()
    last = Mark(len(collected.digests), collected.fitted)
    final = _ranges(last, choice)
    points = []
    for mark in (*collected.marks, last):
        ranges = final | _ranges(mark, choice)
        changes = [abs(ranges[name].threshold / final[name].threshold - 1) for name in final]
        is_known = mark is last and choice.best_db is not None
        sqnr_db = choice.best_db if is_known else sqnr_of(ranges) if sqnr_of else None
        moved = sum(change > MOVED for change in changes) / len(changes)
        points.append(Point(mark.samples, round(moved, 4), round(max(changes), 4), sqnr_db))
        if on_points:
            on_points(len(points))
    return tuple(points)


def sentence(points: Sequence[Point]) -> str:
    """Says what the curve means."""
    if len(points) < 2:
        return "Too few samples to say whether more would help."
    half, last = points[-2:]
    gain_db = abs(last.sqnr_db - half.sqnr_db) if half.sqnr_db is not None and last.sqnr_db is not None else 0.0
    error = f", the error on held-out samples by {gain_db:.1f} dB" if half.sqnr_db is not None else ""
    moved = (
        f"from {half.samples} to {last.samples} samples {half.moved_share:.0%} of the ranges moved by more than "
        f"{MOVED:.0%}{error}"
    )
    if half.moved_share <= 1 - SETTLED_SHARE and gain_db <= SETTLED_DB:
        return f"Converged: {moved}."
    return f"More data would help: {moved}."


def _ranges(mark: Mark, choice: Choice) -> dict[str, Range]:
    return choose.ranges_by_method(mark.histograms, choice.base, choice.swapped)
