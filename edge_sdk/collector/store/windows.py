"""What models did, added up by device, step and model: histograms exactly, however late a Sample comes."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from edge_sdk.collector.store.chunks import starts_from_times
from edge_sdk.collector.store.samples import Folded
from edge_sdk.numerics import histogram_batches as batches

_SCALES = range(3, 13)
"""Of histograms that are added up; one that is coarser would make all others as coarse."""
_TOTAL_MAX = 2**62


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
    carriers = [place for place, window in enumerate(windows) if window.latency_hist]
    buckets = batches.buckets_from_texts([windows[place].latency_hist for place in carriers]) if carriers else None
    scale = np.full(len(windows), 6, np.int64)
    zeros = np.zeros(len(windows), np.int64)
    if buckets is not None:
        is_usable = np.isin(buckets.scale, _SCALES)
        scale[carriers] = np.where(is_usable, buckets.scale, 6)
        zeros[carriers] = np.where(is_usable, buckets.zeros, 0)
        kept = is_usable[buckets.owner]
        buckets = buckets._replace(
            owner=buckets.owner[kept], position=buckets.position[kept], times=buckets.times[kept]
        )
    scales: list[int] = scale.tolist()
    owners = [
        (folded.devices[sample], starts[sample], window.model, window.digest, scales[place])
        for place, (sample, window) in enumerate(folded.windows)
    ]
    keys = sorted(set(owners))
    numbers = {key: place for place, key in enumerate(keys)}
    group = np.array([numbers[key] for key in owners], np.int64)
    empty = np.empty(0, np.int64)
    sums = batches.Sums(empty, empty, empty)
    if buckets is not None:
        sums = batches.add_up(group[np.array(carriers)][buckets.owner], buckets.position, buckets.times)

    def total(values: Sequence[float]) -> NDArray[np.float64]:
        return np.bincount(group, weights=np.array(values, np.float64), minlength=len(keys)).astype(np.float64)

    return WindowSums(
        [WindowKey(*key) for key in keys],
        total([min(window.count, batches.COUNT_MAX) for window in windows]).astype(np.int64),
        total([min(sum(window.errors.values()), batches.COUNT_MAX) for window in windows]).astype(np.int64),
        total(zeros.tolist()).astype(np.int64),
        total([window.energy_j or 0.0 for window in windows]),
        sums,
    )


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
