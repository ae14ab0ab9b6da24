"""Samples in one SQLite file: WAL, synchronous=FULL, one row per Sample, one transaction per batch.

A receipt is a promise, so a commit has to survive a power cut: with synchronous=NORMAL it does not.
"""

import contextlib
import itertools
import sqlite3
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from edge_sdk import errors
from edge_sdk.collector.store import rolling, schema
from edge_sdk.collector.store.rows import BootKey, Place, Retention
from edge_sdk.collector.store.writing import NewRow, Source, SqlWriting

_APPLICATION_ID = 0x45444745  # "EDGE"; tells our files from other programs'
_BUSY_S = 1.0  # short, so that the collector ends in time while another program holds the database
_KEYS_AT_ONCE = 400  # pairs in one question; SQLite before 3.32 takes 999 values
# Rows in one statement: Python's lock is given back once for all of them, and the link's thread waits for it as often.
_ROWS_AT_ONCE = 100
_INSERT = "INSERT INTO sample_rows (source, seq, t, received_t, payload) VALUES "
_PLACES = "(?, ?, ?, ?, ?)"
_INSERT_ONE = _INSERT + _PLACES
_INSERT_MANY = _INSERT + ", ".join([_PLACES] * _ROWS_AT_ONCE)
_KNOWN_MAX = 100_000
_CACHE_KIB = 65_536  # the index pages of 5,000 devices, which each second changes again, beside what a roll-up reads


