"""Equalisation and bias correction, each kept only where it measurably raises the SQNR on held-out samples."""

import functools
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from edge_sdk.engines import ort
from edge_sdk.engines.protocol import Tensors
from edge_sdk.host import quantizing
from edge_sdk.host.calibrate import choose, collect, samples
from edge_sdk.host.graph import bias, equalise, qdq
from edge_sdk.host.graph import model as models
from edge_sdk.host.job import Graph, Job, Opened, Shifts
from edge_sdk.host.judge import gate
from edge_sdk.numerics import ranges
from edge_sdk.records.bundle import Correction

GOOD_DB = 25.0
"""From here on the noise is below 0.3 % of the outputs' power; what is left comes from rounding, which neither
correction mends, and neither is worth its time (ddddocr's detector at 28.9 dB: bias correction lost 0.3 dB)."""

GAIN_DB = 0.2
"""Less on the held-out samples is chance."""

SAMPLES = 16
"""Whose means the biases are corrected by: each channel sees all pixels of them."""

_HELD = 16

References = list[tuple[Tensors, Tensors]]
Feeds = Callable[[], Iterator[Tensors]]


class Corrected(NamedTuple):
    """What Q/DQ is written into, with its ranges, and what was tried for it."""

    base: models.Model
    choice: choose.Choice
    collected: collect.Collected
    tried: tuple[Correction, ...]
    shifts: Shifts = {}  # noqa: RUF012 - never changed


def corrected(job: Job, data: Opened, graph: Graph, choice: choose.Choice, collected: collect.Collected) -> Corrected:
    """Gives the model to quantise after whatever helped, or as it was.

    Both are tried only where INT8 is worse than GOOD_DB, and where samples were held out to measure on.
    """
    plain = Corrected(graph.model, choice, collected, ())
    if not collected.held_feeds:
        return plain
    with job.stages("correct"):
        references = list(zip(collected.held_feeds, collected.held_outputs, strict=True))[:_HELD]
        before_db = _sqnr_db(plain, graph, references)
        if before_db >= GOOD_DB:
            return plain
        feeds = functools.partial(_some, data.calibration, collected)  # read anew each time rather than held
        for step in (_equalised, _with_biases):
            tried = step(job, data, graph, plain, feeds)
            if tried is not None:
                plain, before_db = _better(plain, tried, graph, references, before_db)
    return plain


def _better(
    plain: Corrected, tried: Corrected, graph: Graph, references: References, before_db: float
) -> tuple[Corrected, float]:
    """Gives the better of both, with its SQNR, and puts the trial on record."""
    after_db = _sqnr_db(tried, graph, references)
    is_kept = after_db >= before_db + GAIN_DB
    entry = tried.tried[-1]
    entry = Correction(entry.name, entry.layers, before_db, after_db, is_kept)
    kept = tried if is_kept else plain
    return kept._replace(tried=(*plain.tried, entry)), after_db if is_kept else before_db


def _sqnr_db(one: Corrected, graph: Graph, references: References) -> float:
    content = quantizing.variant_bytes(one.base, graph.placed, one.choice.ranges, one.shifts)
    return gate.worst_sqnr_db(ort.runner_from_model(content), references, graph.model.outputs)


def _some(calibration: samples.Data, collected: collect.Collected) -> Iterator[Tensors]:
    """Gives the first calibration samples that were not held out."""
    left = SAMPLES
    for batch in calibration.batches():
        held = collected.held[batch.first : batch.first + len(batch.digests)]
        rows = np.flatnonzero(~np.array(held, bool))[:left]
        if rows.size:
            yield {name: values[rows] for name, values in batch.feeds.items()}
        left -= rows.size
        if left <= 0:
            return


def _with_biases(job: Job, data: Opened, graph: Graph, plain: Corrected, feeds: Feeds) -> Corrected | None:
    """Gives the model with the mean error of each layer taken back; None where no layer has a bias."""
    del job, data
    scales = quantizing.scales_from_ranges(plain.choice.ranges)
    content, names = bias.mean_error_model(plain.base, graph.placed, scales)
    if not names:
        return None
    run = ort.runner_from_model(content, list(names.values()))
    count, total = 0, {name: np.zeros(1) for name in names.values()}
    for batch in feeds():
        size = len(next(iter(batch.values())))
        count += size
        for name, mean in run(batch).items():
            total[name] = total[name] + mean.astype(np.float64) * size
    shifts = {layer: (total[name] / count).astype(np.float32) for layer, name in names.items()}
    entry = Correction("bias correction", len(shifts), 0.0, 0.0, kept=False)
    return plain._replace(shifts=shifts, tried=(*plain.tried, entry))


def _equalised(job: Job, data: Opened, graph: Graph, plain: Corrected, feeds: Feeds) -> Corrected | None:
    """Gives the model with the tensors of its chains equalised and calibrated anew; None where it has no chain."""
    found = equalise.chains(plain.base, graph.placed)
    if not found:
        return None
    tensors = [chain.tensor for chain in found]
    run = ort.runner_from_model(qdq.with_outputs(plain.base, tensors), tensors)
    peaks = _channel_peaks(run(batch) for batch in feeds())
    divisors = {chain: equalise.factors(plain.base, chain, peaks[chain.tensor]) for chain in found}
    changed = {chain: by for chain, by in divisors.items() if (by != 1).any()}
    if not changed:
        return None
    base = equalise.equalised(plain.base, changed)
    collected = _calibrated_anew(job, data, base, [chain.tensor for chain in changed], plain.collected)
    method = plain.choice.base
    anew = choose.ranges_by_method(collected.histograms(), method, plain.choice.swapped)
    entry = Correction("cross-layer equalisation", len(changed), 0.0, 0.0, kept=False)
    return Corrected(base, plain.choice._replace(ranges=anew), collected, (*plain.tried, entry))


def _channel_peaks(runs: Iterable[Tensors]) -> dict[str, NDArray[np.float32]]:
    """Gives the largest magnitude of each channel (axis 1) of each tensor."""
    peaks: dict[str, NDArray[np.float32]] = {}
    for outputs in runs:
        for name, values in outputs.items():
            found = np.abs(values).max(axis=tuple(axis for axis in range(values.ndim) if axis != 1))
            peaks[name] = np.maximum(peaks[name], found) if name in peaks else found
    return peaks


def _calibrated_anew(
    job: Job, data: Opened, base: models.Model, tensors: list[str], collected: collect.Collected
) -> collect.Collected:
    """Gives what was collected with the histograms of `tensors` replaced, after a pass for them alone."""
    run = ort.runner_from_model(qdq.with_outputs(base, tensors), tensors)
    anew: dict[str, ranges.MagnitudeHistogram] = {}
    on_samples = job.stages.counter("correct", len(collected.digests))
    for batch in data.calibration.batches():
        for name, values in run(batch.feeds).items():
            histogram = ranges.histogram_from_tensor(values)
            anew[name] = ranges.merge(anew[name], histogram) if name in anew else histogram
        on_samples(batch.first + len(batch.digests))
    others = {name: found for name, found in collected.held_out.items() if name not in anew}
    return collected._replace(fitted={**collected.fitted, **anew}, held_out=others)
