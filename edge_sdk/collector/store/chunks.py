"""Points of a minute and sums of an hour, packed: one row of each device holds all its metrics.

A minute keeps every point as float32; an hour keeps count, sum, least and most of each metric.
"""

import zlib
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from edge_sdk.collector.store.samples import METRICS, Folded

_FULL_POINTS = 59
# First byte of a minute: its points one after the other, or its columns compressed (0: columns as they are, as older
# versions wrote them).
_ROWS, _FULL = 2, 1


class Chunks(NamedTuple):
    """Samples by (device, start), those of each chunk side by side.

    Attributes:
        keys: of each chunk, sorted.
        order: of the Samples.
        first: place in that order at which each chunk begins.
    """

    keys: list[tuple[str, int]]
    order: NDArray[np.int64]
    first: NDArray[np.int64]


class Stored(NamedTuple):
    """One chunk in the database, but for its key."""

    n: int
    energy_j: float
    energy_s: float
    data: bytes


NOTHING = Stored(0, 0.0, 0.0, b"")


def starts_from_times(t: NDArray[np.float64], resolution_s: int) -> list[int]:
    """Gives the start of the step of the resolution in which each time lies."""
    starts: list[int] = (t // resolution_s * resolution_s).astype(np.int64).tolist()
    return starts


def chunks_from_samples(folded: Folded, resolution_s: int) -> Chunks:
    """Gives which Samples belong to which chunk, in the order of their time."""
    owners = list(zip(folded.devices, starts_from_times(folded.t, resolution_s), strict=True))
    keys = sorted(set(owners))
    numbers = {key: place for place, key in enumerate(keys)}
    group = np.array([numbers[key] for key in owners], np.int64)
    order = np.lexsort((folded.t, group))
    first = np.searchsorted(group[order], np.arange(len(keys)))
    return Chunks(keys, order, first)


def totals(folded: Folded, chunks: Chunks) -> tuple[list[float], list[float], list[int]]:
    """Gives energy, the seconds that it covers, and the number of Samples that come to each chunk."""
    counts: list[int] = np.diff(chunks.first, append=len(chunks.order)).tolist()
    energy_j: list[float] = np.add.reduceat(folded.energy_j[chunks.order], chunks.first).tolist()
    energy_s: list[float] = np.add.reduceat(folded.energy_s[chunks.order], chunks.first).tolist()
    return energy_j, energy_s, counts


def merged_points(folded: Folded, chunks: Chunks, stored: Sequence[Stored]) -> list[bytes]:
    """Gives each minute's data with the points of Samples added to what is stored of it."""
    starts = np.array([start for _, start in chunks.keys], np.float64)
    counts = np.diff(chunks.first, append=len(chunks.order))
    values = folded.values[chunks.order]
    table = np.empty((len(values), 1 + len(METRICS)), "<f4")
    with np.errstate(over="ignore"):  # what no float32 holds is infinite there
        table[:, 0] = folded.t[chunks.order] - np.repeat(starts, counts)
        table[:, 1:] = values
    is_used = np.logical_or.reduceat(~np.isnan(values), chunks.first) if len(values) else np.empty((0, 0), bool)
    out = []
    for place, (first, count) in enumerate(zip(chunks.first.tolist(), counts.tolist(), strict=True)):
        before = stored[place]
        columns = np.flatnonzero(is_used[place])
        head = bytes([_ROWS, len(columns)]) + columns.astype(np.uint8).tobytes()
        new = table[first : first + count]
        if before.n + count < _FULL_POINTS and (not before.data or before.data.startswith(head)):
            out.append((before.data or head) + new[:, [0, *(columns + 1)]].tobytes())
        else:
            old_t, old = unpacked_points(before.data)
            out.append(_packed(np.concatenate([np.column_stack([old_t, old]), new])))
    return out


def _packed(table: NDArray[np.float32]) -> bytes:
    """Gives points (second and METRICS in each row) as bytes, compressed by column once a minute is about full.

    Until then the chunk is written again and again, and points come one after the other.
    """
    table = table[np.argsort(table[:, 0], kind="stable")]
    columns = np.flatnonzero(~np.isnan(table[:, 1:]).all(axis=0))
    is_full = len(table) >= _FULL_POINTS
    body = table[:, [0, *(columns + 1)]].astype("<f4")
    head = bytes([_FULL if is_full else _ROWS, len(columns)]) + columns.astype(np.uint8).tobytes()
    return head + (zlib.compress(np.ascontiguousarray(body.T).tobytes(), 1) if is_full else body.tobytes())


def unpacked_points(data: bytes) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Gives (seconds since the chunk's start, values[points, METRICS]), in no certain order."""
    if not data:
        return np.empty(0, np.float32), np.empty((0, len(METRICS)), np.float32)
    kind, width = data[0], data[1]
    used = np.frombuffer(data, np.uint8, count=width, offset=2)
    packed = data[2 + width :]
    if kind == _ROWS:
        body = np.frombuffer(packed, "<f4").reshape(-1, 1 + width).T
    else:
        body = np.frombuffer(zlib.decompress(packed) if kind == _FULL else packed, "<f4").reshape(1 + width, -1)
    values = np.full((body.shape[1], len(METRICS)), np.nan, np.float32)
    values[:, used] = body[1:].T
    return body[0], values


def merged_hours(folded: Folded, chunks: Chunks, stored: Sequence[Stored]) -> list[bytes]:
    """Gives each hour's data with the values of Samples added to what is stored of it."""
    if not chunks.keys:
        return []
    values = folded.values[chunks.order]
    is_there = ~np.isnan(values)
    before = np.array([unpacked_hours(one.data) for one in stored])
    with np.errstate(over="ignore"):
        sums = np.add.reduceat(np.where(is_there, values, 0.0), chunks.first) + before[:, 1]
    counts = np.add.reduceat(is_there, chunks.first, dtype=np.int64) + before[:, 0]
    least = np.minimum.reduceat(np.where(is_there, values, np.inf), chunks.first)
    most = np.maximum.reduceat(np.where(is_there, values, -np.inf), chunks.first)
    merged = np.stack([counts, sums, np.minimum(least, before[:, 2]), np.maximum(most, before[:, 3])], axis=1)
    return [one.tobytes() for one in merged.astype("<f8")]


def unpacked_hours(data: bytes) -> NDArray[np.float64]:
    """Gives float64[4, METRICS]: count, sum, least, most."""
    out = np.zeros((4, len(METRICS)))
    out[2], out[3] = np.inf, -np.inf
    if data:
        stored: NDArray[Any] = np.frombuffer(data, "<f8").reshape(4, -1)
        out[:, : stored.shape[1]] = stored
    return out
