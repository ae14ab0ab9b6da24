"""What a question is about: which devices, which time, and how a store is read for it."""

from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any, NamedTuple, Protocol

from edge_sdk import errors
from edge_sdk.collector.store.rows import Place

_HOUR_S = 3600
_LONG_S = 48 * _HOUR_S
"""Beyond it a question is answered from hours."""


class Reader(Protocol):
    """A store's reading half: connections of its own, safe from any thread."""

    tail: str
    """SQL condition on sample_rows AS r: not rolled up yet."""

    def snapshot(self) -> AbstractContextManager["Snapshot"]:
        """Gives one consistent view of the store.

        Raises:
            StoreError: it can't be read.
        """
        ...

    def rolled_after(self, place: Place, limit: int) -> Sequence[tuple[Place, str, str, float, str]]:
        """Gives the first `limit` Samples after a place, of those that are rolled up: nothing comes in before these.

        Returns:
            Place, device, site, time and payload of each.

        Raises:
            StoreError: it can't be read.
        """
        ...

    def close(self) -> None:
        """Ends its connections."""
        ...


class Snapshot(Protocol):
    """One consistent view."""

    def rows(self, query: str, values: Sequence[Any] = ()) -> Sequence[tuple[Any, ...]]:
        """Gives the rows that a query answers."""
        ...


class Scope(NamedTuple):
    """Which devices: all, those of a site, or those named."""

    devices: tuple[str, ...] = ()
    site: str = ""

    def condition(self, column: str = "device") -> tuple[str, list[str]]:
        """Gives an SQL condition on a device column, and its values."""
        where: list[str] = []
        values: list[str] = []
        if self.devices:
            where.append(f"device IN ({', '.join('?' * len(self.devices))})")
            values += self.devices
        if self.site:
            where.append("site = ?")
            values.append(self.site)
        inner = f" WHERE {' AND '.join(where)}" if where else ""
        return f"{column} IN (SELECT device FROM devices{inner})", values  # noqa: S608  # names and places only


class Span(NamedTuple):
    """A window of time in whole steps of a resolution."""

    since: int
    until: int
    resolution_s: int

    def parts(self) -> tuple["Span", ...]:
        """Gives the same time with its whole hours read as hours, so that a long window is few rows.

        >>> [tuple(part) for part in Span(3540, 10860, 60).parts()]
        [(3540, 3600, 60), (3600, 10800, 3600), (10800, 10860, 60)]
        """
        first, last = -(-self.since // _HOUR_S) * _HOUR_S, self.until // _HOUR_S * _HOUR_S
        if self.resolution_s == _HOUR_S or first >= last:
            return (self,)
        split = (
            Span(self.since, first, self.resolution_s),
            Span(first, last, _HOUR_S),
            Span(last, self.until, self.resolution_s),
        )
        return tuple(part for part in split if part.since < part.until)


def span_from_times(since_t: float, until_t: float, *, oldest_minute_t: float, step_s: int = 0) -> Span:
    """Gives the window rounded outward to whole minutes, or hours where it is long, coarse or old.

    Raises:
        UsageError: it is empty.
    """
    if not since_t < until_t:
        raise errors.UsageError(f"the window from {since_t:g} to {until_t:g} is empty; since must lie before until")
    is_coarse = until_t - since_t > _LONG_S or since_t < oldest_minute_t or (step_s and step_s % _HOUR_S == 0)
    resolution_s = _HOUR_S if is_coarse else 60
    return Span(
        int(since_t // resolution_s) * resolution_s, -int(-until_t // resolution_s) * resolution_s, resolution_s
    )
