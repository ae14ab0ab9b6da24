"""Where requests wait for an engine: bounded, by priority, each until its deadline.

There is no worker thread: whoever brings a request runs it, so an engine that is free costs no hand-over, which
takes longer than a small model does.
"""

import heapq
import itertools
import threading
from collections.abc import Callable, Sequence

import msgspec

from edge_sdk import errors
from edge_sdk.engines.engine import Engine

PRIORITY_LEVELS = 9
DEFAULT_PRIORITY = 5
"""Of a request that names none; 1 is the most urgent, as Triton counts."""


class Scheduling(msgspec.Struct, frozen=True, kw_only=True):
    """How requests of one model wait and run.

    Attributes:
        queue_size: requests that may wait while every engine is busy; one more is refused at once.
        timeout_us: microseconds that a request without a deadline of its own may wait; 0 is for ever.
        max_batch: rows that are run at once at most; 1 runs each request alone.
        batch_wait_us: microseconds that a request waits for others to share its run with.
    """

    queue_size: int = 64
    timeout_us: int = 0
    max_batch: int = 1
    batch_wait_us: int = 0


class _Waiter:
    """One who waits: `turn` is released when `engine` is theirs."""

    __slots__ = ("engine", "turn")

    def __init__(self) -> None:
        self.engine: Engine | None = None
        self.turn = threading.Lock()
        self.turn.acquire()


class Gate:
    """Hands out the engines of one model. Any thread may ask; whoever got one must give it back."""

    def __init__(self, engines: Sequence[Engine], *, queue_size: int, tick_ns: Callable[[], int]) -> None:
        self._free = list(engines)
        self._queue_size = queue_size
        self._tick_ns = tick_ns
        self._lock = threading.Lock()
        self._waiting: list[tuple[int, int, _Waiter]] = []
        self._arrivals = itertools.count()

    def take(self, priority: int = DEFAULT_PRIORITY, deadline_ns: int = 0) -> Engine:
        """Gives an engine for one run: at once if one is free, else in order of priority, then of arrival.

        Args:
            priority: 1 is the most urgent.
            deadline_ns: on the process's monotonic clock; 0 waits for ever.

        Raises:
            BusyError: too many wait already, or the deadline has passed.
        """
        with self._lock:
            if self._free:
                return self._free.pop()
            if len(self._waiting) >= self._queue_size:
                raise errors.BusyError(
                    f"Exceeds maximum queue size: {self._queue_size} requests wait already; try again later"
                )
            waiter = _Waiter()
            entry = (priority, next(self._arrivals), waiter)
            heapq.heappush(self._waiting, entry)
        left_s = max(0.0, (deadline_ns - self._tick_ns()) / 1e9) if deadline_ns else -1
        if not waiter.turn.acquire(timeout=min(left_s, threading.TIMEOUT_MAX)):
            self._withdraw(entry)
        assert waiter.engine is not None
        return waiter.engine

    def give(self, engine: Engine) -> None:
        """Takes an engine back, for whoever is next."""
        with self._lock:
            if not self._waiting:
                self._free.append(engine)
                return
            waiter = heapq.heappop(self._waiting)[2]
        waiter.engine = engine
        waiter.turn.release()

    def _withdraw(self, entry: tuple[int, int, _Waiter]) -> None:
        """Takes a late waiter out, unless its turn came in this very moment: then it is used, not wasted."""
        with self._lock:
            if entry not in self._waiting:
                is_mine = True
            else:
                is_mine = False
                self._waiting.remove(entry)
                heapq.heapify(self._waiting)
        if not is_mine:
            raise errors.BusyError("Request timeout expired: no engine became free before its deadline")
        entry[2].turn.acquire()  # handed over, or about to be
