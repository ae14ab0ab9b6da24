"""One batch: messages sorted into rows, committed together, and what that changed. Knows ingest and the store."""

import functools
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import NamedTuple, TypeGuard

import msgspec

from edge_sdk import __version__
from edge_sdk.collector import ingest
from edge_sdk.collector.backlog import Waiting
from edge_sdk.collector.clocks import ClockNews, DeviceClocks
from edge_sdk.collector.store.rows import EventRow, RefusedRow, SampleRow, StateRow, Store
from edge_sdk.records import telemetry
from edge_sdk.wire import codec

SAID_BY = f"collector {__version__}"
"""Stands in the details of events that the collector makes itself."""

_SETTLED_MAX = 100_000
_SEQ_END = 2**63 - 1


class Boot(NamedTuple):
    """Whose records are counted on."""

    device: str
    boot: str


class Said:
    """What a device says of a boot's spool in a batch: the highest of each; its site, its Samples and its events."""

    __slots__ = ("dropped", "events", "is_ended", "oldest_seq", "received_t", "seqs", "site")

    def __init__(self, site: str, received_t: float) -> None:
        self.site = site
        self.received_t = received_t
        self.oldest_seq = self.dropped = 0
        self.is_ended = False
        self.seqs: list[int] = []
        self.events: list[int] = []

    def hear(self, sample: telemetry.Sample) -> None:
        """Takes in one Sample."""
        self.seqs.append(sample.seq)
        if sample.oldest_seq > self.oldest_seq:  # noqa: PLR1730  # a call of max() costs more than the rest of this
            self.oldest_seq = sample.oldest_seq
        if sample.dropped > self.dropped:  # noqa: PLR1730
            self.dropped = sample.dropped

    def hear_end(self, newest_seq: int | None, dropped: int) -> None:
        """Takes in that nothing more comes: nothing after `newest_seq`, and nothing before it that is not here.

        A device that was killed does not know its newest (None); then the newest that is here is taken for it.
        """
        self.is_ended = True
        self.oldest_seq = max(self.oldest_seq, 0 if newest_seq is None else newest_seq + 1)
        self.dropped = max(self.dropped, dropped)


class Settled:
    """Boots of which nothing is stored above their mark, as this collector left them: most of a healthy fleet.

    Their next records need no look into the store. Another collector on the same store may make that wrong; then a
    mark is behind for a moment, and the next record that does not follow it directly has the store looked into.
    """

    def __init__(self) -> None:
        self._upto: dict[Boot, int] = {}

    def above(self, boot: Boot, mark: ingest.Mark | None, seqs: list[int]) -> list[int] | None:
        """Gives the stored sequence numbers above the mark, those of the batch included; None if not known."""
        if mark is None or self._upto.get(boot) != mark.upto:
            return None
        if seqs == list(range(mark.upto + 1, mark.upto + 1 + len(seqs))):  # nothing but the next ones, in order
            return seqs
        fresh = sorted({seq for seq in seqs if seq > mark.upto})
        return fresh if not fresh or fresh[-1] == mark.upto + len(fresh) else None

    def note(self, reached: Mapping[Boot, ingest.Mark], crowded: AbstractSet[Boot]) -> None:
        """Keeps in mind how far these have got; of those that are `crowded` something is stored above that."""
        if len(self._upto) >= _SETTLED_MAX:
            self._upto.clear()
        for boot, mark in reached.items():
            if boot in crowded:
                self._upto.pop(boot, None)
            else:
                self._upto[boot] = mark.upto


class Owed(NamedTuple):
    """A receipt to be sent."""

    site: str
    upto: int
    events: tuple[int, ...] = ()


class Batch(NamedTuple):
    """The messages of one transaction, sorted by what they are.

    Attributes:
        samples, states, events, refused: rows for the store.
        news: events of the collector's own, for the store.
        said: by boot, of the Samples.
        newer: Samples of a later wire version than ours.
    """

    samples: list[SampleRow]
    states: list[StateRow]
    events: list[EventRow]
    refused: list[RefusedRow]
    news: list[EventRow]
    said: dict[Boot, Said]
    newer: int

    def __len__(self) -> int:
        return len(self.samples) + len(self.states) + len(self.events) + len(self.refused)


