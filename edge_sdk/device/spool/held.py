"""What is held, exactly: a pure data structure, no thread, no file, no clock; times are handed in."""

import itertools
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from edge_sdk.device.spool import records
from edge_sdk.device.spool.backlog import Backlog
from edge_sdk.device.spool.boots import Boots
from edge_sdk.device.spool.gone import Gone
from edge_sdk.device.spool.queue_file import BootRow, Range, Row
from edge_sdk.device.spool.records import Kind
from edge_sdk.device.spool.sent import Sent

_FRESH_MAX = 64
"""Newest Samples that go out before any backlog: a minute of them, so that whoever watches sees now first."""
_EVENTS_MAX = 1024
"""Events held at most; of more the oldest gives way."""


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


class Held:
    """Records until their receipt, oldest boot first; when full, the oldest gives way and is counted.

    Args:
        boot: this start; only it gets new records.
        limits: see there.
    """

    def __init__(self, boot: BootRow, limits: Limits) -> None:
        self.limits = limits
        self.receipted = self.events_dropped = 0
        self.boots = Boots(boot)
        self.backlog = Backlog(limits.window)
        self._staged: OrderedDict[int, bytes] = OrderedDict()
        self._put_s: OrderedDict[int, float] = OrderedDict()
        self._fresh: OrderedDict[int, bytes] = OrderedDict()
        self._events: OrderedDict[int, bytes] = OrderedDict()
        self._sent = Sent(limits.resend_s)
        self.gone = Gone()
        self._next_seq = {Kind.SAMPLE: 0, Kind.EVENT: 0}

    # What the device does.

    def put(self, kind: Kind, seq: int, payload: bytes, now_s: float) -> int:
        """Keeps a record of this boot, numbered above all of its kind before it; gives its key."""
        assert seq >= self._next_seq[kind]
        self._next_seq[kind] = seq + 1
        key = records.key_of(kind, self.number, seq)
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
            self.drop_oldest(is_staged=len(self._staged) >= self.limits.memory or not self.backlog)
            count += 1
        return count

    def drop_oldest(self, *, is_staged: bool = False) -> None:
        """Drops the oldest Sample on disk, or the oldest of those that are not."""
        key = next(iter(self._staged)) if is_staged else self.backlog.keys[0]
        self._drop(key)

    def set_aside(self, key: int) -> bytes | None:
        """Takes out a record that nobody will ever take, and counts it as dropped; gives its bytes if it was held."""
        if records.kind_of(key) is Kind.EVENT:
            payload = self._events.get(key)
            if payload is not None:
                self._forget_event(key)
                self.events_dropped += 1
            return payload
        payload = self._staged.get(key) or self.backlog.cache.get(key)
        if payload is not None:
            self._drop(key)
        return payload

    def take_due(self, now_s: float, limit: int) -> list[Entry]:
        """Gives up to `limit` records to send now: events, then live Samples, then the backlog, oldest first."""
        due: list[Entry] = []
        for entry in self._candidates(now_s):
            if len(due) >= limit:
                break
            self._sent.note(entry.key, now_s)
            self._fresh.pop(entry.key, None)
            due.append(entry)
        return due

    def put_back(self, entries: Sequence[Entry]) -> None:
        """Notes that these were not sent after all; a live Sample is live again."""
        for entry in reversed(entries):
            self._sent.forget(entry.key)
            if entry.key in self._staged and len(self._fresh) < _FRESH_MAX:
                self._fresh[entry.key] = entry.payload
                self._fresh.move_to_end(entry.key, last=False)

    def reconnected(self, now_s: float) -> None:
        """Makes due again what was sent on an earlier connection: nobody knows what of it arrived."""
        self._sent.reconnected(now_s)

    def receipt(self, boot_number: int, upto: int) -> int:
        """Deletes the Samples of one boot that the collector has stored.

        Returns:
            how many that were; 0 for a number of this boot that was never given.
        """
        if upto < 0 or (boot_number == self.number and upto >= self._next_seq[Kind.SAMPLE]):
            return 0
        keys = Range(records.key_of(Kind.SAMPLE, boot_number, 0), records.last_key_of(Kind.SAMPLE, boot_number, upto))
        staged = [key for key in self._staged if keys.first <= key <= keys.last]
        for key in staged:
            self._forget(key)
        count = self._forget_rows(keys) + len(staged)
        self.receipted += count
        return count

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
        return self.boots.own_number

    @property
    def samples(self) -> int:
        """Samples held."""
        return len(self.backlog) + len(self._staged)

    @property
    def is_crowded(self) -> bool:
        """Whether half of what may be in memory only is there."""
        return len(self._staged) * 2 >= self.limits.memory

    @property
    def events(self) -> int:
        """Events held."""
        return len(self._events)

    def next_seq(self, kind: Kind) -> int:
        """Gives the number after the newest of this boot."""
        return self._next_seq[kind]

    def oldest_seq(self, boot_number: int) -> int:
        """Gives the number of the oldest Sample held of a boot; of this boot's next one when none is."""
        key = self.backlog.first_of(boot_number)
        if key is not None:
            return records.seq_of(key)
        if boot_number != self.number:
            return 0
        oldest = next(iter(self._staged), None)
        return self._next_seq[Kind.SAMPLE] if oldest is None else records.seq_of(oldest)

    def ended(self) -> list[int]:
        """Gives the earlier boots of which nothing is held any more."""
        if len(self.boots.rows) == 1:
            return []
        of_events = {records.boot_number_of(key) for key in self._events}
        return [
            number
            for number in self.boots.rows
            if number != self.number and self.backlog.first_of(number) is None and number not in of_events
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
                self.gone.add(key, key)
            elif (payload := self._staged.pop(key, None)) is not None:
                self.backlog.add(key, payload)

    def end_boot(self) -> None:
        """Notes the newest Sample of this boot: it ends in order."""
        self.boots.end(self._next_seq[Kind.SAMPLE] - 1)

    def loaded(self, rows: Iterable[Row], asked: Range) -> list[int]:
        """Takes what the file read; a Sample that is damaged or not there is dropped and counted.

        Returns:
            the keys of these.
        """
        bad = self.backlog.load(rows, asked)
        for key in bad:
            self._drop(key)
        return bad

    def take_over(self, boots: Iterable[BootRow], keys: Iterable[int], events: Iterable[Row]) -> None:
        """Takes what a file holds that was opened: earlier boots, keys of Samples, and whole events."""
        self.boots.take_over(boots)
        keys = sorted(keys)
        self.gone.begin(key for key in keys if key < 0)
        self.backlog.begin(key for key in keys if key >= 0 and records.kind_of(key) is Kind.SAMPLE)
        for key in self.backlog.keys:
            self.boots.saw(records.boot_number_of(key), records.seq_of(key))
        for row in events:
            if row.payload is None:
                self.gone.add(row.key, row.key)
            else:
                self._events[row.key] = row.payload
        self._events = OrderedDict(sorted(self._events.items()))

    def renumber(self, number: int) -> None:
        """Gives this boot the number that it has in a file opened only now; nothing of it is on disk yet."""

        def moved(key: int) -> int:
            is_ours = records.boot_number_of(key) == before
            return records.key_of(records.kind_of(key), number, records.seq_of(key)) if is_ours else key

        before = self.number
        self._staged = OrderedDict((moved(key), payload) for key, payload in self._staged.items())
        self._put_s = OrderedDict((moved(key), put_s) for key, put_s in self._put_s.items())
        self._fresh = OrderedDict((moved(key), payload) for key, payload in self._fresh.items())
        self._events = OrderedDict((moved(key), payload) for key, payload in self._events.items())
        self._sent.rename(moved)
        self.boots.renumber(number)

    def reconcile(self, keys: Iterable[int], now_s: float) -> int:
        """Compares with a file that was opened anew: what it lacks is dropped and counted, what it has too many goes.

        It has too much where a record got its receipt and the file was not told yet. Of what was being committed when
        it failed it may have all or nothing: that is committed again. An event that it lacks is, too.

        Returns:
            how many Samples it lacks.
        """
        there = set(keys)
        lost = self.backlog.keep(there)
        self.gone.begin(sorted(there.difference(self.backlog.keys, self._events, self._put_s)))
        self._put_s.update((key, now_s) for key in self._events if key not in there and key not in self._put_s)
        self.boots.give_back(self.boots.rows.values())
        for key in lost:
            self._forget(key)
            self.boots.count_dropped(records.boot_number_of(key))
        return len(lost)

    def _candidates(self, now_s: float) -> Iterator[Entry]:
        for key, payload in list(self._events.items()):
            if not self._sent.is_waiting(key, now_s):
                yield Entry(key, payload)
        for key, payload in list(self._fresh.items()):
            yield Entry(key, payload)
        room = self.limits.repeats - self._sent.repeated(now_s)
        for key, payload in itertools.chain(self.backlog.due(), self._after_backlog()):
            if self._sent.is_waiting(key, now_s):
                continue
            if key in self._sent:
                room -= 1
                if room < 0:
                    continue
            yield Entry(key, payload)

    def _after_backlog(self) -> Iterator[tuple[int, bytes]]:
        if self.backlog.is_all_in_memory:
            yield from [(key, payload) for key, payload in self._staged.items() if key not in self._fresh]

    def _drop(self, key: int) -> None:
        if key in self._staged:
            self._forget(key)
        else:
            self._forget_rows(Range(key, key))
        self.boots.count_dropped(records.boot_number_of(key))

    def _forget_rows(self, keys: Range) -> int:
        taken = self.backlog.take_out(keys)
        if taken:
            self.gone.add(taken[0], taken[-1])
        for key in taken:
            self._forget(key)
        return len(taken)

    def _forget(self, key: int) -> None:
        for table in (self._staged, self._put_s, self._fresh):
            table.pop(key, None)
        self._sent.forget(key)

    def _forget_event(self, key: int) -> None:
        if key not in self._put_s:
            self.gone.add(key, key)
        del self._events[key]
        self._forget(key)
