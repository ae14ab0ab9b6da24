"""Samples in one SQLite file: WAL, synchronous=FULL, one row per Sample, one transaction per batch.

A receipt is a promise, so a commit has to survive a power cut: with synchronous=NORMAL it does not.
"""

import contextlib
import sqlite3
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from edge_sdk import errors

SCHEMA_VERSION = 1
_APPLICATION_ID = 0x45444745  # "EDGE"; tells our files from other programs'
_BUSY_S = 1.0  # short, so that the collector ends in time while another program holds the database

_SCHEMA = """
CREATE TABLE samples (
    id INTEGER PRIMARY KEY,
    device TEXT NOT NULL,
    site TEXT NOT NULL,
    boot TEXT NOT NULL,
    seq INTEGER NOT NULL,
    t REAL NOT NULL,
    received_t REAL NOT NULL,
    payload TEXT NOT NULL,
    UNIQUE (device, boot, seq)
);
CREATE INDEX samples_by_device ON samples (device, t);
CREATE INDEX samples_by_site ON samples (site, t);
CREATE TABLE marks (
    device TEXT NOT NULL,
    boot TEXT NOT NULL,
    upto INTEGER NOT NULL,
    lost INTEGER NOT NULL,
    PRIMARY KEY (device, boot)
) WITHOUT ROWID;
CREATE TABLE states (
    site TEXT NOT NULL,
    device TEXT NOT NULL,
    kind TEXT NOT NULL,
    boot TEXT NOT NULL,
    t REAL NOT NULL,
    received_t REAL NOT NULL,
    payload TEXT NOT NULL,
    PRIMARY KEY (site, device, kind)
) WITHOUT ROWID;
CREATE TABLE events (
    id INTEGER PRIMARY KEY,
    site TEXT NOT NULL,
    device TEXT NOT NULL,
    boot TEXT NOT NULL,
    t REAL NOT NULL,
    received_t REAL NOT NULL,
    payload TEXT NOT NULL,
    UNIQUE (device, boot, t, payload)
);
CREATE TABLE refused (
    id INTEGER PRIMARY KEY,
    topic TEXT NOT NULL,
    kind TEXT NOT NULL,
    reason TEXT NOT NULL,
    size_bytes INTEGER NOT NULL,
    payload BLOB NOT NULL,
    received_t REAL NOT NULL
);
CREATE TABLE refused_counts (
    kind TEXT PRIMARY KEY,
    count INTEGER NOT NULL
) WITHOUT ROWID;
"""


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


