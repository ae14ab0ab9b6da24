"""The queue on disk: one SQLite file in WAL mode, used by one thread.

`synchronous=FULL`, because with NORMAL a commit does not outlive a power cut. Pages of 1 KiB, because flash is written
by the page. `locking_mode=EXCLUSIVE`, because two daemons must never share a queue.
"""

import contextlib
import os
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from edge_sdk.device.spool import packing

_APPLICATION_ID = 0x45535051  # "ESPQ"; tells our files from other programs'
_SCHEMA_VERSION = 1
_PAGE_BYTES = 1024
_CHECKPOINT_PAGES = 512
_WAL_BYTES = 1024 * 1024
_SCHEMA = """
CREATE TABLE boots (
    number INTEGER PRIMARY KEY,
    boot TEXT NOT NULL UNIQUE,
    newest_seq INTEGER,
    dropped INTEGER NOT NULL DEFAULT 0
);
CREATE TABLE records (
    key INTEGER PRIMARY KEY,
    crc INTEGER NOT NULL,
    form INTEGER NOT NULL,
    body BLOB NOT NULL
);
"""


class BootRow(NamedTuple):
    """One start of the daemon.

    Attributes:
        number: in the order of starts; no clock has a say in it.
        boot: its name.
        newest_seq: of its Samples, as far as it is known after a kill; None if nothing is.
        dropped: of its Samples, those that gave way or were damaged.
    """

    number: int
    boot: str
    newest_seq: int | None = None
    dropped: int = 0


class Row(NamedTuple):
    """One record as it was read: `payload` is None where it is damaged."""

    key: int
    payload: bytes | None


PackedRow = tuple[int, int, int, bytes]
"""Key, checksum, form and bytes of a record as they lie in the file."""


class Range(NamedTuple):
    """Keys from `first` to `last`, both included."""

    first: int
    last: int


class QueueFile:
    """One open queue. Every method may raise sqlite3.Error (the first also OSError); nothing is committed then.

    Args:
        file: made if it is not there, readable and writable by its owner, readable by its group.
        limit_bytes: SQLite itself refuses to let the file grow beyond it.
        synchronous: as SQLite's pragma.
    """

    def __init__(self, file: Path, *, limit_bytes: int, synchronous: str = "FULL") -> None:
        self.file = file
        os.close(os.open(file, os.O_CREAT | os.O_RDWR, 0o640))  # with this mode; SQLite's other files follow it
        self._db = sqlite3.connect(file, timeout=0.2, isolation_level=None, check_same_thread=False)
        try:
            self._prepare(limit_bytes, synchronous)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Gives the file back; its write-ahead log is folded in where the disk takes it."""
        with contextlib.suppress(sqlite3.Error):
            self._db.close()

    def boots(self) -> list[BootRow]:
        """Gives the starts of the daemon that this file knows of, in their order."""
        return [BootRow(*row) for row in self._db.execute("SELECT * FROM boots ORDER BY number")]

    def keys(self) -> list[int]:
        """Gives the keys of all records, ascending; reads the whole file."""
        return [row[0] for row in self._db.execute("SELECT key FROM records ORDER BY key")]

    def read(self, keys: Range) -> Iterator[Row]:
        """Gives the records of a range in their order."""
        statement = "SELECT key, crc, form, body FROM records WHERE key BETWEEN ? AND ? ORDER BY key"
        for key, crc, form, body in self._db.execute(statement, keys):
            yield Row(key, packing.unpack(key, packing.Packed(crc, form, body)))

    def copy(self, rows: Iterable[PackedRow], boots: Iterable[BootRow]) -> None:
        """Commits records as they lie in another file."""
        with self._transaction():
            self._db.executemany("INSERT OR IGNORE INTO records VALUES (?, ?, ?, ?)", rows)
            self._db.executemany("INSERT OR IGNORE INTO boots VALUES (?, ?, ?, ?)", boots)

    def apply(
        self,
        records: Iterable[tuple[int, bytes]] = (),
        *,
        gone: Sequence[Range] = (),
        boots: Sequence[BootRow] = (),
        ended: Sequence[int] = (),
    ) -> None:
        """Commits, as one: records by key, ranges of keys to delete, boots as they are now, boots to forget."""
        packed = ((key, packing.pack(key, payload)) for key, payload in records)
        with self._transaction():
            self._db.executemany("DELETE FROM records WHERE key BETWEEN ? AND ?", gone)
            self._db.executemany("INSERT OR REPLACE INTO boots VALUES (?, ?, ?, ?)", boots)
            self._db.executemany("DELETE FROM boots WHERE number = ?", [(number,) for number in ended])
            self._db.executemany(
                "INSERT OR REPLACE INTO records VALUES (?, ?, ?, ?)",
                ((key, one.crc, one.form, one.body) for key, one in packed),
            )

    def used_bytes(self) -> int:
        """Gives how much of the file holds something."""
        return (self._number("PRAGMA page_count") - self._number("PRAGMA freelist_count")) * _PAGE_BYTES

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[None]:
        self._db.execute("BEGIN IMMEDIATE")
        try:
            yield
            self._db.execute("COMMIT")
        finally:
            if self._db.in_transaction:
                with contextlib.suppress(
                    sqlite3.Error
                ):  # SQLite has rolled back already, after a full disk for example
                    self._db.execute("ROLLBACK")

    def _prepare(self, limit_bytes: int, synchronous: str) -> None:
        for pragma in (
            f"page_size = {_PAGE_BYTES}",
            "locking_mode = EXCLUSIVE",
            "journal_mode = WAL",
            f"synchronous = {synchronous}",
            f"wal_autocheckpoint = {_CHECKPOINT_PAGES}",
            f"journal_size_limit = {_WAL_BYTES}",
            f"max_page_count = {max(64, limit_bytes // _PAGE_BYTES)}",
            "cell_size_check = ON",
        ):
            self._db.execute(f"PRAGMA {pragma}")
        if self._number("SELECT COUNT(*) FROM sqlite_master") == 0:
            self._db.executescript(
                f"BEGIN IMMEDIATE; {_SCHEMA} PRAGMA application_id = {_APPLICATION_ID}; "
                f"PRAGMA user_version = {_SCHEMA_VERSION}; COMMIT;"
            )
        found = self._number("PRAGMA application_id"), self._number("PRAGMA user_version")
        if found != (_APPLICATION_ID, _SCHEMA_VERSION):
            raise sqlite3.DatabaseError(f"not a queue of this version: application and version are {found}")

    def _number(self, query: str) -> int:
        return int(self._db.execute(query).fetchone()[0])
