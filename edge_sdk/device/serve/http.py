"""A small HTTP/1.1 server: one blocking thread per connection.

It knows sockets and limits; what is answered is the business of the function that it is given. Blocking threads
with receives in place were the fastest of the stacks that need no further package.
"""

import contextlib
import logging
import socket
import threading

from edge_sdk import clock
from edge_sdk.device.serve import listening
from edge_sdk.device.serve.connection import Answering, Connection, HttpLimits
from edge_sdk.device.serve.heads import Refusal

_LOG = logging.getLogger(__name__)

_RETRY_S = 0.5


class HttpServer:
    """Begins to answer with `start`; `stop` lets running requests finish."""

    def __init__(
        self, listener: socket.socket, answering: Answering, *, limits: HttpLimits, clocks: clock.Clock
    ) -> None:
        """Takes over the listening socket."""
        self._listener = listener
        self._answering = answering
        self._limits = limits
        self._clock = clocks
        self._stopping = threading.Event()
        self._lock = threading.Lock()
        self._open: dict[threading.Thread, Connection] = {}
        self._acceptor = threading.Thread(target=self._accept, name="http accept", daemon=True)

    def start(self) -> None:
        """Begins to answer."""
        self._acceptor.start()

    def stop(self) -> None:
        """Takes no more, gives running requests `stop_s` to finish, then ends every connection."""
        self._stopping.set()
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)  # wakes the acceptor
        if self._acceptor.is_alive():
            self._acceptor.join(self._limits.stop_s)
        listening.close_listener(self._listener)
        deadline_s = self._clock.boot_s() + self._limits.stop_s
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
            self._welcome(peer)

    def _welcome(self, peer: socket.socket) -> None:
        connection = Connection(peer, self._answering, limits=self._limits, clocks=self._clock, stopping=self._stopping)
        thread = threading.Thread(target=self._serve, args=(connection,), name="http client", daemon=True)
        with self._lock:
            is_full = len(self._open) >= self._limits.connections
            if not is_full:
                self._open[thread] = connection
        if is_full:
            connection.turn_away(Refusal(503, f"{self._limits.connections} clients are connected; try again later"))
        else:
            thread.start()

    def _serve(self, connection: Connection) -> None:
        try:
            connection.run()
        finally:
            with self._lock:
                self._open.pop(threading.current_thread(), None)
