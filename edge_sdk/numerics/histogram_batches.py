"""Many exponential histograms at once, as arrays: decode, add up by group, ask for quantiles.

The same layout and the same answers as `edge_sdk.numerics.histogram`, without a Python step for each bucket.
"""

import binascii
import functools
import itertools
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

BUCKET = np.dtype([("index", "<i4"), ("count", "<u8")])
"""One bucket as it is packed where the histogram needs the room."""
SMALL_BUCKET = np.dtype([("index", "<i2"), ("count", "<u2")])
"""One bucket of nearly all others: a third of the bytes that a question reads."""
_SMALL_MAX = 2**15
INDEX_MAX = 2**20
"""Buckets beyond it (16,384 doublings at scale 6) are counted in the last one."""

COUNT_MAX = 2**40
"""A bucket that says more says so much; what a device claims must not overflow what others measured."""

_DENSE_MAX = 4_000_000
_EXPONENT_MAX = 1023.0  # the largest power of two that a float holds
_HEADER = 4


class Buckets(NamedTuple):
    """Buckets of many histograms.

    Attributes:
        owner: which histogram each bucket is of.
        position, times: of each bucket: its index, and how often it was hit.
        zeros, scale: of each histogram.
    """

    owner: NDArray[np.int64]
    position: NDArray[np.int64]
    times: NDArray[np.int64]
    zeros: NDArray[np.int64]
    scale: NDArray[np.int64]


def buckets_from_texts(texts: Sequence[str]) -> Buckets:
    """Gives the buckets of histograms in their wire form, all of which have been checked before.

    >>> buckets_from_texts(["DACAAgQBAAIC"]).position.tolist()
    [128, 131]
    """
    raw = [binascii.a2b_base64(text) for text in texts]
    data = np.frombuffer(b"".join(raw), np.uint8)
    values, per_text = _varints(data, np.cumsum([len(one) for one in raw]))
    first = np.cumsum(per_text) - per_text
    is_zero = values == 0
    for offset in range(_HEADER):
        is_zero[first + offset] = False
    is_run = np.zeros_like(is_zero)
    is_run[1:] = is_zero[:-1]
    is_count = ~(is_zero | is_run)
    for offset in range(_HEADER):
        is_count[first + offset] = False
    steps = np.where(is_run, values, is_count)
    places = np.flatnonzero(is_count)
    position = np.cumsum(steps)[places] - 1
    per_owner = np.add.reduceat(is_count, first, dtype=np.int64) if len(first) else per_text
    owner = np.repeat(np.arange(len(texts)), per_owner)
    start = _unzigzag(values[first + 2])
    # Numbers of one text stand behind those of the text before.
    start -= (np.cumsum(steps) - steps)[first]
    return Buckets(
        owner,
        np.clip(position + start[owner], -INDEX_MAX, INDEX_MAX),
        _bounded(values[places]),
        _bounded(values[first + 1]),
        _unzigzag(values[first]),
    )


@functools.lru_cache(maxsize=1024)
def _scale_of(head: str) -> int:
    number = binascii.a2b_base64(f"{head}==")[0]
    return number // 2 if number % 2 == 0 else -(number + 1) // 2


def scale_of(text: str) -> int:
    """Gives the scale of a histogram in its wire form, which has been checked before; it is the first byte.

    >>> scale_of("DACAAgQBAAIC")
    6
    """
    return _scale_of(text[:2])


class Sums(NamedTuple):
    """Buckets added up: sorted by group, then by position, each (group, position) once."""

    group: NDArray[np.int64]
    position: NDArray[np.int64]
    times: NDArray[np.int64]


