"""How commands print: progress on stderr, one JSON document on stdout."""

import sys
import threading
from collections.abc import Callable
from types import TracebackType
from typing import Protocol

import msgspec

from edge_sdk import clock

_REDRAW_S = 0.1

_BRIEF_S = 0.5
"""A stage that tells no steps is shown once it has taken so long."""

_TICK_S = 1.0
"""The seconds on a terminal go on so often while a stage tells nothing."""

_LOG_EVERY_S = 30.0
"""A long stage gets a line in a log so often."""

_STEP_WIDTH = 24


def print_json(document: object) -> None:
    """Prints one JSON document and nothing else on stdout."""
    sys.stdout.write(msgspec.json.format(msgspec.json.encode(document), indent=2).decode() + "\n")
    sys.stdout.flush()


def say(text: str) -> None:
    """Prints one line for people on stderr, where it never mixes with a JSON document."""
    print(text, file=sys.stderr, flush=True)


class Progress:
    """Shows what runs and how far it is on stderr: a bar on a terminal; elsewhere a line as a stage begins and ends.

    Call it as ``progress(stage, done, total)``, which is the shape of callback that the builder takes, inside of
    ``with``, which ends the last line.
    """

    def __init__(self, ticks: clock.Clock | None = None) -> None:
        now = (ticks or clock.SystemClock()).boot_s
        self._is_terminal = sys.stderr.isatty()
        self._view: _View = _Bar(now) if self._is_terminal else _Log(now)
        self._lock = threading.Lock()
        self._is_left = threading.Event()
        self._ticker = threading.Thread(target=self._tick, name="progress", daemon=True)

    def __call__(self, stage: str, done: int, total: int) -> None:
        """Shows that `done` of `total` steps of `stage` are through; 0 of 1 as one begins that tells no steps."""
        with self._lock:
            self._view.show(stage, done, total)

    def __enter__(self) -> "Progress":
        """Lets the seconds of a terminal go on."""
        if self._is_terminal:
            self._ticker.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, _error: object, _trace: TracebackType | None) -> None:
        """Ends what is shown."""
        self._is_left.set()
        if self._is_terminal:
            self._ticker.join()
        self._view.close(is_done=kind is None)

    def _tick(self) -> None:
        while not self._is_left.wait(_TICK_S):
            with self._lock:
                self._view.tick()


class _View(Protocol):
    """How progress is shown."""

    def show(self, stage: str, done: int, total: int) -> None: ...

    def tick(self) -> None: ...

    def close(self, *, is_done: bool) -> None: ...


class _Bar:
    """One line of a terminal for each stage, drawn anew in place."""

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self._stage = ""
        self._done, self._total = 0, 1
        self._started_s = self._drawn_s = 0.0
        self._is_open = self._is_drawn = False

    def show(self, stage: str, done: int, total: int) -> None:
        """Draws the line, unless it was drawn just now."""
        now_s = self._now()
        is_over = done >= total
        if stage != self._stage or (not self._is_open and not is_over):
            self.close(is_done=True)
            self._stage, self._started_s, self._drawn_s, self._is_open = stage, now_s, 0.0, True
        if not self._is_open:
            return  # told twice that it is over
        self._done, self._total = done, total
        if is_over or now_s - self._drawn_s >= _REDRAW_S:
            self._draw(now_s)
        if is_over:
            self.close(is_done=True)

    def tick(self) -> None:
        """Lets the seconds go on."""
        if self._is_open and self._now() - self._drawn_s >= _TICK_S:
            self._draw(self._now())

    def close(self, *, is_done: bool) -> None:  # noqa: ARG002 - the line shows by itself how far it came
        """Ends the line."""
        if self._is_open and self._is_drawn:
            sys.stderr.write("\n")
            sys.stderr.flush()
        self._is_open = self._is_drawn = False

    def _draw(self, now_s: float) -> None:
        spent_s = now_s - self._started_s
        if self._total <= 1 and spent_s < _BRIEF_S and not self._is_drawn:
            return
        self._drawn_s, self._is_drawn = now_s, True
        share = min(self._done / max(self._total, 1), 1.0)
        steps = f"{self._done:>6}/{self._total:<6}" if self._total > 1 else " " * 13
        left = f"{spent_s * (1 - share) / share:4.0f} s left" if 0 < share < 1 else f"{spent_s:4.0f} s     "
        sys.stderr.write(f"\r{self._stage:<12.12} [{'#' * int(share * _STEP_WIDTH):<{_STEP_WIDTH}}] {steps} {left}")
        sys.stderr.flush()


class _Log:
    """A line as a stage begins and one as it ends, for what keeps every line; a long one is heard of in between.

    A stage that comes again right after itself is one stage.
    """

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self._stage = ""
        self._started_s = self._told_s = self._last_s = 0.0
        self._is_over = False

    def show(self, stage: str, done: int, total: int) -> None:
        """Writes a line where one is due."""
        now_s = self._now()
        if stage != self._stage:
            self.close(is_done=True)
            self._stage, self._started_s, self._told_s = stage, now_s, now_s
            say(f"edge-sdk: {stage} ...")
        elif done < total and now_s - self._told_s >= _LOG_EVERY_S:
            self._told_s = now_s
            say(f"edge-sdk: {stage}: {done} of {total}, {now_s - self._started_s:.0f} s so far")
        self._last_s, self._is_over = now_s, done >= total

    def tick(self) -> None:
        """Writes nothing: a log has no seconds that go on."""

    def close(self, *, is_done: bool) -> None:
        """Writes how long the stage took."""
        if not self._stage:
            return
        if is_done or self._is_over:
            say(f"edge-sdk: {self._stage}: done in {self._last_s - self._started_s:.1f} s")
        else:
            say(f"edge-sdk: {self._stage}: stopped after {self._now() - self._started_s:.1f} s")
        self._stage = ""
