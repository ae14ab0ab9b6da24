"""SIGTERM and SIGINT as a question that a main loop can wait on, without a race between asking and waiting."""

import contextlib
import select
import signal
import socket
from types import FrameType, TracebackType
from typing import Any

_SIGNALS = (signal.SIGTERM, signal.SIGINT)


class Stop:
    """Inside the block, SIGTERM and SIGINT no longer end the process: they end `wait`. Main thread only."""

    def __init__(self) -> None:
        self._is_asked = False
        self._reader, self._writer = socket.socketpair()
        self._before: list[Any] = []

    def wait(self, seconds: float) -> bool:
        """Waits for `seconds`, or until a signal comes; tells whether one has come."""
        if not self._is_asked:
            select.select([self._reader], [], [], seconds)
        return self._is_asked

    def __enter__(self) -> "Stop":
        self._writer.setblocking(False)
        # The interpreter writes to it at once, wherever the main thread is: a signal before select is not missed.
        self._wakeup_before = signal.set_wakeup_fd(self._writer.fileno(), warn_on_full_buffer=False)
        self._before = [signal.signal(number, self._note) for number in _SIGNALS]
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, before in zip(_SIGNALS, self._before, strict=True):
            signal.signal(number, before)
        with contextlib.suppress(ValueError):
            signal.set_wakeup_fd(self._wakeup_before)
        self._reader.close()
        self._writer.close()

    def _note(self, number: int, frame: FrameType | None) -> None:
        del number, frame
        self._is_asked = True
