"""What is held, exactly: a pure data structure, no thread, no file, no clock; times are handed in.

Of the Samples that are on disk only the keys are here (8 bytes each), and the payloads of the oldest, which are due
first. So a day offline costs no memory to speak of, and counts stay exact without asking the disk.
"""

import bisect
import math
from array import array
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from edge_sdk.device.spool import records
from edge_sdk.device.spool.queue_file import BootRow, Range, Row
from edge_sdk.device.spool.records import Kind

_FRESH_MAX = 64
"""Newest Samples that go out before any backlog: a minute of them, so that whoever watches sees now first."""
_EVENTS_MAX = 1024
"""Events held at most; of more the oldest gives way."""
_EVENT_RESEND_MAX_S = 3600.0
"""An event without a receipt is sent again after twice as long each time, up to this."""
_SETTLED_S = 2.0
"""What was sent this long before a new connection and has no receipt is due again on it."""


class Limits(NamedTuple):
    """How much, and how often.

    Attributes:
        capacity: Samples held at most, on disk and in memory together.
        memory: of them, those that have no place on disk yet, or ever.
        resend_s: seconds after which what was sent and has no receipt is due again.
        window: oldest Samples on disk that may be under way at once.
        repeats: of what is due again, how many at once: a device whose collector is away repeats a few, not all.
    """

    capacity: int
    memory: int
    resend_s: float
    window: int = 1000
    repeats: int = 256


class Entry(NamedTuple):
    """One record by its key."""

    key: int
    payload: bytes


class _Sent(NamedTuple):
    last_s: float
    times: int


