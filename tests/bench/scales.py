"""Whether the ranges depend on how the samples arrive: one at a time, in batches, mixed, or at two workers."""

import itertools
from pathlib import Path

import numpy as np

from edge_sdk.host.calibrate import choose, collect, data, samples
from edge_sdk.host.graph import clean, model, observed, placement
from edge_sdk.numerics import ranges, thresholds
from edge_sdk.records.bundle import Preprocess


def spreads(entry):
    """The largest relative difference of any scale from those of batch 1, for each way of arriving."""
    read = model.read_model(Path(entry.model))
    rules = {name: Preprocess(**rule) for name, rule in entry.preprocess.items()}
    opened = data.open_data(entry.raw, read.inputs, preprocess=rules, classes=samples.Classes(is_used=False))
    singles = [one for batch in opened.batches() for one in _split(batch)]
    graph = clean.cleaned(read, singles[0].feeds)
    placed = placement.placement_from_model(graph)
    run = observed.Observed(graph, placed.tensors).run
    if read.inputs[0].shape[0] == 1:
        run = _by_row(run)

    def histograms(batches):
        return collect.collected(run, placed.tensors, batches).histograms()

    mixed = [singles[index] for index in np.random.default_rng(0).permutation(len(singles))]
    halves = [histograms(_joined(part, 8)) for part in (mixed[::2], mixed[1::2])]
    ways = {
        "batch 8": histograms(_joined(singles, 8)),
        "batch 32": histograms(_joined(singles, 32)),
        "shuffled, batch 32": histograms(_joined(mixed, 32)),
        "two workers merged": {name: ranges.merge(*(half[name] for half in halves)) for name in halves[0]},
    }
    first = histograms(singles)
    return {way: max(_spread(first, found, method) for method in thresholds.METHODS) for way, found in ways.items()}


def _by_row(run):
    """Runs a model of batch 1 on several samples."""

    def run_each(feeds):
        count = len(next(iter(feeds.values())))
        parts = [run({name: values[row : row + 1] for name, values in feeds.items()}) for row in range(count)]
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}

    return run_each


def _split(batch):
    for row, digest in enumerate(batch.digests):
        cut = [{name: values[row : row + 1] for name, values in part.items()} for part in (batch.raw, batch.feeds)]
        yield samples.Batch(batch.first + row, *cut, None, (digest,))


def _joined(singles, size):
    for start in range(0, len(singles), size):
        part = list(itertools.islice(singles, start, start + size))
        both = [
            {name: np.concatenate([getattr(one, side)[name] for one in part]) for name in getattr(part[0], side)}
            for side in ("raw", "feeds")
        ]
        yield samples.Batch(start, *both, None, tuple(one.digests[0] for one in part))


def _spread(first, second, method):
    one, two = (choose.ranges_by_method(found, method) for found in (first, second))
    return max(abs(two[name].scale / one[name].scale - 1) for name in one)
