"""The calibration data to ranges: one pass over it, or what earlier passes left, then the choice of the methods."""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from edge_sdk import errors
from edge_sdk.engines import model_file, ort
from edge_sdk.engines.protocol import Tensors
from edge_sdk.host.calibrate import choose, collect, coverage, rangefile, samples
from edge_sdk.host.calibrate.inspect import Inspector
from edge_sdk.host.graph import adjust, observed, placement, qdq
from edge_sdk.host.graph import model as models
from edge_sdk.host.job import Graph, Job, Opened, Ranged, Scan
from edge_sdk.host.judge import gate
from edge_sdk.host.pack import bundle as packing
from edge_sdk.numerics import thresholds
from edge_sdk.records.bundle import Range
from edge_sdk.records.tensors import TensorSpec

_RUNS_LEAST = 60
_RUNS_SHARE = 0.4
"""Runs of one sample that choosing may take: so many for each calibration sample, _RUNS_LEAST at least. A bound
in seconds would make two builds differ."""

_FEWEST_TRIALS, _MOST_TRIALS = 4, 32
_QUICK = 2
"""Held-out samples that a method or trial must do well on before it is measured on the others."""

_KNOWN_BYTES = 8 * 1024 * 1024
_FEWEST_SAMPLES = 4
_SAVES = 8
"""How often a pass saves its state."""

_USUAL_SAMPLES = 256

_UNMEASURED = "mse"
"""What ``auto`` is where nothing can be measured: of all methods it does best on most models."""


class Measures(NamedTuple):
    """How ranges are measured on the held-out samples.

    Attributes:
        sqnr_of: from ranges to the SQNR of the worst output, in dB.
        quick_of: the same on the first _QUICK samples; None where that would save nothing.
        trials: how many trials the samples allow.
        samples: held-out samples that `sqnr_of` takes.
    """

    sqnr_of: choose.Measure
    quick_of: choose.Measure | None
    trials: int
    samples: int


def ranged(job: Job, data: Opened, scan: Scan, graph: Graph) -> Ranged:
    """Gives the ranges of every tensor that may be quantised.

    Raises:
        DataError: the calibration data can't be used.
    """
    key = rangefile.Key(
        model=model_file.sha256(graph.model.content()), preprocess=packing.preprocess_digest(job.preprocess)
    )
    collected, notes = _collected(job, data, scan, graph, key)
    if job.save_ranges is not None:
        rangefile.write_ranges(job.save_ranges, key, collected.state())
    measured = functools.cache(functools.partial(measure, graph.model, graph.placed, collected))
    with job.stages("choose"):
        choice = _chosen(job, collected, measured)
    with job.stages("coverage"):
        points = coverage.curve(
            collected,
            choice,
            measured().sqnr_of if collected.held_feeds else None,
            on_points=job.stages.counter("coverage", len(collected.marks) + 1),
        )
    return Ranged(collected._replace(marks=()), choice, points, notes)  # nobody asks for the marks again


def _chosen(job: Job, collected: collect.Collected, measured: Callable[[], Measures]) -> choose.Choice:
    """Gives the ranges; nothing is run for a method that the user named, nor where no sample was held out."""
    if job.method != choose.AUTO or not collected.held_feeds:
        method = _UNMEASURED if job.method == choose.AUTO else job.method
        return choose.chosen(collected, method, _unasked)
    by = measured()
    effort = choose.Effort(by.samples, _QUICK if by.quick_of else 0)
    steps = job.stages.steps("choose", effort.most(by.trials))
    effort = effort._replace(add=steps.add)
    return choose.chosen(collected, job.method, by.sqnr_of, quick_of=by.quick_of, trials=by.trials, effort=effort)


def _unasked(_ranges: Mapping[str, Range]) -> float:
    raise AssertionError("a method that the user named is not measured against others")


def _collected(
    job: Job, data: Opened, scan: Scan, graph: Graph, key: rangefile.Key
) -> tuple[collect.Collected, tuple[str, ...]]:
    tensors = graph.placed.tensors
    before, is_resumed = _before(job, key, tensors)
    if before is not None:
        _check_overlap(before, scan)
    inspector = Inspector(data.calibration.name, graph.model.inputs, allowed=job.allowed, against=scan.fingerprints)
    saver = _Saver(job, key, data.calibration.expected)
    with job.stages("calibrate"):
        is_large = samples.batch_size(graph.model.inputs) == 1
        network = observed.Observed(graph.model, tensors, is_frugal=is_large)
        try:
            collected = collect.collected(
                network.run,
                tensors,
                data.calibration.batches(),
                hold_out=True,
                prepare=data.calibration.prepare,
                answers=network.outputs,
                evaluated={digest: index for index, digest in enumerate(scan.digests)},
                expected=data.calibration.expected,
                inspector=inspector,
                before=before,
                is_resumed=is_resumed,
                on_samples=job.stages.counter("calibrate", data.calibration.expected),
                on_state=saver.look,
            )
        except KeyboardInterrupt:
            saver.save()
            raise
        saver.save()
    seen = inspector.finish()  # first: of data that it refuses, not all samples were run
    if len(collected.digests) < job.min_samples:
        raise errors.DataError(
            f"{data.calibration.name} gave {len(collected.digests)} samples; at least {job.min_samples} are needed to "
            "see a network's usual range: give more, or allow fewer with --min-samples"
        )
    return collected, seen.notes


