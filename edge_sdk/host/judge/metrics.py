"""What "accuracy" means for a model and its data: one row of figures per sample, and the score that they add up to.

| name | needs | is |
|---|---|---|
| top-1 | labels, classes | share of samples whose largest output is the label |
| f1 | labels, classes | macro F1 |
| agreement | classes | share of samples on which both models name the same class |
| detection | a detector's rows | detections that both have, over the mean of both models' detections |
| iou | a map | mean intersection over union of the maps above the threshold |
| signal | - | share of the outputs' power that is not quantisation noise, worst output (0.995 is 23 dB) |
| cosine | - | mean cosine between both models' outputs, worst output |

All but the first two take the float model's answers for the truth, so that a changed answer is not always a wrong one:
their budgets in BUDGETS are wider. ``name@threshold`` sets the threshold of detection
(0.25) and iou (0.5). A function of the user's own, ``module:function``, is called as ``function(outputs, labels)`` with
arrays of some samples (labels None where there are none) and gives one figure per sample, more is better, 0 to 1.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_sdk import errors, imports
from edge_sdk.host.judge import own_metric
from edge_sdk.host.judge.pairs import Figures, Metric, Pair, Rows, class_count, flat, float_names, noise_shares
from edge_sdk.numerics import detections, f1, intervals, scores
from edge_sdk.records.bundle import Score
from edge_sdk.records.tensors import TensorSpec

AUTO = "auto"
TITLES = {
    "top-1": "top-1",
    "f1": "macro F1",
    "agreement": "agreement",
    "detection": "detection agreement",
    "iou": "mean IoU",
    "signal": "signal share",
    "cosine": "cosine",
}
"""By name on the command line, as reports name it."""

BUDGETS = {"top-1": 0.5, "f1": 0.5, "agreement": 2.0, "detection": 5.0, "iou": 5.0, "signal": 1.0, "cosine": 0.5}
"""Points that INT8 may lose unless told otherwise. Answers near a threshold or between two classes change with the
slightest noise, for the better as for the worse. A hundredth of the power as noise is 20 dB, as is a cosine of 0.995.
"""

BUDGETS_TEXT = ", ".join(f"{name} {points:g}" for name, points in {**BUDGETS, "your own": own_metric.BUDGET}.items())

_THRESHOLDS = {"detection": 0.25, "iou": 0.5}
_WITH_LABELS = ("top-1", "f1")
_WITH_CLASSES = (*_WITH_LABELS, "agreement")


def check_metric(name: str) -> None:
    """Raises UsageError for a metric that does not exist, or a threshold that is none."""
    kind, _, threshold = name.partition("@")
    if ":" in name:
        own_metric.metric_of_user(name)
    elif kind not in (AUTO, *TITLES):
        known = ", ".join((AUTO, *TITLES))
        raise errors.UsageError(f"no metric {name!r}{imports.nearest(kind, TITLES)}; known: {known}, module:function")
    elif threshold or "@" in name:
        _threshold(name)


def takes_labels(name: str, outputs: tuple[TensorSpec, ...]) -> bool:
    """Says whether labels of classes can be scored: top-1 and F1 of a classifier, or a function of the user's own."""
    return ":" in name or class_count(outputs) is not None


