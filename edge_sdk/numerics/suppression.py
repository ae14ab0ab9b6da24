"""From a detector's rows to the few boxes that a person would draw: one per object."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from edge_sdk.numerics import detections
from edge_sdk.numerics.detections import Rows

MOST_CANDIDATES = 1000
"""Rows that enter the pairwise comparison, the best ones; some detectors give ten thousand."""


class Boxes(NamedTuple):
    """Boxes, the best first.

    Attributes:
        corners: float64[n, 4]: left, top, right, bottom, in the units of the rows.
        classes: int64[n].
        scores: float64[n].
    """

    corners: NDArray[np.float64]
    classes: NDArray[np.int64]
    scores: NDArray[np.float64]


def best_boxes(rows: Rows, *, most: int = 20, least_score: float = 0.25, overlap: float = 0.45) -> Boxes:
    """Gives the best rows of which no two of one class overlap by more than `overlap` (intersection over union).

    Args:
        rows: of one image, boxes as centre and size.
        most: boxes to give.
        least_score: of the best class of a row.
        overlap: of two boxes of one class, above which the worse one goes.

    >>> rows = Rows(np.array([[5.0, 5, 4, 4], [5.2, 5, 4, 4], [20, 5, 4, 4]]), np.array([[0.9], [0.8], [0.7]]))
    >>> best_boxes(rows).corners.tolist()
    [[3.0, 3.0, 7.0, 7.0], [18.0, 3.0, 22.0, 7.0]]
    """
    classes, scores = rows.scores.argmax(axis=1), rows.scores.max(axis=1)
    order = np.flatnonzero(scores >= least_score)
    order = order[np.argsort(-scores[order], kind="stable")][:MOST_CANDIDATES]
    half = rows.boxes[order, 2:] / 2
    corners = np.concatenate([rows.boxes[order, :2] - half, rows.boxes[order, :2] + half], axis=1)
    kept: list[int] = []
    left = np.arange(len(order))
    while left.size and len(kept) < most:
        best, left = int(left[0]), left[1:]
        kept.append(best)
        near = detections.overlaps(np.broadcast_to(corners[best], (left.size, 4)), corners[left]) > overlap
        left = left[~(near & (classes[order[left]] == classes[order[best]]))]
    return Boxes(corners[kept], classes[order[kept]].astype(np.int64), scores[order[kept]])
