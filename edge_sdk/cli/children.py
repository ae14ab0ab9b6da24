"""Processes that live no longer than the command that started them, however it ends."""

import ctypes
import os
import selectors
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import msgspec

from edge_sdk import clock, errors

_PR_SET_PDEATHSIG = 1
_LIBC = ctypes.CDLL(None, use_errno=True)
_STOP_S = 5.0
"""How long a child may take to end after SIGTERM before it is killed."""


class Child:
    """A running ``edge-sdk`` command; its log is a file in the folder of the run."""

    def __init__(self, name: str, process: "subprocess.Popen[bytes]", log: Path, ticks: clock.Clock) -> None:
        self.name = name
        self.log = log
        self.process = process
        self._clock = ticks
        self._pending = b""

    def read_document(self, timeout_s: float) -> dict[str, Any]:
        """Gives the next JSON document that the child prints.

        Raises:
            EngineError: it ended, or said nothing within `timeout_s`; the message shows the end of its log.
        """
        assert self.process.stdout is not None
        deadline_s = self._clock.boot_s() + timeout_s
        with selectors.DefaultSelector() as selector:
            selector.register(self.process.stdout, selectors.EVENT_READ)
            while True:
                document = _document(self._pending)
                if document is not None:
                    self._pending = b""
                    return document
                left_s = deadline_s - self._clock.boot_s()
                if left_s <= 0:
                    raise errors.EngineError(f"{self.name} said nothing for {timeout_s:.0f} s{self.last_words()}")
                if selector.select(left_s):
                    chunk = os.read(self.process.stdout.fileno(), 65536)
                    if not chunk:
                        code = self.process.wait()
                        raise errors.EngineError(f"{self.name} ended with exit code {code}{self.last_words()}")
                    self._pending += chunk

    def last_words(self) -> str:
        """Gives the last lines of the child's log, for a message."""
        lines = self.log.read_text(errors="replace").strip().splitlines()[-6:] if self.log.exists() else []
        return "; its log ends:\n  " + "\n  ".join(lines) if lines else f"; see {self.log}"

    def stop(self) -> dict[str, Any] | None:
        """Ends the child (SIGTERM, then SIGKILL) and gives the document that it printed while ending, if any."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            rest, _ = self.process.communicate(timeout=_STOP_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            rest, _ = self.process.communicate()
        return _document(self._pending + rest)


class Children:
    """Starts ``edge-sdk`` commands and ends them, last first, when the block is left."""

    def __init__(self, folder: Path, ticks: clock.Clock | None = None) -> None:
        self._folder = folder
        self._clock = ticks or clock.SystemClock()
        self._running: list[Child] = []

    def start(self, name: str, arguments: Sequence[str], *, is_quiet: bool = True) -> Child:
        """Starts ``edge-sdk ARGUMENTS`` in a session of its own, so that Ctrl-C reaches only the command above.

        Args:
            name: of the child and its log file.
            arguments: of the command.
            is_quiet: its stderr goes into the log; otherwise people see its progress.
        """
        log = self._folder / f"{name}.log"
        # Ctrl-C waits until the child is on the list: inside a fork Python would print the interrupt and forget it.
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            with log.open("wb") as stream:
                process = subprocess.Popen(
                    [sys.executable, "-m", "edge_sdk", *arguments],
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.PIPE,
                    stderr=stream if is_quiet else None,
                    start_new_session=True,
                    preexec_fn=_end_with(os.getpid()),  # noqa: PLW1509 - two system calls; nothing a thread could hold
                )
            child = Child(name, process, log, self._clock)
            self._running.append(child)
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
        return child

    def stop(self, child: Child) -> dict[str, Any] | None:
        """Ends one child before the block does; gives its closing document."""
        self._running.remove(child)
        return child.stop()

    def __enter__(self) -> "Children":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # A second Ctrl-C must not leave a child behind while the first is being served.
        before = signal.signal(signal.SIGINT, signal.SIG_IGN)
        try:
            while self._running:
                self._running.pop().stop()
        finally:
            signal.signal(signal.SIGINT, before)


def _document(raw: bytes) -> dict[str, Any] | None:
    try:
        document = msgspec.json.decode(raw)
    except msgspec.DecodeError:
        return None
    return document if isinstance(document, dict) else None


def _end_with(parent: int) -> "Any":
    """Gives what a new child does first: ask the kernel for SIGTERM when its parent dies, even by kill -9."""

    def ask() -> None:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
        _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != parent:  # it died before we could ask
            os._exit(1)

    return ask
