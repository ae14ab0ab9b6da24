"""Between the spool and the link: sends what is due, deletes what is receipted, says once that the broker is away."""

import logging
import threading
from collections.abc import Callable, Sequence

import msgspec

from edge_sdk import errors
from edge_sdk.device.spool.records import Kind, News, Record, SpoolState
from edge_sdk.device.spool.spool import Spool
from edge_sdk.link.protocol import Link, Message
from edge_sdk.records import telemetry
from edge_sdk.wire import codec

_LOG = logging.getLogger(__name__)

_AT_ONCE = 200
"""Records looked at for one round of sending; the link's own window ends most rounds of a backlog sooner."""


class Forwarder:
    """Hands records to the link and keeps them until the collector's receipt. Safe from any thread.

    Args:
        spool: holds the records.
        link: takes them when it is connected.
        telemetry_topic, event_topic: where they go.
        renew: gives a Sample that says of the spool what is true now: from its bytes, the number of the oldest held of
            its boot, and how many of that boot were dropped. So a gap is told even when nothing new comes of that boot.
        ask: told with every receipt in which form its collector asks for Samples; None where it asks for none.
    """

    def __init__(
        self,
        spool: Spool,
        link: Link,
        *,
        telemetry_topic: str,
        event_topic: str,
        renew: Callable[[bytes, int, int], bytes],
        ask: Callable[[str | None], None] = lambda _: None,
    ) -> None:
        self._spool = spool
        self._link = link
        self._topics = {Kind.SAMPLE: telemetry_topic, Kind.EVENT: event_topic}
        self._renew = renew
        self._ask = ask
        self._sending = threading.Lock()
        self._is_away = self._do_others_pass = self._is_narrow = False

    def make_room(self) -> SpoolState:
        """Makes room for the next Sample, so that it can tell of what was dropped for it; gives the state then."""
        return self._spool.make_room()

    def keep(self, seq: int, payload: bytes) -> None:
        """Keeps one Sample until its receipt."""
        self._spool.put(seq, payload)

    def tell(self, news: News) -> None:
        """Keeps an event until its receipt; it is on disk at once."""
        self._spool.tell(news)

    def send_due(self) -> None:
        """Sends what is due; what the link does not take stays. A round that runs already does this one's work."""
        if not self._sending.acquire(blocking=False):
            return
        try:
            while self._send(self._spool.take_due(_AT_ONCE)):
                pass
        except errors.LinkError as error:
            self._note_failure(error)
        else:
            self._note_success()
        finally:
            self._sending.release()

    def reconnected(self) -> None:
        """Sends on, on a new connection, also what an earlier one may have lost."""
        self._do_others_pass = False
        self._spool.reconnected()
        self.send_due()

    def take_receipt(self, message: Message) -> None:
        """Deletes what the collector says it has stored, then sends on."""
        try:
            receipt = codec.from_bytes(message.payload, telemetry.Receipt)
        except errors.PayloadError as error:
            _LOG.warning("a receipt was not understood: %s", error)
            return
        self._ask(None if isinstance(receipt.payload, msgspec.UnsetType) else receipt.payload)
        events = () if isinstance(receipt.events, msgspec.UnsetType) else receipt.events
        if self._spool.receipt(receipt.boot, receipt.upto, events):
            self.send_due()

    def snapshot(self) -> SpoolState:
        """Gives the spool's state at this moment."""
        return self._spool.snapshot()

    def _send(self, due: Sequence[Record]) -> bool:
        """Hands records to the link; tells whether there may be more."""
        oldest = {boot: self._spool.oldest_of(boot) for boot in {record.boot for record in due}}
        for position, record in enumerate(due):
            payload = record.payload
            if record.kind is Kind.SAMPLE and record.seq == oldest[record.boot][0]:
                payload = self._renew(payload, *oldest[record.boot])
            try:
                self._link.publish(self._topics[record.kind], payload)
            except errors.OversizeError as error:
                if self._do_others_pass:
                    self._set_aside(record, error)
                    oldest[record.boot] = self._spool.oldest_of(record.boot)  # so that the next one tells of the gap
                elif not self._is_narrow:
                    self._is_narrow = True
                    _LOG.warning("%s; it is kept: raise the broker's limit", error)
            except errors.LinkError:
                self._spool.put_back(due[position:])
                raise
            else:
                self._do_others_pass |= record.kind is Kind.SAMPLE
        return len(due) == _AT_ONCE

    def _set_aside(self, record: Record, error: errors.OversizeError) -> None:
        """No receipt would ever go past it: better a gap that is counted and told.

        Only where other Samples pass: a broker that takes none at all is set up wrongly, and everything is kept for
        the day it is mended.
        """
        if self._spool.set_aside(record, str(error)):
            _LOG.warning("record %d of boot %s is set aside: %s", record.seq, record.boot, error)

    def _note_failure(self, error: errors.LinkError) -> None:
        if self._link.snapshot().is_connected or self._is_away:
            return  # connected but busy: the rest goes out with the next round
        self._is_away = True
        _LOG.warning("the broker cannot be reached, telemetry is kept here until it is back: %s", error)

    def _note_success(self) -> None:
        if self._is_away and self._link.snapshot().is_connected:
            self._is_away = False
            _LOG.warning("the broker is back; %d records are waiting for a receipt", self.snapshot().held)
