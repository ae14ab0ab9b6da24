"""One client's connection: requests in, answers out, under limits of size and time."""

import contextlib
import logging
import socket
import struct
import threading
from collections.abc import Callable
from typing import Any

import msgspec
import numpy as np

from edge_sdk import clock
from edge_sdk.device.serve import heads
from edge_sdk.device.serve.answers import Answer, failure
from edge_sdk.device.serve.heads import Head, Refusal
from edge_sdk.device.serve.waiting import Company, Wait

_LOG = logging.getLogger(__name__)

_END = b"\r\n\r\n"
_WAKE_S = 1
"""How often a waiting connection looks at its deadline."""
_KEPT_BODY_BYTES = 4 * 1024 * 1024
"""A connection keeps a body buffer up to this size: fresh pages for a camera frame cost more than its copy."""
_LINGER_BYTES = 16 * 1024 * 1024
"""What is read and thrown away of a refused request, so that the client gets to read why."""
_PIECES = 512
"""Buffers per sendmsg, below the kernel's IOV_MAX of 1024."""
_JOINED_BYTES = 16 * 1024
"""An answer up to this size is sent in one piece: its copy costs less than telling the kernel of several."""
_ALIGNMENT = 64

Answering = Callable[[Head, memoryview], Answer]


class HttpLimits(msgspec.Struct, frozen=True, kw_only=True):
    """What one client may take.

    Attributes:
        body_bytes: largest body. Default 64 MiB.
        connections: at once; one more is told so (503) and closed. Default 64.
        request_s: seconds for a head to come in once its first byte is there, again for the body, and again for the
            answer to be taken. Default 20: 64 MiB over a slow wireless link.
        idle_s: seconds that a connection may wait between requests. Default 75, as other servers have it.
        stop_s: seconds that running requests get to finish at the end. Default 2: far below systemd's patience.
    """

    body_bytes: int = 64 * 1024 * 1024
    connections: int = 64
    request_s: float = 20.0
    idle_s: float = 75.0
    stop_s: float = 2.0


