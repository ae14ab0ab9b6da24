"""Macro F1 of two models on the same labels, with intervals that know that the samples are the same."""

import numpy as np
from numpy.typing import NDArray

from edge_sdk.numerics import intervals
from edge_sdk.records.bundle import Score


def macro_f1_scores(
    labels: NDArray[np.int64], first: NDArray[np.int64], second: NDArray[np.int64]
) -> tuple[Score, Score, Score]:
    """Gives macro F1 of both models, and by how much the first is larger.

    A class counts when a label or a model names it; its F1 is 0 where nothing of it was found.

    Args:
        labels: int64[n].
        first: classes that the first model gave, int64[n].
        second: classes that the second model gave, int64[n].

    >>> both, _, drop = macro_f1_scores(*np.array([[0, 1, 0, 1]] * 3))
    >>> (both.value, drop.value)
    (1.0, 0.0)
    """
    triples, counts = np.unique(np.stack([labels, first, second], axis=1), axis=0, return_counts=True)
    draws = np.random.default_rng(intervals.SEED).multinomial(len(labels), counts / counts.sum(), size=intervals.DRAWS)
    every = np.concatenate([counts[None], draws]).astype(np.float64)
    one, other = (_macro_f1(every, triples[:, 0], triples[:, column]) for column in (1, 2))
    return _score(one), _score(other), _score(one - other)


def _macro_f1(counts: NDArray[np.float64], labels: NDArray[np.int64], given: NDArray[np.int64]) -> NDArray[np.float64]:
    """Gives macro F1 for each row of `counts`, which says how often each (label, answer) pair came."""
    classes = np.unique(np.concatenate([labels, given]))
    is_label, is_given = (values[:, None] == classes for values in (labels, given))
    hits, wanted, answered = (counts @ mask.astype(np.float64) for mask in (is_label & is_given, is_label, is_given))
    present = wanted + answered > 0
    shares = np.divide(2 * hits, wanted + answered, out=np.zeros_like(hits), where=present)
    means: NDArray[np.float64] = shares.sum(axis=1) / present.sum(axis=1)
    return means


def _score(values: NDArray[np.float64]) -> Score:
    """Gives the first value with the interval of the others."""
    low, high = np.percentile(values[1:], (2.5, 97.5)).tolist()
    return Score(float(values[0]), min(low, float(values[0])), max(high, float(values[0])))
