"""How commands print: progress on a terminal's stderr, one JSON document on stdout."""

import sys

import msgspec

from edge_sdk import clock

_REDRAW_S = 0.1


def print_json(document: object) -> None:
    """Prints one JSON document and nothing else on stdout."""
    sys.stdout.write(msgspec.json.format(msgspec.json.encode(document), indent=2).decode() + "\n")
    sys.stdout.flush()


def say(text: str) -> None:
    """Prints one line for people on stderr, where it never mixes with a JSON document."""
    print(text, file=sys.stderr, flush=True)


class Progress:
    """A bar on stderr while something long runs; silent where stderr is not a terminal.

    Call it as ``progress(stage, done, total)``; this is the shape of callback that the builder takes.
    """

    def __init__(self, ticks: clock.Clock | None = None) -> None:
        self._clock = ticks or clock.SystemClock()
        self._is_terminal = sys.stderr.isatty()
        self._stage = ""
        self._started_s = self._drawn_s = 0.0

    def __call__(self, stage: str, done: int, total: int) -> None:
        """Shows that `done` of `total` steps of `stage` are through."""
        if not self._is_terminal:
            return
        now_s = self._clock.boot_s()
        if stage != self._stage:
            self._stage, self._started_s, self._drawn_s = stage, now_s, 0.0
        if done < total and now_s - self._drawn_s < _REDRAW_S:
            return
        self._drawn_s = now_s
        share = done / max(total, 1)
        bar = "#" * int(share * 24)
        left = f"{(now_s - self._started_s) * (1 - share) / share:4.0f} s left" if 0 < share < 1 else " " * 11
        end = "\n" if done >= total else ""
        sys.stderr.write(f"\r{stage:<12.12} [{bar:<24}] {done:>6}/{total:<6} {left}{end}")
        sys.stderr.flush()
