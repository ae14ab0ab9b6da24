"""Detections as a detector's raw output holds them, one per row, and how many of two outputs are the same.

Row i of both outputs belongs to the same anchor, so that rows are compared with their own counterpart: no grid, stride
or non-maximum suppression of a particular detector is needed, and intersection over union does not change when both
boxes are moved or scaled alike.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

SAME_OVERLAP = 0.5
"""Two boxes are the same above this intersection over union, as in PASCAL VOC."""

_FEWEST_ROWS = 64

_LARGEST_LOG = 10.0


class Rows(NamedTuple):
    """One image's rows: boxes float64[n, 4] (centre, size as the network gives it) and scores float64[n, classes]."""

    boxes: NDArray[np.float64]
    scores: NDArray[np.float64]


def is_layout(shape: tuple[int, ...]) -> bool:
    """Says whether a shape can be ``[N, boxes, 4 + 1 + classes]`` or ``[N, 4 + classes, boxes]``."""
    return len(shape) == 3 and min(shape[1:]) >= 5 and max(shape[1:]) >= 4 * min(shape[1:])


def is_detector(shape: tuple[int, ...]) -> bool:
    """Says whether a shape is of that layout, with as many rows as a detector has at least.

    >>> is_detector((1, 3549, 6)), is_detector((1, 84, 2100)), is_detector((1, 5, 20))
    (True, True, False)
    """
    return is_layout(shape) and max(shape[1:]) >= _FEWEST_ROWS


def rows_from_output(output: NDArray[np.floating]) -> Rows:
    """Gives the rows of one image; the shorter axis is that of the columns.

    ``[boxes, 4 + 1 + classes]`` has an objectness, which its class scores are multiplied with (5 columns: the
    objectness alone); ``[4 + classes, boxes]`` has none.
    """
    if output.shape[0] < output.shape[1]:
        columns = output.T.astype(np.float64)
        return Rows(columns[:, :4], columns[:, 4:])
    columns = output.astype(np.float64)
    classes = columns[:, 5:] if columns.shape[1] > 5 else np.ones((len(columns), 1))
    return Rows(columns[:, :4], columns[:, 4:5] * classes)


def are_shares(rows: Rows) -> bool:
    """Says whether all scores are from 0 to 1: what merely has the shape of a detector's output hardly ever is."""
    return bool(rows.scores.min() >= 0 and rows.scores.max() <= 1)


def matches(wanted: Rows, given: Rows, threshold: float) -> tuple[int, int, int]:
    """Gives the detections of `wanted`, those of `given`, and those in both, of the same class.

    Args:
        wanted: of the float model.
        given: of the other model, the same rows.
        threshold: a row counts when its best class scores above this.
    """
    sure, found = (rows.scores.max(axis=1) > threshold for rows in (wanted, given))
    both = sure & found & (wanted.scores.argmax(axis=1) == given.scores.argmax(axis=1))
    is_log = bool((wanted.boxes[:, 2:] < 0).any())
    same = overlaps(*(_corners(rows.boxes[both], is_log=is_log) for rows in (wanted, given))) > SAME_OVERLAP
    return int(sure.sum()), int(found.sum()), int(same.sum())


def overlaps(first: NDArray[np.float64], second: NDArray[np.float64]) -> NDArray[np.float64]:
    """Gives intersection over union, row by row, of boxes (left, top, right, bottom).

    >>> overlaps(np.array([[0.0, 0, 2, 2]]), np.array([[1.0, 0, 3, 2]])).round(3).tolist()
    [0.333]
    """
    low, high = np.maximum(first[:, :2], second[:, :2]), np.minimum(first[:, 2:], second[:, 2:])
    shared = np.prod(np.maximum(high - low, 0), axis=1)
    areas = sum(np.prod(np.maximum(box[:, 2:] - box[:, :2], 0), axis=1) for box in (first, second))
    found: NDArray[np.float64] = np.divide(shared, areas - shared, out=np.zeros_like(shared), where=areas > shared)
    return found


def _corners(boxes: NDArray[np.float64], *, is_log: bool) -> NDArray[np.float64]:
    """Gives corners; sizes that may be negative are logarithms, as YOLOX gives them."""
    sizes = np.exp(np.minimum(boxes[:, 2:], _LARGEST_LOG)) if is_log else boxes[:, 2:]
    return np.concatenate([boxes[:, :2] - sizes / 2, boxes[:, :2] + sizes / 2], axis=1)
