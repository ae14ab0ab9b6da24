"""How this daemon ended the time before, as systemd left it: a process that was killed cannot tell it itself."""

import contextlib
import re
from pathlib import Path

from edge_sdk.device.sense import files
from edge_sdk.device.sense.happenings import Happening

FILE = "last-end"
"""In the state folder; edge-sdk-device.service writes ``$SERVICE_RESULT $EXIT_STATUS`` to it (systemd.exec(5))."""

OOM_FILE = "oom-kills"
"""In the state folder: how many processes the kernel had killed for want of memory when the daemon started."""

_OOM = ("oom_killed", "the kernel killed the daemon: memory had run out")
_KINDS = {
    "oom-kill": _OOM,
    "watchdog": ("watchdog_restarted", "the daemon made no progress, and the watchdog ended it"),
    "core-dump": ("crashed", "the daemon crashed"),
    "signal": ("crashed", "the daemon was killed"),
    "exit-code": ("crashed", "the daemon ended with an error"),
    "timeout": ("crashed", "the daemon took too long to start or to stop"),
}


def take_ending(state_folder: Path, *, root: Path = Path("/")) -> Happening | None:
    """Gives how the daemon ended before, once; None when it ended well or nobody knows.

    With version 1 of control groups systemd does not notice the kernel's OOM killer and says ``signal KILL``; then the
    kernel's own count decides, which is noted at each start.

    Args:
        state_folder: of the daemon; the working folder stands for none, and nothing is written there.
        root: folder with ``proc``.
    """
    file = state_folder / FILE
    result, _, status = files.text_or_empty(file).partition(" ")
    with contextlib.suppress(OSError):
        file.unlink()
    has_killed = _has_oom_killed(state_folder, root)
    if result not in _KINDS:
        return None
    kind, message = _OOM if has_killed and (result, status) == ("signal", "KILL") else _KINDS[result]
    return Happening(kind, f"{message} ({result}{' ' if status else ''}{status[:16]})", {"result": result})


def _has_oom_killed(state_folder: Path, root: Path) -> bool:
    """Says whether the kernel's OOM killer has struck since the last start; notes its count for the next."""
    match = re.search(r"^oom_kill (\d+)$", files.text_or_empty(root / "proc/vmstat"), re.MULTILINE)
    file = state_folder / OOM_FILE
    before = files.text_or_empty(file)
    if match is None or state_folder == Path():  # kernels before 4.13 do not count
        return False
    with contextlib.suppress(OSError):
        file.write_text(f"{match[1]}\n")
    return before.isdecimal() and int(match[1]) > int(before)