def add_up(group: NDArray[np.int64], index: NDArray[np.int64], count: NDArray[np.int64]) -> Sums:
    """Gives the counts of equal (group, index) added up, exactly; groups are numbers from 0."""
    if not len(group):
        return Sums(group, index, count)
    low = int(index.min())
    width = int(index.max()) - low + 1
    key = group * width + (index - low)
    if (size := (int(group.max()) + 1) * width) <= _DENSE_MAX:
        dense = np.zeros(size, np.int64)
        if int(count.max()) * len(count) < 2**53:
            dense[:] = np.bincount(key, weights=count, minlength=size)
        else:
            np.add.at(dense, key, count)
        keys = np.flatnonzero(dense)
        return Sums(keys // width, keys % width + low, dense[keys])
    keys, inverse = np.unique(key, return_inverse=True)
    total = np.zeros(len(keys), np.int64)
    np.add.at(total, inverse, count)
    return Sums(keys // width, keys % width + low, total)


def packed(sums: Sums, groups: int) -> list[bytes]:
    """Gives the buckets of each group as bytes, of small ones where all of a group's fit, with a byte behind them.

    An odd number of bytes tells small buckets, an even one those of `BUCKET`.
    """
    bounds = np.searchsorted(sums.group, np.arange(groups + 1)).tolist()
    is_large = (np.abs(sums.position) >= _SMALL_MAX) | (sums.times >= 2 * _SMALL_MAX)
    large = set(sums.group[is_large].tolist())
    small = _buckets(sums, SMALL_BUCKET)
    wide = _buckets(sums, BUCKET) if large else small
    return [
        wide[first:last].tobytes() if place in large else small[first:last].tobytes() + b"\0"
        for place, (first, last) in enumerate(itertools.pairwise(bounds))
    ]


def unpacked(
    blobs: Sequence[bytes], owners: Sequence[int]
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Gives (owner, index, count) of the buckets in packed form, each blob's owner by `owners`; in no certain order.

    >>> group = np.zeros(1, np.int64)
    >>> [part.tolist() for part in unpacked(packed(Sums(group, group + 7, group + 2), 1), [5])]
    [[5], [7], [2]]
    """
    places: tuple[list[int], list[int]] = [], []
    kinds: tuple[list[bytes], list[bytes]] = [], []
    for owner_of, blob in zip(owners, blobs, strict=True):
        is_small = len(blob) % 2
        places[is_small].append(owner_of)
        kinds[is_small].append(blob[:-1] if is_small else blob)
    parts = []
    for numbers, packs, kind in zip(places, kinds, (BUCKET, SMALL_BUCKET), strict=True):
        data = np.frombuffer(b"".join(packs), kind)
        sizes = np.array([len(pack) for pack in packs], np.int64) // kind.itemsize
        owner = np.repeat(np.array(numbers, np.int64), sizes)
        parts.append((owner, data["index"].astype(np.int64), data["count"].astype(np.int64)))
    if not places[0]:
        return parts[1]
    owner, index, count = (np.concatenate(pair) for pair in zip(*parts, strict=True))
    return owner, index, count


def add_up_packed(blobs: Sequence[bytes], groups: Sequence[int]) -> Sums:
    """Gives the buckets in packed form added up, those of equal number in `groups` together.

    >>> group = np.zeros(1, np.int64)
    >>> [part.tolist() for part in add_up_packed(packed(Sums(group, group + 7, group + 2), 1) * 2, [5, 5])]
    [[5], [7], [4]]
    """
    data = np.frombuffer(b"".join([blob[:-1] for blob in blobs if len(blob) % 2]), SMALL_BUCKET)
    low, high = (int(data["index"].min()), int(data["index"].max())) if len(data) else (0, 0)
    width = high - low + 1
    size = (max(groups, default=0) + 1) * width
    if size > _DENSE_MAX or not all(len(blob) % 2 for blob in blobs):
        return add_up(*unpacked(blobs, groups))
    # As `add_up`, without an array in between: there are many hundred thousand buckets in a fleet's hour.
    key = np.repeat(np.array(groups, np.int64) * width - low, [len(blob) // SMALL_BUCKET.itemsize for blob in blobs])
    key += data["index"]
    dense = np.bincount(key, weights=data["count"], minlength=size)
    keys = np.flatnonzero(dense)
    return Sums(keys // width, keys % width + low, dense[keys].astype(np.int64))


def quantiles(
    index: NDArray[np.int64], count: NDArray[np.int64], *, zeros: int, scale: int, shares: Sequence[float]
) -> list[float | None]:
    """Gives the values below which these shares lie, within half a bucket; None for no values at all.

    Args:
        index: ascending.
        count: of each.
        zeros: values of zero or less.
        scale: of the histogram.
        shares: from 0 to 1.

    >>> quantiles(np.array([0, 1]), np.array([1, 1]), zeros=0, scale=0, shares=[0.5, 1.0])
    [1.4142135623730951, 2.8284271247461903]
    """
    upto = np.cumsum(count) + zeros
    total = int(upto[-1]) if len(upto) else zeros
    if total == 0:
        return [None for _ in shares]
    ranks = [min(total, max(1, int(np.ceil(share * total)))) for share in shares]
    return [0.0 if rank <= zeros else _middle(int(index[np.searchsorted(upto, rank)]), scale) for rank in ranks]


def _buckets(sums: Sums, kind: np.dtype[np.void]) -> NDArray[np.void]:
    out = np.empty(len(sums.group), kind)
    out["index"] = sums.position.astype(kind["index"])
    out["count"] = sums.times.astype(kind["count"])
    return out


def _middle(position: int, scale: int) -> float:
    return float(2.0 ** min(_EXPONENT_MAX, (position + 0.5) / 2.0**scale))


def _varints(data: NDArray[np.uint8], ends: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Gives all numbers in `data`, and how many of them lie before each of `ends` but after the one before it."""
    last = np.flatnonzero(data < 128)
    first = np.empty_like(last)
    first[:1] = 0
    first[1:] = last[:-1] + 1
    values = (data[first] & 127).astype(np.int64)
    # Nearly all numbers are of one byte.
    longer = np.flatnonzero(last > first)
    place = 0
    while len(longer):
        place += 1
        values[longer] += (data[first[longer] + place] & 127).astype(np.int64) << (7 * place)
        longer = longer[last[longer] - first[longer] > place]
    upto = np.searchsorted(last, ends)
    return values, np.diff(upto, prepend=0)


def _bounded(counts: NDArray[np.int64]) -> NDArray[np.int64]:
    # Above 63 bits a number turns negative here, and is as much too large.
    return np.where((counts < 0) | (counts > COUNT_MAX), COUNT_MAX, counts)


def _unzigzag(values: NDArray[np.int64]) -> NDArray[np.int64]:
    return np.where(values % 2 == 0, values // 2, -(values + 1) // 2)
