"""Which layers INT8 hurts most, by measurement: each layer alone in INT8, and what that does to the outputs."""

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import numpy as np

from edge_sdk.host.judge import metrics
from edge_sdk.host.judge.pairs import Metric, Pair, Rows, flat, float_names, noise_shares
from edge_sdk.numerics import detections, scores
from edge_sdk.records.tensors import TensorSpec

MOST_SAMPLES, FEWEST_SAMPLES = 16, 4
RUNS = 512
"""Runs of one sample that a ranking may take; a wall-clock limit would make two builds differ."""

_CONFIDENT = 0.1
"""Rows of a detector below this score, and so all but a few, say nothing about its detections."""


class Sensitivity(NamedTuple):
    """One layer alone in INT8: the noise it puts into the outputs, over their power, and the same in dB."""

    node: str
    noise_ratio: float

    @property
    def sqnr_db(self) -> float:
        """Signal to noise of the outputs with this layer alone in INT8."""
        return scores.sqnr_db(1.0, self.noise_ratio)


def sample_count(layers: int) -> int:
    """Gives how many samples each layer is measured on, so that a ranking stays within RUNS.

    >>> [sample_count(layers) for layers in (10, 100, 1000)]
    [16, 5, 4]
    """
    return max(FEWEST_SAMPLES, min(MOST_SAMPLES, RUNS // max(layers, 1)))


def ranked(
    nodes: Sequence[str], noise_of: Callable[[str], float], on_layers: Callable[[int], None] | None = None
) -> tuple[Sensitivity, ...]:
    """Gives the layers, the most harmful first; equals stay in graph order.

    Args:
        nodes: in graph order.
        noise_of: measures one layer alone in INT8; see `noise_ratio`.
        on_layers: told the number of layers done so far.
    """
    found = []
    for done, node in enumerate(nodes, 1):
        found.append(Sensitivity(node, noise_of(node)))
        if on_layers:
            on_layers(done)
    return tuple(sorted(found, key=lambda one: -one.noise_ratio))


def noise_ratio(pairs: Iterable[Pair], outputs: tuple[TensorSpec, ...], metric: Metric) -> float:
    """Gives the noise over the power of the worst output, mean over the samples.

    Of a detector's rows only the confident ones count, each column by its own power: boxes in pixels would drown the
    scores, and thousands of empty anchors the few that matter.
    """
    of_pair = _detector_noise if metric.title == metrics.TITLES["detection"] else _noise
    rows = np.concatenate([of_pair(pair, outputs) for pair in pairs])
    return float(rows.mean(axis=0).max())


def fewest(order: Sequence[str], holds: Callable[[int], bool]) -> int | None:
    """Gives the smallest number of leading entries of `order` with which the gate holds; None if not even all do.

    Doubles the number until the gate holds, then bisects: about twice the logarithm of the answer in checks.

    >>> fewest("abcdefgh", lambda count: count >= 5)
    5
    """
    fails, count = 0, 1
    while count < len(order) and not holds(count):
        fails, count = count, 2 * count
    if count >= len(order):
        count = len(order)
        if not order or not holds(count):
            return None
    while count - fails > 1:
        middle = (fails + count) // 2
        fails, count = (fails, middle) if holds(middle) else (middle, count)
    return count


def _noise(pair: Pair, outputs: tuple[TensorSpec, ...]) -> Rows:
    return np.stack([noise_shares(pair, name) for name in float_names(outputs)], axis=1)


def _detector_noise(pair: Pair, outputs: tuple[TensorSpec, ...]) -> Rows:
    name = outputs[0].name
    flat(pair, name)
    images = zip(pair.wanted[name], pair.given[name], strict=True)
    found = [_confident_noise(*map(detections.rows_from_output, image)) for image in images]
    return np.array(found)[:, None]


def _confident_noise(wanted: detections.Rows, given: detections.Rows) -> float:
    best = wanted.scores.max(axis=1)
    is_sure = best > _CONFIDENT if (best > _CONFIDENT).any() else best >= best.max()
    one, other = (np.concatenate([rows.boxes, rows.scores], axis=1)[is_sure] for rows in (wanted, given))
    noise, power = np.square(one - other).sum(axis=0), np.square(one).sum(axis=0)
    return float(np.divide(noise, power, out=np.where(noise > 0, 1.0, 0.0), where=power > 0).mean())
