"""Between the spool and the link: sends what is due, deletes what is receipted, says once that the broker is away."""

import collections
import logging
import threading
from collections.abc import Callable

from edge_sdk import clock, errors
from edge_sdk.device.spool.memory import MemorySpool, Record, SpoolState
from edge_sdk.link.protocol import Link, Message
from edge_sdk.records import telemetry
from edge_sdk.wire import codec

_LOG = logging.getLogger(__name__)

_AT_ONCE = 1000
"""Records looked at for one round of sending; the link's own window ends most rounds of a backlog sooner."""
_EVENTS_HELD = 64


class Forwarder:
    """Hands records to the link and keeps them until the collector's receipt. Safe from any thread.

    Args:
        spool: holds the records.
        link: takes them when it is connected.
        telemetry_topic, event_topic: where they go.
        clocks: for when a record is due again.
    """

    def __init__(
        self, spool: MemorySpool, link: Link, *, telemetry_topic: str, event_topic: str, clocks: clock.Clock
    ) -> None:
        self._spool = spool
        self._link = link
        self._telemetry_topic = telemetry_topic
        self._event_topic = event_topic
        self._clock = clocks
        self._lock = threading.Lock()
        self._events: collections.deque[bytes] = collections.deque(maxlen=_EVENTS_HELD)
        self._is_away = False
        self._is_dropping = False

    def make_room(self, on_first_drop: Callable[[SpoolState], telemetry.Event]) -> SpoolState:
        """Makes room for the next record, so that it can tell of what was dropped for it.

        Args:
            on_first_drop: words the event for the first of a row of drops.

        Returns:
            the spool's state with that room made.
        """
        with self._lock:
            dropped = self._spool.make_room()
            begins = dropped > 0 and not self._is_dropping
            self._is_dropping = dropped > 0
            state = self._spool.snapshot()
            if begins:
                self._events.append(codec.to_bytes(on_first_drop(state)))
        return state

    def keep(self, seq: int, payload: bytes) -> None:
        """Keeps one record until its receipt."""
        with self._lock:
            self._spool.put(Record(seq, payload))

    def tell(self, event: telemetry.Event) -> None:
        """Keeps an event for the next round of sending; of too many the oldest give way."""
        with self._lock:
            self._events.append(codec.to_bytes(event))

    def send_due(self) -> None:
        """Sends what is due; what the link does not take stays."""
        try:
            self._send_events()
            self._send_records()
        except errors.LinkError as error:
            self._note_failure(error)
        else:
            self._note_success()

    def take_receipt(self, message: Message) -> None:
        """Deletes what the collector says it has stored, then sends on."""
        try:
            receipt = codec.from_bytes(message.payload, telemetry.Receipt)
        except errors.PayloadError as error:
            _LOG.warning("a receipt was not understood: %s", error)
            return
        with self._lock:
            stored = self._spool.receipt(receipt.boot, receipt.upto)
        if stored:
            self.send_due()

    def snapshot(self) -> SpoolState:
        """Gives the spool's state at this moment."""
        with self._lock:
            return self._spool.snapshot()

    def _send_events(self) -> None:
        with self._lock:
            events, self._events = list(self._events), collections.deque(maxlen=_EVENTS_HELD)
        for position, payload in enumerate(events):
            try:
                self._link.publish(self._event_topic, payload)
            except errors.LinkError:
                with self._lock:
                    self._events.extendleft(reversed(events[position:]))
                raise

    def _send_records(self) -> None:
        # The lock is not held while publishing: a link may call back from its own thread.
        with self._lock:
            due = self._spool.take_due(self._clock.boot_s(), _AT_ONCE)
        for position, record in enumerate(due):
            try:
                self._link.publish(self._telemetry_topic, record.payload)
            except errors.LinkError:
                with self._lock:
                    self._spool.put_back(due[position:])
                raise

    def _note_failure(self, error: errors.LinkError) -> None:
        if self._link.snapshot().is_connected or self._is_away:
            return  # connected but busy: the rest goes out with the next round
        self._is_away = True
        _LOG.warning("the broker cannot be reached, telemetry is kept here until it is back: %s", error)

    def _note_success(self) -> None:
        if self._is_away and self._link.snapshot().is_connected:
            self._is_away = False
            _LOG.warning("the broker is back; %d records are waiting for a receipt", self.snapshot().held)
