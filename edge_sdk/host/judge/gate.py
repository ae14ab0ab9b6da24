"""Float and INT8 side by side on the evaluation data: metric, agreement, output error, and the verdict.

With labels the metric is top-1. Without, it is the share of samples on which both models agree (same largest output),
or, where the first output is no vector of classes, the share of the outputs' power that is signal and not
quantisation noise (0.995 is 23 dB); that share then stands for agreement too. The drop is in points: hundredths of the
metric.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from edge_sdk import errors
from edge_sdk.engines.protocol import Tensors
from edge_sdk.numerics import scores
from edge_sdk.records.bundle import Score, Verdict
from edge_sdk.records.tensors import TensorSpec

Run = Callable[[Mapping[str, NDArray[Any]]], Tensors]
Evaluated = tuple[Tensors, NDArray[np.int64] | None]
"""Prepared inputs of a batch, and its labels."""

TOP1 = "top-1"
AGREEMENT = "agreement"
SIGNAL = "signal share"


class OutputError(NamedTuple):
    """How far an INT8 output is from the float one, over all evaluation samples."""

    sqnr_db: float
    cosine: float


class Judgement(NamedTuple):
    """The verdict and what stands behind it."""

    verdict: Verdict
    outputs: dict[str, OutputError]


def class_count(outputs: tuple[TensorSpec, ...]) -> int | None:
    """Gives the number of classes of a classifier: the first output is ``[N, C]`` (or ``[N, C, 1, ...]``), C > 1."""
    if not outputs or len(outputs[0].shape) < 2 or not outputs[0].dtype.startswith("float"):
        return None
    _, classes, *rest = outputs[0].shape
    return classes if classes is not None and classes > 1 and all(axis == 1 for axis in rest) else None


def check_labels(outputs: tuple[TensorSpec, ...], *, is_labelled: bool) -> None:
    """Raises DataError for labels that the model's first output can't be scored against."""
    if is_labelled and class_count(outputs) is None:
        given = f"{outputs[0].name!r} is {outputs[0]}" if outputs else "there is none"
        raise errors.DataError(
            f"the evaluation data has class labels, but the model's first output is no vector of classes: {given}; "
            "leave the labels out, or give a classifier"
        )


def judged(
    run_float: Run,
    run_int8: Run,
    batches: Iterable[Evaluated],
    *,
    outputs: tuple[TensorSpec, ...],
    max_drop: float,
    on_samples: Callable[[int], None] | None = None,
) -> Judgement:
    """Gives the verdict over all batches; memory does not grow with the number of samples.

    Args:
        run_float: the reference.
        run_int8: what is to be shipped.
        batches: of the evaluation data.
        outputs: of the model.
        max_drop: in points of the metric.
        on_samples: told the number of samples done so far.

    Raises:
        ModelError: an INT8 output is NaN or infinite.
    """
    tally = _Tally(outputs)
    for feeds, labels in batches:
        tally.add(len(next(iter(feeds.values()))), run_float(feeds), run_int8(feeds), labels)
        if on_samples:
            on_samples(tally.count)
    return Judgement(tally.verdict(max_drop), tally.output_errors())


def worst_sqnr_db(run: Run, references: Iterable[tuple[Tensors, Tensors]], outputs: tuple[TensorSpec, ...]) -> float:
    """Gives the SQNR of the worst output of `run`, in dB, against (feeds, float outputs) pairs."""
    tally = _Tally(outputs)
    for feeds, expected in references:
        tally.add(len(next(iter(feeds.values()))), expected, run(feeds), None)
    return min(error.sqnr_db for error in tally.output_errors().values())


class _Tally:
    """Sums over the evaluation samples."""

    def __init__(self, outputs: tuple[TensorSpec, ...]) -> None:
        self.count = 0
        self._floats = [spec.name for spec in outputs if spec.dtype.startswith("float")] or [
            spec.name for spec in outputs
        ]
        self._first = outputs[0].name
        self._is_classifier = class_count(outputs) is not None
        self._float_right: int | None = None
        self._int8_right = 0
        self._agreed = 0
        self._powers = {name: np.zeros(4) for name in self._floats}
        self._signal_shares: list[NDArray[np.float64]] = []

    def add(self, count: int, expected: Tensors, given: Tensors, labels: NDArray[np.int64] | None) -> None:
        """Takes in the outputs of both models for one batch of `count` samples."""
        wanted, answers = _rows(self._first, count, expected, given)
        self.count += count
        float_classes, int8_classes = wanted.argmax(axis=1), answers.argmax(axis=1)
        self._agreed += int((float_classes == int8_classes).sum())
        if labels is not None:
            self._float_right = (self._float_right or 0) + int((float_classes == labels).sum())
            self._int8_right += int((int8_classes == labels).sum())
        noise = np.square(wanted - answers).sum(axis=1)
        power = np.square(wanted).sum(axis=1)
        shares = 1 - np.divide(noise, power, out=np.where(noise > 0, 1.0, 0.0), where=power > 0)
        self._signal_shares.append(np.maximum(shares, 0.0))
        for name in self._floats:
            self._powers[name] += _powers(*_rows(name, count, expected, given), name)

    def output_errors(self) -> dict[str, OutputError]:
        """Gives the error of each floating-point output."""
        found = {}
        for name, (power, noise, product, int8_power) in self._powers.items():
            norm = float(np.sqrt(power * int8_power))
            cosine = float(product) / norm if norm else float(power == int8_power)
            found[name] = OutputError(scores.sqnr_db(float(power), float(noise)), cosine)
        return found

    def verdict(self, max_drop: float) -> Verdict:
        """Gives the verdict on all samples so far."""
        agreement = scores.wilson_score(self._agreed, self.count)
        if not self._is_classifier:
            signal = scores.mean_score(np.concatenate(self._signal_shares))
            return _verdict(SIGNAL, self.count, Score(1.0, 1.0, 1.0), signal, signal, max_drop=max_drop)
        if self._float_right is None:
            all_of_them = scores.wilson_score(self.count, self.count)
            return _verdict(AGREEMENT, self.count, all_of_them, agreement, agreement, max_drop=max_drop)
        float_score = scores.wilson_score(self._float_right, self.count)
        int8_score = scores.wilson_score(self._int8_right, self.count)
        return _verdict(TOP1, self.count, float_score, int8_score, agreement, max_drop=max_drop)


def _verdict(
    metric: str, count: int, float_score: Score, int8_score: Score, agreement: Score, *, max_drop: float
) -> Verdict:
    """Gives the verdict; the drop is rounded so that 5 of 1,000 are 0.5 points and not a hair more."""
    drop = round(100 * (float_score.value - int8_score.value), 9)
    return Verdict(metric, count, float_score, int8_score, agreement, drop, max_drop, drop <= max_drop)


def _powers(wanted: NDArray[np.float64], given: NDArray[np.float64], name: str) -> NDArray[np.float64]:
    """Gives power, noise, product and INT8 power of one batch of an output."""
    if not np.isfinite(given).all():
        raise errors.ModelError(f"output {name!r} of the INT8 model is NaN or infinite; build with --precision float")
    return np.array(
        [np.vdot(wanted, wanted), np.square(wanted - given).sum(), np.vdot(wanted, given), np.vdot(given, given)]
    )


def _rows(name: str, count: int, expected: Tensors, given: Tensors) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Gives an output of both models as one row per sample.

    Raises:
        ModelError: its shape depends on the values (a detector with its non-maximum suppression inside).
    """
    wanted, answers = expected[name], given[name]
    if wanted.shape != answers.shape or not wanted.size or len(wanted) % count:
        raise errors.ModelError(
            f"output {name!r} has the shape {wanted.shape} in float and {answers.shape} in INT8 for {count} samples, "
            "so it can't be compared; export the model without its non-maximum suppression, with the batch axis first"
        )
    return wanted.reshape(count, -1).astype(np.float64), answers.reshape(count, -1).astype(np.float64)
