"""The thread that owns the file: commits what the horizon has passed, deletes what has its receipt, reads what is due.

Whatever the disk does, nobody waits for it but who asked to. A commit that failed is not a commit: its records stay in
memory, the file is closed and never trusted again, and what can be read of it is copied into a new one.
"""

import logging
import sqlite3
import threading
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from edge_sdk import clock
from edge_sdk.device.spool import opening, telling
from edge_sdk.device.spool.ballast import BALLAST_BYTES, Ballast
from edge_sdk.device.spool.held import Entry, Held
from edge_sdk.device.spool.queue_file import BootRow, QueueFile, Range
from edge_sdk.device.spool.records import News
from edge_sdk.device.spool.refused import Refused

_LOG = logging.getLogger(__name__)

_RETRY_S = 5.0
"""Until a disk that failed is tried again."""
_IDLE_S = 60.0
"""What has its receipt is deleted on disk in chunks, or when this long has passed since the last commit."""
_GONE_CHUNK = 1000
_GIVING_WAY = 64
"""Oldest Samples that give way at once where the file may not grow."""
_ROOMY_RATIO = 0.8
"""Below this share of its limit the file is no longer full; what gives way after that is news again."""


class _Job(NamedTuple):
    """What one turn does."""

    batch: list[Entry]
    gone: list[Range]
    boots: list[BootRow]
    ended: list[int]
    wanted: Range | None

    @property
    def is_writing(self) -> bool:
        return bool(self.batch or self.gone or self.boots or self.ended)


