"""The collector: takes messages off the link, checks them, stores them in batches, and only then sends receipts.

The network thread only puts messages into a bounded queue. One worker thread does the rest, so that a slow disk
never stalls the link, and a record without a receipt comes again.
"""

import logging
import threading
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import msgspec

from edge_sdk import clock, errors
from edge_sdk.collector import ingest
from edge_sdk.collector.backlog import Backlog, Waiting
from edge_sdk.collector.settings import CollectorSettings
from edge_sdk.collector.store import opening
from edge_sdk.collector.store.housekeeping import Housekeeper
from edge_sdk.collector.store.rows import EventRow, RefusedRow, Retention, SampleRow, StateRow
from edge_sdk.link.protocol import Link, Message
from edge_sdk.records import telemetry
from edge_sdk.wire import codec, topics

_LOG = logging.getLogger(__name__)

_IDLE_S = 1.0
_OWED_S = 0.1  # while receipts wait for the link
_OWED_MAX = 100_000  # boots; beyond it the oldest receipt is forgotten, and asked for again by its device


class CollectorState(msgspec.Struct, frozen=True, kw_only=True):
    """The collector at one moment; counts since its start unless said otherwise.

    ``received = stored + duplicates + others + refused + overflowed + abandoned + waiting``.

    Attributes:
        received: messages that the link handed over.
        stored: new Samples committed.
        duplicates: Samples that had been stored before.
        others: status, birth and event messages committed.
        refused: messages that are not what they should be; the first ones are kept in the database.
        overflowed: messages dropped because the database is too slow; their devices send them again.
        abandoned: messages given up at the end because the database did not take them; likewise.
        waiting: messages not committed yet.
        lost: Samples of this database that will never come, as their devices had to drop them.
        receipts: receipts published.
        store_failures: attempts at a commit that failed.
        devices: devices of which this database has Samples.
        is_running: the worker is alive.
        last_error: why the last failed attempt at a commit failed; empty when none did.
    """

    received: int
    stored: int
    duplicates: int
    others: int
    refused: int
    overflowed: int
    abandoned: int
    waiting: int
    lost: int
    receipts: int
    store_failures: int
    devices: int
    is_running: bool
    last_error: str


class _Boot(NamedTuple):
    """Whose records are counted on."""

    device: str
    boot: str


class _Said(NamedTuple):
    """What a device says of its spool in the Samples of one batch: the highest of each; and its site."""

    site: str
    oldest_seq: int
    dropped: int


class _Owed(NamedTuple):
    """A receipt to be sent."""

    site: str
    upto: int


class _Batch(NamedTuple):
    """The messages of one transaction, sorted by what they are."""

    samples: list[SampleRow]
    states: list[StateRow]
    events: list[EventRow]
    refused: list[RefusedRow]
    said: dict[_Boot, _Said]

    def __len__(self) -> int:
        return len(self.samples) + len(self.states) + len(self.events) + len(self.refused)


class _Outcome(NamedTuple):
    """What one commit changed."""

    stored: int
    lost: int
    receipts: dict[_Boot, _Owed]


