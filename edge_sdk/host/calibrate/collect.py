"""One pass over the calibration data: a histogram per tensor, the digests, a held-out part; mergeable and resumable."""

import itertools
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from edge_sdk import errors
from edge_sdk.engines.protocol import Tensors
from edge_sdk.host.calibrate import heldout
from edge_sdk.host.calibrate.inspect import Inspector
from edge_sdk.host.calibrate.samples import Batch
from edge_sdk.numerics import ranges

_ACTIVATION_BYTES = 32 * 1024 * 1024
"""Of the observed tensors in one run: a batch that would give more is run in parts."""

MARKS = 3
"""Points of the coverage curve before the last."""

Run = Callable[[Mapping[str, NDArray[Any]]], Tensors]
Answers = Callable[[Mapping[str, NDArray[Any]]], Tensors]
Histograms = dict[str, ranges.MagnitudeHistogram]


class Mark(NamedTuple):
    """The fitted histograms as they were when `samples` samples had been seen."""

    samples: int
    histograms: Histograms


class State(NamedTuple):
    """What can be saved of a pass, and gone on from.

    Attributes:
        digests: of the samples seen so far, in order.
        fitted: histograms of those that were not held out.
        held_out: histograms of those that were.
        marks: the coverage curve's points so far.
    """

    digests: tuple[str, ...] = ()
    fitted: Histograms = {}  # noqa: RUF012 - never changed
    held_out: Histograms = {}  # noqa: RUF012 - never changed
    marks: tuple[Mark, ...] = ()


class Collected(NamedTuple):
    """What the pass left behind.

    Attributes:
        fitted: histograms of the samples that were not held out, by tensor.
        held_out: those of the held-out samples.
        held_feeds: those of the held-out samples that were kept, one batch of 1 each.
        digests: of every sample, in order.
        held_outputs: what the float model answered to each of `held_feeds`.
        marks: the fitted histograms at an eighth, a quarter and a half of the samples.
    """

    fitted: Histograms
    held_out: Histograms
    held_feeds: heldout.Samples
    digests: tuple[str, ...]
    held_outputs: tuple[Tensors, ...] = ()
    marks: tuple[Mark, ...] = ()

    def histograms(self) -> Histograms:
        """Gives the histograms of all samples."""
        total = dict(self.fitted)
        _add(total, self.held_out)
        return total

    def references(self, count: int, step: int = 1) -> list[tuple[Tensors, Tensors]]:
        """Gives up to `count` held-out samples, each `step`-th one, with the float model's answers."""
        places = slice(0, count * step, step)
        return list(zip(self.held_feeds[places], self.held_outputs[places], strict=True))

    def state(self) -> State:
        """Gives what can be saved."""
        return State(self.digests, self.fitted, self.held_out, self.marks)


def collected(
    run: Run,
    tensors: Sequence[str],
    batches: Iterable[Batch],
    *,
    hold_out: bool = False,
    prepare: heldout.Prepare = dict,
    answers: Answers | None = None,
    evaluated: Mapping[str, int] | None = None,
    expected: int | None = None,
    inspector: Inspector | None = None,
    before: State | None = None,
    is_resumed: bool = False,
    on_samples: Callable[[int], None] | None = None,
    on_state: Callable[[State], None] | None = None,
) -> Collected:
    """Gives histograms of `tensors` over all batches; memory does not grow with the number of samples.

    Args:
        run: gives the values of `tensors` that are not inputs.
        tensors: names of the activations.
        batches: of the calibration data.
        hold_out: keep an eighth of the samples apart; of 32 of them, 16 MB prepared, also what goes in and comes out.
        prepare: how raw samples become what the network takes; by default they are that.
        answers: gives the model's outputs from those values and the inputs; they are kept of the held-out samples.
        evaluated: digests of the evaluation samples with their index.
        expected: how many samples there will be, if known; where the coverage curve's points are.
        inspector: looks at each batch; when it knows enough to refuse, the rest is only read.
        before: a state to go on from: its samples are not run again.
        is_resumed: `before` is of this very data, whose first samples must be the same.
        on_samples: told the number of samples done so far.
        on_state: given the state after each batch, to save it.

    Raises:
        DataError: a sample is in the evaluation data too, or the data is not that of `before`.
        ModelError: an activation is NaN or infinite.
    """
    work = _Pass(run, tensors, answers, before or State(), is_resumed=is_resumed)
    marks = _Marks(expected, (before or State()).marks)
    for batch in _cut(batches, marks.wanted):
        check_apart(batch, evaluated or {})
        if inspector:
            inspector.look(batch)
        if not (inspector and inspector.is_refused):
            work.take(batch, hold_out=hold_out)
            if before is None or is_resumed:
                marks.look(batch.first + len(batch.digests), work.fitted)
        if on_state:
            on_state(State(tuple(work.digests), work.fitted, work.held_out, marks.found()))
        if on_samples:
            on_samples(batch.first + len(batch.digests))
    return Collected(
        work.fitted,
        work.held_out,
        heldout.Samples([one.raw for one in work.kept.samples], prepare),
        tuple(work.digests),
        tuple(one.outputs for one in work.kept.samples),
        marks.found(len(work.digests)),
    )


