"""A store's whole history into another: from a SQLite file to PostgreSQL, all of it or nothing."""

from pathlib import Path
from typing import Any

from edge_sdk import errors
from edge_sdk.collector.store import opening
from edge_sdk.collector.store.rows import Table
from edge_sdk.collector.store.sqlite import SqliteReader, SqliteStore

_TABLES = {
    "sources": "id, device, boot, site, upto, lost, newest_seq, pruned_upto",
    "sample_rows": "id, source, seq, t, received_t, payload",
    "devices": "device, site, source, seq, t",
    "points": "device, start, n, energy_j, energy_s, data",
    "hours": "device, start, n, energy_j, energy_s, data",
    "windows": "resolution_s, device, start, model, digest, scale, answers, errors, zeros, energy_j, buckets",
    "states": "site, device, kind, boot, t, received_t, payload",
    "events": "id, site, device, boot, t, received_t, payload",
    "refused": "id, topic, kind, reason, size_bytes, payload, received_t",
    "refused_counts": "kind, count",
}
"""Every table of the schema with its columns."""


def migrate(source: str, target: str) -> dict[str, int]:
    """Copies everything in one transaction; gives rows by table. The collector of the source must have ended.

    Args:
        source: a SQLite file, or ``sqlite:///FILE``.
        target: ``postgresql://USER@HOST/NAME`` without Samples.

    Raises:
        SettingsError: there is no such file, or the target is no PostgreSQL, or has Samples already.
        StoreError: the target did not take it; nothing was copied.
    """
    kind, file = opening.parts(source)
    if kind != "sqlite" or opening.parts(target)[0] != "postgresql":
        raise errors.SettingsError("a history goes from a SQLite file (--migrate-from) to PostgreSQL (--database)")
    if not Path(file).is_file():
        raise errors.SettingsError(f"there is no database {file} to migrate from")
    SqliteStore(Path(file)).close()  # brings an older schema up, and refuses what is not ours
    store: Any = opening.open_store(target)
    try:
        with SqliteReader(Path(file)).snapshot() as snapshot:
            rolled_id = snapshot.rows("SELECT value FROM progress WHERE name = 'rolled'")[0][0]
            counts: dict[str, int] = store.take_over(
                (Table(name, columns, snapshot.stream(name, columns)) for name, columns in _TABLES.items()),
                days=[day for (day,) in snapshot.rows(_DAYS)],
                rolled_id=rolled_id,
            )
    finally:
        store.close()
    return counts


_DAYS = "SELECT DISTINCT CAST(received_t / 86400 AS INTEGER) FROM sample_rows"
