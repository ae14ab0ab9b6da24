"""What models did, added up by device, step and model: histograms exactly, however late a Sample comes."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from edge_sdk.collector.store.chunks import starts_from_times
from edge_sdk.collector.store.samples import Folded, Window
from edge_sdk.numerics import histogram_batches as batches

_SCALES = range(3, 13)
"""Of histograms that are added up; one that is coarser would make all others as coarse."""
_USUAL = 6
_TOTAL_MAX = 2**62
_AT_ONCE = 2000


class WindowKey(NamedTuple):
    """Whose histogram it is."""

    device: str
    start: int
    model: str
    digest: str
    scale: int


class WindowSums(NamedTuple):
    """Histograms and totals added up by key.

    Attributes:
        keys: sorted.
        answers, errors, zeros, energy_j: of each key.
        sums: buckets; group is the key's place.
    """

    keys: list[WindowKey]
    answers: NDArray[np.int64]
    errors: NDArray[np.int64]
    zeros: NDArray[np.int64]
    energy_j: NDArray[np.float64]
    sums: batches.Sums


def window_sums(folded: Folded, resolution_s: int) -> WindowSums:
    """Gives what the models of Samples did, added up by device, start and model."""
    starts = starts_from_times(folded.t, resolution_s)
    windows = [window for _, window in folded.windows]
    found = [batches.scale_of(window.latency_hist) if window.latency_hist else 0 for window in windows]
    owners = [
        (folded.devices[sample], starts[sample], window.model, window.digest, scale if scale in _SCALES else _USUAL)
        for (sample, window), scale in zip(folded.windows, found, strict=True)
    ]
    keys = sorted(set(owners))
    numbers = {key: place for place, key in enumerate(keys)}
    group = np.array([numbers[key] for key in owners], np.int64)
    carriers = np.array([place for place, scale in enumerate(found) if scale in _SCALES], np.int64)
    zeros, sums = _histogram_sums(windows, group, carriers, len(keys))

    def total(values: Sequence[float]) -> NDArray[np.float64]:
        return np.bincount(group, weights=np.array(values, np.float64), minlength=len(keys)).astype(np.float64)

    return WindowSums(
        [WindowKey(*key) for key in keys],
        total([min(window.count, batches.COUNT_MAX) for window in windows]).astype(np.int64),
        total([min(sum(window.errors.values()), batches.COUNT_MAX) for window in windows]).astype(np.int64),
        zeros,
        total([window.energy_j or 0.0 for window in windows]),
        sums,
    )


def _histogram_sums(
    windows: Sequence[Window], group: NDArray[np.int64], carriers: NDArray[np.int64], groups: int
) -> tuple[NDArray[np.int64], batches.Sums]:
    """Gives the zeros and the buckets of each group, a few thousand histograms at a time: each is a hundred numbers."""
    zeros = np.zeros(groups, np.int64)
    empty = np.empty(0, np.int64)
    parts = [batches.Sums(empty, empty, empty)]
    order = carriers[np.argsort(group[carriers], kind="stable")]
    owner = group[order]
    first = 0
    while first < len(order):
        # Up to the end of a group, so that each is in one part.
        last = int(np.searchsorted(owner, owner[min(first + _AT_ONCE, len(order)) - 1], side="right"))
        buckets = batches.buckets_from_texts([windows[place].latency_hist for place in order[first:last].tolist()])
        own = owner[first:last] - owner[first]
        np.add.at(zeros, owner[first:last], buckets.zeros)
        sums = batches.add_up(own[buckets.owner], buckets.position, buckets.times)
        parts.append(sums._replace(group=sums.group + owner[first]))
        first = last
    return zeros, batches.Sums(*(np.concatenate(columns) for columns in zip(*parts, strict=True)))


def coarser(fine: WindowSums, resolution_s: int) -> WindowSums:
    """Gives the same in longer steps, whose starts are starts of the finer ones too."""
    owners = [key._replace(start=key.start // resolution_s * resolution_s) for key in fine.keys]
    keys = sorted(set(owners))
    numbers = {key: place for place, key in enumerate(keys)}
    group = np.array([numbers[key] for key in owners], np.int64)

    def total(values: NDArray[Any]) -> NDArray[Any]:
        out = np.zeros(len(keys), values.dtype)
        np.add.at(out, group, values)
        return out

    sums = batches.add_up(group[fine.sums.group], fine.sums.position, fine.sums.times)
    return WindowSums(keys, total(fine.answers), total(fine.errors), total(fine.zeros), total(fine.energy_j), sums)


def merged(new: WindowSums, stored: Sequence[tuple[int, int, int, float, bytes] | None]) -> list[tuple[Any, ...]]:
    """Gives (answers, errors, zeros, energy_j, buckets) of each key, added to what is stored of it."""
    places = [place for place, row in enumerate(stored) if row is not None]
    owner, index, count = batches.unpacked([row[4] for row in stored if row is not None], places)
    sums = new.sums
    if len(owner):
        sums = batches.add_up(
            np.concatenate([sums.group, owner]),
            np.concatenate([sums.position, index]),
            np.concatenate([sums.times, count]),
        )
    buckets = batches.packed(sums, len(new.keys))
    totals = zip(new.answers.tolist(), new.errors.tolist(), new.zeros.tolist(), new.energy_j.tolist(), strict=True)
    out = []
    for row, (*whole, energy_j), blob in zip(stored, totals, buckets, strict=True):
        before = row or (0, 0, 0, 0.0, b"")
        capped = [min(_TOTAL_MAX, old + more) for old, more in zip(before[:3], whole, strict=True)]
        out.append((*capped, before[3] + energy_j, blob))
    return out
