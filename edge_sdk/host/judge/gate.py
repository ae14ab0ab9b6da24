"""Float and INT8 side by side on the evaluation data: metric, agreement, output error, and the verdict.

The drop is in points: hundredths of the metric. Every figure has its 95 % interval: Wilson's for shares, Newcombe's for
the difference of two shares of the same samples, a seeded bootstrap for all others.
"""

import functools
from collections.abc import Callable, Iterable, Mapping
from concurrent import futures
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from edge_sdk import errors
from edge_sdk.engines.protocol import Tensors
from edge_sdk.host.judge import pairs
from edge_sdk.host.judge.pairs import Figures, Metric, Pair, Rows
from edge_sdk.numerics import intervals, scores
from edge_sdk.records.bundle import Score, Verdict
from edge_sdk.records.tensors import TensorSpec

Run = Callable[[Mapping[str, NDArray[Any]]], Tensors]
Evaluated = tuple[Tensors, NDArray[np.int64] | None]
"""Prepared inputs of a batch, and its labels."""


class OutputError(NamedTuple):
    """How far an INT8 output is from the float one, over all evaluation samples."""

    sqnr_db: float
    cosine: float
    sqnr_low_db: float
    sqnr_high_db: float


class Judgement(NamedTuple):
    """The verdict and what stands behind it."""

    verdict: Verdict
    outputs: dict[str, OutputError]


def check_labels(outputs: tuple[TensorSpec, ...], *, is_labelled: bool) -> None:
    """Raises DataError for labels that the model's first output can't be scored against."""
    if is_labelled and pairs.class_count(outputs) is None:
        given = f"{outputs[0].name!r} is {outputs[0]}" if outputs else "there is none"
        raise errors.DataError(
            f"the evaluation data has class labels, but the model's first output is no vector of classes: {given}; "
            "leave the labels out, give a classifier, or a metric of your own with --metric module:function"
        )


def judged(
    run_float: Run,
    run_int8: Run,
    batches: Iterable[Evaluated],
    *,
    outputs: tuple[TensorSpec, ...],
    metric: Metric,
    max_drop: float,
    on_samples: Callable[[int], None] | None = None,
    beside: futures.Executor | None = None,
) -> Judgement:
    """Gives the verdict over all batches; of each sample a few figures are kept, not its outputs.

    Args:
        run_float: the reference.
        run_int8: what is to be shipped.
        batches: of the evaluation data.
        outputs: of the model.
        metric: see `metrics.chosen`.
        max_drop: in points of the metric.
        on_samples: told the number of samples done so far.
        beside: runs the reference at the same time; None runs one after the other.

    Raises:
        ModelError: an output of either is NaN or infinite.
        DataError: the metric finds nothing to compare.
    """
    tally = _Tally(outputs, metric)
    for feeds, labels in batches:
        answers = beside.submit(run_float, feeds).result if beside else functools.partial(run_float, feeds)
        given = run_int8(feeds)
        tally.add(Pair(len(next(iter(feeds.values()))), answers(), given, labels))
        if on_samples:
            on_samples(tally.count)
    return Judgement(tally.verdict(max_drop), tally.output_errors())


def worst_sqnr_db(run: Run, references: Iterable[tuple[Tensors, Tensors]], outputs: tuple[TensorSpec, ...]) -> float:
    """Gives the SQNR of the worst part of any output of `run`, in dB, against (feeds, float outputs) pairs.

    An output is one part, but for a detector's: its boxes and scores are parts of their own; see `pairs.parts`.
    """
    return min(part_sqnrs_db(run, references, outputs))


def part_sqnrs_db(
    run: Run, references: Iterable[tuple[Tensors, Tensors]], outputs: tuple[TensorSpec, ...]
) -> tuple[float, ...]:
    """Gives the SQNR of each part of each output, of which `worst_sqnr_db` is the least; always in the same order."""
    return tuple(scores.sqnr_db(power, noise) for power, noise in _sums(run, references, outputs, pairs.parts))


def worst_output_sqnr_db(
    run: Run, references: Iterable[tuple[Tensors, Tensors]], outputs: tuple[TensorSpec, ...]
) -> float:
    """Gives the SQNR of the worst output as a whole, which is what `Judgement.outputs` holds of each."""
    sums = _sums(run, references, outputs, lambda pair, name: [pairs.flat(pair, name)])
    return min(scores.sqnr_db(power, noise) for power, noise in sums)


def _sums(
    run: Run,
    references: Iterable[tuple[Tensors, Tensors]],
    outputs: tuple[TensorSpec, ...],
    parts_of: Callable[[Pair, str], list[tuple[Rows, Rows]]],
) -> list[tuple[float, float]]:
    """Gives power and noise of each part of each output."""
    sums: dict[tuple[str, int, int], Rows] = {}
    for feeds, expected in references:
        pair = Pair(len(next(iter(feeds.values()))), expected, run(feeds), None)
        for name in pairs.float_names(outputs):
            parts = parts_of(pair, name)
            for part, (wanted, given) in enumerate(parts):
                found = np.array([np.vdot(wanted, wanted), np.square(wanted - given).sum()])
                sums[name, len(parts), part] = sums.get((name, len(parts), part), 0.0) + found
    return [(float(power), float(noise)) for power, noise in sums.values()]