class SqliteStore:
    """One database file. Used by one thread at a time."""

    def __init__(self, file: Path, *, refused_kept: int = 1000) -> None:
        """Opens the file, or makes it.

        Args:
            file: the database.
            refused_kept: most refused messages that are kept as they came.

        Raises:
            SettingsError: it can't be opened, is no SQLite file, another program's, or a newer edge_sdk's.
        """
        self._refused_kept = refused_kept
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
        try:
            self._db.execute("BEGIN IMMEDIATE")
            yield
            self._db.execute("COMMIT")
        except sqlite3.Error as error:
            raise errors.StoreError(f"the database did not take a batch: {error}") from error
        finally:
            self._roll_back()

    def add_samples(self, rows: Sequence[SampleRow]) -> list[bool]:
        """Stores Samples; gives for each whether it was new."""
        columns = "device, site, boot, seq, t, received_t, payload"
        statement = f"INSERT OR IGNORE INTO samples ({columns}) VALUES (?, ?, ?, ?, ?, ?, ?)"  # noqa: S608  # constants
        return [self._db.execute(statement, row).rowcount == 1 for row in rows]

    def put_states(self, rows: Sequence[StateRow]) -> None:
        """Stores the latest status and birth of devices."""
        self._db.executemany("INSERT OR REPLACE INTO states VALUES (?, ?, ?, ?, ?, ?, ?)", rows)

    def add_events(self, rows: Sequence[EventRow]) -> None:
        """Stores events; one that came twice is kept once."""
        statement = (
            "INSERT OR IGNORE INTO events (site, device, boot, t, received_t, payload) VALUES (?, ?, ?, ?, ?, ?)"
        )
        self._db.executemany(statement, rows)

    def add_refused(self, rows: Sequence[RefusedRow]) -> None:
        """Counts refused messages, and keeps the first ones."""
        count = "INSERT INTO refused_counts VALUES (?, 1) ON CONFLICT (kind) DO UPDATE SET count = count + 1"
        self._db.executemany(count, [(row.kind,) for row in rows])
        room = self._refused_kept - self._number("SELECT COUNT(*) FROM refused") if rows else 0
        statement = (
            "INSERT INTO refused (topic, kind, reason, size_bytes, payload, received_t) VALUES (?, ?, ?, ?, ?, ?)"
        )
        self._db.executemany(statement, rows[: max(0, room)])

    def mark(self, device: str, boot: str) -> tuple[int, int] | None:
        """Gives (upto, lost) of one boot, or None if nothing is known of it."""
        found = self._db.execute("SELECT upto, lost FROM marks WHERE device = ? AND boot = ?", (device, boot))
        row: tuple[int, int] | None = found.fetchone()
        return row

    def set_mark(self, device: str, boot: str, upto: int, lost: int) -> None:
        """Stores how far the records of one boot have arrived."""
        self._db.execute("INSERT OR REPLACE INTO marks VALUES (?, ?, ?, ?)", (device, boot, upto, lost))

    def seqs_above(self, device: str, boot: str, upto: int) -> Iterator[int]:
        """Gives the stored sequence numbers of one boot above `upto`, ascending."""
        found = self._db.execute(
            "SELECT seq FROM samples WHERE device = ? AND boot = ? AND seq > ? ORDER BY seq", (device, boot, upto)
        )
        return (row[0] for row in found)

    def devices(self) -> set[str]:
        """Gives the devices of which there are Samples."""
        return {row[0] for row in self._db.execute("SELECT DISTINCT device FROM marks")}

    def lost(self) -> int:
        """Gives how many Samples of all devices are lost."""
        # Summed here: SQLite's own sum fails beyond 63 bits, which a device that lies can reach.
        return sum(row[0] for row in self._db.execute("SELECT lost FROM marks WHERE lost > 0"))

    def _prepare(self, file: Path) -> None:
        version = self._number("PRAGMA user_version")
        if version > SCHEMA_VERSION:
            raise _unusable(file, f"it has schema {version}, this edge_sdk knows {SCHEMA_VERSION}; update edge_sdk")
        is_empty = self._number("SELECT COUNT(*) FROM sqlite_master") == 0
        if not is_empty and self._number("PRAGMA application_id") != _APPLICATION_ID:
            raise _unusable(file, "it is another program's")
        self._db.execute("PRAGMA journal_mode = WAL")
        self._db.execute("PRAGMA synchronous = FULL")
        self._db.execute("PRAGMA journal_size_limit = 67108864")
        if is_empty:
            self._db.executescript(
                f"BEGIN IMMEDIATE; {_SCHEMA} PRAGMA application_id = {_APPLICATION_ID}; "
                f"PRAGMA user_version = {SCHEMA_VERSION}; COMMIT;"
            )

    def _number(self, query: str) -> int:
        return int(self._db.execute(query).fetchone()[0])

    def _roll_back(self) -> None:
        """Ends a transaction that was not committed."""
        if self._db.in_transaction:
            with contextlib.suppress(sqlite3.Error):  # SQLite has rolled back already, after a full disk for example
                self._db.execute("ROLLBACK")


def _unusable(file: Path, reason: str) -> errors.SettingsError:
    return errors.SettingsError(f"cannot use the database {file}: {reason}; choose another with --database")
