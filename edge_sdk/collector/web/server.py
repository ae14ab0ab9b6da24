"""The query API on a socket: the standard library's server, a thread for each connection, GET only."""

import contextlib
import ipaddress
import logging
import threading
from collections.abc import Callable, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from edge_sdk import errors
from edge_sdk.collector.web.questions import Reply, refusal

_LOG = logging.getLogger(__name__)

_TIMEOUT_S = 30.0  # a client that says nothing for so long is let go
_STARTED_S = 5.0


class Server:
    """Serves until `close`. Only requests whose Host is an address or named as one of ours are answered."""

    def __init__(self, host: str, port: int, reply: Callable[[str], Reply]) -> None:
        """Binds the socket and starts serving.

        Args:
            host: address to listen on.
            port: 0 takes a free one.
            reply: gives the answer to a GET of a path with query; called on several threads.

        Raises:
            UsageError: that address can't be listened on.
        """
        handler = type("Requests", (_Requests,), {"reply": staticmethod(reply), "name": host})
        try:
            self._server = ThreadingHTTPServer((host, port), handler)
        except (OSError, OverflowError, UnicodeError) as error:
            reason = getattr(error, "strerror", None) or error
            raise errors.UsageError(
                f"cannot answer questions on {host} port {port}: {reason}; choose another with web (0 takes a free one)"
            ) from error
        self._server.daemon_threads = True
        self.port = int(self._server.server_address[1])
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.1,), name="web", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stops listening."""
        self._server.shutdown()
        self._thread.join(_STARTED_S)
        self._server.server_close()


class _Requests(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = _TIMEOUT_S
    reply: Callable[[str], Reply]
    name = ""

    def do_GET(self) -> None:
        """Answers one request."""
        if not self._is_for_us():
            # A page in a browser that had its own name point here would read the fleet's telemetry.
            self._send(
                refusal(421, f"ask for this server by its address, not as {self.headers.get('Host', '')[:100]!r}")
            )
            return
        try:
            answer = self.reply(self.path)
        except Exception:  # noqa: BLE001  # boundary: a question that fails as nobody thought of still gets an answer
            _LOG.exception("the question %r failed", self.path[:200])
            answer = refusal(500, "this question failed; the collector's log says why")
        self._send(answer)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002  # its name in the standard library
        """Logs at debug level instead of to stderr."""
        _LOG.debug(format, *args)

    def _is_for_us(self) -> bool:
        host = self.headers.get("Host", "").rpartition(":")[0] or self.headers.get("Host", "")
        if host in ("localhost", self.name):
            return True
        with contextlib.suppress(ValueError):
            ipaddress.ip_address(host.strip("[]"))
            return True
        return False

    def _send(self, answer: Reply) -> None:
        headers: Mapping[str, str] = {
            "Content-Type": answer.content_type,
            "Content-Length": str(len(answer.body)),
            "Cache-Control": "no-store",
            "X-Content-Type-Options": "nosniff",
        }
        with contextlib.suppress(ConnectionError, TimeoutError):
            self.send_response(answer.status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(answer.body)