def loss_text(verdict: Verdict, what: str) -> str:
    """Says what a model lost, with both figures."""
    return (
        f"{what} has {verdict.metric} {verdict.int8_score.value:.2%}, float {verdict.float_score.value:.2%} on "
        f"{verdict.samples} samples: {verdict.drop:.2f} points lost, {verdict.max_drop:g} allowed"
    )


def drop_text(points: float) -> str:
    """Says what a model that passed lost, or gained.

    >>> [drop_text(points) for points in (0.42, 0.001, -0.1)]
    ['loses 0.42 points', 'loses nothing', 'gains 0.10 points']
    """
    if round(points, 2) == 0:
        return "loses nothing"
    return f"{'loses' if points > 0 else 'gains'} {abs(points):.2f} points"


class _Tally:
    """Gathers a few figures of each evaluation sample."""

    def __init__(self, outputs: tuple[TensorSpec, ...], metric: Metric) -> None:
        self.count = 0
        self._metric = metric
        self._first = outputs[0].name
        self._is_classifier = pairs.class_count(outputs) is not None
        self._agreed = 0
        self._rows: list[Rows] = []
        self._powers: dict[str, list[Rows]] = {name: [] for name in pairs.float_names(outputs)}

    def add(self, pair: Pair) -> None:
        """Takes in the outputs of both models for one batch."""
        _check_reference(pair, self._powers, self.count)
        self.count += pair.size
        for name, rows in self._powers.items():
            rows.append(_powers(*pairs.flat(pair, name)))
        if self._is_classifier:
            wanted, given = pairs.flat(pair, self._first)
            self._agreed += int((wanted.argmax(axis=1) == given.argmax(axis=1)).sum())
        self._rows.append(self._metric.rows(pair))

    def output_errors(self) -> dict[str, OutputError]:
        """Gives the error of each floating-point output."""
        return {name: _output_error(np.concatenate(rows)) for name, rows in self._powers.items()}

    def verdict(self, max_drop: float) -> Verdict:
        """Gives the verdict on all samples so far."""
        found = self._metric.figures(np.concatenate(self._rows))
        agreement = scores.wilson_score(self._agreed, self.count) if self._is_classifier else found.second
        return _verdict(self._metric.title, self.count, found, agreement, max_drop=max_drop)


def _verdict(title: str, count: int, found: Figures, agreement: Score, *, max_drop: float) -> Verdict:
    """Gives the verdict; the drop is rounded so that 5 of 1,000 are 0.5 points and not a hair more."""
    drop, low, high = (round(100 * value, 9) for value in (found.drop.value, found.drop.low, found.drop.high))
    return Verdict(
        metric=title,
        samples=count,
        float_score=found.first,
        int8_score=found.second,
        agreement=agreement,
        drop=drop,
        max_drop=max_drop,
        passed=drop <= max_drop,
        drop_low=low,
        drop_high=high,
    )


def _check_reference(pair: Pair, names: Iterable[str], first: int) -> None:
    """Raises ModelError where the float model itself fails, beside which every answer would look right."""
    for name in names:
        wanted = pair.wanted[name]
        if wanted.dtype.kind == "f" and not np.isfinite(wanted).all():
            rows = (
                np.isfinite(wanted).reshape(pair.size, -1) if wanted.size % pair.size == 0 else np.zeros((1, 1), bool)
            )
            bad = first + int(np.argmin(rows.all(axis=1)))
            raise errors.ModelError(
                f"output {name!r} of the model compared with (in a build the float model) is NaN or infinite on sample "
                f"{bad}; check that sample, the preprocessing (--preprocess) and the model"
            )


def _powers(wanted: Rows, given: Rows) -> Rows:
    """Gives power, noise, product and INT8 power of each sample."""
    return np.stack(
        [
            np.square(wanted).sum(axis=1),
            np.square(wanted - given).sum(axis=1),
            (wanted * given).sum(axis=1),
            np.square(given).sum(axis=1),
        ],
        axis=1,
    )


def _output_error(rows: Rows) -> OutputError:
    power, noise, product, int8_power = rows.sum(axis=0).tolist()
    norm = float(np.sqrt(power * int8_power))
    cosine = product / norm if norm else float(power == int8_power)
    drawn = [scores.sqnr_db(*means) for means in intervals.resampled(rows[:, :2]).tolist()]
    value = scores.sqnr_db(power, noise)
    low, high = np.percentile(drawn, (2.5, 97.5)).tolist()
    return OutputError(value, cosine, min(low, value), max(high, value))
