"""What is done about INT8's noise before the gate, each step kept only where it measurably helps on held-out samples.

Equalisation of neighbouring layers, bias correction, and the layers with the most noise of their own back in float,
as long as they are a small share of the arithmetic.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from edge_sdk.engines import ort
from edge_sdk.engines.protocol import Tensors
from edge_sdk.host import layerwise, quantizing
from edge_sdk.host.calibrate import choose, collect, heldout, samples
from edge_sdk.host.graph import equalise, macs, placement, qdq
from edge_sdk.host.graph import model as models
from edge_sdk.host.job import Graph, Job, Opened, Shifts, Steps
from edge_sdk.host.judge import gate, sensitivity
from edge_sdk.numerics import ranges
from edge_sdk.records.bundle import Correction, Pinned

GAIN_DB = 0.2
"""Less on the held-out samples is chance."""

FLOAT_RATIO = 0.1
"""Share of the arithmetic that may be in float for the sake of less noise alone, before the gate asks for any: INT8
still saves nine tenths of what it can then."""

FLOAT_BELOW_DB = 25.0
"""Only outputs with more noise than this, 0.3 % of their power, are worth layers in float that the gate does not ask
for: they cost time on the device."""

FLOAT_GAIN_DB = GAIN_DB
"""What such layers must gain. Asked for 1 dB, a detector went without layers that gained 0.8 dB on held-out samples,
and 4 dB and 2 % of its detections on its evaluation data."""

NOISY_DB = 30.0
"""A layer with less noise than this in its own output, a thousandth of its power, is not to blame."""

SAMPLES = 16
"""Whose largest values the channels are equalised by."""

_HELD = 8

References = list[tuple[Tensors, Tensors]]


class Corrected(NamedTuple):
    """What Q/DQ is written into, where and with which ranges, and what was tried for it.

    Attributes:
        base: the float model.
        placed: what is in INT8.
        choice: the ranges.
        collected: histograms of the calibration data.
        tried: in order.
        shifts: what is added to the bias of each layer in INT8.
        noise: by layer, what INT8 does to its own output; see `layerwise.Layerwise`.
    """

    base: models.Model
    placed: placement.Placement
    choice: choose.Choice
    collected: collect.Collected
    tried: tuple[Correction, ...] = ()
    shifts: Shifts = {}  # noqa: RUF012 - never changed
    noise: dict[str, float] = {}  # noqa: RUF012 - never changed


def corrected(job: Job, data: Opened, graph: Graph, choice: choose.Choice, collected: collect.Collected) -> Corrected:
    """Gives the model to quantise after whatever helped, or as it was.

    Something is tried only where INT8 is worse than `choose.GOOD_DB`, and where samples were held out to measure on.
    The layers are ranked in any case.
    """
    plain = Corrected(graph.model, graph.placed, choice, collected)
    with job.stages("correct"):
        if not collected.held_feeds or (choice.best_db or 0.0) >= choose.GOOD_DB:
            return plain._replace(noise=_measured(plain, data, job.stages.steps("correct", layerwise.SAMPLES)).noise)
        references = collected.references(_HELD)
        chains = equalise.chains(graph.model, graph.placed)
        most = _Most(len(references), len(collected.digests), has_chains=bool(chains))
        steps = job.stages.steps("correct", most.all)
        trials = _Trials(graph, references, plain, steps)
        is_good = trials.best_db >= choose.GOOD_DB
        if not is_good:
            trials.take(_equalised(data, plain, chains, steps))
        steps.reach(most.equalised)
        found = _measured(trials.best, data, steps)
        steps.reach(most.measured)
        trials.best = trials.best._replace(noise=found.noise)
        if not is_good:
            if trials.best_db < FLOAT_BELOW_DB:
                trials.take(_in_float(trials.best, graph), gain_db=FLOAT_GAIN_DB)
            steps.reach(most.in_float)
            trials.take(_with_biases(trials.best, found.shifts))
        return trials.best


class _Most(NamedTuple):
    """The most runs of one sample that the steps take, each together with those before it.

    Attributes:
        held: samples that each trial is measured on.
        samples: of the calibration data.
        has_chains: whether there is anything to equalise.
    """

    held: int
    samples: int
    has_chains: bool

    @property
    def equalised(self) -> int:
        """As it was, and equalised: peaks, ranges anew and its trial."""
        return self.held + (SAMPLES + self.samples + self.held if self.has_chains else 0)

    @property
    def measured(self) -> int:
        """With every layer beside its INT8 twin."""
        return self.equalised + layerwise.SAMPLES

    @property
    def in_float(self) -> int:
        """With the trial of layers in float."""
        return self.measured + self.held

    @property
    def all(self) -> int:
        """With that of the biases."""
        return self.in_float + self.held


def _measured(one: Corrected, data: Opened, steps: Steps) -> layerwise.Layerwise:
    """Gives what INT8 does to each layer, measured on calibration samples that were not held out."""
    feeds = _some(data.calibration, layerwise.SAMPLES, steps)
    ort.give_back()  # what the trial before held, before all layers are there twice
    return layerwise.measured(one.base, one.placed, one.choice.ranges, feeds)


class _Trials:
    """The best so far, with its SQNR on the held-out samples, and all that was tried on record."""

    def __init__(self, graph: Graph, references: References, plain: Corrected, steps: Steps) -> None:
        self._references = references
        self._steps = steps
        self._outputs = graph.model.outputs
        self.best = plain
        self._parts_db = self._measured_db(plain)

    @property
    def best_db(self) -> float:
        """SQNR of the best's worst part."""
        return min(self._parts_db)

    def take(self, tried: Corrected | None, *, gain_db: float = GAIN_DB) -> None:
        """Takes a trial for the best where it gains enough; None passes."""
        if tried is None:
            return
        after_db = self._measured_db(tried)
        is_kept = gains(self._parts_db, after_db, gain_db)
        entry = tried.tried[-1]
        entry = Correction(entry.name, entry.layers, self.best_db, min(after_db), is_kept)
        record = (*self.best.tried, entry)
        if is_kept:
            self.best, self._parts_db = tried, after_db
        self.best = self.best._replace(tried=record)

    def _measured_db(self, one: Corrected) -> tuple[float, ...]:
        content = quantizing.variant_bytes(one.base, one.placed, one.choice.ranges, one.shifts)
        run = self._steps.counted(ort.runner_from_model(content, is_simulated=True, is_frugal=True))
        return gate.part_sqnrs_db(run, self._references, self._outputs)


