"""How this daemon ended the time before, as systemd left it: a process that was killed cannot tell it itself."""

import contextlib
from pathlib import Path

from edge_sdk.device.sense import files
from edge_sdk.device.sense.happenings import Happening

FILE = "last-end"
"""In the state folder; edge-sdk-device.service writes ``$SERVICE_RESULT $EXIT_STATUS`` to it (systemd.exec(5))."""

_KINDS = {
    "oom-kill": ("oom_killed", "the kernel killed the daemon: memory had run out"),
    "watchdog": ("watchdog_restarted", "the daemon made no progress, and the watchdog ended it"),
    "core-dump": ("crashed", "the daemon crashed"),
    "signal": ("crashed", "the daemon was killed"),
    "exit-code": ("crashed", "the daemon ended with an error"),
    "timeout": ("crashed", "the daemon took too long to start or to stop"),
}


def take_ending(state_folder: Path) -> Happening | None:
    """Gives how the daemon ended before, once; None when it ended well or nobody knows."""
    file = state_folder / FILE
    result, _, status = files.text_or_empty(file).partition(" ")
    with contextlib.suppress(OSError):
        file.unlink()
    if result not in _KINDS:
        return None
    kind, message = _KINDS[result]
    return Happening(kind, f"{message} ({result}{' ' if status else ''}{status[:16]})", {"result": result})