class SqliteStore(SqlWriting):
    """One database file. Used by one thread at a time."""

    def __init__(self, file: Path, *, refused_kept: int = 1000) -> None:
        """Opens the file, or makes it.

        Args:
            file: the database.
            refused_kept: most refused messages that are kept as they came.

        Raises:
            SettingsError: it can't be opened, is no SQLite file, another program's, or of another schema.
        """
        super().__init__(refused_kept=refused_kept)
        self._file = file
        self._version = -1
        try:
            self._db = sqlite3.connect(file, timeout=_BUSY_S, isolation_level=None, check_same_thread=False)
        except sqlite3.Error as error:
            raise _unusable(file, str(error)) from error
        try:
            self._prepare(file)
        except sqlite3.Error as error:
            self._db.close()
            raise _unusable(file, str(error)) from error
        except errors.SettingsError:
            self._db.close()
            raise

    def close(self) -> None:
        """Gives the file back; its write-ahead log is folded in."""
        self._db.close()

    @contextlib.contextmanager
    def transaction(self) -> Iterator[None]:
        """Commits what is written inside the block, or nothing of it.

        Raises:
            StoreError: the database is locked, full or broken; nothing was committed.
        """
        is_done = False
        try:
            self._db.execute("BEGIN IMMEDIATE")
            self._forget_if_changed()
            yield
            self._write_sources()
            self._db.execute("COMMIT")
            is_done = True
        except sqlite3.Error as error:
            raise errors.StoreError(f"the database did not take a batch: {error}") from error
        finally:
            if not is_done:
                self._forget()
            self._roll_back()

    def rows(self, query: str, values: Sequence[Any] = ()) -> Sequence[tuple[Any, ...]]:
        """Gives the rows that a query answers."""
        return self._db.execute(query, values).fetchall()

    def write(self, statement: str, rows: Sequence[Sequence[Any]]) -> None:
        """Runs a statement once for each row."""
        self._db.executemany(statement, rows)

    def roll_up(self, *, limit: int) -> int:
        """Folds up to `limit` stored Samples into minutes and hours; gives how many.

        Raises:
            StoreError: the database did not take it; nothing was changed.
        """
        with self.transaction():
            return self._roll(limit)

    def _unrolled(self, place: Place, limit: int) -> list[tuple[Place, str, str]]:
        found = self.rows(
            "SELECT r.id, s.device, r.payload FROM sample_rows AS r JOIN sources AS s ON s.id = +r.source "
            "WHERE r.id > ? ORDER BY r.id LIMIT ?",
            (place[0], limit),
        )
        return [((number, 0), device, payload) for number, device, payload in found]

    def prune(self, retention: Retention, now_s: float, *, limit: int) -> int:
        """Deletes up to `limit` rows of each resolution that are past their time; gives how many.

        Raises:
            StoreError: the database did not take it; nothing was changed.
        """
        with self.transaction():
            oldest = self.rows(
                "SELECT id, source, seq, received_t FROM sample_rows "
                "WHERE id <= (SELECT value FROM progress WHERE name = 'rolled') ORDER BY id LIMIT ?",
                (limit,),
            )
            cutoff_s = now_s - retention.raw_days * 86400
            past = []
            for number, source, seq, received_t in oldest:
                if received_t >= cutoff_s:
                    break
                past.append((number, source, seq))
            rolling.close_gaps(self, [(source, seq) for _, source, seq in past])
            self._forget()
            self.write("DELETE FROM sample_rows WHERE id = ?", [(number,) for number, _, _ in past])
            return len(past) + rolling.prune_chunks(self, retention, now_s, limit=limit)

    def _forget_if_changed(self) -> None:
        """Keeps what is known of sources, unless another connection has written since, or it is too much."""
        version = self.number("PRAGMA data_version")
        if version != self._version or len(self._known) > _KNOWN_MAX:
            self._version = version
            self._forget()

    def _sources(self, boots: Sequence[BootKey]) -> dict[BootKey, Source]:
        known: dict[BootKey, Source] = {}
        for key in boots:
            found = self._source(key)
            if found is None:
                self._db.execute("INSERT INTO sources (device, boot, site) VALUES (?, ?, '')", key)
                found = self._source(key)
                assert found is not None
            known[key] = found
        return known

    def _source(self, key: BootKey) -> Source | None:
        row = self._db.execute(
            "SELECT id, site, newest_seq, pruned_upto, upto, lost FROM sources WHERE device = ? AND boot = ?", key
        ).fetchone()
        if row is None:
            return None
        number, site, newest_seq, pruned_upto, upto, lost = row
        return Source(number, site, newest_seq, pruned_upto, None if upto is None else (upto, lost))

    def _stored_among(self, keys: Sequence[tuple[int, int]]) -> set[tuple[int, int]]:
        found: set[tuple[int, int]] = set()
        for start in range(0, len(keys), _KEYS_AT_ONCE):
            some = keys[start : start + _KEYS_AT_ONCE]
            places = ", ".join(["(?, ?)"] * len(some))
            # Not `(source, seq) IN (VALUES ...)`, for which SQLite reads the whole index, however many are stored.
            found.update(
                self._db.execute(
                    f"WITH asked (number, at) AS (VALUES {places}) "  # noqa: S608  # places only
                    "SELECT number, at FROM asked CROSS JOIN sample_rows ON source = number AND seq = at",
                    [value for key in some for value in key],
                )
            )
        return found

    def _insert(self, rows: Sequence[NewRow]) -> None:
        whole = len(rows) // _ROWS_AT_ONCE * _ROWS_AT_ONCE
        for start in range(0, whole, _ROWS_AT_ONCE):
            some = rows[start : start + _ROWS_AT_ONCE]
            self._db.execute(_INSERT_MANY, list(itertools.chain.from_iterable(some)))
        self._db.executemany(_INSERT_ONE, rows[whole:])

    def _prepare(self, file: Path) -> None:
        version = self.number("PRAGMA user_version")
        is_empty = self.number("SELECT COUNT(*) FROM sqlite_master") == 0
        if not is_empty and self.number("PRAGMA application_id") != _APPLICATION_ID:
            raise _unusable(file, "it is another program's")
        if version > schema.SCHEMA_VERSION:
            raise _unusable(file, f"it has schema {version}, this edge_sdk knows {schema.SCHEMA_VERSION}; update it")
        self._db.execute("PRAGMA journal_mode = WAL")
        self._db.execute("PRAGMA synchronous = FULL")
        self._db.execute("PRAGMA journal_size_limit = 67108864")
        self._db.execute(f"PRAGMA cache_size = -{_CACHE_KIB}")
        # 16 MB: an index page that many commits have changed is copied once for all of them.
        self._db.execute("PRAGMA wal_autocheckpoint = 4000")
        if is_empty:
            self._db.executescript(
                f"BEGIN IMMEDIATE; {schema.SQLITE} PRAGMA application_id = {_APPLICATION_ID}; "
                f"PRAGMA user_version = {schema.SCHEMA_VERSION}; COMMIT;"
            )
        elif version < schema.SCHEMA_VERSION:
            self._db.executescript(
                f"BEGIN IMMEDIATE; {_OLDER} {schema.SQLITE} {_FROM_OLDER} "
                f"PRAGMA user_version = {schema.SCHEMA_VERSION}; COMMIT;"
            )

    def _roll_back(self) -> None:
        """Ends a transaction that was not committed."""
        if self._db.in_transaction:
            with contextlib.suppress(sqlite3.Error):  # SQLite has rolled back already, after a full disk for example
                self._db.execute("ROLLBACK")


