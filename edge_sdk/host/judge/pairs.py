"""The outputs of two models on the same samples, one row per sample, and what a metric makes of them."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from edge_sdk import errors
from edge_sdk.engines.protocol import Tensors
from edge_sdk.numerics import detections
from edge_sdk.records.bundle import Score
from edge_sdk.records.tensors import TensorSpec

Rows = NDArray[np.float64]

_CONFIDENT = 0.1
"""Rows of a detector below this score say nothing about its detections; where all are below, its best counts."""


class Pair(NamedTuple):
    """What both models gave for a batch.

    Attributes:
        size: samples in it.
        wanted: outputs of the float model (of the first model, where two are compared).
        given: outputs of the INT8 model.
        labels: int64[count], or None.
    """

    size: int
    wanted: Tensors
    given: Tensors
    labels: NDArray[np.int64] | None


class Figures(NamedTuple):
    """A metric over all samples: both models, and the paired difference; 0 to 1."""

    first: Score
    second: Score
    drop: Score


class Metric(NamedTuple):
    """One way to score.

    Attributes:
        title: as reports name it.
        rows: float64[count, columns] of a batch.
        figures: of the rows of all samples.
        budget: points that INT8 may lose of it, unless told otherwise.
    """

    title: str
    rows: Callable[[Pair], Rows]
    figures: Callable[[Rows], Figures]
    budget: float


def class_count(outputs: tuple[TensorSpec, ...]) -> int | None:
    """Gives the number of classes of a classifier: the first output is ``[N, C]`` (or ``[N, C, 1, ...]``), C > 1."""
    if not outputs or len(outputs[0].shape) < 2 or not outputs[0].dtype.startswith("float"):
        return None
    _, classes, *rest = outputs[0].shape
    return classes if classes is not None and classes > 1 and all(axis == 1 for axis in rest) else None


def float_names(outputs: tuple[TensorSpec, ...]) -> list[str]:
    """Gives the outputs that an error can be measured of: the floating-point ones, or all where there are none."""
    return [spec.name for spec in outputs if spec.dtype.startswith("float")] or [spec.name for spec in outputs]


def flat(pair: Pair, name: str) -> tuple[Rows, Rows]:
    """Gives an output of both models as one row per sample.

    Raises:
        ModelError: its shape depends on the values (a detector with its non-maximum suppression inside), or it is not
            finite in the other model.
    """
    wanted, answers = pair.wanted[name], pair.given[name]
    if wanted.shape != answers.shape or not wanted.size or len(wanted) % pair.size:
        raise errors.ModelError(
            f"output {name!r} has the shape {wanted.shape} in float and {answers.shape} in INT8 for {pair.size} "
            "samples, so it can't be compared; export the model without its non-maximum suppression, with the batch "
            "axis first"
        )
    if answers.dtype.kind == "f" and not np.isfinite(answers).all():
        raise errors.ModelError(
            f"output {name!r} is NaN or infinite in reduced precision; build with --precision float"
        )
    return wanted.reshape(pair.size, -1).astype(np.float64), answers.reshape(pair.size, -1).astype(np.float64)


def parts(pair: Pair, name: str) -> list[tuple[Rows, Rows]]:
    """Gives an output of both models by what its values mean: as `flat` does, but a detector's boxes and scores apart.

    Of a detector's rows only the confident ones count: boxes in pixels would drown the scores, and thousands of empty
    anchors the few that matter. An output of that shape whose scores are not from 0 to 1 is no detector's.
    """
    wanted, given = flat(pair, name)
    shape = pair.wanted[name].shape
    if not detections.is_detector(shape):
        return [(wanted, given)]
    images = zip(wanted.reshape(shape), given.reshape(shape), strict=True)
    both = [tuple(map(detections.rows_from_output, image)) for image in images]
    if not all(detections.are_shares(float_rows) for float_rows, _ in both):
        return [(wanted, given)]
    rows = [_confident(*image) for image in both]
    columns = (np.split(np.concatenate(side), [1, 2, 3, 4], axis=1) for side in zip(*rows, strict=True))
    return list(zip(*columns, strict=True))


def _confident(wanted: detections.Rows, given: detections.Rows) -> tuple[Rows, Rows]:
    """Gives four columns of boxes and one for each class, of the rows that the float model is confident of."""
    best = wanted.scores.max(axis=1)
    is_sure = best >= min(_CONFIDENT, float(best.max()))
    one, other = (np.concatenate([rows.boxes, rows.scores], axis=1)[is_sure] for rows in (wanted, given))
    return one, other


def noise_shares(pair: Pair, name: str) -> NDArray[np.float64]:
    """Gives, per sample, the power of the difference over the power of the output; 1 for noise where nothing was."""
    wanted, given = flat(pair, name)
    noise, power = np.square(wanted - given).sum(axis=1), np.square(wanted).sum(axis=1)
    shares: Rows = np.divide(noise, power, out=np.where(noise > 0, 1.0, 0.0), where=power > 0)
    return shares
