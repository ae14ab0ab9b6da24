"""The collector: takes messages off the link, checks them, stores them in batches, and only then sends receipts.

The network thread only puts messages into a bounded queue. One worker thread does the rest, so that a slow disk
never stalls the link, and a record without a receipt comes again.
"""

import logging
import threading
from collections import Counter
from collections.abc import Sequence

import msgspec

from edge_sdk import clock, errors
from edge_sdk.collector import intake
from edge_sdk.collector.backlog import Backlog, Waiting
from edge_sdk.collector.clocks import DeviceClocks
from edge_sdk.collector.intake import Batch, Boot, Outcome, Owed, Settled
from edge_sdk.collector.settings import CollectorSettings
from edge_sdk.collector.store import opening
from edge_sdk.collector.store.housekeeping import Housekeeper
from edge_sdk.collector.store.rows import Retention
from edge_sdk.link.protocol import Link, Message
from edge_sdk.records import telemetry
from edge_sdk.wire import codec, topics

_LOG = logging.getLogger(__name__)

_IDLE_S = 1.0
_OWED_S = 0.1  # while receipts wait for the link
_GAPS_LOGGED = 10  # of one batch; the database has them all
_ROOM_S = 0.5  # short, so that the link still answers its broker in time
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
        abandoned: messages given up at the end, as the database did not take them or they came too late; likewise.
        waiting: messages not committed yet.
        newer: Samples of a later wire version than this collector's; what that added is kept, but not understood.
        lost: Samples of this database that will never come, as their devices had to drop them.
        unseen: Samples that were receipted and are not in this database: it is a new one, or an old copy was put back.
            Each gap is told as an event ``gap`` and in the log.
        clocks_off: devices whose clock is off by more than 2 s.
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
    newer: int
    lost: int
    unseen: int
    clocks_off: int
    receipts: int
    store_failures: int
    devices: int
    is_running: bool
    last_error: str


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
        self._owed: dict[Boot, Owed] = {}
        self._devices: set[str] = set()
        self._device_clocks = DeviceClocks()
        self._settled = Settled()
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
        group = f"$share/{settings.share}/" if settings.share else ""
        self._link.subscribe_batches(group + topics.up(settings.site or "+", "+", "+"), self._take)
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
                abandoned=counts["abandoned"] + self._backlog.turned_away,
                waiting=len(self._backlog) + counts["taken"],
                newer=counts["newer"],
                lost=counts["lost"],
                unseen=counts["unseen"],
                clocks_off=counts["clocks_off"],
                receipts=counts["receipts"],
                store_failures=counts["store_failures"],
                devices=len(self._devices),
                is_running=self._thread.is_alive(),
                last_error=self._last_error,
            )

    def _take(self, messages: Sequence[Message]) -> None:
        """Runs on the link's thread; while it waits for room the broker holds the next messages back."""
        self._backlog.put(Waiting(messages, self._clock.wall_s()), wait_s=_ROOM_S)

    # Everything below runs on the worker thread.

    def _work(self) -> None:
        try:
            while not self._is_closing.is_set() or len(self._backlog):
                waiting = self._backlog.take(
                    self._settings.batch_records,
                    wait_s=_OWED_S if self._owed else _IDLE_S,
                    gather_s=self._settings.batch_wait_s,
                )
                taken = sum(len(entry.messages) for entry in waiting)
                if waiting:
                    self._count(taken=taken)
                    self._store_batch(intake.sort(waiting, self._device_clocks))
                    self._count(taken=-taken)
                self._send_receipts()
                is_busy = taken >= self._settings.batch_records
                self._housekeeper.run_if_due(is_busy=is_busy, devices=len(self._devices))
        finally:
            self._store.close()

    def _count(self, **changes: int) -> None:
        with self._lock:
            self._counts.update(changes)

    def _store_batch(self, batch: Batch) -> None:
        """Commits one batch, however often it takes; gives it up only when the collector closes."""
        while True:
            try:
                outcome = intake.commit(self._store, batch, self._settled)
            except errors.StoreError as error:
                self._note_failure(error)
                if self._is_closing.wait(self._settings.retry_s):
                    self._count(abandoned=len(batch))
                    return
            else:
                self._note(batch, outcome)
                return

    def _note(self, batch: Batch, outcome: Outcome) -> None:
        self._count(
            stored=outcome.stored,
            duplicates=len(batch.samples) - outcome.stored,
            others=len(batch.states) + len(batch.events),
            refused=len(batch.refused),
            newer=batch.newer,
            lost=outcome.lost,
            unseen=outcome.unseen,
        )
        for gap in outcome.gaps[:_GAPS_LOGGED]:
            _LOG.warning("%s, boot %s: %s", gap.device, gap.boot, gap.message)
        with self._lock:
            self._counts["clocks_off"] = self._device_clocks.skewed()
            self._devices.update(boot.device for boot in outcome.receipts)
        for boot, owed in outcome.receipts.items():
            waiting = self._owed.pop(boot, owed)
            events = dict.fromkeys([*waiting.events, *owed.events])
            self._owed[boot] = owed._replace(events=tuple(events)[-telemetry.EVENTS_PER_RECEIPT :])
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
            receipt = telemetry.Receipt(
                boot=boot.boot,
                upto=owed.upto,
                events=owed.events or msgspec.UNSET,
                payload=msgspec.UNSET if self._settings.payload == "json" else self._settings.payload,
            )
            try:
                self._link.publish(topics.receipt(owed.site, boot.device), codec.to_bytes(receipt))
            except errors.LinkError:
                return
            del self._owed[boot]
            self._count(receipts=1)