class SqliteReader:
    """Reads beside the writer: a connection for each question, so that none waits for another."""

    tail = "r.id > (SELECT value FROM progress WHERE name = 'rolled')"

    def __init__(self, file: Path) -> None:
        self._uri = f"{file.absolute().as_uri()}?mode=ro"

    @contextlib.contextmanager
    def snapshot(self) -> Iterator["SqliteSnapshot"]:
        """Gives one consistent view of the file.

        Raises:
            StoreError: it can't be read.
        """
        try:
            with contextlib.closing(sqlite3.connect(self._uri, timeout=_BUSY_S, isolation_level=None, uri=True)) as db:
                db.execute("BEGIN")
                yield SqliteSnapshot(db)
        except sqlite3.Error as error:
            raise errors.StoreError(f"the database can't be read: {error}") from error

    def rolled_after(self, place: Place, limit: int) -> Sequence[tuple[Place, str, str, float, str]]:
        """Gives the first `limit` Samples after a place, of those that are rolled up.

        Raises:
            StoreError: it can't be read.
        """
        with self.snapshot() as snapshot:
            found = snapshot.rows(
                "SELECT r.id, s.device, s.site, r.t, r.payload FROM sample_rows AS r JOIN sources AS s "
                "ON s.id = +r.source WHERE r.id > ? AND r.id <= (SELECT value FROM progress WHERE name = 'rolled') "
                "ORDER BY r.id LIMIT ?",
                (place[1], limit),
            )
        return [((0, number), device, site, t, payload) for number, device, site, t, payload in found]

    def close(self) -> None:
        """Does nothing: a question closes what it opened."""


class SqliteSnapshot:
    """One consistent view."""

    def __init__(self, db: sqlite3.Connection) -> None:
        self._db = db

    def rows(self, query: str, values: Sequence[Any] = ()) -> Sequence[tuple[Any, ...]]:
        """Gives the rows that a query answers."""
        return self._db.execute(query, values).fetchall()

    def stream(self, table: str, columns: str) -> Iterator[tuple[Any, ...]]:
        """Gives all rows of one of our tables, in the order of their making, as they are asked for."""
        yield from self._db.execute(f"SELECT {columns} FROM {table} ORDER BY rowid")  # noqa: S608  # our own names


_OLDER = "".join(
    f"ALTER TABLE {name} RENAME TO old_{name};"
    for name in ("samples", "marks", "states", "events", "refused", "refused_counts")
)
_FROM_OLDER = """
INSERT INTO sources (device, boot, site) SELECT device, boot, MAX(site) FROM old_samples GROUP BY device, boot;
INSERT INTO sources (device, boot, site) SELECT device, boot, '' FROM old_marks WHERE 1 ON CONFLICT DO NOTHING;
UPDATE sources SET (upto, lost) = (SELECT upto, lost FROM old_marks AS m WHERE m.device = sources.device
    AND m.boot = sources.boot) WHERE EXISTS (SELECT 1 FROM old_marks AS m WHERE m.device = sources.device
    AND m.boot = sources.boot);
INSERT INTO sample_rows (source, seq, t, received_t, payload) SELECT s.id, o.seq, o.t, o.received_t, o.payload
    FROM old_samples AS o JOIN sources AS s ON s.device = o.device AND s.boot = o.boot ORDER BY o.id;
UPDATE sources SET newest_seq = COALESCE((SELECT MAX(seq) FROM sample_rows WHERE source = sources.id), -1);
INSERT INTO devices SELECT s.device, s.site, s.id, r.seq, MAX(r.t) FROM sample_rows AS r JOIN sources AS s
    ON s.id = r.source GROUP BY s.device;
INSERT INTO states SELECT * FROM old_states;
INSERT INTO events SELECT * FROM old_events;
INSERT INTO refused SELECT * FROM old_refused;
INSERT INTO refused_counts SELECT * FROM old_refused_counts;
DROP TABLE old_samples; DROP TABLE old_marks; DROP TABLE old_states; DROP TABLE old_events; DROP TABLE old_refused;
DROP TABLE old_refused_counts;
"""


def _unusable(file: Path, reason: str) -> errors.SettingsError:
    return errors.SettingsError(f"cannot use the database {file}: {reason}; choose another with --database")
