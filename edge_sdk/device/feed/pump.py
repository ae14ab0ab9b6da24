"""A bounded queue between a source and whoever is slower; a live source loses its oldest frames, others wait."""

import threading
from collections import deque
from collections.abc import Callable, Iterator

from edge_sdk.device.feed.frames import Frame, Source

_LOOK_S = 0.1
_JOIN_S = 2.0
"""How long a source may take to notice that it was closed; one that hangs in a read ends with the process."""


class Pump:
    """Reads a source in a thread of its own. Use as an iterator, once; then `close`.

    Args:
        source: of the frames.
        capacity: frames that may wait.
        is_stopped: asked several times a second; True ends the iteration.

    Attributes:
        dropped: frames that gave way to newer ones.
    """

    def __init__(self, source: Source, *, capacity: int, is_stopped: Callable[[], bool] = lambda: False) -> None:
        self.dropped = 0
        self._source = source
        self._capacity = capacity
        self._is_stopped = is_stopped
        self._waiting: deque[Frame] = deque()
        self._changed = threading.Condition()
        self._is_over = False
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._read, name="source", daemon=True)

    def __iter__(self) -> Iterator[Frame]:
        """Gives the frames in order; what stopped the source is raised after the last one that it gave."""
        self._thread.start()
        while (frame := self._next()) is not None:
            yield frame
        if self._error is not None:
            raise self._error

    def close(self) -> None:
        """Ends the source and its thread; frames that wait are left."""
        self._source.close()
        with self._changed:
            self._is_over = True
            self._changed.notify_all()
        if self._thread.is_alive():
            self._thread.join(_JOIN_S)

    def _next(self) -> Frame | None:
        with self._changed:
            while not self._waiting and not self._is_over and not self._is_stopped():
                self._changed.wait(_LOOK_S)
            frame = self._waiting.popleft() if self._waiting and not self._is_stopped() else None
            self._changed.notify_all()
            return frame

    def _read(self) -> None:
        error: BaseException | None = None
        try:
            for frame in self._source.frames():
                if not self._put(frame):
                    break
        except Exception as caught:  # noqa: BLE001 # boundary: it is raised again on the thread that iterates
            error = caught
        with self._changed:
            self._error = error
            self._is_over = True
            self._changed.notify_all()

    def _put(self, frame: Frame) -> bool:
        """Queues a frame; False when nobody wants any more."""
        with self._changed:
            while len(self._waiting) >= self._capacity and not self._is_over:
                if self._source.is_live:
                    self._waiting.popleft()
                    self.dropped += 1
                else:
                    self._changed.wait(_LOOK_S)
            if self._is_over:
                return False
            self._waiting.append(frame)
            self._changed.notify_all()
            return True