def _cut(batches: Iterable[Batch], counts: Collection[int]) -> Iterator[Batch]:
    """Gives the batches, cut where a count of samples is reached."""
    for batch in batches:
        total = len(batch.digests)
        edges = [0, *sorted({count - batch.first for count in counts if 0 < count - batch.first < total}), total]
        for start, end in itertools.pairwise(edges):
            yield batch if end - start == total else _part(batch, slice(start, end))


def _part(batch: Batch, rows: slice) -> Batch:
    raw, feeds = ({name: values[rows] for name, values in part.items()} for part in (batch.raw, batch.feeds))
    labels = None if batch.labels is None else batch.labels[rows]
    return Batch(batch.first + rows.start, raw, feeds, labels, batch.digests[rows])


def check_apart(batch: Batch, evaluated: Mapping[str, int]) -> None:
    """Raises DataError when a calibration sample is an evaluation sample too: the gate would judge seen data."""
    for index, digest in enumerate(batch.digests, batch.first):
        if digest in evaluated:
            raise errors.DataError(
                f"calibration sample {index} and evaluation sample {evaluated[digest]} are the same; take it out of "
                "one of them, or the measured accuracy is not that of unseen data"
            )


def merged(states: Sequence[State]) -> State:
    """Gives the state of several workers' samples together; the order of the workers does not matter for the ranges.

    Raises:
        DataError: two of them saw the same sample, or other tensors.
    """
    total, fitted, held_out = states[0], dict(states[0].fitted), dict(states[0].held_out)
    for state in states[1:]:
        if shared := set(total.digests) & set(state.digests):
            raise errors.DataError(
                f"{len(shared)} samples are in two of the range files; give each sample to one worker only"
            )
        _add(fitted, state.fitted)
        _add(held_out, state.held_out)
        total = State(total.digests + state.digests)
    return total._replace(fitted=fitted, held_out=held_out, marks=total.marks if len(states) == 1 else ())


