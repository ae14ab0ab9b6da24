"""When to roll up and when to prune: a little at a time, between two batches, seldom while messages wait."""

import logging

from edge_sdk import clock, errors
from edge_sdk.collector.store.rows import Retention, Store

_LOG = logging.getLogger(__name__)

_ROLL_S = 10.0  # a question reads at most so many seconds of single Samples, while the collector keeps up
_SLICE_ROWS = 5_000  # about 100 ms
_SLICE_MAX = 50_000  # about a second, of five thousand devices
_BUSY_ROWS = 2_000  # about 40 ms
_BUSY_REST = 3.0  # times as long as it worked, while messages wait: they get three quarters of the time
_PRUNE_S = 60.0


class Housekeeper:
    """Keeps one store's roll-ups fresh and its size bounded. Used by the thread that writes to it."""

    def __init__(self, store: Store, retention: Retention, clocks: clock.Clock) -> None:
        self._store = store
        self._retention = retention
        self._clock = clocks
        self._rolled_s = self._pruned_s = clocks.boot_s()
        self._rested_s = self._rolled_s

    def run_if_due(self, *, is_busy: bool, devices: int = 0) -> None:
        """Does one slice of what is due; a store that does not take it is asked again later.

        Args:
            is_busy: more messages wait to be stored.
            devices: how many there are. What comes from all of them before the next roll-up goes into one slice, as a
                chunk is written once for all its rows of a slice.
        """
        now_s = self._clock.boot_s()
        if is_busy and now_s < self._rested_s:
            return
        try:
            if now_s - self._rolled_s >= _ROLL_S:
                limit = _BUSY_ROWS if is_busy else min(_SLICE_MAX, max(_SLICE_ROWS, int(_ROLL_S) * devices))
                if self._store.roll_up(limit=limit) < limit:
                    self._rolled_s = now_s
            elif now_s - self._pruned_s >= _PRUNE_S and (
                self._store.prune(self._retention, self._clock.wall_s(), limit=_SLICE_ROWS) < _SLICE_ROWS
            ):
                self._pruned_s = now_s
        except errors.StoreError as error:
            self._rolled_s = self._pruned_s = now_s
            _LOG.warning("%s; rolled up later", error)
        end_s = self._clock.boot_s()
        self._rested_s = end_s + _BUSY_REST * (end_s - now_s)
