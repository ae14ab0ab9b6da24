"""Listening sockets: loopback TCP, and unix sockets that are there exactly while someone listens."""

import contextlib
import os
import socket
import stat
from pathlib import Path

from edge_sdk import errors

BACKLOG = 128
PERMISSIONS = 0o660
"""Of a unix socket: its owner and its group may connect."""


def tcp_listener(host: str, port: int) -> tuple[socket.socket, str]:
    """Gives a listening TCP socket and its URL, ``http://HOST:PORT``.

    Raises:
        UsageError: it can't be bound, for example because another process has it.
    """
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        listener = socket.create_server((host, port), family=family, backlog=BACKLOG)
    except OSError as error:
        raise errors.UsageError(f"cannot listen on {host} port {port}: {error.strerror}; choose another one") from error
    name, number = listener.getsockname()[:2]
    return listener, f"http://[{name}]:{number}" if ":" in name else f"http://{name}:{number}"


def unix_listener(path: Path) -> tuple[socket.socket, str]:
    """Gives a listening unix socket and its URL, ``unix:PATH``; one that a dead process left there gives way.

    Raises:
        UsageError: another process listens there, something else than a socket is there, or it can't be made.
    """
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        clear_stale(path)
        # Before the bind, so that the socket is at no moment open to more than these.
        os.fchmod(listener.fileno(), PERMISSIONS)
        listener.bind(str(path))
        path.chmod(PERMISSIONS)  # whatever the umask took away
        listener.listen(BACKLOG)
    except OSError as error:
        listener.close()
        raise errors.UsageError(f"cannot listen on {path}: {error.strerror or error}; choose another path") from error
    except errors.UsageError:
        listener.close()
        raise
    return listener, f"unix:{path}"


def close_listener(listener: socket.socket) -> None:
    """Ends listening, and removes a unix socket if it is still this one that is there."""
    with contextlib.suppress(OSError):
        if listener.family == socket.AF_UNIX:
            _remove_own(listener)
    listener.close()


def clear_stale(path: Path) -> None:
    """Removes the socket that a dead process left at `path`.

    Raises:
        UsageError: another process listens there, or something else than a socket is there.
    """
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise errors.UsageError(f"{path} is there and is not a socket; choose another path")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(1.0)
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            path.unlink()
            return
    raise errors.UsageError(f"another process listens on {path}; stop it or choose another path")


def _remove_own(listener: socket.socket) -> None:
    path = Path(listener.getsockname())
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        listener.close()  # from here on, who can still connect reaches another process
        try:
            probe.settimeout(1.0)
            probe.connect(str(path))
        except ConnectionRefusedError:
            path.unlink()
