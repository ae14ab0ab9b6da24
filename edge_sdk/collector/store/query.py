"""Questions about the fleet: latest, series, quantiles over any group and window, gaps, energy.

Minutes and hours are read packed; what is newer than the last roll-up is read as it came and folded in on the fly, in
one snapshot, so that every Sample counts exactly once.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import msgspec
import numpy as np

from edge_sdk import clock, errors
from edge_sdk.collector.store import rolling, samples, shapes, windows
from edge_sdk.collector.store.asking import Reader, Scope, Snapshot, Span, span_from_times
from edge_sdk.numerics import histogram_batches as batches
from edge_sdk.records import answers

GROUPS = ("device", "site", "model", "digest")
"""What an answer can be grouped by."""
EVERYTHING = Scope()
_GAPS_MAX = 1000
_Read = Callable[[Sequence[tuple[str, str]]], samples.Folded]


_WINDOW = "device, model, digest, scale, answers, errors, zeros, energy_j, buckets"
"""What is read of a model's step: thousands for one answer, so they stay plain tuples."""
_GROUPED_BY = {"device": 0, "model": 1, "digest": 2}
_SCALE, _ANSWERS, _ERRORS, _ZEROS, _ENERGY_J, _BUCKETS = range(3, 9)


class _Grouped(NamedTuple):
    """Rows of windows, and to which group each belongs.

    Attributes:
        span: the window that was really used.
        keys: of the groups, sorted.
        rows: as `_WINDOW` says.
        group_of: each row's place in `keys`.
    """

    span: Span
    keys: list[tuple[str, ...]]
    rows: list[tuple[Any, ...]]
    group_of: list[int]

    def totals(self, column: int) -> list[Any]:
        """Gives a column added up by group, exactly however large."""
        out = [0] * len(self.keys)
        for place, row in zip(self.group_of, self.rows, strict=True):
            out[place] += row[column]
        return out


