"""Samples folded into packed minutes, hours and merged histograms, so that a question reads few rows.

Minutes and hours are written for all rows of a slice at once, however late a Sample comes.
"""

from collections import defaultdict
from collections.abc import Sequence
from typing import Any, Protocol

from edge_sdk.collector.store import chunks, samples, windows
from edge_sdk.collector.store.rows import Retention

MINUTE_S = 60
HOUR_S = 3600
_KEYS_AT_ONCE = 500  # devices in one question; SQLite before 3.32 takes 999 values


class Database(Protocol):
    """What is needed of one."""

    def rows(self, query: str, values: Sequence[Any] = ()) -> Sequence[tuple[Any, ...]]:
        """Gives the rows that a query answers."""
        ...

    def write(self, statement: str, rows: Sequence[Sequence[Any]]) -> None:
        """Runs a statement once for each row."""
        ...


def fold(database: Database, folded: samples.Folded) -> None:
    """Folds Samples into the chunks of their minutes and hours; the caller's transaction."""
    if not folded.devices:
        return
    for resolution_s, table, merge in (
        (MINUTE_S, "points", chunks.merged_points),
        (HOUR_S, "hours", chunks.merged_hours),
    ):
        _merge_chunks(database, table, folded, chunks.chunks_from_samples(folded, resolution_s), merge)
    if folded.windows:
        minutes = windows.window_sums(folded, MINUTE_S)
        _merge_windows(database, MINUTE_S, minutes)
        _merge_windows(database, HOUR_S, windows.coarser(minutes, HOUR_S))


def _merge_chunks(database: Database, table: str, folded: samples.Folded, groups: chunks.Chunks, merge: Any) -> None:
    known = _stored(database, table, ("device", "start"), ("n", "energy_j", "energy_s", "data"), groups.keys)
    stored = [chunks.Stored(row[0], row[1], row[2], bytes(row[3])) if row else chunks.NOTHING for row in known]
    energy_j, energy_s, n = chunks.totals(folded, groups)
    database.write(
        f"INSERT INTO {table} (device, start, n, energy_j, energy_s, data) VALUES (?, ?, ?, ?, ?, ?) "  # noqa: S608
        "ON CONFLICT (device, start) DO UPDATE SET n = excluded.n, energy_j = excluded.energy_j, "
        "energy_s = excluded.energy_s, data = excluded.data",
        [
            (*key, one.n + n[place], one.energy_j + energy_j[place], one.energy_s + energy_s[place], data)
            for place, (key, one, data) in enumerate(
                zip(groups.keys, stored, merge(folded, groups, stored), strict=True)
            )
        ],
    )


_WINDOW_KEY = ("resolution_s", *windows.WindowKey._fields)
_WINDOW_TOTALS = ("answers", "errors", "zeros", "energy_j", "buckets")


def _merge_windows(database: Database, resolution_s: int, new: windows.WindowSums) -> None:
    keys = [(resolution_s, *key) for key in new.keys]
    known = _stored(database, "windows", _WINDOW_KEY, _WINDOW_TOTALS, keys)
    stored = [(*row[:4], bytes(row[4])) if row else None for row in known]
    database.write(
        "INSERT INTO windows (resolution_s, device, start, model, digest, scale, answers, errors, zeros, energy_j, "
        "buckets) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (resolution_s, device, start, model, digest, "
        "scale) DO UPDATE SET answers = excluded.answers, errors = excluded.errors, zeros = excluded.zeros, "
        "energy_j = excluded.energy_j, buckets = excluded.buckets",
        [(*key, *totals) for key, totals in zip(keys, windows.merged(new, stored), strict=True)],
    )


def _stored(
    database: Database,
    table: str,
    names: Sequence[str],
    wanted: Sequence[str],
    keys: Sequence[tuple[Any, ...]],
) -> list[tuple[Any, ...] | None]:
    """Gives the `wanted` columns of the row of each key, None where there is no such row."""
    found: dict[tuple[Any, ...], tuple[Any, ...]] = {}
    at, of_device = names.index("start"), names.index("device")
    devices: dict[tuple[Any, ...], dict[str, None]] = defaultdict(dict)
    for key in keys:
        fixed = (*key[:of_device], key[at])
        devices[fixed][key[of_device]] = None
    where = "".join(f"{name} = ? AND " for name in (*names[:of_device], "start"))
    for fixed, known in devices.items():
        for first in range(0, len(known), _KEYS_AT_ONCE):
            some = list(known)[first : first + _KEYS_AT_ONCE]
            # Not `(device, start) IN (VALUES ...)`, for which SQLite reads the whole table, however much is stored.
            rows = database.rows(
                f"SELECT {', '.join([*names, *wanted])} FROM {table} "  # noqa: S608  # our own names
                f"WHERE {where}device IN ({', '.join('?' * len(some))})",
                [*fixed, *some],
            )
            found.update((tuple(row[: len(names)]), tuple(row[len(names) :])) for row in rows)
    return [found.get(tuple(key)) for key in keys]


def close_gaps(database: Database, rows: Sequence[tuple[int, int]]) -> None:
    """Notes that rows (source, seq) are about to be deleted for their age.

    What comes again at or below is a duplicate from now on; a gap among them is given up, and counted as lost.
    """
    by_source: dict[int, list[int]] = defaultdict(list)
    for source, seq in rows:
        by_source[source].append(seq)
    changes = []
    for source, seqs in sorted(by_source.items()):
        found = database.rows("SELECT pruned_upto, upto, lost FROM sources WHERE id = ?", (source,))
        pruned_upto, upto, lost = found[0]
        last = max(seqs)
        if upto is not None and last > upto:
            lost += last - upto - sum(seq > upto for seq in seqs)
            upto = last
        changes.append((max(pruned_upto, last), upto, lost, source))
    database.write("UPDATE sources SET pruned_upto = ?, upto = ?, lost = ? WHERE id = ?", changes)


def prune_chunks(database: Database, retention: Retention, now_s: float, *, limit: int) -> int:
    """Deletes up to `limit` chunks of each kind that are past their time; gives how many."""
    deleted = 0
    hour_days = max(retention.hour_days, retention.minute_days)  # whole hours of a window of minutes are read as hours
    for table, days, where in (
        ("points", retention.minute_days, ""),
        ("hours", hour_days, ""),
        ("windows", retention.minute_days, "resolution_s = 60 AND "),
        ("windows", hour_days, "resolution_s = 3600 AND "),
    ):
        found = database.rows(
            f"SELECT DISTINCT device, start FROM {table} WHERE {where}start < ? LIMIT ?",  # noqa: S608  # constants
            (int(now_s - days * 86400), limit),
        )
        database.write(f"DELETE FROM {table} WHERE {where}device = ? AND start = ?", found)  # noqa: S608  # constants
        deleted += len(found)
    return deleted