class Outcome(NamedTuple):
    """What one commit changed.

    Attributes:
        stored: new Samples.
        lost: more Samples that will never come.
        unseen: more Samples that were receipted but are not in this database.
        receipts: to be sent now, by boot.
        gaps: events that tell of what will not come.
    """

    stored: int
    lost: int
    unseen: int
    receipts: dict[Boot, Owed]
    gaps: list[telemetry.Event]


_sample_row = functools.partial(tuple.__new__, SampleRow)  # half the time of the named tuple's own way


def sort(waiting: Sequence[Waiting], clocks: DeviceClocks) -> Batch:
    """Checks messages and sorts them into the rows of one transaction."""
    samples: list[SampleRow] = []
    states: list[StateRow] = []
    events: list[EventRow] = []
    refused: list[RefusedRow] = []
    news: list[EventRow] = []
    said: dict[Boot, Said] = {}
    newer = 0
    for messages, received_t in waiting:
        for message in messages:
            arrival = ingest.parse_message(message, received_t)
            if isinstance(arrival, ingest.Refusal):
                refused.append(RefusedRow(*arrival))
                continue
            (site, device, leaf), record, text, _ = arrival
            if isinstance(record, telemetry.Sample):
                samples.append(_sample_row((device, site, record.boot, record.seq, record.t, received_t, text)))
                boot = (device, record.boot)
                heard = said.get(boot)  # type: ignore[call-overload]  # a Boot equals its pair
                if heard is None:
                    heard = said[Boot(*boot)] = Said(site, received_t)
                heard.hear(record)
                newer += record.v > telemetry.WIRE_VERSION
                if told := clocks.note(record, received_t):
                    news.append(_row(site, _clock_event(record, told, received_t), received_t))
            elif isinstance(record, telemetry.Event):
                events.append(EventRow(site, device, record.boot, record.t, received_t, text))
                _hear_event(said, site, record, received_t)
            else:
                kind = leaf.rpartition("/")[2]
                states.append(StateRow(site, device, kind, record.boot, record.t, received_t, text))
    return Batch(samples, states, events, refused, news, said, newer)


def _hear_event(said: dict[Boot, Said], site: str, event: telemetry.Event, received_t: float) -> None:
    """Notes the number of an event, which gets a receipt, and that an earlier boot has ended, if it says so."""
    if not isinstance(event.seq, msgspec.UnsetType):
        said.setdefault(Boot(event.device, event.boot), Said(site, received_t)).events.append(event.seq)
    if event.kind != telemetry.BOOT_CLOSED:
        return
    of_boot, newest_seq, dropped = (event.details.get(name) for name in ("of_boot", "newest_seq", "dropped"))
    if newest_seq is not None and not _is_count(newest_seq):
        return
    if isinstance(of_boot, str) and _is_count(dropped) and codec.is_boot(of_boot):
        said.setdefault(Boot(event.device, of_boot), Said(site, received_t)).hear_end(newest_seq, dropped)


def _is_count(value: object) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool) and -1 <= value < _SEQ_END


