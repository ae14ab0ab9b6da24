"""Opening the queue, whatever state its file is in: what can be read is carried over, what can not is kept aside.

A damaged file never keeps the daemon from starting. After a failed sync the file is not trusted either, though it
looks well: Linux marks pages as clean that never reached the disk, so its records are copied into a new one.
"""

import contextlib
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from edge_sdk import errors
from edge_sdk.device.spool import packing, records
from edge_sdk.device.spool.queue_file import BootRow, PackedRow, QueueFile, Range, Row
from edge_sdk.device.spool.records import Kind
from edge_sdk.records import telemetry
from edge_sdk.wire import bundles, codec

OpenFile = Callable[[Path], QueueFile]

_SUFFIXES = ("", "-wal", "-shm")
_COPIED_AT_ONCE = 2000
_PASSING = ("locked", "readonly", "full", "I/O error", "unable to open")
"""What SQLite says of a disk or of another process; anything else is said of the file's content."""
_EVENTS = Range(records.key_of(Kind.EVENT, 0, 0), 2**63 - 1)


class Opened(NamedTuple):
    """An open queue and what is in it.

    Attributes:
        queue: the file.
        boots: the starts it knows, in their order.
        keys: of all its records.
        events: whole, as they are few.
        salvaged: records carried over from a file that was set aside; None if none was.
        aside: where that one lies now.
    """

    queue: QueueFile
    boots: list[BootRow]
    keys: list[int]
    events: list[Row]
    salvaged: int | None = None
    aside: Path | None = None


def is_damage(error: sqlite3.Error) -> bool:
    """Tells an error in the file's content from one of the disk or of another process."""
    return not any(words in str(error) for words in _PASSING)


def is_full(error: sqlite3.Error) -> bool:
    """Tells whether the disk, or the file's limit, is full."""
    return "full" in str(error)


def open_queue(file: Path, open_file: OpenFile, *, is_suspect: bool = False) -> Opened:
    """Gives the queue in `file`, or a new one with what could be read of it.

    Args:
        file: the queue; its folder is there.
        open_file: opens one.
        is_suspect: a sync of this file has failed: copy it in any case.

    Raises:
        sqlite3.Error: the disk takes no file now, or another process has the queue.
        OSError: likewise.
    """
    if not is_suspect:
        try:
            return _read(open_file(file))
        except sqlite3.Error as error:
            if not is_damage(error):
                raise
    count = _rebuild(file, open_file)
    aside = _set_aside(file)
    _renewed(file).rename(file)
    bundles.sync_folder(file.parent)
    return _read(open_file(file))._replace(salvaged=count, aside=aside)


def _read(queue: QueueFile) -> Opened:
    try:
        boots, keys = queue.boots(), queue.keys()
        if not all(_is_sound(row) for row in boots):
            raise sqlite3.DatabaseError("a boot as it can't be")
        return Opened(queue, _named(queue, boots, keys), keys, list(queue.read(_EVENTS)))
    except sqlite3.Error:
        queue.close()
        raise


def _named(queue: QueueFile, boots: list[BootRow], keys: list[int]) -> list[BootRow]:
    """Gives the boots by the names that their own records say: these have a checksum, and receipts go by the name."""
    rows = {row.number: row for row in boots}
    for number in {records.boot_number_of(key) for key in keys if key >= 0}:
        name = _name_in(queue, number)
        if name is not None:
            rows[number] = rows[number]._replace(boot=name) if number in rows else BootRow(number, name)
    return [rows[number] for number in sorted(rows)]


def _name_in(queue: QueueFile, number: int) -> str | None:
    """Gives the name that the first readable record of a boot says; None where there is none, or it says none."""
    for kind in Kind:
        for row in queue.read(Range(records.key_of(kind, number, 0), records.last_key_of(kind, number, 2**63))):
            if row.payload is not None:
                with contextlib.suppress(errors.PayloadError):
                    if kind is Kind.EVENT:
                        return codec.from_bytes(row.payload, telemetry.Event).boot
                    return codec.from_bytes(row.payload, telemetry.Sample).boot
                break
    return None


def _is_sound(row: BootRow) -> bool:
    return (
        isinstance(row.boot, str)
        and isinstance(row.newest_seq, int | None)
        and 0 <= row.number <= records.BOOT_NUMBER_MAX
        and isinstance(row.dropped, int)
        and row.dropped >= 0
    )


def _set_aside(file: Path) -> Path:
    """Renames the file, in place of the one that was set aside before: at most one is kept."""
    aside = file.with_name(file.name + ".damaged")
    for suffix in _SUFFIXES:
        Path(f"{aside}{suffix}").unlink(missing_ok=True)
    for suffix in _SUFFIXES:
        with contextlib.suppress(FileNotFoundError):
            Path(f"{file}{suffix}").rename(f"{aside}{suffix}")
    return aside


def _renewed(file: Path) -> Path:
    return file.with_name(file.name + ".new")


def _rebuild(file: Path, open_file: OpenFile) -> int:
    """Copies every record of `file` whose checksum is right into a new file; gives how many that were."""
    for suffix in _SUFFIXES:
        Path(f"{_renewed(file)}{suffix}").unlink(missing_ok=True)
    boots, rows = _salvage(file)
    queue = open_file(_renewed(file))
    try:
        queue.copy((), boots)
        for start in range(0, len(rows), _COPIED_AT_ONCE):
            queue.copy(rows[start : start + _COPIED_AT_ONCE], ())
    finally:
        queue.close()
    return len(rows)


def _salvage(file: Path) -> tuple[list[BootRow], list[PackedRow]]:
    """Gives what can be read of a file, whatever state it is in."""
    boots: list[BootRow] = []
    found: dict[int, PackedRow] = {}
    try:
        old = sqlite3.connect(f"{file.absolute().as_uri()}?mode=rw", uri=True, timeout=0.2, isolation_level=None)
    except sqlite3.Error:  # there is none
        return [], []
    with contextlib.closing(old):
        with contextlib.suppress(sqlite3.Error):
            rows = [BootRow(*row) for row in old.execute("SELECT number, boot, newest_seq, dropped FROM boots")]
            boots = [row for row in rows if _is_sound(row)]
        for order in ("ASC", "DESC"):  # from both ends, as one damaged page stops a walk
            for packed in _sound_rows(old, order):
                if packed[0] in found:
                    break
                found[packed[0]] = packed
    return boots, [found[key] for key in sorted(found)]


def _sound_rows(old: sqlite3.Connection, order: str) -> Iterator[PackedRow]:
    with contextlib.suppress(sqlite3.Error, OverflowError):
        for row in old.execute(f"SELECT key, crc, form, body FROM records ORDER BY key {order}"):  # noqa: S608  # constants
            key, crc, form, body = row
            if isinstance(key, int) and key >= 0 and packing.unpack(key, packing.Packed(crc, form, body)) is not None:
                yield row
