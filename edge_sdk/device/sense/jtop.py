"""What jtop knows and sysfs shows to root only, from edge-sdk-jtop.service: another process, never waited for.

Membership of jtop's group is close to root, and its service comes and goes, so neither the group nor the library is
in the daemon. The reader (`edge_sdk.device.sense.jtop_reader`) writes numbers to a socket; whatever it or jtop does,
the worst here is null with a reason.
"""

import contextlib
import socket
from pathlib import Path
from typing import Annotated

import msgspec

from edge_sdk import clock
from edge_sdk.device.sense import happenings
from edge_sdk.records.telemetry import Reading

SOURCE = "jtop"
_METRICS = (
    "gpu_utilization_ratio",
    "gpu_frequency_hz",
    "gpu_memory_used_bytes",
    "emc_utilization_ratio",
    "emc_frequency_hz",
    "dla_frequency_hz",
    "power_mode",
    "fan_ratio",
)
_BOUNDS = {name: 1.0 for name in _METRICS if name.endswith("_ratio")}
_LINE_BYTES = 16 * 1024
_STALE_S = 3.0
"""Three periods of a Sample."""
_KNOWN_SAME = 3

Name = Annotated[str, msgspec.Meta(max_length=64)]


class Line(msgspec.Struct, frozen=True):
    """What the reader writes, as JSON, one per line.

    Attributes:
        readings: metric to number; whole text for ``power_mode``; None where jtop knows nothing.
        pulse: a checksum over everything that jtop said: one that never moves is a jtop that repeats itself.
        error: why there are no readings; empty when there are.
    """

    readings: Annotated[dict[Name, float | Name | None], msgspec.Meta(max_length=64)] = {}
    pulse: int = 0
    error: Annotated[str, msgspec.Meta(max_length=300)] = ""


_DECODER = msgspec.json.Decoder(Line)


class JtopSensor:
    """The newest line since the call before; never the one of the call before.

    Args:
        path: of the reader's socket. Where there never was one, this sensor says nothing at all: jtop is optional.
        clocks: for how long there was nothing new.
    """

    def __init__(self, path: Path, clocks: clock.Clock) -> None:
        self._path = path
        self._clock = clocks
        self._socket: socket.socket | None = None
        self._pending = b""
        self._news_s: float | None = None
        self._pulse: int | None = None
        self._same = 0

    def collect(self) -> list[Reading]:
        """Gives jtop's readings, or why there are none; takes well under a millisecond whatever the reader does."""
        now_s = self._clock.boot_s()
        problem = self._connect()
        line = None if problem else self._newest()
        if line is None and self._news_s is None:
            if not self._path.exists():
                return []
            self._news_s = now_s  # the reader has until now_s + _STALE_S for its first line
        assert self._news_s is not None or line is not None
        if line is None:
            silent_s = now_s - (self._news_s or 0.0)
            return self._absent(problem or f"nothing for {silent_s:.1f} s", is_stale=silent_s >= _STALE_S)
        if line.error:
            return self._absent(line.error, is_stale=False)
        self._same = self._same + 1 if line.pulse == self._pulse else 0
        self._pulse = line.pulse
        if self._same >= _KNOWN_SAME:
            return self._absent(f"it repeats itself: the same numbers {self._same + 1} times", is_stale=True)
        self._news_s = now_s
        return [_reading(metric, value) for metric, value in line.readings.items() if _is_known(metric)]

    def close(self) -> None:
        """Leaves the reader; the next `collect` would connect anew."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _connect(self) -> str:
        """Gives why there is no connection, or an empty string."""
        if self._socket is not None:
            return ""
        link = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
        try:
            link.connect(str(self._path))
        except OSError as error:
            link.close()
            return f"{self._path}: {error.strerror or error}"
        self._socket, self._pending = link, b""
        return ""

    def _newest(self) -> Line | None:
        """Gives the last whole line that has come since the call before."""
        assert self._socket is not None
        with contextlib.suppress(BlockingIOError):
            while True:
                chunk = self._socket.recv(65536)
                self._pending = (self._pending + chunk)[-2 * _LINE_BYTES :]
                if not chunk:
                    self.close()
                    break
        whole, _, self._pending = self._pending.rpartition(b"\n")
        last = whole.rpartition(b"\n")[2]
        if not last or len(last) > _LINE_BYTES:
            return None
        try:
            return _DECODER.decode(last)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            return Line(error=f"the reader wrote what is no line of ours: {error}"[:300])

    def _absent(self, reason: str, *, is_stale: bool) -> list[Reading]:
        words = f"{happenings.STALE}{SOURCE}: {reason}" if is_stale else f"{SOURCE}: {reason}"
        return [Reading(metric, None, words[:300]) for metric in _METRICS]


def _is_known(metric: str) -> bool:
    return metric.partition(".")[0] in _METRICS


def _reading(metric: str, value: float | str | None) -> Reading:
    if value is None:
        return Reading(metric, None, f"{SOURCE} does not know it on this board")
    if isinstance(value, str):
        return Reading(metric, value)
    if not 0 <= value <= _BOUNDS.get(metric, 1e15):
        return Reading(metric, None, f"{SOURCE} gave {value:g}: a value that cannot be true")
    return Reading(metric, int(value) if metric.endswith("_bytes") else value)
