"""Samples folded into packed minutes, hours and merged histograms, so that a question reads few rows.

A minute keeps every point (float32, compressed); an hour keeps count, sum, least and most of each metric. Histograms
are added up for both: exact, in any order, however late a Sample comes.
"""

import zlib
from collections import defaultdict
from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import msgspec
import numpy as np
from numpy.typing import NDArray

from edge_sdk.collector.store.rows import Retention
from edge_sdk.numerics import histogram_batches as batches
from edge_sdk.records import metrics

MINUTE_S = 60
HOUR_S = 3600
_FULL_POINTS = 59
_SCALES = range(3, 13)
"""Of histograms that are added up; one that is coarser would make all others as coarse."""
_TOTAL_MAX = 2**62

_TEXTS = ("power_boundary", "power_mode")
METRICS: tuple[str, ...] = tuple(
    name for name in metrics.NAMES if name not in metrics.MAPS and name not in _TEXTS and name != "energy_j"
)
"""Columns of a chunk, after the time. New ones are only ever appended: what is stored goes by position."""
_ENERGY = "energy_j"


class _Window(msgspec.Struct):
    """What is folded of a model's Window."""

    model: str
    digest: str
    count: int
    errors: dict[str, int]
    latency_hist: str
    energy_j: float | None


def _numbers_type() -> type[msgspec.Struct]:
    """Gives a struct of a Sample's time, energy, windows and plain numbers; everything else is skipped unread."""
    fields: list[tuple[str, Any, Any]] = [
        ("t", float, msgspec.NODEFAULT),
        ("interval_s", float, msgspec.NODEFAULT),
        (_ENERGY, float | None, None),
        ("models", list[_Window], msgspec.field(default_factory=list)),
        *((name, float | bool | None, None) for name in METRICS),
    ]
    required = [(name, kind) for name, kind, default in fields if default is msgspec.NODEFAULT]
    return msgspec.defstruct("_Numbers", [*required, *(field for field in fields if field[2] is not msgspec.NODEFAULT)])


_DECODER = msgspec.json.Decoder(_numbers_type())


class Database(Protocol):
    """What is needed of one."""

    def rows(self, query: str, values: Sequence[Any] = ()) -> Sequence[tuple[Any, ...]]:
        """Gives the rows that a query answers."""
        ...

    def write(self, statement: str, rows: Sequence[Sequence[Any]]) -> None:
        """Runs a statement once for each row."""
        ...


class WindowKey(NamedTuple):
    """Whose histogram it is."""

    device: str
    start: int
    model: str
    digest: str
    scale: int


class Folded(NamedTuple):
    """What a number of Samples say.

    Attributes:
        devices: of each Sample.
        t: of each Sample, seconds.
        energy_j, energy_s: of each Sample; energy and the seconds that it covers, 0 where it is not known.
        values: float64[samples, METRICS]; NaN where there is none.
        windows: (Sample, Window) of each model that did something.
    """

    devices: list[str]
    t: NDArray[np.float64]
    energy_j: NDArray[np.float64]
    energy_s: NDArray[np.float64]
    values: NDArray[np.float64]
    windows: list[tuple[int, Any]]


def read(rows: Sequence[tuple[str, float, str]]) -> Folded:
    """Gives what (device, t, payload) rows say; a payload that another version made unreadable says nothing."""
    devices: list[str] = []
    table: list[tuple[Any, ...]] = []
    windows: list[tuple[int, Any]] = []
    for device, _, payload in rows:
        try:
            t, interval_s, energy_j, models, *values = msgspec.structs.astuple(_DECODER.decode(payload))
        except (msgspec.DecodeError, UnicodeError, RecursionError):
            continue
        windows.extend((len(table), window) for window in models)
        table.append((t, energy_j or 0.0, 0.0 if energy_j is None else interval_s, *values))
        devices.append(device)
    numbers = np.array(table, np.float64).reshape(len(table), 3 + len(METRICS))
    return Folded(devices, numbers[:, 0], numbers[:, 1], numbers[:, 2], numbers[:, 3:], windows)


