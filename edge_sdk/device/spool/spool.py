"""The spool: what was measured is kept until the collector has said that it is stored.

One thread owns the file; nobody else waits for the disk. What is put is in memory at once, and goes to disk in one
commit per horizon; what has its receipt by then never goes there, so a healthy link writes nothing to flash.
"""

import functools
import sqlite3
import threading
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from edge_sdk import clock, errors
from edge_sdk.device.spool import opening, records, telling
from edge_sdk.device.spool.held import Entry, Held, Limits
from edge_sdk.device.spool.queue_file import BootRow, QueueFile
from edge_sdk.device.spool.records import Kind, News, Record, Service, SpoolState
from edge_sdk.device.spool.writer import Writer

_PATIENCE_S = 5.0
"""How long a durable put waits for its commit: ten times what a slow card takes for a sync."""
_LATE_BOOT = 1 << 21
"""Number of a boot while its file could not be opened: above all that are counted up one by one."""
_HARD_LIMIT_FACTOR = 1.25
"""SQLite refuses beyond this; the oldest give way long before."""


class SpoolSettings(NamedTuple):
    """What the spool may use.

    Attributes:
        file: the queue on disk; None keeps everything in memory.
        limits: of records.
        limit_bytes: of the file.
        horizon_s: longest time that a best-effort record is in memory only.
    """

    file: Path | None
    limits: Limits
    limit_bytes: int = 128 * 2**20
    horizon_s: float = 1.0