class Held:
    """Records until their receipt, oldest boot first; when full, the oldest gives way and is counted.

    Args:
        boot: this start; only it gets new records.
        limits: see there.
    """

    def __init__(self, boot: BootRow, limits: Limits) -> None:
        self.limits = limits
        self.receipted = self.events_dropped = 0
        self.boots = {boot.number: boot}
        self._unsaved_boots = {boot.number}
        self._boot_number = boot.number
        self._staged: OrderedDict[int, bytes] = OrderedDict()
        self._put_s: OrderedDict[int, float] = OrderedDict()
        self._fresh: OrderedDict[int, bytes] = OrderedDict()
        self._events: OrderedDict[int, bytes] = OrderedDict()
        self._index = array("q")
        self._cache: dict[int, bytes] = {}
        self._sent: dict[int, _Sent] = {}
        self._gone: list[Range] = []
        self._next_seq = {Kind.SAMPLE: 0, Kind.EVENT: 0}

    # What the device does.

    def put(self, kind: Kind, seq: int, payload: bytes, now_s: float) -> int:
        """Keeps a record of this boot, numbered above all of its kind before it; gives its key."""
        assert seq >= self._next_seq[kind]
        self._next_seq[kind] = seq + 1
        key = records.key_of(kind, self._boot_number, seq)
        if kind is Kind.EVENT:
            if len(self._events) >= _EVENTS_MAX:
                self._forget_event(next(iter(self._events)))
                self.events_dropped += 1
            self._events[key] = payload
        else:
            self.make_room()
            self._staged[key] = self._fresh[key] = payload
            if len(self._fresh) > _FRESH_MAX:
                self._fresh.popitem(last=False)
        self._put_s[key] = now_s
        return key

    def make_room(self) -> int:
        """Drops the oldest Samples until there is room for one more; gives how many that were."""
        count = 0
        while self.samples >= self.limits.capacity or len(self._staged) >= self.limits.memory:
            self.drop_oldest(is_staged=len(self._staged) >= self.limits.memory or not self._index)
            count += 1
        return count

    def drop_oldest(self, *, is_staged: bool = False) -> None:
        """Drops the oldest Sample on disk, or the oldest of those that are not."""
        key = next(iter(self._staged)) if is_staged else self._index[0]
        if is_staged:
            self._forget(key)
        else:
            self._forget_rows(0, 1)
        self._count_dropped(key)

    def set_aside(self, key: int) -> bytes | None:
        """Takes out a record that nobody will ever take, and counts it as dropped; gives its bytes if it was held."""
        if records.kind_of(key) is Kind.EVENT:
            payload = self._events.get(key)
            if payload is not None:
                self._forget_event(key)
                self.events_dropped += 1
            return payload
        payload = self._staged.get(key) or self._cache.get(key)
        if payload is None:
            return None
        if key in self._staged:
            self._forget(key)
        else:
            place = bisect.bisect_left(self._index, key)
            self._forget_rows(place, place + 1)
        self._count_dropped(key)
        return payload

    def take_due(self, now_s: float, limit: int) -> list[Entry]:
        """Gives up to `limit` records to send now: events, then live Samples, then the backlog, oldest first."""
        due: list[Entry] = []
        for entry in self._candidates(now_s):
            if len(due) >= limit:
                break
            before = self._sent.get(entry.key)
            self._sent[entry.key] = _Sent(now_s, before.times + 1 if before else 1)
            self._fresh.pop(entry.key, None)
            due.append(entry)
        return due

    def put_back(self, entries: Sequence[Entry]) -> None:
        """Notes that these were not sent after all; a live Sample is live again."""
        for entry in reversed(entries):
            self._sent.pop(entry.key, None)
            if entry.key in self._staged and len(self._fresh) < _FRESH_MAX:
                self._fresh[entry.key] = entry.payload
                self._fresh.move_to_end(entry.key, last=False)

    def reconnected(self, now_s: float) -> None:
        """Makes due again what was sent on an earlier connection: nobody knows what of it arrived."""
        for key, sent in self._sent.items():
            if now_s - sent.last_s >= _SETTLED_S:
                self._sent[key] = sent._replace(last_s=-math.inf)

    def receipt(self, boot_number: int, upto: int) -> int:
        """Deletes the Samples of one boot that the collector has stored.

        Returns:
            how many that were; 0 for a number of this boot that was never given.
        """
        if upto < 0 or (boot_number == self._boot_number and upto >= self._next_seq[Kind.SAMPLE]):
            return 0
        keys = Range(records.key_of(Kind.SAMPLE, boot_number, 0), records.last_key_of(Kind.SAMPLE, boot_number, upto))
        first, end = bisect.bisect_left(self._index, keys.first), bisect.bisect_right(self._index, keys.last)
        staged = [key for key in self._staged if keys.first <= key <= keys.last]
        for key in staged:
            self._forget(key)
        if end > first:
            self._forget_rows(first, end)
        self.receipted += end - first + len(staged)
        return end - first + len(staged)

    def event_receipt(self, boot_number: int, seqs: Iterable[int]) -> int:
        """Deletes events of one boot that the collector has stored; gives how many that were."""
        named = set(seqs)
        stored = [
            key for key in self._events if records.boot_number_of(key) == boot_number and records.seq_of(key) in named
        ]
        for key in stored:
            self._forget_event(key)
        return len(stored)

    # How things stand.

    @property
    def number(self) -> int:
        """The number of this boot."""
        return self._boot_number

    def boot_number(self, boot: str) -> int | None:
        """Gives the number of a boot by its name; None for one that nothing is known of."""
        return next((row.number for row in self.boots.values() if row.boot == boot), None)

    @property
    def samples(self) -> int:
        """Samples held."""
        return len(self._index) + len(self._staged)

    @property
    def is_crowded(self) -> bool:
        """Whether half of what may be in memory only is there."""
        return len(self._staged) * 2 >= self.limits.memory

    @property
    def rows(self) -> int:
        """Samples held that are on disk."""
        return len(self._index)

    @property
    def events(self) -> int:
        """Events held."""
        return len(self._events)

    def next_seq(self, kind: Kind) -> int:
        """Gives the number after the newest of this boot."""
        return self._next_seq[kind]

    def oldest_seq(self, boot_number: int) -> int:
        """Gives the number of the oldest Sample held of a boot; of this boot's next one when none is."""
        place = self._first_of(boot_number)
        if place is not None:
            return records.seq_of(self._index[place])
        if boot_number != self._boot_number:
            return 0
        oldest = next(iter(self._staged), None)
        return self._next_seq[Kind.SAMPLE] if oldest is None else records.seq_of(oldest)

    def dropped(self, boot_number: int) -> int:
        """Gives how many Samples of a boot gave way or were damaged."""
        return self.boots[boot_number].dropped if boot_number in self.boots else 0

    def ended(self) -> list[int]:
        """Gives the earlier boots of which nothing is held any more."""
        if len(self.boots) == 1:
            return []
        of_events = {records.boot_number_of(key) for key in self._events}
        return [
            number
            for number in self.boots
            if number != self._boot_number and self._first_of(number) is None and number not in of_events
        ]

    # What the file is told, and tells.

    def staged(self) -> list[Entry]:
        """Gives what is not on disk, oldest first."""
        return [Entry(key, self._staged[key] if key in self._staged else self._events[key]) for key in self._put_s]

    def is_staged(self, key: int) -> bool:
        """Tells whether a record waits for its commit."""
        return key in self._put_s

    def oldest_put_s(self) -> float | None:
        """Gives when the oldest record that is not on disk was put."""
        return next(iter(self._put_s.values()), None)

    def committed(self, keys: Iterable[int]) -> None:
        """Notes that these are on disk; what had its receipt meanwhile is to be deleted there."""
        for key in keys:
            if self._put_s.pop(key, None) is None:
                self._gone.append(Range(key, key))
            elif (payload := self._staged.pop(key, None)) is not None:
                if len(self._cache) == len(self._index) < self.limits.window:
                    self._cache[key] = payload
                self._index.append(key)

    def end_boot(self) -> None:
        """Notes the newest Sample of this boot: it ends in order."""
        row = self.boots[self._boot_number]
        self.boots[self._boot_number] = row._replace(newest_seq=self._next_seq[Kind.SAMPLE] - 1)
        self._unsaved_boots.add(self._boot_number)

    def unsaved_boots(self) -> list[BootRow]:
        """Gives the boots that are not in the file as they are now; it is asked once for each change."""
        numbers, self._unsaved_boots = self._unsaved_boots, set()
        return [self.boots[number] for number in sorted(numbers) if number in self.boots]

    def give_back_boots(self, boots: Iterable[BootRow]) -> None:
        """Notes that these were not written after all."""
        self._unsaved_boots.update(row.number for row in boots)

    @property
    def gone(self) -> int:
        """Ranges of keys that the file is to delete."""
        return len(self._gone)

    def take_gone(self) -> list[Range]:
        """Gives what the file is to delete, neighbours joined."""
        gone, self._gone = sorted(self._gone), []
        joined: list[Range] = []
        for one in gone:
            if joined and one.first <= joined[-1].last + 1:
                joined[-1] = Range(joined[-1].first, max(one.last, joined[-1].last))
            else:
                joined.append(one)
        return joined

    def give_back_gone(self, gone: Sequence[Range]) -> None:
        """Notes that these were not deleted after all."""
        self._gone.extend(gone)

    def wanted(self) -> Range | None:
        """Gives the keys whose payloads are due next and not in memory; None if enough are."""
        window = self._index[: self.limits.window]
        missing = [key for key in window if key not in self._cache]
        if not missing or (len(missing) < self.limits.window // 2 and len(self._index) > self.limits.window):
            return None
        return Range(missing[0], missing[-1])

    def loaded(self, rows: Iterable[Row], asked: Range) -> list[int]:
        """Takes what the file read; a Sample that is damaged or not there is dropped and counted.

        Returns:
            the keys of these.
        """
        self._cache.update((row.key, row.payload) for row in rows if row.payload is not None)
        first, end = bisect.bisect_left(self._index, asked.first), bisect.bisect_right(self._index, asked.last)
        bad = [key for key in self._index[first:end] if key not in self._cache]
        for key in bad:
            place = bisect.bisect_left(self._index, key)
            self._forget_rows(place, place + 1)
            self._count_dropped(key)
        for key in [key for key in self._cache if asked.first <= key <= asked.last and not self._is_on_disk(key)]:
            del self._cache[key]  # it had its receipt while it was read
        return bad

    def take_over(self, boots: Iterable[BootRow], keys: Iterable[int], events: Iterable[Row]) -> None:
        """Takes what a file holds that was opened: earlier boots, keys of Samples, and whole events."""
        self.boots = {row.number: row for row in boots} | self.boots
        keys = sorted(keys)
        self._gone = [Range(key, key) for key in keys if key < 0]
        self._index = array("q", (key for key in keys if key >= 0 and records.kind_of(key) is Kind.SAMPLE))
        self._cache.clear()
        for key in self._index:
            boot = self.boots.get(records.boot_number_of(key))
            if boot is not None and boot.number != self._boot_number:
                self.boots[boot.number] = boot._replace(newest_seq=max(boot.newest_seq or 0, records.seq_of(key)))
        for row in events:
            if row.payload is None:
                self._gone.append(Range(row.key, row.key))
            else:
                self._events[row.key] = row.payload
        self._events = OrderedDict(sorted(self._events.items()))

    def renumber(self, number: int) -> None:
        """Gives this boot the number that it has in a file opened only now; nothing of it is on disk yet."""

        def moved(key: int) -> int:
            is_ours = records.boot_number_of(key) == before
            return records.key_of(records.kind_of(key), number, records.seq_of(key)) if is_ours else key

        before = self._boot_number
        self._staged = OrderedDict((moved(key), payload) for key, payload in self._staged.items())
        self._put_s = OrderedDict((moved(key), put_s) for key, put_s in self._put_s.items())
        self._fresh = OrderedDict((moved(key), payload) for key, payload in self._fresh.items())
        self._events = OrderedDict((moved(key), payload) for key, payload in self._events.items())
        self._sent = {moved(key): sent for key, sent in self._sent.items()}
        self.boots[number] = self.boots.pop(before)._replace(number=number)
        self._unsaved_boots = {number}
        self._boot_number = number

    def reconcile(self, keys: Iterable[int], now_s: float) -> int:
        """Compares with a file that was opened anew: what it lacks is dropped and counted, what it has too many goes.

        It has too much where a record got its receipt and the file was not told yet. Of what was being committed when
        it failed it may have all or nothing: that is committed again. An event that it lacks is, too.

        Returns:
            how many Samples it lacks.
        """
        there = set(keys)
        lost = [key for key in self._index if key not in there]
        self._index = array("q", (key for key in self._index if key in there))
        self._gone = [Range(key, key) for key in sorted(there.difference(self._index, self._events, self._put_s))]
        self._put_s.update((key, now_s) for key in self._events if key not in there and key not in self._put_s)
        self._unsaved_boots = set(self.boots)
        for key in lost:
            self._cache.pop(key, None)
            self._forget(key)
            self._count_dropped(key)
        return len(lost)

    def _candidates(self, now_s: float) -> Iterator[Entry]:
        for key, payload in list(self._events.items()):
            if not self._is_waiting(key, now_s):
                yield Entry(key, payload)
        for key, payload in list(self._fresh.items()):
            yield Entry(key, payload)
        room = self.limits.repeats - sum(
            sent.times > 1 and now_s - sent.last_s < self.limits.resend_s for sent in self._sent.values()
        )
        for key, payload in self._backlog():
            if self._is_waiting(key, now_s):
                continue
            if key in self._sent:
                room -= 1
                if room < 0:
                    continue
            yield Entry(key, payload)

    def _backlog(self) -> Iterator[tuple[int, bytes]]:
        window = self._index[: self.limits.window]
        for key in window:
            payload = self._cache.get(key)
            if payload is None:
                return  # not read yet; what comes after it waits, as receipts go in order
            yield key, payload
        if len(window) < self.limits.window:
            yield from [(key, payload) for key, payload in self._staged.items() if key not in self._fresh]

    def _is_waiting(self, key: int, now_s: float) -> bool:
        """Tells whether it was sent so lately that its receipt may still be under way."""
        sent = self._sent.get(key)
        if sent is None:
            return False
        resend_s = self.limits.resend_s
        if records.kind_of(key) is Kind.EVENT:  # a collector of an earlier version gives no receipts for them
            resend_s = min(resend_s * 2 ** min(sent.times - 1, 20), max(resend_s, _EVENT_RESEND_MAX_S))
        return now_s - sent.last_s < resend_s

    def _is_on_disk(self, key: int) -> bool:
        place = bisect.bisect_left(self._index, key)
        return place < len(self._index) and self._index[place] == key

    def _first_of(self, boot_number: int) -> int | None:
        place = bisect.bisect_left(self._index, records.key_of(Kind.SAMPLE, boot_number, 0))
        if place < len(self._index) and records.boot_number_of(self._index[place]) == boot_number:
            return place
        return None

    def _forget_rows(self, first: int, end: int) -> None:
        keys = self._index[first:end]
        self._gone.append(Range(keys[0], keys[-1]))
        del self._index[first:end]
        for key in keys:
            self._cache.pop(key, None)
            self._forget(key)

    def _forget(self, key: int) -> None:
        for table in (self._staged, self._put_s, self._fresh, self._sent):
            table.pop(key, None)

    def _forget_event(self, key: int) -> None:
        if key not in self._put_s:
            self._gone.append(Range(key, key))
        del self._events[key]
        self._forget(key)

    def _count_dropped(self, key: int) -> None:
        number = records.boot_number_of(key)
        if row := self.boots.get(number):
            self.boots[number] = row._replace(dropped=row.dropped + 1)
            self._unsaved_boots.add(number)