def gains(before_db: Sequence[float], after_db: Sequence[float], least_db: float) -> bool:
    """Says whether a change is worth it: the worst part gains, or it loses nothing and the parts gain on average.

    A detector's boxes may gain much by what its scores hardly notice.

    >>> gains([20.0, 30.0], [20.3, 29.0], 0.2), gains([20.0, 30.0], [20.1, 31.0], 0.2), gains([20.0], [20.1], 0.2)
    (True, True, False)
    """
    worst = min(after_db) - min(before_db)
    mean = (sum(after_db) - sum(before_db)) / len(before_db)
    return worst >= least_db or (worst >= 0 and mean >= least_db)


def _tried(name: str, layers: int) -> tuple[Correction, ...]:
    """Gives a record to be filled in by the trial."""
    return (Correction(name, layers, 0.0, 0.0, kept=False),)


def _some(calibration: samples.Data, count: int, steps: Steps) -> Iterator[Tensors]:
    """Gives the first `count` calibration samples that were not held out; each counts once the next are asked for."""
    left = count
    for batch in calibration.batches():
        rows = np.flatnonzero([not heldout.is_held_out(digest) for digest in batch.digests])[:left]
        if rows.size:
            yield {name: values[rows] for name, values in batch.feeds.items()}
            steps.add(rows.size)
        left -= rows.size
        if left <= 0:
            return


def _with_biases(plain: Corrected, shifts: Shifts) -> Corrected | None:
    """Gives the model with the mean error of each layer taken back; None where no layer has a bias."""
    if not shifts:
        return None
    return plain._replace(shifts=shifts, tried=_tried("bias correction", len(shifts)))


def _in_float(plain: Corrected, graph: Graph) -> Corrected | None:
    """Gives the model with its noisy layers in float, the noisiest first, as many as fit into FLOAT_RATIO.

    None where no layer is noisy, or none of these fits.
    """
    ranking = sensitivity.ranked(plain.noise)
    kept = plain.placed.nodes
    pins = []
    for rank, one in enumerate(ranking, 1):
        is_small = macs.int8_compute_ratio(graph.macs, kept - {one.node}) >= 1 - FLOAT_RATIO
        if one.sqnr_db < NOISY_DB and is_small:
            kept -= {one.node}
            pins.append(Pinned(one.node, sensitivity.reason(one, rank, len(ranking))))
    if not pins or not kept:
        return None
    return plain._replace(placed=plain.placed.without(pins), tried=_tried("noisiest layers in float", len(pins)))


def _equalised(data: Opened, plain: Corrected, found: tuple[equalise.Chain, ...], steps: Steps) -> Corrected | None:
    """Gives the model with the tensors of the chains equalised and calibrated anew; None where nothing changes."""
    if not found:
        return None
    tensors = [chain.tensor for chain in found]
    run = ort.runner_from_model(qdq.with_outputs(plain.base, tensors), tensors)
    peaks = _channel_peaks(run(batch) for batch in _some(data.calibration, SAMPLES, steps))
    divisors = {chain: equalise.factors(plain.base, chain, peaks[chain.tensor]) for chain in found}
    changed = {chain: by for chain, by in divisors.items() if (by != 1).any()}
    if not changed:
        return None
    base = equalise.equalised(plain.base, changed)
    collected = _calibrated_anew(data, base, [chain.tensor for chain in changed], plain.collected, steps)
    anew = choose.ranges_by_method(collected.histograms(), plain.choice.base, plain.choice.swapped)
    return plain._replace(
        base=base,
        choice=plain.choice._replace(ranges=anew),
        collected=collected,
        tried=_tried("cross-layer equalisation", len(changed)),
    )


def _channel_peaks(runs: Iterable[Tensors]) -> dict[str, NDArray[np.float32]]:
    """Gives the largest magnitude of each channel (axis 1) of each tensor."""
    peaks: dict[str, NDArray[np.float32]] = {}
    for outputs in runs:
        for name, values in outputs.items():
            found = np.abs(values).max(axis=tuple(axis for axis in range(values.ndim) if axis != 1))
            peaks[name] = np.maximum(peaks[name], found) if name in peaks else found
    return peaks


def _calibrated_anew(
    data: Opened, base: models.Model, tensors: list[str], collected: collect.Collected, steps: Steps
) -> collect.Collected:
    """Gives what was collected with the histograms of `tensors` replaced, after a pass for them alone."""
    run = ort.runner_from_model(qdq.with_outputs(base, tensors), tensors)
    anew: dict[str, ranges.MagnitudeHistogram] = {}
    for batch in data.calibration.batches():
        for name, values in run(batch.feeds).items():
            histogram = ranges.histogram_from_tensor(values)
            anew[name] = ranges.merge(anew[name], histogram) if name in anew else histogram
        steps.add(len(batch.digests))
    others = {name: found for name, found in collected.held_out.items() if name not in anew}
    return collected._replace(fitted={**collected.fitted, **anew}, held_out=others)