class Writer:
    """Moves records between `held` and the file. The owner of `changed` guards `held`.

    Args:
        held: what is held.
        changed: its lock; notified whenever something may be to do here, and by the writer when something was done.
        file: the queue.
        limit_bytes: oldest Samples give way rather than that the file grows beyond it.
        horizon_s: longest time that a record is in memory only.
        open_file: opens the file.
        clocks: for the horizon.
        tell: makes an event of news; called with the lock held.
    """

    def __init__(
        self,
        held: Held,
        changed: threading.Condition,
        file: Path,
        *,
        limit_bytes: int,
        horizon_s: float,
        open_file: opening.OpenFile,
        clocks: clock.Clock,
        tell: Callable[[News], None],
    ) -> None:
        self.is_failed = False
        self.is_flushing = False
        self._held = held
        self._changed = changed
        self._file = file
        self._limit_bytes = self._ceiling_bytes = limit_bytes
        self._horizon_s = horizon_s
        self._open_file = open_file
        self._clock = clocks
        self._tell = tell
        self._ballast = Ballast(file.with_name(file.name + ".ballast"))
        self._queue: QueueFile | None = None
        self._is_suspect = self._is_closing = self._is_tight = self._was_opened = False
        self._is_full = self._gave_way = self._is_dropping = False
        self.refused = Refused(file)
        self._retry_s = self._written_s = clocks.boot_s()
        self._ended: list[int] = []
        self._thread = threading.Thread(target=self._work, name="spool", daemon=True)

    def start(self, opened: opening.Opened | Exception) -> None:
        """Goes on with the file that was opened, or with the error that came instead."""
        with self._changed:
            if isinstance(opened, opening.Opened):
                self._adopt(opened)
                self._ballast.lay_down()
            else:
                self._fail(opened)
            self.is_flushing = True
        self._thread.start()

    def close(self, timeout_s: float) -> None:
        """Commits everything, and gives the file back."""
        with self._changed:
            self._is_closing = True
            self._changed.notify_all()
        self._thread.join(timeout_s)

    def wake_if_due(self) -> None:
        """Wakes the thread if there is enough to do; the lock is held."""
        if len(self._held.gone) >= _GONE_CHUNK or self._held.backlog.wanted() is not None or self._held.ended():
            self._changed.notify_all()

    # Everything below runs on the writer's own thread, but for `_adopt` and `_fail` at the start.

    def _work(self) -> None:
        while self._wait():
            self._turn()
        self._turn()
        if self._queue is not None:
            self._queue.close()

    def _wait(self) -> bool:
        """Waits until something is to do; False at the end."""
        with self._changed:
            while not self._is_closing:
                wait_s = self._wait_s()
                if wait_s is not None and wait_s <= 0:
                    return True
                self._changed.wait(wait_s)
            return False

    def _wait_s(self) -> float | None:
        held, now_s = self._held, self._clock.boot_s()
        if self._queue is None or self._is_full:
            return self._retry_s - now_s
        if self.is_flushing or self._is_tight or len(held.gone) >= _GONE_CHUNK or held.backlog.wanted() or held.ended():
            return 0.0
        oldest_s = held.oldest_put_s()
        ends_s = [] if oldest_s is None else [oldest_s + self._horizon_s]
        if held.gone:
            ends_s.append(self._written_s + _IDLE_S)
        return min(ends_s) - now_s if ends_s else None

    def _turn(self) -> None:
        if self._queue is None:
            self._reopen()
        if self._queue is None:
            return
        with self._changed:
            refused = self.refused.take()
        self.refused.write(refused)
        job = self._plan()
        try:
            if job.is_writing:
                self._commit(self._queue, job)
            if job.wanted is not None:
                self._load(self._queue, job.wanted)
        except sqlite3.Error as error:
            self._give_back(job)
            self._note(error)

    def _plan(self) -> _Job:
        with self._changed:
            held, now_s = self._held, self._clock.boot_s()
            for number in held.ended():
                self._tell(telling.closing(held.boots.rows.pop(number)))
                self._ended.append(number)
            oldest_s = held.oldest_put_s()
            is_due = oldest_s is not None and oldest_s + self._horizon_s <= now_s
            is_due |= self.is_flushing or self._is_closing or bool(self._ended)
            # What was dropped of a boot is known as long as the boot is: its last records go with it.
            is_deleting = len(held.gone) >= _GONE_CHUNK or self._is_tight or self._is_closing or bool(self._ended)
            is_deleting |= len(held.gone) > 0 and now_s - self._written_s >= _IDLE_S
            self.is_flushing = self._is_tight = False
            if self._is_closing:
                held.end_boot()
            job = _Job(
                batch=held.staged() if is_due else [],
                gone=held.gone.take() if is_deleting else [],
                boots=held.boots.unsaved() if is_deleting or not self._was_opened or is_due else [],
                ended=self._ended,
                wanted=None if self._is_closing else held.backlog.wanted(),
            )
            self._ended = []
            return job

    def _commit(self, queue: QueueFile, job: _Job) -> None:
        queue.apply(job.batch, gone=job.gone, boots=job.boots, ended=job.ended)
        used_bytes = queue.used_bytes()
        with self._changed:
            self._is_full = self._gave_way = self.is_failed = False
            self._held.committed(entry.key for entry in job.batch)
            self._written_s = self._clock.boot_s()
            self._is_dropping &= used_bytes > _ROOMY_RATIO * self._ceiling_bytes
            if used_bytes > self._ceiling_bytes:
                self._give_way()
            self._changed.notify_all()
        if self._ceiling_bytes < self._limit_bytes and self._ballast.lay_down():
            self._ceiling_bytes = self._limit_bytes
            _LOG.warning("the disk has room again; the spool may grow")

    def _load(self, queue: QueueFile, wanted: Range) -> None:
        rows = list(queue.read(wanted))
        with self._changed:
            damaged = self._held.loaded(rows, wanted)
            if damaged:
                self._tell(telling.damaged(len(damaged)))

    def _give_back(self, job: _Job) -> None:
        with self._changed:
            self._held.gone.give_back(job.gone)
            self._held.boots.give_back(job.boots)
            self._ended = [*job.ended, *self._ended]

    def _give_way(self) -> None:
        count = min(_GIVING_WAY, len(self._held.backlog))
        for _ in range(count):
            self._held.drop_oldest()
        self._is_tight = True
        if count and not self._is_dropping:
            self._is_dropping = True
            self._tell(
                telling.dropping(self._held, f"the spool's file may not grow beyond {self._ceiling_bytes} bytes")
            )

    def _note(self, error: sqlite3.Error) -> None:
        queue = self._queue
        assert queue is not None
        if opening.is_full(error):
            self._make_space(queue)
            return
        queue.close()
        with self._changed:
            self._queue = None
            self._is_suspect = True
            self._fail(error)
            if opening.is_damage(error):
                self._retry_s = self._clock.boot_s()

    def _make_space(self, queue: QueueFile) -> None:
        """Gives up the ballast on a full disk, as SQLite has to write to delete; then waits for room in memory.

        The oldest on disk give way only when there is no more room in memory either.
        """
        had_ballast = self._ballast.is_there
        self._ballast.give_up()
        with self._changed:
            now_s = self._clock.boot_s()
            if not self._is_full:
                self._is_full = True
                self._tell(telling.disk_full(self._held))
            self.is_flushing = True
            self._retry_s = now_s
            if had_ballast:
                self._ceiling_bytes = min(self._ceiling_bytes, queue.used_bytes() + BALLAST_BYTES // 4)
            elif self._held.is_crowded and not self._gave_way:
                self._gave_way = True
                self._ceiling_bytes = min(self._ceiling_bytes, queue.used_bytes())
                self._give_way()
            else:
                self._gave_way = False
                self._retry_s = now_s + _RETRY_S
                self.is_failed = True
                self._changed.notify_all()

    def _fail(self, error: Exception) -> None:
        self._retry_s = self._clock.boot_s() + _RETRY_S
        if not self.is_failed:
            self.is_failed = True
            _LOG.error("the spool's file %s fails: %s; what comes now is in memory only", self._file, error)
            self._tell(telling.failed(self._held, error))
        self._changed.notify_all()

    def _reopen(self) -> None:
        try:
            opened = opening.open_queue(self._file, self._open_file, is_suspect=self._is_suspect)
        except (sqlite3.Error, OSError) as error:
            with self._changed:
                if isinstance(error, sqlite3.Error) and opening.is_full(error):
                    self._ballast.give_up()
                self._fail(error)
            return
        with self._changed:
            self._adopt(opened)
            self._is_suspect = False
            self.is_flushing = True

    def _adopt(self, opened: opening.Opened) -> None:
        lost = None
        if self._was_opened:
            lost = self._held.reconcile(opened.keys, self._clock.boot_s())
        else:
            self._held.renumber(1 + max((row.number for row in opened.boots), default=0))
            self._held.take_over(opened.boots, opened.keys, opened.events)
        self._queue, self._was_opened = opened.queue, True
        if self.is_failed:
            self.is_failed = False
            _LOG.warning("the spool's file %s works again", self._file)
        if opened.salvaged is not None:
            self._tell(telling.reset(opened.salvaged, lost, opened.aside))