def fold(database: Database, rows: Sequence[tuple[str, float, str]]) -> None:
    """Folds (device, t, payload) rows into the chunks of their minutes and hours; the caller's transaction."""
    folded = read(rows)
    if not folded.devices:
        return
    for resolution_s, table, merge in ((MINUTE_S, "points", _merged_points), (HOUR_S, "hours", _merged_hours)):
        groups: dict[tuple[str, int], list[int]] = defaultdict(list)
        for place, (device, start) in enumerate(zip(folded.devices, _starts(folded.t, resolution_s), strict=True)):
            groups[device, start].append(place)
        _merge_chunks(database, table, folded, groups, merge)
        _merge_windows(database, resolution_s, folded)


def _starts(t: NDArray[np.float64], resolution_s: int) -> list[int]:
    starts: list[int] = (t // resolution_s * resolution_s).astype(np.int64).tolist()
    return starts


def _merge_chunks(
    database: Database, table: str, folded: Folded, groups: dict[tuple[str, int], list[int]], merge: Any
) -> None:
    out = []
    for (device, start), places in sorted(groups.items()):
        found = database.rows(
            f"SELECT n, energy_j, energy_s, data FROM {table} WHERE device = ? AND start = ?",  # noqa: S608  # a constant
            (device, start),
        )
        n, energy_j, energy_s, data = found[0] if found else (0, 0.0, 0.0, b"")
        energy_j += float(folded.energy_j[places].sum())
        energy_s += float(folded.energy_s[places].sum())
        merged = merge(bytes(data), folded.t[places] - start, folded.values[places])
        out.append((device, start, n + len(places), energy_j, energy_s, merged))
    database.write(
        f"INSERT INTO {table} (device, start, n, energy_j, energy_s, data) VALUES (?, ?, ?, ?, ?, ?) "  # noqa: S608
        "ON CONFLICT (device, start) DO UPDATE SET n = excluded.n, energy_j = excluded.energy_j, "
        "energy_s = excluded.energy_s, data = excluded.data",
        out,
    )


def packed_points(t: NDArray[np.floating[Any]], values: NDArray[np.floating[Any]]) -> bytes:
    """Gives points as bytes: the columns that have a value, then seconds and values by column.

    Compressed once there are as many as a minute has at one a second; until then the chunk is written again and again.
    """
    used = np.flatnonzero(~np.isnan(values).all(axis=0)).astype(np.uint8)
    body = np.concatenate([t.astype("<f4")[None, :], values[:, used].T.astype("<f4")]).tobytes()
    is_full = len(t) >= _FULL_POINTS
    return bytes([is_full, len(used)]) + used.tobytes() + (zlib.compress(body, 1) if is_full else body)


def unpacked_points(data: bytes) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Gives (seconds since the chunk's start, values[points, METRICS])."""
    if not data:
        return np.empty(0, np.float32), np.empty((0, len(METRICS)), np.float32)
    used = np.frombuffer(data, np.uint8, count=data[1], offset=2)
    packed = data[2 + data[1] :]
    body = np.frombuffer(zlib.decompress(packed) if data[0] else packed, "<f4").reshape(1 + len(used), -1)
    values = np.full((body.shape[1], len(METRICS)), np.nan, np.float32)
    values[:, used] = body[1:].T
    return body[0], values


def _merged_points(data: bytes, t: NDArray[np.float64], values: NDArray[np.float64]) -> bytes:
    before_t, before = unpacked_points(data)
    all_t = np.concatenate([before_t, t.astype(np.float32)])
    order = np.argsort(all_t, kind="stable")
    with np.errstate(over="ignore"):  # what no float32 holds is infinite there
        added = values.astype(np.float32)
    return packed_points(all_t[order], np.concatenate([before, added])[order])


def unpacked_hours(data: bytes) -> NDArray[np.float64]:
    """Gives float64[4, METRICS]: count, sum, least, most."""
    out = np.zeros((4, len(METRICS)))
    out[2], out[3] = np.inf, -np.inf
    if data:
        stored = np.frombuffer(data, "<f8").reshape(4, -1)
        out[:, : stored.shape[1]] = stored
    return out


def _merged_hours(data: bytes, _: NDArray[np.float64], values: NDArray[np.float64]) -> bytes:
    out = unpacked_hours(data)
    is_there = ~np.isnan(values)
    with np.errstate(over="ignore"):
        out[1] += np.where(is_there, values, 0).sum(axis=0)
    out[0] += is_there.sum(axis=0)
    out[2] = np.minimum(out[2], np.where(is_there, values, np.inf).min(axis=0))
    out[3] = np.maximum(out[3], np.where(is_there, values, -np.inf).max(axis=0))
    return out.astype("<f8").tobytes()


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
    starts = _starts(folded.t, resolution_s)
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
    owners = [
        WindowKey(folded.devices[sample], starts[sample], window.model, window.digest, int(scale[place]))
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
        keys,
        total([min(window.count, batches.COUNT_MAX) for window in windows]).astype(np.int64),
        total([min(sum(window.errors.values()), batches.COUNT_MAX) for window in windows]).astype(np.int64),
        total(zeros.tolist()).astype(np.int64),
        total([window.energy_j or 0.0 for window in windows]),
        sums,
    )


def _merge_windows(database: Database, resolution_s: int, folded: Folded) -> None:
    if not folded.windows:
        return
    new = window_sums(folded, resolution_s)
    bounds = np.searchsorted(new.sums.group, np.arange(len(new.keys) + 1))
    out = []
    for place, key in enumerate(new.keys):
        found = database.rows(
            "SELECT answers, errors, zeros, energy_j, buckets FROM windows WHERE resolution_s = ? AND device = ? "
            "AND start = ? AND model = ? AND digest = ? AND scale = ?",
            (resolution_s, *key),
        )
        index, count = (part[bounds[place] : bounds[place + 1]] for part in new.sums[1:])
        answers, failures, zeros, energy_j = 0, 0, 0, 0.0
        if found:
            answers, failures, zeros, energy_j, blob = found[0]
            _, old_index, old_count = batches.unpacked([bytes(blob)])
            index, count = np.concatenate([index, old_index]), np.concatenate([count, old_count])
            _, index, count = batches.add_up(np.zeros(len(index), np.int64), index, count)
        totals = (
            min(_TOTAL_MAX, answers + int(new.answers[place])),
            min(_TOTAL_MAX, failures + int(new.errors[place])),
            min(_TOTAL_MAX, zeros + int(new.zeros[place])),
            energy_j + float(new.energy_j[place]),
        )
        out.append((resolution_s, *key, *totals, batches.packed(index, count)))
    database.write(
        "INSERT INTO windows (resolution_s, device, start, model, digest, scale, answers, errors, zeros, energy_j, "
        "buckets) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (resolution_s, device, start, model, digest, "
        "scale) DO UPDATE SET answers = excluded.answers, errors = excluded.errors, zeros = excluded.zeros, "
        "energy_j = excluded.energy_j, buckets = excluded.buckets",
        out,
    )


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
    for table, days, where in (
        ("points", retention.minute_days, ""),
        ("hours", retention.hour_days, ""),
        ("windows", retention.minute_days, "resolution_s = 60 AND "),
        ("windows", retention.hour_days, "resolution_s = 3600 AND "),
    ):
        found = database.rows(
            f"SELECT DISTINCT device, start FROM {table} WHERE {where}start < ? LIMIT ?",  # noqa: S608  # constants
            (int(now_s - days * 86400), limit),
        )
        database.write(f"DELETE FROM {table} WHERE {where}device = ? AND start = ?", found)  # noqa: S608  # constants
        deleted += len(found)
    return deleted
