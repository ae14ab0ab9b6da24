"""Listening sockets, loopback TCP and unix ones, and who accepts: one blocking thread per connection."""

import contextlib
import logging
import os
import socket
import stat
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from edge_sdk import clock, errors

_LOG = logging.getLogger(__name__)

_RETRY_S = 0.5
BACKLOG = 128
PERMISSIONS = 0o660
"""Of a unix socket: its owner and its group may connect."""


class Connection(Protocol):
    """One client's connection, of whatever protocol."""

    @property
    def is_idle(self) -> bool:
        """No request of it is running, so it may be ended at once."""
        ...

    def run(self) -> None:
        """Serves until the client or the server has enough; closes the socket."""
        ...

    def shut(self, how: int) -> None:
        """Ends one or both directions from another thread."""
        ...

    def turn_away(self, limit: int) -> None:
        """Says that `limit` clients are connected already, without waiting for anything, and closes the socket."""
        ...


class Acceptor:
    """Accepts clients, each with a thread of its own; `start` begins, `stop` lets running requests finish.

    Args:
        listener: taken over.
        connect: makes the connection of an accepted socket.
        name: of the threads.
        connections: at once; one more is turned away.
        stop_s: seconds that running requests get to finish at the end.
        stopping: set when `stop` is called, so that connections end after the request that they have.
        clocks: the machine's, or a test's.
    """

    def __init__(
        self,
        listener: socket.socket,
        connect: Callable[[socket.socket], Connection],
        *,
        name: str,
        connections: int,
        stop_s: float,
        stopping: threading.Event,
        clocks: clock.Clock,
    ) -> None:
        self._listener = listener
        self._connect = connect
        self._name = name
        self._limit = connections
        self._stop_s = stop_s
        self._stopping = stopping
        self._clock = clocks
        self._lock = threading.Lock()
        self._open: dict[threading.Thread, Connection] = {}
        self._thread = threading.Thread(target=self._accept, name=f"{name} accept", daemon=True)

    def start(self) -> None:
        """Begins to answer."""
        self._thread.start()

    def stop(self) -> None:
        """Takes no more, gives running requests `stop_s` to finish, then ends every connection."""
        self._stopping.set()
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)  # wakes the acceptor
        if self._thread.is_alive():
            self._thread.join(self._stop_s)
        close_listener(self._listener)
        deadline_s = self._clock.boot_s() + self._stop_s
        with self._lock:
            left = dict(self._open)
        for connection in left.values():
            if connection.is_idle:
                connection.shut(socket.SHUT_RD)
        for thread, connection in left.items():
            thread.join(max(0.0, deadline_s - self._clock.boot_s()))
            connection.shut(socket.SHUT_RDWR)

    def _accept(self) -> None:
        while not self._stopping.is_set():
            try:
                peer, _ = self._listener.accept()
            except OSError as error:
                if not self._stopping.is_set():
                    # Out of file descriptors, most likely: wait for some to come back instead of spinning.
                    _LOG.warning("cannot accept a connection: %s", error)
                    self._stopping.wait(_RETRY_S)
                continue
            self._welcome(self._connect(peer))

    def _welcome(self, connection: Connection) -> None:
        thread = threading.Thread(target=self._serve, args=(connection,), name=f"{self._name} client", daemon=True)
        with self._lock:
            is_full = len(self._open) >= self._limit
            if not is_full:
                self._open[thread] = connection
        if is_full:
            connection.turn_away(self._limit)
            return
        try:
            thread.start()
        except RuntimeError as error:  # the system gives no more threads: this client's bad luck, not the server's end
            _LOG.warning("a client was turned away: %s", error)
            with self._lock:
                count = len(self._open)
                del self._open[thread]
            connection.turn_away(count)

    def _serve(self, connection: Connection) -> None:
        try:
            connection.run()
        finally:
            with self._lock:
                self._open.pop(threading.current_thread(), None)


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