def commit(store: Store, batch: Batch, settled: Settled) -> Outcome:
    """Stores a batch in one transaction, and how far each boot's records have arrived by it.

    `settled` is what earlier commits on this store left behind.

    Raises:
        StoreError: nothing was stored.
    """
    lost = unseen = 0
    receipts: dict[Boot, Owed] = {}
    gaps: list[telemetry.Event] = []
    reached: dict[Boot, ingest.Mark] = {}
    crowded: set[Boot] = set()
    rows = list(batch.news)
    with store.transaction():
        known = store.marks(batch.said)
        marks = {boot: _mark(known[boot]) for boot in batch.said}
        is_new = store.add_samples(batch.samples)
        late = _late(batch, is_new, marks)
        easy = {
            boot: None if said.is_ended else settled.above(boot, marks[boot], said.seqs)
            for boot, said in batch.said.items()
        }
        hard: dict[tuple[str, str], int] = {
            boot: mark.upto if mark else -1 for boot, mark in marks.items() if easy[boot] is None
        }
        above: dict[tuple[str, str], Iterator[int]] = store.seqs_above(hard) if hard else {}
        for boot, said in batch.said.items():
            before = marks[boot]
            known_above = easy[boot]
            arrived = list(above[boot]) if said.is_ended else known_above
            step = ingest.advance(
                before,
                oldest_seq=max(said.oldest_seq, arrived[-1] + 1) if said.is_ended and arrived else said.oldest_seq,
                dropped=said.dropped,
                late=late[boot],
                above=above[boot] if arrived is None else arrived,
            )
            if said.seqs or step.mark != (before or ingest.Mark()):
                reached[boot] = step.mark
            lost += step.mark.lost - (before.lost if before else 0)
            unseen += step.unseen
            receipts[boot] = Owed(said.site, step.mark.upto, tuple(said.events))
            if step.has_more:
                crowded.add(boot)
            if step.missing:
                gaps.append(_gap_event(boot, step, said.received_t))
                rows.append(_row(said.site, gaps[-1], said.received_t))
        store.set_marks({(device, boot): mark for (device, boot), mark in reached.items()})
        store.put_states(batch.states)
        store.add_events([*batch.events, *rows])
        store.add_refused(batch.refused)
    settled.note(reached, crowded)
    return Outcome(sum(is_new), lost, unseen, receipts, gaps)


def _mark(row: tuple[int, int] | None) -> ingest.Mark | None:
    return None if row is None else ingest.Mark(*row)


def _late(batch: Batch, is_new: Sequence[bool], marks: dict[Boot, ingest.Mark | None]) -> Counter[Boot]:
    """Counts by boot the new Samples that were not above the mark: they had been counted as lost."""
    late: Counter[Boot] = Counter()
    known = {
        boot: mark.upto
        for boot, mark in marks.items()
        if mark is not None and min(batch.said[boot].seqs, default=_SEQ_END) <= mark.upto
    }
    if not known:
        return late
    for sample, new in zip(batch.samples, is_new, strict=True):
        boot = (sample.device, sample.boot)
        if new and sample.seq <= known.get(boot, -1):  # type: ignore[call-overload]  # a Boot equals its pair
            late[Boot(*boot)] += 1
    return late


def _gap_event(boot: Boot, step: ingest.Advance, received_t: float) -> telemetry.Event:
    dropped = step.missing - step.unseen
    causes = [
        f"{dropped} gave way to newer ones on the device" if dropped else "",
        f"{step.unseen} were receipted, but are not in this database (a new one, or an old copy was put back)"
        if step.unseen
        else "",
    ]
    ranges = ", ".join(f"{gap.first}-{gap.last}" if gap.last > gap.first else f"{gap.first}" for gap in step.gaps)
    more = " and others" if len(step.gaps) == ingest.GAPS_TOLD else ""
    return telemetry.Event(
        v=telemetry.WIRE_VERSION,
        device=boot.device,
        boot=boot.boot,
        t=received_t,
        kind="gap",
        message=f"{step.missing} records will not come: {' and '.join(filter(None, causes))}; seq {ranges}{more}"[
            :2000
        ],
        details={
            "missing": step.missing,
            "dropped": dropped,
            "unseen": step.unseen,
            "first": step.gaps[0].first,
            "last": step.gaps[-1].last,
            "by": SAID_BY,
        },
    )


def _clock_event(sample: telemetry.Sample, told: ClockNews, received_t: float) -> telemetry.Event:
    return telemetry.Event(
        v=telemetry.WIRE_VERSION,
        device=sample.device,
        boot=sample.boot,
        t=received_t,
        kind=told.kind,
        message=told.message,
        details={"offset_s": round(told.offset_s, 3), "seq": sample.seq, "by": SAID_BY},
    )


def _row(site: str, event: telemetry.Event, received_t: float) -> EventRow:
    return EventRow(site, event.device, event.boot, event.t, received_t, codec.to_bytes(event).decode())