def chosen(
    name: str, outputs: tuple[TensorSpec, ...], *, is_labelled: bool, probe: Mapping[str, NDArray[Any]] | None = None
) -> Metric:
    """Gives the metric of a name; ``auto`` takes the one that model and data allow.

    Args:
        name: see the module.
        outputs: of the model.
        is_labelled: whether the evaluation data has labels.
        probe: the float model's outputs for a few samples, by which a detector is known.

    Raises:
        UsageError: the metric needs labels, classes or boxes that are not there.
    """
    check_metric(name)
    if ":" in name:
        return own_metric.metric_of_user(name)
    if name == AUTO:
        name = _best(outputs, is_labelled=is_labelled, probe=probe)
    kind = name.partition("@")[0]
    if kind in _WITH_LABELS and not is_labelled:
        raise errors.UsageError(f"the metric {kind} needs labels, and the evaluation data has none; give labels")
    if kind in _WITH_CLASSES and class_count(outputs) is None:
        raise errors.UsageError(f"the metric {kind} needs a vector of classes; {_first_text(outputs)}")
    if kind == "detection" and probe is not None and not detections.is_layout(probe[outputs[0].name].shape):
        raise errors.UsageError(
            f"the metric detection needs rows of boxes, [N, boxes, 5 + classes] or [N, 4 + classes, boxes]; "
            f"{_first_text(outputs)}"
        )
    return _METRICS[kind](outputs, _threshold(name))


def _best(outputs: tuple[TensorSpec, ...], *, is_labelled: bool, probe: Mapping[str, NDArray[Any]] | None) -> str:
    if class_count(outputs) is not None:
        return "top-1" if is_labelled else "agreement"
    return "detection" if probe is not None and _is_detector(probe[outputs[0].name]) else "signal"


def _is_detector(output: NDArray[Any]) -> bool:
    """Says whether an output holds detections: of that layout, its scores between 0 and 1, one of them above."""
    if output.dtype.kind != "f" or not detections.is_detector(output.shape):
        return False
    images = [detections.rows_from_output(image) for image in output]
    best = max(float(rows.scores.max()) for rows in images)
    return all(map(detections.are_shares, images)) and best > _THRESHOLDS["detection"]


def _threshold(name: str) -> float:
    kind, _, text = name.partition("@")
    if "@" not in name:
        return _THRESHOLDS.get(kind, math.nan)
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if kind not in _THRESHOLDS or not 0 < value < 1:
        expected = " or ".join(f"{known}@{usual}" for known, usual in _THRESHOLDS.items())
        raise errors.UsageError(f"the metric {name!r} has no such threshold; expected {expected}, between 0 and 1")
    return value


def _first_text(outputs: tuple[TensorSpec, ...]) -> str:
    return f"the model's first output {outputs[0].name!r} is {outputs[0]}" if outputs else "the model has no output"


def _answers(pair: Pair, name: str) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    wanted, given = flat(pair, name)
    return wanted.argmax(axis=1), given.argmax(axis=1)


def _labelled(pair: Pair) -> NDArray[np.int64]:
    assert pair.labels is not None
    return pair.labels


def _top1(outputs: tuple[TensorSpec, ...], _threshold: float) -> Metric:
    def rows(pair: Pair) -> Rows:
        labels = _labelled(pair)
        return _columns(*(found == labels for found in _answers(pair, outputs[0].name)))

    return Metric(TITLES["top-1"], rows, _hit_figures, BUDGETS["top-1"])


def _agreement(outputs: tuple[TensorSpec, ...], _threshold: float) -> Metric:
    def rows(pair: Pair) -> Rows:
        wanted, given = _answers(pair, outputs[0].name)
        return _columns(wanted == given)

    def figures(all_rows: Rows) -> Figures:
        return _of_reference(scores.wilson_score(int(all_rows.sum()), len(all_rows)))

    return Metric(TITLES["agreement"], rows, figures, BUDGETS["agreement"])


def _f1(outputs: tuple[TensorSpec, ...], _threshold: float) -> Metric:
    def rows(pair: Pair) -> Rows:
        return _columns(_labelled(pair), *_answers(pair, outputs[0].name))

    def figures(all_rows: Rows) -> Figures:
        return Figures(*f1.macro_f1_scores(*all_rows.astype(np.int64).T))

    return Metric(TITLES["f1"], rows, figures, BUDGETS["f1"])


