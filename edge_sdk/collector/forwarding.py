"""Carries what is stored on to VictoriaMetrics, for long retention and PromQL over the fleet.

It stands behind the store and not in its place: a receipt is a promise that a Sample is kept once and for good, and
VictoriaMetrics has no transaction, tells nobody what it has already, and may lose what it took in its last seconds when
it is killed. So each Sample is committed here first, receipted, and carried on from there, in order, from a place that
lies in the same database. A server that was away, or has been started anew, gets everything since that place once more;
with ``-dedup.minScrapeInterval=1ms`` it keeps one of two equal points. What it misses for longer than Samples are kept
(`raw_days`) it misses for good.
"""

import logging
import threading
from collections import deque

import msgspec

from edge_sdk import clock, errors
from edge_sdk.collector.export import victoria
from edge_sdk.collector.store import opening
from edge_sdk.collector.store.rows import Place

_LOG = logging.getLogger(__name__)

_NAME = "victoria"
_ROWS = 1000  # about 600 kB of lines
_IDLE_S = 2.0  # a roll-up, which lets Samples through, comes every ten seconds
_RETRY_S = 2.0
_SETTLED_S = 30.0  # far longer than the server keeps what it took in memory alone


class ForwardingState(msgspec.Struct, frozen=True, kw_only=True):
    """What has been carried on since the start.

    Attributes:
        forwarded: Samples that the server took, those once more included.
        forward_failures: attempts that it did not take.
        forward_repeats: times that Samples were sent once more, as the server had been away or started anew.
    """

    forwarded: int
    forward_failures: int
    forward_repeats: int


class Forwarding:
    """Runs beside the collector's service, from the moment it is made until `close`."""

    def __init__(self, database: str, url: str, clocks: clock.Clock) -> None:
        """Starts; the collector's database must have been opened before.

        Args:
            database: where Samples are committed.
            url: of the server.
            clocks: for how long ago the server took something.

        Raises:
            SettingsError: no such URL, or the database can't be used.
        """
        self._server = victoria.Victoria(url)
        self._clock = clocks
        self._store = opening.open_store(database)
        self._reader = opening.open_reader(database)
        self._taken: deque[tuple[float, Place]] = deque()
        self._started: float | None = None
        self._place: Place | None = None
        self._state = ForwardingState(forwarded=0, forward_failures=0, forward_repeats=0)
        self._is_failing = False
        self._is_closing = threading.Event()
        self._thread = threading.Thread(target=self._work, name="forwarding", daemon=True)
        self._thread.start()

    def snapshot(self) -> ForwardingState:
        """Gives the counts at this moment."""
        return self._state

    def close(self, timeout_s: float = 5.0) -> None:
        """Ends; what was not carried on yet is by the next start."""
        self._is_closing.set()
        self._thread.join(timeout_s)

    # Everything below runs on the thread.

    def _work(self) -> None:
        try:
            while not self._is_closing.is_set():
                try:
                    wait_s = 0.0 if self._carry() else _IDLE_S
                except (errors.LinkError, errors.StoreError) as error:
                    self._note_failure(error)
                    wait_s = _RETRY_S
                self._is_closing.wait(wait_s)
        finally:
            self._server.close()
            self._reader.close()
            self._store.close()

    def _carry(self) -> bool:
        """Carries one lot on; tells whether there is more."""
        self._look_for_a_new_start()
        self._settle()
        place = self._place or self._kept_place()
        rows = self._reader.rolled_after(place, _ROWS)
        if rows:
            self._server.write(victoria.lines(row[1:] for row in rows))
            self._place = rows[-1][0]
            self._taken.append((self._clock.boot_s(), self._place))
            self._count(forwarded=len(rows))
            self._is_failing = False
        return len(rows) == _ROWS

    def _look_for_a_new_start(self) -> None:
        """Goes back to what is certainly on the server's disk if its process is not the one that took the rest."""
        started = self._server.started()
        if started is None or started == self._started:
            return
        self._started = started
        if self._taken:
            self._count(forward_repeats=1)
        self._taken.clear()
        self._place = None

    def _settle(self) -> None:
        """Keeps the place up to which everything has been with the server for long enough."""
        now_s, settled = self._clock.boot_s(), None
        while self._taken and now_s - self._taken[0][0] >= _SETTLED_S:
            settled = self._taken.popleft()[1]
        if settled is not None:
            with self._store.transaction():
                self._store.keep_place(_NAME, settled)

    def _kept_place(self) -> Place:
        with self._store.transaction():
            return self._store.place(_NAME)

    def _count(self, *, forwarded: int = 0, forward_failures: int = 0, forward_repeats: int = 0) -> None:
        state = self._state
        self._state = ForwardingState(
            forwarded=state.forwarded + forwarded,
            forward_failures=state.forward_failures + forward_failures,
            forward_repeats=state.forward_repeats + forward_repeats,
        )

    def _note_failure(self, error: errors.EdgeError) -> None:
        self._count(forward_failures=1)
        if not self._is_failing:
            self._is_failing = True
            _LOG.warning("%s; carried on later, nothing is lost while Samples are kept", error)
