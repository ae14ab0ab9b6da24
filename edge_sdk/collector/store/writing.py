"""What storing means in any SQL database: which Sample is new, what a device's newest is, marks, events, refusals."""

import abc
import itertools
import math
import operator
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from edge_sdk.collector.store import rolling, samples
from edge_sdk.collector.store.rows import BootKey, EventRow, Mark, Place, RefusedRow, SampleRow, StateRow

_SEQS_AT_ONCE = 1000
_ROLLED = "rolled"
_READ_ROWS = 5_000  # of Samples to roll up: a megabyte each thousand
_SEQ = operator.attrgetter("seq")


class Source:
    """One boot of one device in the database, as this transaction leaves it.

    Attributes:
        number: its row.
        site: where it was when it last spoke.
        newest_seq: highest sequence number stored so far; only at or below it a Sample can be a duplicate.
        pruned_upto: highest sequence number whose row was deleted for its age; what comes again at or below is old.
        mark: (upto, lost), None before the first.
    """

    __slots__ = ("mark", "newest_seq", "number", "pruned_upto", "site")

    def __init__(self, number: int, site: str, newest_seq: int, pruned_upto: int, mark: Mark | None) -> None:
        self.number = number
        self.site = site
        self.newest_seq = newest_seq
        self.pruned_upto = pruned_upto
        self.mark = mark


class NewRow(NamedTuple):
    """A Sample that was not stored before."""

    source: int
    seq: int
    t: float
    received_t: float
    payload: str