class Spool:
    """Records until their receipt, on disk where there is one. Safe from any thread.

    Args:
        settings: what it may use.
        name_boot: gives this start a name, from that of the start before, or None where none is known.
        word: makes an event of something that happened here: from this boot's name, the event's number and the news.
        clocks: for the horizon and for when a record is due again.
        open_file: opens the file within a number of bytes.
    """

    def __init__(
        self,
        settings: SpoolSettings,
        *,
        name_boot: Callable[[str | None], str],
        word: Callable[[str, int, News], bytes],
        clocks: clock.Clock,
        open_file: Callable[..., QueueFile] = QueueFile,
    ) -> None:
        self._word = word
        self._clock = clocks
        self._changed = threading.Condition()
        self._is_dropping = self._dropped_now = False
        opens = functools.partial(open_file, limit_bytes=int(settings.limit_bytes * _HARD_LIMIT_FACTOR))
        opened = _open_at_start(settings.file, opens)
        last = max(opened.boots, default=None) if isinstance(opened, opening.Opened) else None
        self.boot = name_boot(last.boot if last else None)
        number = _LATE_BOOT if isinstance(opened, Exception) else (last.number + 1 if last else 1)
        self._held = Held(BootRow(number, self.boot), settings.limits)
        self._writer: Writer | None = None
        if settings.file is not None and opened is not None:
            self._writer = Writer(
                self._held,
                self._changed,
                settings.file,
                limit_bytes=settings.limit_bytes,
                horizon_s=settings.horizon_s,
                open_file=opens,
                clocks=clocks,
                tell=self._tell,
            )
            self._writer.start(opened)

    def put(self, seq: int, payload: bytes, service: Service = Service.BEST_EFFORT) -> None:
        """Keeps a Sample until its receipt, under a number above all before it.

        Raises:
            StoreError: `service` is DURABLE, and the record is not on disk; it is held in memory all the same.
        """
        with self._changed:
            self._make_room()
            self._is_dropping, self._dropped_now = self._dropped_now, False
            key = self._held.put(Kind.SAMPLE, seq, payload, self._clock.boot_s())
            self._wake(is_flushing=service is Service.DURABLE)
        if service is Service.DURABLE:
            self._wait_for_commit(key)

    def tell(self, news: News) -> None:
        """Keeps an event until its receipt; it is committed at once, and nobody waits for that."""
        with self._changed:
            self._tell(news)
            self._wake(is_flushing=True)

    def flush(self) -> None:
        """Has everything committed now that is in memory only.

        Raises:
            StoreError: it is not on disk; it is held in memory all the same.
        """
        with self._changed:
            staged = self._held.staged()
            self._wake(is_flushing=True)
        for entry in staged:
            self._wait_for_commit(entry.key)

    def make_room(self) -> SpoolState:
        """Makes room for the next Sample, so that it can tell of what was dropped for it; gives the state then."""
        with self._changed:
            self._make_room()
            return self._snapshot()

    def take_due(self, limit: int) -> list[Record]:
        """Gives up to `limit` records to send now: events, then live Samples, then the backlog, oldest first."""
        with self._changed:
            return [self._record(entry) for entry in self._held.take_due(self._clock.boot_s(), limit)]

    def put_back(self, unsent: Sequence[Record]) -> None:
        """Notes that these were not sent after all."""
        with self._changed:
            self._held.put_back([Entry(record.key, record.payload) for record in unsent])

    def set_aside(self, record: Record, reason: str) -> bool:
        """Takes out a record that its receiver will never take, so that receipts go on past it.

        It is counted as dropped, a Sample told as an event, and kept beside the queue, where there is one.

        Args:
            record: as `take_due` gave it.
            reason: in words.

        Returns:
            whether it was still held.
        """
        with self._changed:
            payload = self._held.set_aside(record.key)
            if payload is None:
                return False
            details: dict[str, str | int | float | bool | None] = {
                "of_boot": record.boot,
                "kind": record.kind.name.lower(),
                "seq": record.seq,
                "bytes": len(payload),
            }
            if record.kind is Kind.SAMPLE:  # of an event that is too large no other one tells, which may be so as well
                self._tell(News("record_refused", f"set aside, and counted as dropped: {reason}"[:2000], details))
            if self._writer is not None:
                self._writer.refused.keep(payload)
            self._wake(is_flushing=True)
            return True

    def reconnected(self) -> None:
        """Makes due again what was sent on an earlier connection and has no receipt."""
        with self._changed:
            self._held.reconnected(self._clock.boot_s())

    def receipt(self, boot: str, upto: int, events: Iterable[int] = ()) -> int:
        """Deletes what the collector has stored.

        Args:
            boot: whose records; nothing is done for one that nothing is known of.
            upto: Samples up to and including it.
            events: events of these numbers.

        Returns:
            how many Samples and events that were.
        """
        with self._changed:
            number = self._held.boots.number_of(boot)
            if number is None:
                return 0
            stored = self._held.receipt(number, upto) + self._held.event_receipt(number, events)
            if self._writer is not None:
                self._writer.wake_if_due()
            return stored

    def oldest_of(self, boot: str) -> tuple[int, int]:
        """Gives the number of the oldest Sample held of a boot, and how many Samples of that boot were dropped."""
        with self._changed:
            number = self._held.boots.number_of(boot)
            return (0, 0) if number is None else (self._held.oldest_seq(number), self._held.boots.dropped(number))

    def snapshot(self) -> SpoolState:
        """Gives the state at this moment."""
        with self._changed:
            return self._snapshot()

    def close(self) -> None:
        """Commits what has no receipt and gives the file back."""
        if self._writer is not None:
            self._writer.close(_PATIENCE_S)

    # The lock is held in what follows.

    def _wake(self, *, is_flushing: bool) -> None:
        if self._writer is not None:
            self._writer.is_flushing |= is_flushing
            self._changed.notify_all()

    def _make_room(self) -> None:
        if not self._held.make_room():
            return
        begins, self._is_dropping = not self._is_dropping, True
        self._dropped_now = True
        if begins:
            self._tell(telling.dropping(self._held, f"the spool is full ({self._held.samples + 1} records)"))

    def _tell(self, news: News) -> None:
        seq = self._held.next_seq(Kind.EVENT)
        self._held.put(Kind.EVENT, seq, self._word(self.boot, seq, news), self._clock.boot_s())

    def _record(self, entry: Entry) -> Record:
        row = self._held.boots.rows.get(records.boot_number_of(entry.key))
        boot = row.boot if row else self.boot
        return Record(boot, records.kind_of(entry.key), records.seq_of(entry.key), entry.payload, entry.key)

    def _snapshot(self) -> SpoolState:
        held = self._held
        return SpoolState(
            held=held.samples,
            receipted=held.receipted,
            dropped=held.boots.dropped(self._held.number),
            oldest_seq=held.oldest_seq(self._held.number),
            on_disk=len(held.backlog),
            events=held.events,
            is_durable=self._writer is not None and not self._writer.is_failed,
        )

    def _wait_for_commit(self, key: int) -> None:
        with self._changed:
            writer = self._writer
            if writer is not None:
                self._changed.wait_for(lambda: writer.is_failed or not self._held.is_staged(key), _PATIENCE_S)
            if writer is None or self._held.is_staged(key):
                raise errors.StoreError(f"record {records.seq_of(key)} is in memory, but not on disk")


def _open_at_start(file: Path | None, open_file: opening.OpenFile) -> opening.Opened | Exception | None:
    """Gives the open queue, or why there is none; None where none is wanted."""
    if file is None:
        return None
    try:
        file.parent.mkdir(mode=0o750, parents=True, exist_ok=True)
        return opening.open_queue(file, open_file)
    except (sqlite3.Error, OSError) as error:
        return error
