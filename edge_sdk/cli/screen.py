"""The terminal as a page of its own that is given back as it was, however the command ends."""

import contextlib
import os
import select
import shutil
import signal
import sys
import termios
from collections.abc import Iterable
from types import FrameType, TracebackType
from typing import Any

_ENTER = "\x1b[?1049h\x1b[?25l\x1b[?7l"
"""The other page, no cursor, no line wrap."""
_LEAVE = "\x1b[?7h\x1b[?25h\x1b[?1049l"
_KEYS = {b"\x1b[A": "up", b"\x1bOA": "up", b"\x1b[B": "down", b"\x1bOB": "down", b"\t": "tab",
         b"k": "up", b"j": "down", b"q": "q", b"Q": "q"}  # fmt: skip


class Screen:
    """Inside the block, stdout is a page that `draw` fills, and `typed` gives the keys. Main thread only.

    Ctrl-C stays a signal; Ctrl-Z gives the terminal back until the command goes on.
    """

    def __init__(self) -> None:
        self._attributes: list[Any] | None = None
        self._before: Any = None

    def __enter__(self) -> "Screen":
        self._take()
        self._before = signal.signal(signal.SIGTSTP, self._suspend)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        signal.signal(signal.SIGTSTP, self._before)
        self._give_back()

    def size(self, width: int, height: int) -> tuple[int, int]:
        """Gives columns and lines; those named where the terminal does not tell."""
        found = shutil.get_terminal_size((width, height))
        return found.columns, found.lines

    def draw(self, lines: Iterable[str]) -> None:
        """Writes over what is there, a line for each of the terminal's: nothing flickers."""
        # Cleared before it is written: clearing after a line that is full would take its last letter away.
        sys.stdout.write("\x1b[H" + "\r\n".join(f"\x1b[2K{line}" for line in lines))
        sys.stdout.flush()

    def typed(self) -> list[str]:
        """Gives what was typed since the call before: ``up``, ``down``, ``tab``, ``q``; other keys say nothing."""
        found: list[str] = []
        while self._attributes is not None and select.select([sys.stdin], [], [], 0)[0]:
            typed = os.read(sys.stdin.fileno(), 64)
            if not typed:
                self._attributes = None
                break
            while typed:
                name = next((code for code in _KEYS if typed.startswith(code)), None)
                found += [_KEYS[name]] if name else []
                typed = typed[len(name or b"x") :]
        return found

    def _take(self) -> None:
        if sys.stdin.isatty():
            self._attributes = termios.tcgetattr(sys.stdin)
            silent = termios.tcgetattr(sys.stdin)
            silent[3] &= ~(termios.ECHO | termios.ICANON)
            termios.tcsetattr(sys.stdin, termios.TCSANOW, silent)
        sys.stdout.write(_ENTER)
        sys.stdout.flush()

    def _give_back(self) -> None:
        with contextlib.suppress(OSError):  # the terminal is gone
            sys.stdout.write(_LEAVE)
            sys.stdout.flush()
        if self._attributes is not None:
            with contextlib.suppress(termios.error):
                termios.tcsetattr(sys.stdin, termios.TCSANOW, self._attributes)

    def _suspend(self, number: int, frame: FrameType | None) -> None:
        del frame
        self._give_back()
        signal.signal(signal.SIGTSTP, signal.SIG_DFL)
        os.kill(os.getpid(), number)  # stops here until SIGCONT
        signal.signal(signal.SIGTSTP, self._suspend)
        self._take()