class Queries:
    """Answers from one store; safe from any thread."""

    def __init__(self, reader: Reader, clocks: clock.Clock, *, minute_days: float = 60.0) -> None:
        """Prepares questions to what `reader` reads; minutes are there for `minute_days`."""
        self._reader = reader
        self._clock = clocks
        self._minute_days = minute_days

    def latest(self, scope: Scope = EVERYTHING) -> list[answers.Latest]:
        """Gives the newest Sample of each device."""
        where, values = scope.condition("d.device")
        with self._reader.snapshot() as snapshot:
            found = snapshot.rows(
                "SELECT d.device, d.site, r.t, r.received_t, r.payload FROM devices AS d JOIN sample_rows AS r "  # noqa: S608
                f"ON r.source = d.source AND r.seq = d.seq WHERE {where} ORDER BY d.device",
                values,
            )
        return [
            answers.Latest(
                device=device, site=site, t=t, received_t=received_t, sample=msgspec.Raw(payload.encode("utf-8"))
            )
            for device, site, t, received_t, payload in found
        ]

    def series(
        self, metric: str, since_t: float, until_t: float, *, scope: Scope = EVERYTHING, step_s: int = 0
    ) -> list[answers.Series]:
        """Gives one metric of each device, single points or bins of `step_s` seconds.

        Raises:
            UsageError: no such metric, an empty window, or more points than are given at once.
        """
        if metric not in samples.METRICS:
            raise errors.UsageError(f"no series of {metric!r}; there are: {', '.join(samples.METRICS)}")
        span = self._span(since_t, until_t, step_s)
        column = samples.METRICS.index(metric)
        table = "points" if span.resolution_s == rolling.MINUTE_S else "hours"
        where, values = scope.condition()
        with self._reader.snapshot() as snapshot:
            chunks = snapshot.rows(
                f"SELECT device, start, data FROM {table} WHERE {where} AND start >= ? AND start < ?",  # noqa: S608
                [*values, span.since, span.until],
            )
            tail = self._tail(snapshot, scope, span)
        if span.resolution_s == rolling.MINUTE_S:
            return shapes.series_from_points((metric, column), chunks, tail, within=(since_t, until_t), step_s=step_s)
        return shapes.series_from_hours((metric, column), chunks, tail, step_s=max(step_s, rolling.HOUR_S))

    def quantiles(
        self,
        shares: Sequence[float],
        since_t: float,
        until_t: float,
        *,
        scope: Scope = EVERYTHING,
        model: str = "",
        by: Sequence[str] = (),
    ) -> list[answers.Quantiles]:
        """Gives latency quantiles of each group; histograms are added up exactly, whatever the group.

        Raises:
            UsageError: a share outside 0 to 1, an unknown word in `by`, or an empty window.
        """
        if not all(0 <= share <= 1 for share in shares):
            raise errors.UsageError(f"a quantile lies between 0 and 1, but was given {list(shares)}")
        grouped = self._grouped_windows(since_t, until_t, scope, model, by)
        counts, failures = grouped.totals(_ANSWERS), grouped.totals(_ERRORS)
        return [
            answers.Quantiles(
                group=dict(zip(by, key, strict=True)),
                since_t=grouped.span.since,
                until_t=grouped.span.until,
                answers=counts[place],
                errors=failures[place],
                latency_ms={f"{share:g}": value for share, value in zip(shares, found, strict=True)},
            )
            for place, (key, found) in enumerate(zip(grouped.keys, _quantiles(grouped, shares), strict=True))
        ]

    def energy(
        self, since_t: float, until_t: float, *, scope: Scope = EVERYTHING, by: Sequence[str] = ()
    ) -> list[answers.Energy]:
        """Gives the energy of each group: of devices what they took, of models their share of it.

        Raises:
            UsageError: an unknown word in `by`, or an empty window.
        """
        if {"model", "digest"} & set(by):
            grouped = self._grouped_windows(since_t, until_t, scope, "", by)
            span, energies, counts = grouped.span, grouped.totals(_ENERGY_J), grouped.totals(_ANSWERS)
            totals = {key: (energies[place], 0.0, counts[place]) for place, key in enumerate(grouped.keys)}
        else:
            span, totals = self._device_energy(since_t, until_t, scope, by)
        return [
            answers.Energy(
                group=dict(zip(by, key, strict=True)),
                since_t=span.since,
                until_t=span.until,
                energy_j=energy_j,
                covered_s=covered_s,
                answers=count,
            )
            for key, (energy_j, covered_s, count) in sorted(totals.items())
        ]

    def gaps(self, scope: Scope = EVERYTHING) -> list[answers.Gap]:
        """Gives the first 1,000 gaps among the Samples that are still there one by one."""
        where, values = scope.condition("s.device")
        with self._reader.snapshot() as snapshot:
            found = snapshot.rows(
                "SELECT s.device, s.boot, g.before, g.seq, s.upto FROM (SELECT source, seq, LAG(seq) OVER "  # noqa: S608
                "(PARTITION BY source ORDER BY seq) AS before FROM sample_rows) AS g "
                "JOIN sources AS s ON s.id = g.source "
                f"WHERE g.seq > COALESCE(g.before, s.pruned_upto) + 1 AND {where} "
                "ORDER BY s.device, s.boot, g.seq LIMIT ?",
                [*values, _GAPS_MAX],
            )
        return [
            answers.Gap(
                device=device,
                boot=boot,
                after_seq=-1 if before is None else before,
                before_seq=seq,
                missing=seq - (-1 if before is None else before) - 1,
                is_lost=upto is not None and upto >= seq,
            )
            for device, boot, before, seq, upto in found
        ]

    def _span(self, since_t: float, until_t: float, step_s: int = 0) -> Span:
        oldest_minute_t = self._clock.wall_s() - self._minute_days * 86400
        return span_from_times(since_t, until_t, oldest_minute_t=oldest_minute_t, step_s=step_s)

    def _tail(self, snapshot: Snapshot, scope: Scope, span: Span, read: _Read = samples.read) -> samples.Folded:
        """Gives the Samples of a window that are not rolled up yet."""
        where, values = scope.condition("s.device")
        rows = snapshot.rows(
            "SELECT s.device, r.payload FROM sample_rows AS r JOIN sources AS s ON s.id = +r.source "  # noqa: S608
            f"WHERE {self._reader.tail} AND r.t >= ? AND r.t < ? AND {where}",
            [span.since, span.until, *values],
        )
        return read([(device, payload) for device, payload in rows])

    def _grouped_windows(self, since_t: float, until_t: float, scope: Scope, model: str, by: Sequence[str]) -> _Grouped:
        _check_groups(by)
        span = self._span(since_t, until_t)
        where, values = scope.condition()
        named = " AND model = ?" if model else ""
        rows: list[tuple[Any, ...]] = []
        with self._reader.snapshot() as snapshot:
            for part in span.parts():
                rows += snapshot.rows(
                    f"SELECT {_WINDOW} FROM windows "  # noqa: S608  # constants
                    f"WHERE resolution_s = ? AND {where} AND start >= ? AND start < ?{named}",
                    [part.resolution_s, *values, part.since, part.until, *([model] if model else [])],
                )
            tail = _tail_rows(self._tail(snapshot, scope, span, samples.read_windows))
            sites = _sites(snapshot) if "site" in by else {}
        rows += (row for row in tail if model in ("", row[1]))
        columns = [
            [sites.get(row[0], "") for row in rows] if word == "site" else [row[_GROUPED_BY[word]] for row in rows]
            for word in by
        ]
        owners: list[tuple[str, ...]] = list(zip(*columns, strict=True)) if columns else [()] * len(rows)
        keys = sorted(set(owners))
        numbers = {key: place for place, key in enumerate(keys)}
        return _Grouped(span, keys, rows, [numbers[key] for key in owners])

    def _device_energy(
        self, since_t: float, until_t: float, scope: Scope, by: Sequence[str]
    ) -> tuple[Span, dict[tuple[str, ...], tuple[float, float, int]]]:
        _check_groups(by)
        span = self._span(since_t, until_t)
        where, values = scope.condition()
        table = "points" if span.resolution_s == rolling.MINUTE_S else "hours"
        with self._reader.snapshot() as snapshot:
            found = list(
                snapshot.rows(
                    f"SELECT device, SUM(energy_j), SUM(energy_s) FROM {table} WHERE {where} "  # noqa: S608  # constants
                    "AND start >= ? AND start < ? GROUP BY device",
                    [*values, span.since, span.until],
                )
            )
            tail = self._tail(snapshot, scope, span)
            sites = _sites(snapshot) if "site" in by else {}
        found += zip(tail.devices, tail.energy_j.tolist(), tail.energy_s.tolist(), strict=True)
        totals: dict[tuple[str, ...], tuple[float, float, int]] = {}
        for device, energy_j, covered_s in found:
            key = tuple(sites.get(device, "") if word == "site" else device for word in by)
            before_j, before_s, _ = totals.get(key, (0.0, 0.0, 0))
            totals[key] = before_j + energy_j, before_s + covered_s, 0
        return span, totals


