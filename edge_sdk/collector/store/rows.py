"""What the collector hands to a store and gets back, and the `Store` protocol that every store keeps.

One row per Sample, never one per metric; (device, boot, seq) is stored once, also when it comes again after the row
has been pruned. Whatever a collector must know of a device lies in the store, so that several collectors can share one.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, NamedTuple, Protocol


class SampleRow(NamedTuple):
    """One Sample as it is stored."""

    device: str
    site: str
    boot: str
    seq: int
    t: float
    received_t: float
    payload: str


class StateRow(NamedTuple):
    """The latest status or birth of a device (`kind`)."""

    site: str
    device: str
    kind: str
    boot: str
    t: float
    received_t: float
    payload: str


class EventRow(NamedTuple):
    """One event."""

    site: str
    device: str
    boot: str
    t: float
    received_t: float
    payload: str


class RefusedRow(NamedTuple):
    """One message that was refused."""

    topic: str
    kind: str
    reason: str
    size_bytes: int
    payload: bytes
    received_t: float


BootKey = tuple[str, str]
"""(device, boot): whose records are counted on."""

Mark = tuple[int, int]
"""(upto, lost): how far the records of one boot have arrived, and how many of these never will."""


Place = tuple[int, int]
"""How far something that goes on from here has read; of no meaning but to the store, and larger further on."""


class Retention(NamedTuple):
    """For how many days each resolution is kept, counted from when it arrived here."""

    raw_days: float
    minute_days: float
    hour_days: float


class Table(NamedTuple):
    """One table on its way from one store into another."""

    name: str
    columns: str
    rows: Iterator[tuple[Any, ...]]


class Store(Protocol):
    """Where Samples lie. Used by one thread at a time; `query.Queries` reads beside it on connections of its own."""

    def transaction(self) -> AbstractContextManager[None]:
        """Commits what is written inside the block, or nothing of it.

        Raises:
            StoreError: the database did not take it; nothing was committed.
        """
        ...

    def marks(self, boots: Iterable[BootKey]) -> dict[BootKey, Mark | None]:
        """Gives how far each boot has got (None: nothing is known of it).

        First call of a transaction: until its end no other collector changes what belongs to these boots.
        """
        ...

    def add_samples(self, rows: Sequence[SampleRow]) -> list[bool]:
        """Stores Samples; gives for each whether it was new."""
        ...

    def seqs_above(self, uptos: Mapping[BootKey, int]) -> dict[BootKey, Iterator[int]]:
        """Gives by boot the stored sequence numbers above a number, ascending, read as far as they are asked for."""
        ...

    def set_marks(self, marks: Mapping[BootKey, Mark]) -> None:
        """Stores how far the records of boots have arrived."""
        ...

    def put_states(self, rows: Sequence[StateRow]) -> None:
        """Stores the latest status and birth of devices."""
        ...

    def add_events(self, rows: Sequence[EventRow]) -> None:
        """Stores events; one that came twice is kept once."""
        ...

    def add_refused(self, rows: Sequence[RefusedRow]) -> None:
        """Counts refused messages, and keeps the first ones."""
        ...

    def devices(self) -> set[str]:
        """Gives the devices of which there are Samples."""
        ...

    def lost(self) -> int:
        """Gives how many Samples of all devices are lost."""
        ...

    def roll_up(self, *, limit: int) -> int:
        """Folds up to `limit` stored Samples into minutes and hours, in a transaction of its own; gives how many."""
        ...

    def prune(self, retention: Retention, now_s: float, *, limit: int) -> int:
        """Deletes up to `limit` rows that are past their time; gives how many. Never what is not rolled up yet."""
        ...

    def place(self, name: str) -> Place:
        """Gives how far `name` has read; before everything if it never did."""
        ...

    def keep_place(self, name: str, place: Place) -> None:
        """Stores how far `name` has read."""
        ...

    def close(self) -> None:
        """Gives the database back."""
        ...