class Collector:
    """Wires link, ingest and store. Order of use: `start`, then `close`; `snapshot` at any time."""

    def __init__(self, settings: CollectorSettings, link: Link, clocks: clock.Clock) -> None:
        """Prepares a collector on a link that is not open yet; the collector opens and closes it."""
        self._settings = settings
        self._link = link
        self._clock = clocks
        self._backlog = Backlog(settings.queue_bytes)
        self._is_closing = threading.Event()
        self._thread = threading.Thread(target=self._work, name="collector", daemon=True)
        self._owed: dict[_Boot, _Owed] = {}
        self._devices: set[str] = set()
        self._lock = threading.Lock()
        self._counts: Counter[str] = Counter()
        self._last_error = ""

    def start(self) -> None:
        """Opens the database, then the link.

        Raises:
            SettingsError: the database can't be used.
        """
        self._store = opening.open_store(self._settings.database, refused_kept=self._settings.refused_kept)
        settings = self._settings
        retention = Retention(settings.raw_days, settings.minute_days, settings.hour_days)
        self._housekeeper = Housekeeper(self._store, retention, self._clock)
        self._devices = self._store.devices()
        self._counts["lost"] = self._store.lost()
        self._link.subscribe(topics.up(self._settings.site or "+", "+", "+"), self._take)
        self._thread.start()
        self._link.open()

    def close(self, timeout_s: float = 2.5) -> None:
        """Commits and receipts what has arrived, then closes link and database, within about `timeout_s`."""
        deadline_s = self._clock.boot_s() + timeout_s
        self._is_closing.set()
        self._backlog.close()
        if self._thread.is_alive():
            self._thread.join(timeout_s * 0.7)
        self._link.close(max(0.1, deadline_s - self._clock.boot_s()))

    def snapshot(self) -> CollectorState:
        """Gives the state at this moment."""
        with self._lock:
            counts = self._counts
            return CollectorState(
                received=self._backlog.received,
                stored=counts["stored"],
                duplicates=counts["duplicates"],
                others=counts["others"],
                refused=counts["refused"],
                overflowed=self._backlog.overflowed,
                abandoned=counts["abandoned"],
                waiting=len(self._backlog) + counts["taken"],
                lost=counts["lost"],
                receipts=counts["receipts"],
                store_failures=counts["store_failures"],
                devices=len(self._devices),
                is_running=self._thread.is_alive(),
                last_error=self._last_error,
            )

    def _take(self, message: Message) -> None:
        """Runs on the link's thread."""
        self._backlog.put(Waiting(message, self._clock.wall_s()))

    # Everything below runs on the worker thread.

    def _work(self) -> None:
        try:
            while not self._is_closing.is_set() or len(self._backlog):
                waiting = self._backlog.take(
                    self._settings.batch_records,
                    wait_s=_OWED_S if self._owed else _IDLE_S,
                    gather_s=self._settings.batch_wait_s,
                )
                if waiting:
                    self._count(taken=len(waiting))
                    self._store_batch(_sorted(waiting))
                    self._count(taken=-len(waiting))
                self._send_receipts()
                if len(self._backlog) < self._settings.batch_records:
                    self._housekeeper.run_if_due()
        finally:
            self._store.close()

    def _count(self, **changes: int) -> None:
        with self._lock:
            self._counts.update(changes)

    def _store_batch(self, batch: _Batch) -> None:
        """Commits one batch, however often it takes; gives it up only when the collector closes."""
        while True:
            try:
                outcome = self._commit(batch)
            except errors.StoreError as error:
                self._note_failure(error)
                if self._is_closing.wait(self._settings.retry_s):
                    self._count(abandoned=len(batch))
                    return
            else:
                self._note(batch, outcome)
                return

    def _commit(self, batch: _Batch) -> _Outcome:
        store = self._store
        lost = 0
        receipts: dict[_Boot, _Owed] = {}
        with store.transaction():
            known = store.marks(batch.said)
            marks = {boot: _mark(known[boot]) for boot in batch.said}
            is_new = store.add_samples(batch.samples)
            late = _late(batch.samples, is_new, marks)
            above = store.seqs_above({boot: mark.upto if mark else -1 for boot, mark in marks.items()})
            reached: dict[tuple[str, str], tuple[int, int]] = {}
            for boot, said in batch.said.items():
                before = marks[boot]
                mark = ingest.advance(
                    before,
                    oldest_seq=said.oldest_seq,
                    dropped=said.dropped,
                    late=late[boot],
                    above=above[boot],
                )
                reached[boot] = mark
                lost += mark.lost - (before.lost if before else 0)
                receipts[boot] = _Owed(said.site, mark.upto)
            store.set_marks(reached)
            store.put_states(batch.states)
            store.add_events(batch.events)
            store.add_refused(batch.refused)
        return _Outcome(sum(is_new), lost, receipts)

    def _note(self, batch: _Batch, outcome: _Outcome) -> None:
        self._housekeeper.note_stored(outcome.stored)
        self._count(
            stored=outcome.stored,
            duplicates=len(batch.samples) - outcome.stored,
            others=len(batch.states) + len(batch.events),
            refused=len(batch.refused),
            lost=outcome.lost,
        )
        with self._lock:
            self._devices.update(boot.device for boot in outcome.receipts)
        self._owed.update(outcome.receipts)
        while len(self._owed) > _OWED_MAX:
            del self._owed[next(iter(self._owed))]

    def _note_failure(self, error: errors.StoreError) -> None:
        with self._lock:
            self._counts["store_failures"] += 1
            is_news, self._last_error = str(error) != self._last_error, str(error)
        if is_news:
            _LOG.warning("%s; no receipt is sent, trying again every %g s", error, self._settings.retry_s)

    def _send_receipts(self) -> None:
        """Publishes what is owed; what the link does not take now stays owed."""
        while self._owed:
            boot, owed = next(iter(self._owed.items()))
            receipt = telemetry.Receipt(boot=boot.boot, upto=owed.upto)
            try:
                self._link.publish(topics.receipt(owed.site, boot.device), codec.to_bytes(receipt))
            except errors.LinkError:
                return
            del self._owed[boot]
            self._count(receipts=1)


def _sorted(waiting: Sequence[Waiting]) -> _Batch:
    """Checks messages and sorts them into the rows of one transaction."""
    batch = _Batch([], [], [], [], {})
    for message, received_t in waiting:
        arrival = ingest.parse_message(message, received_t)
        if isinstance(arrival, ingest.Refusal):
            batch.refused.append(RefusedRow(*arrival))
            continue
        (site, device, leaf), record, text, _ = arrival
        if isinstance(record, telemetry.Sample):
            batch.samples.append(SampleRow(device, site, record.boot, record.seq, record.t, received_t, text))
            boot = _Boot(device, record.boot)
            before = batch.said.get(boot, _Said(site, 0, 0))
            batch.said[boot] = _Said(
                site, max(before.oldest_seq, record.oldest_seq), max(before.dropped, record.dropped)
            )
        elif isinstance(record, telemetry.Event):
            batch.events.append(EventRow(site, device, record.boot, record.t, received_t, text))
        else:
            kind = leaf.rpartition("/")[2]
            batch.states.append(StateRow(site, device, kind, record.boot, record.t, received_t, text))
    return batch


def _mark(row: tuple[int, int] | None) -> ingest.Mark | None:
    return None if row is None else ingest.Mark(*row)


def _late(
    samples: Sequence[SampleRow], is_new: Sequence[bool], marks: dict[_Boot, ingest.Mark | None]
) -> Counter[_Boot]:
    """Counts by boot the new Samples that were not above the mark: they had been counted as lost."""
    late: Counter[_Boot] = Counter()
    for sample, new in zip(samples, is_new, strict=True):
        boot = _Boot(sample.device, sample.boot)
        mark = marks[boot]
        late[boot] += new and mark is not None and sample.seq <= mark.upto
    return late
