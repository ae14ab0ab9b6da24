"""Dynamic batching: requests that fit together share one run, and each gets exactly its own rows back.

The first of a batch runs it, in its own thread; the others sleep until it is done. A batch stays open while its first
request waits for others or for an engine, so under load batches fill up without anyone waiting for them.
"""

import logging
import threading
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from edge_sdk import errors
from edge_sdk.device.serve.gate import Gate
from edge_sdk.engines.engine import Engine, Result
from edge_sdk.engines.protocol import Tensors
from edge_sdk.records import tensors
from edge_sdk.records.timings import Timings

_LOG = logging.getLogger(__name__)

Feeds = Mapping[str, NDArray[Any]]


class Turn(NamedTuple):
    """When a request may run.

    Attributes:
        priority: 1 is the most urgent.
        deadline_ns: on the process's monotonic clock; 0 for none.
        is_own: the deadline is the request's own, so it does not wait for others.
    """

    priority: int
    deadline_ns: int = 0
    is_own: bool = False


class Share(NamedTuple):
    """What a request got: its rows of the outputs, and whether it was another one that ran the engine."""

    result: Result
    is_guest: bool


class _Batch:
    """Requests that are run together; all fields are written under the batcher's lock until `is_closed`."""

    def __init__(self) -> None:
        self.parts: list[Feeds] = []
        self.rows: list[int] = []
        self.is_full = threading.Event()
        self.is_done = threading.Event()
        self.result: Result | None = None
        self.started_ns = 0


class Batcher:
    """Runs the requests of one model through its gate, together where they fit."""

    def __init__(self, gate: Gate, *, max_rows: int, wait_s: float, tick_ns: Callable[[], int]) -> None:
        self._gate = gate
        self._max_rows = max_rows
        self._wait_s = wait_s
        self._tick_ns = tick_ns
        self._lock = threading.Lock()
        self._open: dict[tuple[Any, ...], _Batch] = {}
        self._is_off = False

    def run(self, feeds: Feeds, turn: Turn) -> Share:
        """Gives the outputs for `feeds`, each array of which has the same number of rows.

        Raises:
            BusyError: no engine became free in time.
            EngineError: the run failed; one that failed with others was tried again alone.
        """
        rows = {array.shape[0] if array.ndim else 0 for array in feeds.values()}
        if len(rows) != 1 or turn.is_own or self._is_off or not 0 < max(rows) < self._max_rows:
            return Share(self._alone(feeds, turn), is_guest=False)
        count = rows.pop()
        key = (turn.priority, *((name, array.dtype, array.shape[1:]) for name, array in feeds.items()))
        entered_ns = self._tick_ns()
        batch, place = self._join(key, feeds, count)
        if place == 0:
            self._lead(batch, key, turn)
        else:
            batch.is_done.wait()
        if batch.result is None:  # it failed, and whose fault that was shows when each runs alone
            return Share(self._alone(feeds, turn), is_guest=False)
        spent = _spent(batch.result.timings, batch.started_ns - entered_ns)
        if len(batch.parts) == 1:
            return Share(Result(batch.result.outputs, spent), is_guest=False)
        first = sum(batch.rows[:place])
        own = {name: array[first : first + count] for name, array in batch.result.outputs.items()}
        return Share(Result(own, spent), is_guest=place > 0)

    def _alone(self, feeds: Feeds, turn: Turn) -> Result:
        waiting_ns = self._tick_ns()
        engine = self._gate.take(turn.priority, turn.deadline_ns)
        try:
            started_ns = self._tick_ns()
            outputs, spent = engine.run(feeds)
        finally:
            self._gate.give(engine)
        return Result(outputs, _spent(spent, started_ns - waiting_ns))

    def _join(self, key: tuple[Any, ...], feeds: Feeds, rows: int) -> tuple[_Batch, int]:
        """Puts a request into the open batch of its kind, or opens one; gives the batch and the place in it."""
        with self._lock:
            batch = self._open.get(key)
            if batch is None or sum(batch.rows) + rows > self._max_rows:
                batch = self._open[key] = _Batch()
            batch.parts.append(feeds)
            batch.rows.append(rows)
            if sum(batch.rows) == self._max_rows:
                del self._open[key]
                batch.is_full.set()
            return batch, len(batch.parts) - 1

    def _lead(self, batch: _Batch, key: tuple[Any, ...], turn: Turn) -> None:
        try:
            if self._wait_s:
                batch.is_full.wait(self._wait_s)
            engine = self._gate.take(turn.priority, turn.deadline_ns)
            try:
                self._close(batch, key)
                batch.started_ns = self._tick_ns()
                batch.result = self._together(engine, batch)
            finally:
                self._gate.give(engine)
        except errors.EngineError as error:
            _LOG.debug("a batch of %d failed, each is tried alone: %s", len(batch.parts), error)
        finally:
            self._close(batch, key)
            batch.is_done.set()

    def _close(self, batch: _Batch, key: tuple[Any, ...]) -> None:
        with self._lock:
            if self._open.get(key) is batch:
                del self._open[key]

    def _together(self, engine: Engine, batch: _Batch) -> Result | None:
        if len(batch.parts) == 1:
            return engine.run(batch.parts[0])
        joined = {name: np.concatenate([part[name] for part in batch.parts]) for name in batch.parts[0]}
        result = engine.run(joined)
        if _has_rows(result.outputs, sum(batch.rows)):
            return result
        _LOG.warning("batching is switched off: %s gives no row of each output per row of input", engine.name)
        self._is_off = True
        return None


def can_batch(inputs: tuple[tensors.TensorSpec, ...], outputs: tuple[tensors.TensorSpec, ...]) -> bool:
    """Tells whether the first axis of every input and output is free."""
    return bool(outputs) and all(spec.shape and spec.shape[0] is None for spec in (*inputs, *outputs))


def _has_rows(outputs: Tensors, rows: int) -> bool:
    return all(array.ndim and array.shape[0] == rows for array in outputs.values())


def _spent(timings: Timings, waited_ns: int) -> Timings:
    return Timings(
        timings.queue_ns + waited_ns,
        timings.pre_ns,
        timings.copy_in_ns,
        timings.compute_ns,
        timings.copy_out_ns,
        timings.post_ns,
    )
