"""The spool in memory: a pure data structure, no thread, no clock; times are handed in."""

from collections import OrderedDict
from typing import NamedTuple

import msgspec


class Record(NamedTuple):
    """One encoded Sample and its sequence number."""

    seq: int
    payload: bytes


class SpoolState(msgspec.Struct, frozen=True):
    """The spool at one moment.

    Attributes:
        held: records without a receipt.
        receipted: records that the collector has stored.
        dropped: records that gave way to newer ones without a receipt: lost, and counted.
        oldest_seq: of what is held, or of the next record when nothing is; what lies before it will not come again.
    """

    held: int
    receipted: int
    dropped: int
    oldest_seq: int


class _Sent(msgspec.Struct):
    payload: bytes
    last_s: float | None = None
    times: int = 0


class MemorySpool:
    """Records of one boot until their receipt. When full, the oldest gives way and is counted.

    A new record is always due at once, so whoever watches live sees it even while no collector answers. Only
    records that were sent long ago without a receipt wait behind a window: a device whose collector is away
    repeats a few of them, not all.

    Args:
        boot: receipts for another boot mean nothing here.
        capacity: records.
        resend_s: seconds after which a sent record without a receipt is due again.
        window: repeated records that may be under way at once.
    """

    def __init__(self, boot: str, *, capacity: int, resend_s: float, window: int = 256) -> None:
        self._boot = boot
        self._capacity = capacity
        self._resend_s = resend_s
        self._window = window
        self._held: OrderedDict[int, _Sent] = OrderedDict()
        self._receipted = 0
        self._dropped = 0
        self._newest_seq = -1

    def make_room(self) -> int:
        """Drops the oldest record if there is no room for one more; gives how many that were: 0 or 1."""
        if len(self._held) < self._capacity:
            return 0
        self._held.popitem(last=False)
        self._dropped += 1
        return 1

    def put(self, record: Record) -> int:
        """Keeps a record, whose sequence number is above all before it; gives how many were dropped for it."""
        assert record.seq > self._newest_seq
        dropped = self.make_room()
        self._newest_seq = record.seq
        self._held[record.seq] = _Sent(record.payload)
        return dropped

    def take_due(self, now_s: float, limit: int) -> list[Record]:
        """Gives up to `limit` records to send now, oldest first, and notes them as sent at `now_s`."""
        room = self._window - sum(sent.times > 1 and not self._is_overdue(sent, now_s) for sent in self._held.values())
        due: list[Record] = []
        for seq, sent in self._held.items():
            if len(due) >= limit:
                break
            if self._is_overdue(sent, now_s):
                if room <= 0:
                    continue
                room -= 1
            elif sent.last_s is not None:
                continue
            sent.last_s, sent.times = now_s, sent.times + 1
            due.append(Record(seq, sent.payload))
        return due

    def put_back(self, records: list[Record]) -> None:
        """Notes that these were not sent after all."""
        for record in records:
            if sent := self._held.get(record.seq):
                sent.last_s, sent.times = None, 0

    def receipt(self, boot: str, upto: int) -> int:
        """Deletes what the collector has stored.

        Returns:
            how many records that were; 0 for a receipt of another boot, or of a record that was never made.
        """
        if boot != self._boot or upto > self._newest_seq:
            return 0
        stored = 0
        while self._held and next(iter(self._held)) <= upto:
            self._held.popitem(last=False)
            stored += 1
        self._receipted += stored
        return stored

    def pending(self, limit: int) -> list[Record]:
        """Gives up to `limit` records without a receipt, oldest first."""
        return [Record(seq, sent.payload) for seq, sent in list(self._held.items())[:limit]]

    def snapshot(self) -> SpoolState:
        """Gives the state at this moment."""
        oldest_seq = next(iter(self._held), self._newest_seq + 1)
        return SpoolState(len(self._held), self._receipted, self._dropped, oldest_seq)

    def _is_overdue(self, sent: _Sent, now_s: float) -> bool:
        return sent.last_s is not None and now_s - sent.last_s >= self._resend_s
