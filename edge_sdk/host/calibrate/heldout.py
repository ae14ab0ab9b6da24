"""Which calibration samples are held out, and those of them that are kept to measure choices on."""

import bisect
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, overload

from numpy.typing import NDArray

from edge_sdk.engines.protocol import Tensors

EVERY = 8
"""An eighth of the samples is held out when a method is to be chosen; it joins the ranges after the choice. Which
ones, the samples themselves say, so that their order and the number of workers do not matter."""

MOST = 32
_LEAST = 4
_MOST_BYTES = 16 * 1024 * 1024
"""Held-out samples that are kept, prepared: what is chosen is measured on them. Even if they are larger, a few are."""

Prepare = Callable[[Mapping[str, NDArray[Any]]], Tensors]


def is_held_out(digest: str) -> bool:
    """Says whether the sample with this digest is held out.

    >>> is_held_out("f0"), is_held_out("f1")
    (True, False)
    """
    return int(digest[-8:], 16) % EVERY == 0


class Samples(Sequence[Tensors]):
    """Samples kept as they were read, for pixels in a quarter of the room, and prepared when they are asked for.

    Args:
        raw: one batch of 1 each.
        prepare: from what was read to what the network takes.
    """

    def __init__(self, raw: Sequence[Tensors] = (), prepare: Prepare = dict) -> None:
        self._raw = tuple(raw)
        self._prepare = prepare

    def __len__(self) -> int:
        return len(self._raw)

    @overload
    def __getitem__(self, index: int) -> Tensors: ...

    @overload
    def __getitem__(self, index: slice) -> list[Tensors]: ...

    def __getitem__(self, index: int | slice) -> Tensors | list[Tensors]:
        if isinstance(index, slice):
            return [self._prepare(raw) for raw in self._raw[index]]
        return self._prepare(self._raw[index])


class Kept(NamedTuple):
    """A held-out sample: raw, a batch of 1, and what the float model answers to it, prepared of `size_bytes`."""

    digest: str
    size_bytes: int
    raw: Tensors
    outputs: Tensors


class Lowest:
    """Of the held-out samples those with the lowest digests, as many as there is room for: the same in any order."""

    def __init__(self) -> None:
        self.samples: list[Kept] = []
        self._end: str | None = None

    def takes(self, digest: str, size_bytes: int) -> bool:
        """Says whether a sample would be kept; others with higher digests may have to go for it."""
        if self._end is not None and digest >= self._end:
            return False
        before = [one for one in self.samples if one.digest <= digest]
        fits = _fits(len(before) + 1, size_bytes + sum(one.size_bytes for one in before))
        if not fits:
            self._end = digest  # and so nothing that comes after it
        return fits

    def add(self, kept: Kept) -> None:
        """Keeps a sample that is taken, and drops those for which there is no more room."""
        bisect.insort(self.samples, kept, key=lambda one: one.digest)
        while not _fits(len(self.samples), sum(one.size_bytes for one in self.samples)):
            self._end = self.samples.pop().digest


def _fits(count: int, size_bytes: int) -> bool:
    return count <= _LEAST or (count <= MOST and size_bytes <= _MOST_BYTES)