class SqlWriting(abc.ABC):
    """The writing half of a store. What is read of sources is kept, and what changed of them written as it commits."""

    def __init__(self, *, refused_kept: int) -> None:
        self._refused_kept = refused_kept
        self._known: dict[BootKey, Source] = {}
        self._changed: dict[BootKey, Source] = {}

    @abc.abstractmethod
    def rows(self, query: str, values: Sequence[Any] = ()) -> Sequence[tuple[Any, ...]]:
        """Gives the rows that a query with ``?`` for its values answers."""

    @abc.abstractmethod
    def write(self, statement: str, rows: Sequence[Sequence[Any]]) -> None:
        """Runs a statement with ``?`` once for each row."""

    @abc.abstractmethod
    def _sources(self, boots: Sequence[BootKey]) -> dict[BootKey, Source]:
        """Gives the sources of boots, made where there is none; holds them until the commit."""

    @abc.abstractmethod
    def _stored_among(self, keys: Sequence[tuple[int, int]]) -> set[tuple[int, int]]:
        """Gives which of these (source, seq) are stored."""

    @abc.abstractmethod
    def _unrolled(self, place: Place, limit: int) -> list[tuple[Place, str, str]]:
        """Gives place, device and payload of the first `limit` Samples after the last that is rolled up."""

    @abc.abstractmethod
    def _insert(self, rows: Sequence[NewRow]) -> None:
        """Stores rows that are new."""

    def marks(self, boots: Iterable[BootKey]) -> dict[BootKey, Mark | None]:
        """Gives how far each boot has got (None: nothing is known of it)."""
        wanted = list(boots)
        self._learn(wanted)
        return {key: self._known[key].mark for key in wanted}

    def add_samples(self, rows: Sequence[SampleRow]) -> list[bool]:
        """Stores Samples; gives for each whether it was new."""
        is_new = [True] * len(rows)
        taken = self._taken(rows)
        if taken is None:
            is_new = self._sifted(rows)
            taken = self._taken(sorted(itertools.compress(rows, is_new), key=_SEQ), are_new=True)
        if taken:
            self._insert(taken.rows)
            self._note_newest(taken.newest)
        return is_new

    def _taken(self, rows: Sequence[SampleRow], *, are_new: bool = False) -> "_Taken | None":
        """Gives what to store where each row is above all before it of its boot, as most are; else None.

        Args:
            rows: to store.
            are_new: it is known that they are; then some may be below what is stored already.
        """
        newest: dict[BootKey, _Newest] = {}
        fresh: list[Any] = []  # as NewRow, whose making costs as much as all else here
        for row in rows:
            device, _, boot, seq, t, received_t, payload = row
            of_boot = newest.get((device, boot))
            if of_boot is None:
                if (device, boot) not in self._known:
                    self._learn([(device, boot) for device, _, boot, *_ in rows])
                of_boot = newest[device, boot] = _Newest(self._known[device, boot], row)
            if seq > of_boot.seq:
                of_boot.seq = seq
            elif not are_new:
                return None
            of_boot.last = row
            # When it was taken at the latest: a clock that was ahead once must not hide all that comes later.
            known_t = t if t < received_t else received_t  # noqa: FURB136  # a call of min() costs four times as much
            if known_t >= of_boot.latest_t:
                of_boot.latest_t, of_boot.latest_seq = known_t, seq
            fresh.append((of_boot.number, seq, t, received_t, payload))
        return _Taken(fresh, newest)

    def _sifted(self, rows: Sequence[SampleRow]) -> list[bool]:
        """Gives for each row whether it is new."""
        known = self._known
        maybe = [
            (source.number, row.seq)
            for row in rows
            if (source := known[row.device, row.boot]).pruned_upto < row.seq <= source.newest_seq
        ]
        seen = self._stored_among(maybe) if maybe else set()
        is_new: list[bool] = []
        for row in rows:
            source = known[row.device, row.boot]
            key = source.number, row.seq
            is_new.append(row.seq > source.pruned_upto and key not in seen)
            seen.add(key)
        return is_new

    def set_marks(self, marks: Mapping[BootKey, Mark]) -> None:
        """Stores how far the records of boots have arrived."""
        self._learn(marks)
        for key, mark in marks.items():
            source = self._changed[key] = self._known[key]
            source.mark = mark

    def seqs_above(self, uptos: Mapping[BootKey, int]) -> dict[BootKey, Iterator[int]]:
        """Gives by boot the stored sequence numbers above a number, ascending, read as far as they are asked for."""
        self._learn(uptos)
        return {key: self._seqs(self._known[key].number, upto) for key, upto in uptos.items()}

    def _seqs(self, source: int, upto: int) -> Iterator[int]:
        while True:
            found = self.rows(
                "SELECT seq FROM sample_rows WHERE source = ? AND seq > ? ORDER BY seq LIMIT ?",
                (source, upto, _SEQS_AT_ONCE),
            )
            yield from (row[0] for row in found)
            if len(found) < _SEQS_AT_ONCE:
                return
            upto = found[-1][0]

    def put_states(self, rows: Sequence[StateRow]) -> None:
        """Stores the latest status and birth of devices."""
        last = {(row.site, row.device, row.kind): row for row in rows}
        self.write(
            "INSERT INTO states (site, device, kind, boot, t, received_t, payload) VALUES (?, ?, ?, ?, ?, ?, ?) "
            "ON CONFLICT (site, device, kind) DO UPDATE SET boot = excluded.boot, t = excluded.t, "
            "received_t = excluded.received_t, payload = excluded.payload",
            [last[key] for key in sorted(last)],
        )

    def add_events(self, rows: Sequence[EventRow]) -> None:
        """Stores events; one that came twice is kept once."""
        self.write(
            "INSERT INTO events (site, device, boot, t, received_t, payload) VALUES (?, ?, ?, ?, ?, ?) "
            "ON CONFLICT DO NOTHING",
            rows,
        )

    def add_refused(self, rows: Sequence[RefusedRow]) -> None:
        """Counts refused messages, and keeps the first ones."""
        if not rows:
            return
        counts: dict[str, int] = defaultdict(int)
        for row in rows:
            counts[row.kind] += 1
        self.write(
            "INSERT INTO refused_counts (kind, count) VALUES (?, ?) "
            "ON CONFLICT (kind) DO UPDATE SET count = refused_counts.count + excluded.count",
            sorted(counts.items()),
        )
        room = self._refused_kept - self.number("SELECT COUNT(*) FROM refused")
        self.write(
            "INSERT INTO refused (topic, kind, reason, size_bytes, payload, received_t) VALUES (?, ?, ?, ?, ?, ?)",
            rows[: max(0, room)],
        )

    def devices(self) -> set[str]:
        """Gives the devices of which there are Samples."""
        return {row[0] for row in self.rows("SELECT DISTINCT device FROM sources WHERE upto IS NOT NULL")}

    def lost(self) -> int:
        """Gives how many Samples of all devices are lost."""
        # Summed here: a database's own sum may fail beyond 63 bits, which a device that lies can reach.
        return sum(row[0] for row in self.rows("SELECT lost FROM sources WHERE lost > 0"))

    def _roll(self, limit: int) -> int:
        """Folds up to `limit` stored Samples into minutes and hours; gives how many."""
        place, count = self.place(_ROLLED), 0
        pieces: list[samples.Folded] = []
        while count < limit:
            found = self._unrolled(place, min(limit - count, _READ_ROWS))
            if not found:
                break
            pieces.append(samples.read([(device, payload) for _, device, payload in found]))
            place, count = found[-1][0], count + len(found)
        if pieces:
            rolling.fold(self, samples.joined(pieces))
            self.keep_place(_ROLLED, place)
        return count

    def place(self, name: str) -> Place:
        """Gives how far `name` has read; before everything if it never did."""
        found: dict[str, int] = {
            row[0]: row[1]
            for row in self.rows("SELECT name, value FROM progress WHERE name IN (?, ?)", (name, f"{name}_id"))
        }
        return found.get(name, 0), found.get(f"{name}_id", 0)

    def keep_place(self, name: str, place: Place) -> None:
        """Stores how far `name` has read."""
        self.write(
            "INSERT INTO progress (name, value) VALUES (?, ?) ON CONFLICT (name) DO UPDATE SET value = excluded.value",
            [(name, place[0]), (f"{name}_id", place[1])],
        )

    def number(self, query: str, values: Sequence[Any] = ()) -> int:
        """Gives the one number that a query answers."""
        return int(self.rows(query, values)[0][0])

    def _learn(self, boots: Iterable[BootKey]) -> None:
        known = self._known
        missing = {key for key in boots if key not in known}
        if missing:
            known |= self._sources(sorted(missing))

    def _write_sources(self) -> None:
        """Writes what changed of sources; before each commit."""
        self.write(
            "UPDATE sources SET newest_seq = ?, site = ?, upto = ?, lost = ? WHERE id = ?",
            [
                (source.newest_seq, source.site, *(source.mark or (None, 0)), source.number)
                for source in self._changed.values()
            ],
        )
        self._changed.clear()

    def _forget(self) -> None:
        """Has sources read again: they may be others than is known."""
        self._known.clear()
        self._changed.clear()

    def _note_newest(self, newest: Mapping[BootKey, "_Newest"]) -> None:
        """Remembers the newest Sample of each boot, and of each device."""
        for key, of_boot in newest.items():
            source = self._changed[key] = self._known[key]
            source.site = of_boot.last.site
            source.newest_seq = max(source.newest_seq, of_boot.seq)
        latest: dict[str, _Newest] = {}
        for (device, _), of_boot in newest.items():
            other = latest.get(device)
            if other is None or (of_boot.latest_t, of_boot.latest_seq) >= (other.latest_t, other.latest_seq):
                latest[device] = of_boot
        self.write(
            "INSERT INTO devices (device, site, source, seq, t) VALUES (?, ?, ?, ?, ?) "
            "ON CONFLICT (device) DO UPDATE SET site = excluded.site, source = excluded.source, seq = excluded.seq, "
            "t = excluded.t WHERE excluded.t >= devices.t",
            [
                (device, one.last.site, one.number, one.latest_seq, one.latest_t)
                for device, one in sorted(latest.items())
            ],
        )


class _Newest:
    """The newest Sample of one boot in a batch: the highest, and the one that was taken last."""

    __slots__ = ("last", "latest_seq", "latest_t", "number", "seq")

    def __init__(self, source: Source, row: SampleRow) -> None:
        self.number = source.number
        self.seq = max(source.newest_seq, source.pruned_upto)
        self.last = row
        self.latest_t, self.latest_seq = -math.inf, -1


class _Taken(NamedTuple):
    """Rows to store, and the newest of them by boot."""

    rows: list[NewRow]
    newest: dict[BootKey, _Newest]