def _before(job: Job, key: rangefile.Key, tensors: Sequence[str]) -> tuple[collect.State | None, bool]:
    """Gives what is known before the pass, and whether it is of an interrupted pass over the same data."""
    folder = rangefile.folder_beside(job.target)
    if job.is_resumed and (state := rangefile.saved(folder, key)) is not None:
        return state, True
    rangefile.remove(folder)
    return (rangefile.state_from_files(job.ranges, key, tensors), False) if job.ranges else (None, False)


def _check_overlap(state: collect.State, scan: Scan) -> None:
    """Raises DataError when ranges that are reused saw an evaluation sample."""
    if shared := set(state.digests) & set(scan.digests):
        index = scan.digests.index(min(shared))
        raise errors.DataError(
            f"the ranges were taken from {len(shared)} of the evaluation samples (sample {index} is one); evaluate on "
            "others, or the measured accuracy is not that of unseen data"
        )


class _Saver:
    """Saves the state of a pass now and then, and at its end or interruption."""

    def __init__(self, job: Job, key: rangefile.Key, expected: int | None) -> None:
        self._folder = rangefile.folder_beside(job.target)
        self._key = key
        self._every = max(1, (expected or _SAVES * _USUAL_SAMPLES) // _SAVES)
        self._saved = 0
        self._state = collect.State()

    def look(self, state: collect.State) -> None:
        """Takes the state after a batch."""
        self._state = state
        if len(state.digests) - self._saved >= self._every:
            self.save()

    def save(self) -> None:
        """Saves the state, if there is anything to save."""
        if len(self._state.digests) > self._saved:
            rangefile.save(self._folder, self._key, self._state)
            self._saved = len(self._state.digests)


def measure(model: models.Model, placed: placement.Placement, collected: collect.Collected) -> Measures:
    """Gives how ranges are measured: all in one session, whose scales are inputs.

    Args:
        model: the float model.
        placed: what is quantised.
        collected: with held-out samples and the float model's answers to them.
    """
    methods, points = len(thresholds.METHODS), collect.MARKS
    runs = max(_RUNS_LEAST, int(_RUNS_SHARE * len(collected.digests)))
    held = max(_FEWEST_SAMPLES, min(runs // (methods + points + _FEWEST_TRIALS), len(collected.held_feeds)))
    trials = max(_FEWEST_TRIALS, min(runs // held - methods - points, _MOST_TRIALS))
    references = _references(collected, model.inputs, held)
    total = collected.histograms()
    scales = {name: found.scale for name, found in choose.ranges_by_method(total, "max").items()}
    adjustable = adjust.adjustable_from_proto(qdq.quantized_proto(model, placed, scales))
    run = ort.runner_from_model(adjustable.content, is_simulated=True)
    answers = _Answers(run, adjustable)

    def sqnr_of(ranges: Mapping[str, Range], most: int | None = None) -> float:
        return gate.worst_sqnr_db(answers.runner_for(ranges), references[:most], model.outputs)

    quick_of = functools.partial(sqnr_of, most=_QUICK) if len(references) > _QUICK + 1 else None
    return Measures(sqnr_of, quick_of, trials, held)


class _Answers:
    """The INT8 model's answers to the held-out samples by ranges; small ones are computed once."""

    def __init__(self, run: ort.Run, adjustable: adjust.Adjustable) -> None:
        self._run = run
        self._adjustable = adjustable
        self._known: dict[tuple[object, ...], Tensors] = {}
        self._room_bytes = _KNOWN_BYTES

    def runner_for(self, ranges: Mapping[str, Range]) -> ort.Run:
        """Gives a function that runs the model with some ranges."""
        scales = self._adjustable.feeds({name: found.scale for name, found in ranges.items()})
        key = tuple(map(float, scales.values()))

        def run(feeds: Mapping[str, NDArray[Any]]) -> Tensors:
            place = (id(feeds), *key)  # the samples live as long as this does
            found = self._known.get(place)
            if found is None:
                found = self._run({**feeds, **scales})
                size_bytes = sum(values.nbytes for values in found.values())
                if size_bytes <= self._room_bytes:
                    self._known[place] = found
                    self._room_bytes -= size_bytes
            return found

        return run


def _references(
    collected: collect.Collected, inputs: tuple[TensorSpec, ...], count: int
) -> list[tuple[Tensors, Tensors]]:
    """Gives held-out samples, spread over the data, with the float model's answers; in one batch where axes allow."""
    step = max(1, len(collected.held_feeds) // count)
    pairs = collected.references(count, step)
    is_free = all(spec.shape[0] is None and None not in spec.shape[1:] for spec in inputs)
    if not (
        is_free and pairs and all(values.ndim and len(values) == 1 for _, found in pairs for values in found.values())
    ):
        return pairs
    feeds, answers = zip(*pairs, strict=True)
    return [(_joined(feeds), _joined(answers))]


def _joined(parts: Sequence[Tensors]) -> Tensors:
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