def _check_groups(by: Iterable[str]) -> None:
    for word in by:
        if word not in GROUPS:
            raise errors.UsageError(f"cannot group by {word!r}; there are: {', '.join(GROUPS)}")


def _sites(snapshot: Snapshot) -> dict[str, str]:
    return {row[0]: row[1] for row in snapshot.rows("SELECT device, site FROM devices")}


def _tail_rows(tail: samples.Folded) -> list[tuple[Any, ...]]:
    """Gives what the models of Samples did, as rows of windows."""
    if not tail.windows:
        return []
    sums = windows.window_sums(tail, rolling.HOUR_S)
    totals = windows.merged(sums, [None] * len(sums.keys))
    return [(key.device, key.model, key.digest, key.scale, *row) for key, row in zip(sums.keys, totals, strict=True)]


def _quantiles(grouped: _Grouped, shares: Sequence[float]) -> list[list[float | None]]:
    """Gives each group's quantiles, all groups' buckets added up at once."""
    if not grouped.keys:
        return []
    blobs = [row[_BUCKETS] for row in grouped.rows]
    scale_of = np.array([row[_SCALE] for row in grouped.rows], np.int64)
    scale = int(scale_of.min())
    if int(scale_of.max()) == scale:
        sums = batches.add_up_packed(blobs, grouped.group_of)
    else:
        owner, index, count = batches.unpacked(blobs, range(len(blobs)))
        # A finer histogram in the layout of a coarser one: neighbours fall together, exactly.
        group = np.array(grouped.group_of, np.int64)[owner]
        sums = batches.add_up(group, index >> (scale_of - scale)[owner], count)
    bounds = np.searchsorted(sums.group, np.arange(len(grouped.keys) + 1))
    zeros = grouped.totals(_ZEROS)
    out = []
    for place in range(len(grouped.keys)):
        part: Any = slice(bounds[place], bounds[place + 1])
        out.append(
            batches.quantiles(sums.position[part], sums.times[part], zeros=zeros[place], scale=scale, shares=shares)
        )
    return out
