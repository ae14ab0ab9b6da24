"""When to roll up and when to prune: a little at a time, between two batches, never while messages wait."""

import logging

from edge_sdk import clock, errors
from edge_sdk.collector.store.rows import Retention, Store

_LOG = logging.getLogger(__name__)

_ROLL_S = 20.0  # a question reads at most so many seconds of single Samples
_ROLL_ROWS = 20_000  # and about so many of them
_SLICE_ROWS = 2_000  # about 20 ms
_PRUNE_S = 60.0


class Housekeeper:
    """Keeps one store's roll-ups fresh and its size bounded. Used by the thread that writes to it."""

    def __init__(self, store: Store, retention: Retention, clocks: clock.Clock) -> None:
        self._store = store
        self._retention = retention
        self._clock = clocks
        self._rolled_s = self._pruned_s = clocks.boot_s()
        self._stored = 0

    def note_stored(self, count: int) -> None:
        """Counts Samples that were stored."""
        self._stored += count

    def run_if_due(self) -> None:
        """Does one slice of what is due; a store that is busy is asked again next time."""
        now_s = self._clock.boot_s()
        try:
            if self._stored >= _ROLL_ROWS or now_s - self._rolled_s >= _ROLL_S:
                if self._store.roll_up(limit=_SLICE_ROWS) < _SLICE_ROWS:
                    self._rolled_s, self._stored = now_s, 0
            elif now_s - self._pruned_s >= _PRUNE_S and (
                self._store.prune(self._retention, self._clock.wall_s(), limit=_SLICE_ROWS) < _SLICE_ROWS
            ):
                self._pruned_s = now_s
        except errors.StoreError as error:
            self._rolled_s = self._pruned_s = now_s
            _LOG.warning("%s; rolled up later", error)
