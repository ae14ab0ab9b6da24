"""Small files of procfs and sysfs to readings; what cannot be read becomes None with its reason, here and only here."""

import errno
import math
import os
from collections.abc import Callable, Iterable
from pathlib import Path

from edge_sdk.records.telemetry import Reading

_REASONS = {
    errno.ENOENT: "is not there",
    errno.EACCES: "permission denied",
    errno.EPERM: "permission denied",
    errno.EAGAIN: "is asleep (the kernel says: try again)",
    errno.ENODATA: "has no data",
}

_FILE_BYTES = 64 * 1024
"""More than any of these files holds; /proc/stat of a machine with many cores is the longest."""
_LOOK_AGAIN = 60
"""Asked so often, `Places` looks at the folders again: sensors come and go with drivers, which is rare."""


class Places:
    """The files or folders that match patterns, looked up once and again from time to time.

    Looking through /sys takes longer than reading the sensors.
    """

    def __init__(self, root: Path, *patterns: str) -> None:
        self._root = root
        self._patterns = patterns
        self._found: tuple[Path, ...] = ()
        self._asked = 0

    def find(self) -> tuple[Path, ...]:
        """Gives what matched when last looked up, pattern by pattern, each in the order of names."""
        if self._asked % _LOOK_AGAIN == 0:
            self._found = tuple(file for pattern in self._patterns for file in sorted(self._root.glob(pattern)))
        self._asked += 1
        return self._found


def text(file: Path) -> str:
    """Gives the content of a file, without the newline or NUL at its end.

    Raises:
        OSError: it cannot be read.
    """
    # A quarter of the time that Path.read_text takes: a reading of a board is a hundred of these.
    descriptor = os.open(file, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        content = os.read(descriptor, _FILE_BYTES)
    except OSError as error:
        raise _named(error, file) from error
    finally:
        os.close(descriptor)
    return content.decode(errors="replace").strip(" \t\n\0")


def text_or_empty(file: Path) -> str:
    """Gives the content of a file that only names something; empty where it cannot be read."""
    try:
        return text(file)
    except OSError:
        return ""


def number(file: Path) -> float:
    """Gives the number that a file holds.

    Raises:
        OSError: it cannot be read.
        ValueError: it holds something else.
    """
    content = text(file)
    try:
        return float(content)
    except ValueError:
        raise ValueError(f"{file} holds {content[:40]!r}, not a number") from None


def reading(metric: str, measure: Callable[[], float], *, low: float = 0.0, high: float = math.inf) -> Reading:
    """Gives what `measure` gives as a Reading, or None with the reason why not.

    Args:
        metric: name from the catalogue.
        measure: may raise OSError (the file) or ValueError (its content, or no two readings to compare yet).
        low: the smallest value that can be true; the driver's sentinels lie outside.
        high: the largest.
    """
    try:
        value = measure()
    except OSError as error:
        return Reading(metric, None, reason_from_error(error))
    except ValueError as error:
        return Reading(metric, None, str(error)[:300])
    if not math.isfinite(value):
        return Reading(metric, None, f"the driver gave {value}, not a finite number")
    if not low <= value <= high:
        kind = "a negative value" if value < 0 <= low else "a value that cannot be true"
        return Reading(metric, None, f"the driver gave {value:g}: {kind}")
    return Reading(metric, value)


def whole(measured: Reading) -> Reading:
    """Gives the Reading with its value as an integer, for metrics that count bytes."""
    value = measured.value
    return Reading(measured.metric, int(value)) if isinstance(value, float) else measured


def parts(metric: str, found: Iterable[Reading]) -> list[Reading]:
    """Gives the parts of a metric; when none of them has a value, the metric as a whole is absent for their reason.

    Args:
        metric: name from the catalogue that has parts.
        found: readings named ``metric.part``.
    """
    listed = list(found)
    if listed and all(one.value is None for one in listed):
        return [*listed, Reading(metric, None, listed[0].reason)]
    return listed


def absent(reason: str, *metrics: str) -> list[Reading]:
    """Gives a Reading of None for each of `metrics`, all for the same reason."""
    return [Reading(metric, None, reason[:300]) for metric in metrics]


def reason_from_error(error: OSError) -> str:
    """Words why a file could not be read: ``/sys/...: permission denied``."""
    why = _REASONS.get(error.errno or 0, error.strerror or str(error))
    return f"{error.filename}: {why}"[:300] if error.filename else why


def _named(error: OSError, file: Path) -> OSError:
    """Gives the error with the file's name, which the kernel does not tell when a read fails."""
    return OSError(error.errno, error.strerror, str(file))
