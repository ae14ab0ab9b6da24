"""Questions about the fleet: latest, series, quantiles over any group and window, gaps, energy.

Minutes and hours are read packed; what is newer than the last roll-up is read as it came and folded in on the fly, in
one snapshot, so that every Sample counts exactly once.
"""

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import msgspec
import numpy as np

from edge_sdk import clock, errors
from edge_sdk.collector.store import rolling, shapes
from edge_sdk.collector.store.asking import Reader, Scope, Snapshot, Span, span_from_times
from edge_sdk.numerics import histogram_batches as batches
from edge_sdk.records import answers

GROUPS = ("device", "site", "model", "digest")
"""What an answer can be grouped by."""
EVERYTHING = Scope()
_GAPS_MAX = 1000


class _Row(NamedTuple):
    """What one model did on one device in one step of the resolution."""

    device: str
    model: str
    digest: str
    scale: int
    answers: int
    errors: int
    zeros: int
    energy_j: float
    buckets: bytes


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
        if metric not in rolling.METRICS:
            raise errors.UsageError(f"no series of {metric!r}; there are: {', '.join(rolling.METRICS)}")
        span = self._span(since_t, until_t, step_s)
        column = rolling.METRICS.index(metric)
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
        span, groups = self._grouped_windows(since_t, until_t, scope, model, by)
        return [
            answers.Quantiles(
                group=dict(zip(by, key, strict=True)),
                since_t=span.since,
                until_t=span.until,
                answers=sum(row.answers for row in rows),
                errors=sum(row.errors for row in rows),
                latency_ms={f"{share:g}": value for share, value in zip(shares, found, strict=True)},
            )
            for key, rows, found in _with_quantiles(groups, shares)
        ]

    def energy(
        self, since_t: float, until_t: float, *, scope: Scope = EVERYTHING, by: Sequence[str] = ()
    ) -> list[answers.Energy]:
        """Gives the energy of each group: of devices what they took, of models their share of it.

        Raises:
            UsageError: an unknown word in `by`, or an empty window.
        """
        if {"model", "digest"} & set(by):
            span, groups = self._grouped_windows(since_t, until_t, scope, "", by)
            totals = {
                key: (sum(r.energy_j for r in rows), 0.0, sum(r.answers for r in rows)) for key, rows in groups.items()
            }
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

    def _tail(self, snapshot: Snapshot, scope: Scope, span: Span) -> rolling.Folded:
        """Gives the Samples of a window that are not rolled up yet."""
        where, values = scope.condition("s.device")
        rows = snapshot.rows(
            "SELECT s.device, r.t, r.payload FROM sample_rows AS r JOIN sources AS s ON s.id = r.source "  # noqa: S608
            f"WHERE {self._reader.tail} AND r.t >= ? AND r.t < ? AND {where}",
            [span.since, span.until, *values],
        )
        return rolling.read([(device, t, payload) for device, t, payload in rows])

    def _grouped_windows(
        self, since_t: float, until_t: float, scope: Scope, model: str, by: Sequence[str]
    ) -> tuple[Span, dict[tuple[str, ...], list[_Row]]]:
        _check_groups(by)
        span = self._span(since_t, until_t)
        where, values = scope.condition()
        named = " AND model = ?" if model else ""
        with self._reader.snapshot() as snapshot:
            found: list[_Row] = [
                _Row(*row)
                for row in snapshot.rows(
                    "SELECT device, model, digest, scale, answers, errors, zeros, energy_j, buckets FROM windows "  # noqa: S608
                    f"WHERE resolution_s = ? AND {where} AND start >= ? AND start < ?{named}",
                    [span.resolution_s, *values, span.since, span.until, *([model] if model else [])],
                )
            ]
            found += (row for row in _tail_rows(self._tail(snapshot, scope, span)) if model in ("", row.model))
            sites = _sites(snapshot) if "site" in by else {}
        groups: dict[tuple[str, ...], list[_Row]] = {}
        for row in found:
            key = tuple(sites.get(row.device, "") if word == "site" else getattr(row, word) for word in by)
            groups.setdefault(key, []).append(row)
        return span, groups

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


def _tail_rows(tail: rolling.Folded) -> list[_Row]:
    if not tail.windows:
        return []
    sums = rolling.window_sums(tail, rolling.HOUR_S)
    bounds = np.searchsorted(sums.sums.group, np.arange(len(sums.keys) + 1))
    return [
        _Row(
            key.device,
            key.model,
            key.digest,
            key.scale,
            int(sums.answers[place]),
            int(sums.errors[place]),
            int(sums.zeros[place]),
            float(sums.energy_j[place]),
            batches.packed(*(part[bounds[place] : bounds[place + 1]] for part in sums.sums[1:])),
        )
        for place, key in enumerate(sums.keys)
    ]


def _with_quantiles(
    groups: dict[tuple[str, ...], list[_Row]], shares: Sequence[float]
) -> list[tuple[tuple[str, ...], list[_Row], list[float | None]]]:
    """Gives each group with its quantiles, all groups' buckets added up at once."""
    if not groups:
        return []
    keys = sorted(groups)
    rows = [(place, row) for place, key in enumerate(keys) for row in groups[key]]
    group_of = np.array([place for place, _ in rows], np.int64)
    scale_of = np.array([row.scale for _, row in rows], np.int64)
    scale = int(scale_of.min())
    owner, index, count = batches.unpacked([row.buckets for _, row in rows])
    # A finer histogram in the layout of a coarser one: neighbours fall together, exactly.
    sums = batches.add_up(group_of[owner], index >> (scale_of[owner] - scale), count)
    bounds = np.searchsorted(sums.group, np.arange(len(keys) + 1))
    out: list[tuple[tuple[str, ...], list[_Row], list[float | None]]] = []
    for place, key in enumerate(keys):
        part: Any = slice(bounds[place], bounds[place + 1])
        zeros = sum(row.zeros for row in groups[key])
        found = batches.quantiles(sums.position[part], sums.times[part], zeros=zeros, scale=scale, shares=shares)
        out.append((key, groups[key], found))
    return out
