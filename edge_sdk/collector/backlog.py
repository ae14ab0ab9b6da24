"""Messages between the network thread and the worker: bounded in bytes; what does not fit is dropped and counted."""

import threading
from collections import deque
from typing import NamedTuple

from edge_sdk.link.protocol import Message

MESSAGE_BYTES = 400
"""What Python needs to hold one message, beside its payload."""


class Waiting(NamedTuple):
    """One message and the Unix time of its arrival."""

    message: Message
    received_t: float

    @property
    def size_bytes(self) -> int:
        """What it costs to hold."""
        return len(self.message.payload) + MESSAGE_BYTES


class Backlog:
    """A queue that is never longer than `limit_bytes`; safe from any thread."""

    def __init__(self, limit_bytes: int) -> None:
        self.received = self.overflowed = 0
        self._limit_bytes = limit_bytes
        self._queue: deque[Waiting] = deque()
        self._size_bytes = 0
        self._is_closed = False
        self._changed = threading.Condition()

    def __len__(self) -> int:
        return len(self._queue)

    def put(self, waiting: Waiting) -> None:
        """Keeps one message, or counts it as dropped: no room, or closed. Never waits for the taker."""
        with self._changed:
            self.received += 1
            if self._is_closed or self._size_bytes + waiting.size_bytes > self._limit_bytes:
                self.overflowed += 1
                return
            self._queue.append(waiting)
            self._size_bytes += waiting.size_bytes
            self._changed.notify()

    def take(self, limit: int, *, wait_s: float, gather_s: float) -> list[Waiting]:
        """Gives up to `limit` messages, oldest first.

        Args:
            limit: messages.
            wait_s: how long to wait for the first one.
            gather_s: how long to wait for `limit` once the first is there.
        """
        with self._changed:
            if self._changed.wait_for(lambda: self._queue or self._is_closed, wait_s):
                self._changed.wait_for(lambda: len(self._queue) >= limit or self._is_closed, gather_s)
            batch = [self._queue.popleft() for _ in range(min(limit, len(self._queue)))]
            self._size_bytes -= sum(waiting.size_bytes for waiting in batch)
            return batch

    def close(self) -> None:
        """Takes nothing more, and ends every waiting; what is there can still be taken."""
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()