class _Pass:
    """The sums of a pass so far."""

    def __init__(
        self, run: Run, tensors: Sequence[str], answers: Answers | None, before: State, *, is_resumed: bool
    ) -> None:
        self.fitted, self.held_out = dict(before.fitted), dict(before.held_out)
        self.digests = list(before.digests)
        self.kept = heldout.Lowest()
        self._run = run
        self._tensors = tensors
        self._answers = answers
        self._before = before
        self._known = frozenset(() if is_resumed else before.digests)
        self._is_resumed = is_resumed
        self._most = 1

    def take(self, batch: Batch, *, hold_out: bool) -> None:
        """Adds a batch."""
        rows = np.arange(len(batch.digests))
        is_new = np.array([self._is_new(batch.first + row, digest) for row, digest in enumerate(batch.digests)], bool)
        is_held = np.array([hold_out and heldout.is_held_out(digest) for digest in batch.digests], bool)
        sample_bytes = sum(values[:1].nbytes for values in batch.feeds.values())
        is_kept = np.zeros_like(is_held)
        for row in rows[is_held].tolist():
            is_kept[row] = self.kept.takes(batch.digests[row], sample_bytes)
            if is_kept[row]:
                self._keep(batch, row, sample_bytes, is_new=bool(is_new[row]))
        self.digests += [digest for digest, new in zip(batch.digests, is_new, strict=True) if new]
        self._observe(batch, rows[is_new & ~is_held], self.fitted)
        self._observe(batch, rows[is_new & is_held & ~is_kept], self.held_out)

    def _is_new(self, index: int, digest: str) -> bool:
        """Says whether a sample is none of `before`."""
        if not self._is_resumed:
            return digest not in self._known
        if index >= len(self._before.digests):
            return True
        if self._before.digests[index] != digest:
            raise errors.DataError(
                f"calibration sample {index} is not the one that the interrupted build saw; build without --resume"
            )
        return False

    def _keep(self, batch: Batch, row: int, sample_bytes: int, *, is_new: bool) -> None:
        """Runs a held-out sample by itself: for its histograms where it is new, and for the model's answers."""
        feeds = {name: values[row : row + 1] for name, values in batch.feeds.items()}
        values = self._run(feeds) | feeds
        if is_new:
            _add(self.held_out, dict(self._histograms(values, [batch.digests[row]], batch.first + row)))
        raw = {name: values[row : row + 1].copy() for name, values in batch.raw.items()}
        given = self._answers(values) if self._answers else {}
        outputs = {name: array.copy() for name, array in given.items()}
        self.kept.add(heldout.Kept(batch.digests[row], sample_bytes, raw, outputs))

    def _observe(self, batch: Batch, rows: NDArray[np.intp], total: Histograms) -> None:
        start = 0
        while start < len(rows):
            part = rows[start : start + self._most]
            is_all = len(part) == len(batch.digests)
            feeds = batch.feeds if is_all else {name: values[part] for name, values in batch.feeds.items()}
            values = self._run(feeds) | feeds
            sample_bytes = sum(values[name].nbytes for name in self._tensors) // len(part)
            _add(total, dict(self._histograms(values, [batch.digests[row] for row in part], batch.first)))
            del values  # before the next run's are there too
            self._most = max(1, _ACTIVATION_BYTES // max(sample_bytes, 1))
            start += len(part)

    def _histograms(
        self, values: Tensors, digests: Sequence[str], first: int
    ) -> Iterator[tuple[str, ranges.MagnitudeHistogram]]:
        draws = ranges.draws_from_seeds([int(digest[:16], 16) for digest in digests])
        for name in self._tensors:
            if not values[name].size:
                continue
            is_by_sample = len(values[name]) % len(digests) == 0
            try:
                yield (
                    name,
                    ranges.histogram_from_samples(values[name], draws)
                    if is_by_sample
                    else ranges.histogram_from_tensor(values[name]),
                )
            except ValueError as error:
                raise errors.ModelError(
                    f"tensor {name!r} of the float model is NaN or infinite on the calibration samples from {first} "
                    "on; check the preprocessing (--preprocess) and the model"
                ) from error


class _Marks:
    """Copies the histograms at an eighth, a quarter and a half of the samples: of those expected, or by doubling."""

    def __init__(self, expected: int | None, before: tuple[Mark, ...]) -> None:
        self.wanted = [expected // 2**step for step in range(MARKS, 0, -1)] if expected else []
        self._is_doubling = not expected
        self._next = 2 * before[-1].samples if before else 1
        self._found = list(before)

    def look(self, seen: int, fitted: Histograms) -> None:
        """Copies the histograms when the next point is reached."""
        if self._is_doubling and seen >= self._next:
            self._next = 2 * seen
            self._found = [*self._found[-MARKS:], Mark(seen, dict(fitted))]
        due = [count for count in self.wanted if 0 < count <= seen]
        if due and not any(mark.samples >= due[-1] for mark in self._found):
            self._found.append(Mark(seen, dict(fitted)))

    def found(self, total: int | None = None) -> tuple[Mark, ...]:
        """Gives the points before the last sample, `total` if known."""
        return tuple(mark for mark in self._found if mark.histograms and mark.samples != total)[-MARKS:]


def _add(total: Histograms, more: Mapping[str, ranges.MagnitudeHistogram]) -> None:
    for name, histogram in more.items():
        total[name] = ranges.merge(total[name], histogram) if name in total else histogram
