"""Messages between the network thread and the worker: bounded in bytes; what does not fit is dropped and counted."""

import threading
from collections import deque
from collections.abc import Sequence
from typing import NamedTuple

from edge_sdk.link.protocol import Message

MESSAGE_BYTES = 400
"""What Python needs to hold one message, beside its payload."""


class Waiting(NamedTuple):
    """Messages that came at once, and the Unix time of their arrival."""

    messages: Sequence[Message]
    received_t: float

    @property
    def size_bytes(self) -> int:
        """What they cost to hold."""
        return sum([len(message.payload) for message in self.messages]) + MESSAGE_BYTES * len(self.messages)


class Backlog:
    """A queue that is never longer than `limit_bytes`; safe from any thread.

    Attributes:
        received: messages that were put.
        overflowed: those for which there was no room in time.
        turned_away: those that came after the close.
    """

    def __init__(self, limit_bytes: int) -> None:
        self.received = self.overflowed = self.turned_away = 0
        self._limit_bytes = limit_bytes
        self._queue: deque[Waiting] = deque()
        self._count = 0
        self._size_bytes = 0
        self._is_closed = False
        self._changed = threading.Condition()

    def __len__(self) -> int:
        return self._count

    def put(self, waiting: Waiting, *, wait_s: float = 0.0) -> None:
        """Keeps messages, or counts them as dropped when there is no room for them within `wait_s`, or never will be.

        A sender that waits here is not told that they arrived, and its broker holds the next ones back.
        """
        size_bytes = waiting.size_bytes
        with self._changed:
            self.received += len(waiting.messages)
            self._changed.wait_for(lambda: self._is_closed or self._has_room(size_bytes), wait_s)
            if self._is_closed:
                self.turned_away += len(waiting.messages)
            elif not self._has_room(size_bytes):
                self.overflowed += len(waiting.messages)
            else:
                self._queue.append(waiting)
                self._size_bytes += size_bytes
                self._count += len(waiting.messages)
                self._changed.notify_all()

    def take(self, limit: int, *, wait_s: float, gather_s: float) -> list[Waiting]:
        """Gives up to `limit` messages, oldest first.

        Args:
            limit: messages.
            wait_s: how long to wait for the first one.
            gather_s: how long to wait for `limit` once the first is there.
        """
        with self._changed:
            if self._changed.wait_for(lambda: self._count or self._is_closed, wait_s):
                self._changed.wait_for(lambda: self._count >= limit or self._is_closed, gather_s)
            taken: list[Waiting] = []
            while self._queue and limit > 0:
                waiting = self._queue.popleft()
                if len(waiting.messages) > limit:
                    self._queue.appendleft(waiting._replace(messages=waiting.messages[limit:]))
                    waiting = waiting._replace(messages=waiting.messages[:limit])
                limit -= len(waiting.messages)
                self._count -= len(waiting.messages)
                self._size_bytes -= waiting.size_bytes
                taken.append(waiting)
            self._changed.notify_all()
            return taken

    def close(self) -> None:
        """Takes nothing more, and ends every waiting; what is there can still be taken."""
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()

    def _has_room(self, size_bytes: int) -> bool:
        return self._size_bytes + size_bytes <= self._limit_bytes
