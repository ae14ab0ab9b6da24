"""The only module that reads a clock or waits; everyone else is handed a Clock."""

import ctypes
import time
from typing import Protocol

_TIMEX_BYTES = 512
"""More than `struct timex` has anywhere; all zero, it asks and changes nothing."""
_TIME_ERROR = 5
"""What adjtimex(2) gives for a clock that no time server, nor GPS receiver, keeps right."""


class Clock(Protocol):
    """Time as the SDK sees it: wall time for people, boot time for arithmetic."""

    def wall_s(self) -> float:
        """Unix time in seconds; may jump when the board's clock is set."""
        ...

    def boot_s(self) -> float:
        """Seconds since boot, suspend included; never jumps back while the machine is up."""
        ...

    def tick_ns(self) -> int:
        """Monotonic nanoseconds for differences of one process."""
        ...

    def is_synced(self) -> bool | None:
        """Whether a time server keeps the wall clock right; None where that can't be asked."""
        ...

    def sleep(self, seconds: float) -> None:
        """Waits for `seconds`."""
        ...


class SystemClock:
    """The machine's own clocks.

    >>> clock = SystemClock()
    >>> start_ns = clock.tick_ns()
    >>> clock.tick_ns() >= start_ns
    True
    """

    def wall_s(self) -> float:
        """Unix time in seconds."""
        return time.time()

    def boot_s(self) -> float:
        """Seconds since boot, suspend included (CLOCK_BOOTTIME; Linux)."""
        return time.clock_gettime(time.CLOCK_BOOTTIME)

    tick_ns = staticmethod(time.perf_counter_ns)
    """Monotonic nanoseconds; the C function itself, since the hot path calls it several times per inference."""

    def is_synced(self) -> bool | None:
        """What the kernel says (adjtimex(2)): whoever keeps the clock tells it, timesyncd, chrony and ntpd alike."""
        try:
            state = ctypes.CDLL(None).adjtimex(ctypes.create_string_buffer(_TIMEX_BYTES))
        except (AttributeError, OSError):  # a C library without it
            return None
        return None if state < 0 else state != _TIME_ERROR

    def sleep(self, seconds: float) -> None:
        """Blocks the calling thread for `seconds`."""
        time.sleep(seconds)
