"""One pass over the calibration data: a histogram per tensor, the digests, a held-out part."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from edge_sdk import errors
from edge_sdk.engines.protocol import Tensors
from edge_sdk.host.calibrate.samples import Batch
from edge_sdk.numerics import ranges

HELD_OUT_EVERY = 8
"""Each eighth sample is held out when a method is to be chosen; it joins the ranges after the choice."""

HELD_OUT_MOST = 32
_HELD_OUT_BYTES = 16 * 1024 * 1024

Run = Callable[[Mapping[str, NDArray[Any]]], Tensors]
Histograms = dict[str, ranges.MagnitudeHistogram]


class Collected(NamedTuple):
    """What the pass left behind.

    Attributes:
        fitted: histograms of the samples that were not held out, by tensor.
        held_out: those of the held-out samples.
        held_feeds: the held-out samples, prepared, one batch of 1 each.
        digests: of every sample, in order.
    """

    fitted: Histograms
    held_out: Histograms
    held_feeds: tuple[Tensors, ...]
    digests: tuple[str, ...]

    def histograms(self) -> Histograms:
        """Gives the histograms of all samples."""
        total = dict(self.fitted)
        _add(total, self.held_out)
        return total


def collected(
    run: Run,
    tensors: Sequence[str],
    batches: Iterable[Batch],
    *,
    hold_out: bool = False,
    evaluated: Mapping[str, int] | None = None,
    on_samples: Callable[[int], None] | None = None,
) -> Collected:
    """Gives histograms of `tensors` over all batches; memory does not grow with the number of samples.

    Args:
        run: gives the values of `tensors` that are not inputs.
        tensors: names of the activations.
        batches: of the calibration data.
        hold_out: keep every eighth sample apart (16 MB and 32 samples at most).
        evaluated: digests of the evaluation samples with their index.
        on_samples: told the number of samples done so far.

    Raises:
        DataError: a sample is in the evaluation data too.
        ModelError: an activation is NaN or infinite.
    """
    fitted: Histograms = {}
    held_out: Histograms = {}
    held_feeds: list[Tensors] = []
    digests: list[str] = []
    for batch in batches:
        check_apart(batch, evaluated or {})
        digests.extend(batch.digests)
        is_held = np.zeros(len(batch.digests), bool)
        for row in range(len(is_held)) if hold_out else ():
            if (batch.first + row) % HELD_OUT_EVERY == HELD_OUT_EVERY - 1 and _has_room(held_feeds, batch.feeds):
                is_held[row] = True
                held_feeds.append({name: values[row : row + 1].copy() for name, values in batch.feeds.items()})
        for rows, total in ((~is_held, fitted), (is_held, held_out)):
            if rows.any():
                feeds = batch.feeds if rows.all() else {name: values[rows] for name, values in batch.feeds.items()}
                _add(total, _observed(run, feeds, tensors, batch.first))
        if on_samples:
            on_samples(len(digests))
    return Collected(fitted, held_out, tuple(held_feeds), tuple(digests))


def check_apart(batch: Batch, evaluated: Mapping[str, int]) -> None:
    """Raises DataError when a calibration sample is an evaluation sample too: the gate would judge seen data."""
    for index, digest in enumerate(batch.digests, batch.first):
        if digest in evaluated:
            raise errors.DataError(
                f"calibration sample {index} and evaluation sample {evaluated[digest]} are the same; take it out of "
                "one of them, or the measured accuracy is not that of unseen data"
            )


def _observed(run: Run, feeds: Tensors, tensors: Sequence[str], first: int) -> Histograms:
    values = run(feeds) | feeds
    found: Histograms = {}
    for name in tensors:
        if not values[name].size:
            continue
        try:
            found[name] = ranges.histogram_from_tensor(values[name])
        except ValueError as error:
            raise errors.ModelError(
                f"tensor {name!r} of the float model is NaN or infinite on the calibration samples from {first} on; "
                "check the preprocessing (--preprocess) and the model"
            ) from error
    return found


def _add(total: Histograms, more: Histograms) -> None:
    for name, histogram in more.items():
        total[name] = ranges.merge(total[name], histogram) if name in total else histogram


def _has_room(held: list[Tensors], feeds: Tensors) -> bool:
    sample_bytes = sum(values[:1].nbytes for values in feeds.values())
    return len(held) < HELD_OUT_MOST and (len(held) + 1) * sample_bytes <= _HELD_OUT_BYTES