class Connection:
    """Reads requests and sends answers, one after the other, until either side has enough."""

    def __init__(
        self,
        peer: socket.socket,
        answering: Answering,
        *,
        limits: HttpLimits,
        clocks: clock.Clock,
        stopping: threading.Event,
        company: Company,
    ) -> None:
        self.is_idle = True
        self._peer = peer
        self._answering = answering
        self._limits = limits
        self._now_s = clocks.boot_s
        self._wait = Wait(peer, clocks.tick_ns, company)
        self._stopping = stopping
        self._buffer = bytearray(heads.MAX_HEAD_BYTES + len(_END))
        self._view = memoryview(self._buffer)
        self._filled = 0
        self._body = np.empty(0, np.uint8)
        self._last: tuple[bytes, Head | Refusal] = (b"", Refusal(400, ""))

    def run(self) -> None:
        """Serves until the end of the connection; a client that vanishes is no fault of ours."""
        with self._peer:
            try:
                self._configure()
                while self._serve_one():
                    pass
            except OSError as error:
                _LOG.debug("an HTTP client went away: %s", error)

    def turn_away(self, limit: int) -> None:
        """Says that `limit` clients are connected already, without waiting for anything, and ends the connection."""
        refusal = Refusal(503, f"{limit} clients are connected; try again later")
        with self._peer, contextlib.suppress(OSError):
            self._peer.setblocking(False)
            self._send(failure(refusal.status, refusal.message)._replace(retry_after_s=1), keeps_alive=False)
            self._peer.recv_into(self._view)  # closing with bytes unread would reset the connection

    def shut(self, how: int) -> None:
        """Ends one or both directions from another thread."""
        with contextlib.suppress(OSError):
            self._peer.shutdown(how)

    def _configure(self) -> None:
        if self._peer.family != socket.AF_UNIX:
            self._peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        # Time limits in the kernel: a socket with a Python timeout costs one more system call for each receive.
        self._peer.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("ll", _WAKE_S, 0))
        self._peer.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("ll", _WAKE_S, 0))

    def _serve_one(self) -> bool:
        """Answers one request; tells whether another may follow."""
        raw = self._receive_head()
        if raw is None:
            return False
        head = self._parsed(raw) if isinstance(raw, bytes) else raw
        if isinstance(head, Head) and head.body_bytes > self._limits.body_bytes:
            head = Refusal(413, f"a body of {head.body_bytes} bytes; at most {self._limits.body_bytes} are taken")
        if isinstance(head, Refusal):
            self._refuse(head)
            return False
        body = self._receive_body(head)
        if body is None:
            return False
        answer = self._answering(head, body)
        keeps_alive = head.keeps_alive and not self._stopping.is_set()
        is_sent = self._send(answer, keeps_alive=keeps_alive, is_head_only=head.method == "HEAD")
        if self._body.size > _KEPT_BODY_BYTES:
            self._body = np.empty(0, np.uint8)
        return keeps_alive and is_sent

    def _refuse(self, refusal: Refusal) -> None:
        """Says why no more is read, and lets the client read that."""
        self._send(failure(refusal.status, refusal.message), keeps_alive=False)
        self._peer.shutdown(socket.SHUT_WR)
        left = _LINGER_BYTES
        deadline_s = self._now_s() + self._limits.stop_s
        # Closing with bytes unread would reset the connection, and the answer with it.
        while left > 0 and (count := self._receive(self._view, deadline_s)):
            left -= count

    def _parsed(self, raw: bytes) -> Head | Refusal:
        """Parses a head, or remembers it: most clients send the same one again and again."""
        if raw != self._last[0]:
            self._last = raw, heads.parse(raw)
        return self._last[1]

    def _receive_head(self) -> bytes | Refusal | None:
        self.is_idle = self._filled == 0
        deadline_s = self._now_s() + (self._limits.idle_s if self.is_idle else self._limits.request_s)
        while True:
            while self._buffer.startswith(b"\r\n") and self._filled >= 2:
                self._consume(2)  # empty lines before a request are ignored
            end = self._buffer.find(_END, 0, self._filled)
            if end >= 0:
                raw = bytes(self._view[:end])
                self._consume(end + len(_END))
                return raw
            if self._filled == len(self._buffer):
                return Refusal(431, f"the head is longer than {heads.MAX_HEAD_BYTES} bytes")
            count = self._receive(self._view[self._filled :], deadline_s)
            if not count:
                is_late = self._filled > 0 and self._now_s() >= deadline_s
                return Refusal(408, "the head did not arrive in time") if is_late else None
            if self.is_idle:
                self.is_idle = False
                deadline_s = self._now_s() + self._limits.request_s
            self._filled += count

    def _receive_body(self, head: Head) -> memoryview | None:
        size = head.body_bytes
        # Put the body so that the raw tensors after its JSON begin at an aligned address.
        pad = -(head.header_bytes or 0) % _ALIGNMENT
        if self._body.size < pad + size:
            self._body = np.empty(pad + size, np.uint8)
        body = self._body.data[pad : pad + size]
        have = min(self._filled, size)
        body[:have] = self._view[:have]
        self._consume(have)
        if have == size:
            return body
        if head.awaits_continue:
            self._peer.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
        deadline_s = self._now_s() + self._limits.request_s
        while have < size:
            count = self._receive(body[have:], deadline_s, socket.MSG_WAITALL)
            if not count:
                if self._now_s() >= deadline_s:
                    self._refuse(Refusal(408, f"{have} of {size} bytes of the body arrived in time"))
                return None
            have += count
        return body

    def _receive(self, view: memoryview, deadline_s: float, flags: int = 0) -> int:
        """Receives at least one byte; 0 at the end of the connection, too late, or idle while the server stops."""
        while True:
            try:
                count = self._wait.receive_into(view) if self.is_idle else self._peer.recv_into(view, 0, flags)
            except BlockingIOError:  # the kernel's time limit: nothing came
                count = -1
            if self._now_s() >= deadline_s or (self.is_idle and self._stopping.is_set() and count < 0):
                return 0
            if count >= 0:
                return count

    def _consume(self, count: int) -> None:
        """Takes `count` bytes from the front of the buffer."""
        self._view[: self._filled - count] = self._view[count : self._filled]
        self._filled -= count

    def _send(self, answer: Answer, *, keeps_alive: bool, is_head_only: bool = False) -> bool:
        """Sends an answer, a large one without joining its parts; tells whether the client took all of it in time."""
        body_bytes = sum(map(len, answer.parts))
        head = heads.answer_head(
            answer.status,
            content_type=answer.content_type,
            body_bytes=body_bytes,
            header_bytes=answer.header_bytes,
            allow=answer.allow,
            retry_after_s=answer.retry_after_s,
            keeps_alive=keeps_alive,
        )
        parts: list[Any] = [head] if is_head_only else [head, *answer.parts]
        left = len(head) + (0 if is_head_only else body_bytes)
        if left <= _JOINED_BYTES:
            parts = [b"".join(parts)]
        deadline_s = self._now_s() + self._limits.request_s
        while left:
            try:
                sent = self._peer.sendmsg(parts[:_PIECES])
            except BlockingIOError:
                sent = 0
            left -= sent
            if left and self._now_s() >= deadline_s:
                return False
            parts = _rest(parts, sent) if left else []
        return True


def _rest(parts: list[Any], sent: int) -> list[Any]:
    """Gives what is left to send after `sent` bytes."""
    for position, part in enumerate(parts):
        if sent < len(part):
            return [memoryview(part)[sent:], *parts[position + 1 :]]
        sent -= len(part)
    return []