def _detection(outputs: tuple[TensorSpec, ...], threshold: float) -> Metric:
    def rows(pair: Pair) -> Rows:
        flat(pair, outputs[0].name)
        images = zip(pair.wanted[outputs[0].name], pair.given[outputs[0].name], strict=True)
        found = [tuple(map(detections.rows_from_output, image)) for image in images]
        return np.array([detections.matches(wanted, given, threshold) for wanted, given in found], np.float64)

    def figures(all_rows: Rows) -> Figures:
        if not all_rows[:, 0].any():
            raise errors.DataError(
                f"the float model detects nothing above {threshold} in the evaluation data: nothing can be compared; "
                "give pictures with something to detect, or a lower threshold, for example --metric detection@0.1"
            )
        return _of_reference(intervals.bootstrap_score(all_rows, _dice))

    return Metric(TITLES["detection"], rows, figures, BUDGETS["detection"])


def _dice(means: Rows) -> NDArray[np.float64]:
    """Gives matches over the mean of both models' detections; 1 where neither has any."""
    either = means[:, 0] + means[:, 1]
    found: NDArray[np.float64] = np.divide(2 * means[:, 2], either, out=np.ones(len(means)), where=either > 0)
    return found


def _iou(outputs: tuple[TensorSpec, ...], threshold: float) -> Metric:
    def rows(pair: Pair) -> Rows:
        wanted, given = (values > threshold for values in flat(pair, outputs[0].name))
        union = (wanted | given).sum(axis=1)
        shared = (wanted & given).sum(axis=1)
        return _columns(np.divide(shared, union, out=np.ones(pair.size), where=union > 0))

    return Metric(TITLES["iou"], rows, _worst_mean_figures, BUDGETS["iou"])


def _signal(outputs: tuple[TensorSpec, ...], _threshold: float) -> Metric:
    def rows(pair: Pair) -> Rows:
        return _columns(*(np.maximum(1 - noise_shares(pair, name), 0.0) for name in float_names(outputs)))

    return Metric(TITLES["signal"], rows, _worst_mean_figures, BUDGETS["signal"])


def _cosine(outputs: tuple[TensorSpec, ...], _threshold: float) -> Metric:
    def rows(pair: Pair) -> Rows:
        return _columns(*(_cosines(*flat(pair, name)) for name in float_names(outputs)))

    return Metric(TITLES["cosine"], rows, _worst_mean_figures, BUDGETS["cosine"])


def _cosines(wanted: Rows, given: Rows) -> NDArray[np.float64]:
    norms = np.linalg.norm(wanted, axis=1) * np.linalg.norm(given, axis=1)
    both_zero = (~wanted.any(axis=1) & ~given.any(axis=1)).astype(float)
    found: NDArray[np.float64] = np.divide((wanted * given).sum(axis=1), norms, out=both_zero, where=norms > 0)
    return found


def _columns(*values: NDArray[Any]) -> Rows:
    return np.stack(values, axis=1).astype(np.float64)


def _hit_figures(all_rows: Rows) -> Figures:
    """Figures of two columns of hits."""
    first, second = all_rows.T > 0
    count = len(all_rows)
    table = (first & second, first & ~second, ~first & second, ~first & ~second)
    drop = intervals.paired_drop(*(int(cell.sum()) for cell in table))
    return Figures(scores.wilson_score(int(first.sum()), count), scores.wilson_score(int(second.sum()), count), drop)


def _worst_mean_figures(all_rows: Rows) -> Figures:
    """Figures of the column with the lowest mean, against a float model that is right by definition."""
    worst = all_rows[:, int(all_rows.mean(axis=0).argmin())]
    return _of_reference(intervals.bootstrap_score(worst[:, None], lambda means: means[:, 0]))


def _of_reference(score: Score) -> Figures:
    return Figures(Score(1.0, 1.0, 1.0), score, Score(1 - score.value, 1 - score.high, 1 - score.low))


_METRICS: dict[str, Callable[[tuple[TensorSpec, ...], float], Metric]] = {
    "top-1": _top1,
    "f1": _f1,
    "agreement": _agreement,
    "detection": _detection,
    "iou": _iou,
    "signal": _signal,
    "cosine": _cosine,
}
