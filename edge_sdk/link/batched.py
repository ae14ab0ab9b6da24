"""A paho client that is fed: all messages of one read are taken together, and acknowledged in one send.

paho reads packet by packet, a byte at a time; at a fleet's rate that is most of the collector's CPU time. Here the
socket is read in whole pieces (link/reading.py), and paho is handed only what is no PUBLISH, through the two private
methods by which it reaches its socket. `works` tries that out; where it fails, paho reads for itself.
"""

import functools
import logging
import socket
import ssl
import threading
from typing import Any

from paho.mqtt import client as paho
from paho.mqtt.enums import CallbackAPIVersion, MQTTErrorCode, MQTTProtocolVersion

from edge_sdk.link.reading import PacketReader, Part

_LOG = logging.getLogger(__name__)

_READ_BYTES, _MUCH_BYTES = 32_768, 262_144  # as room for the latter takes 30 us, it is asked for only while it fills
_NOTHING = Part([], b"", [])


class BatchedClient(paho.Client):
    """Used by one thread, without paho's own loop; `write_at_once` alone by any."""

    _fed = b""
    _has_ended = False
    _own = b""  # ours, going out: nothing of paho's is half sent
    _own_later = b""  # waiting until that is so
    has_ended_in_order = False
    _room_bytes = _READ_BYTES

    def __init__(self, *args: Any, **more: Any) -> None:
        super().__init__(*args, **more)
        self._writing = threading.RLock()  # never held while anybody waits for the socket

    def read(self, reader: PacketReader) -> Part:
        """Gives what one read of the socket completes; the end of the connection is paho's to handle."""
        connected = self.socket()
        if connected is None:
            return _NOTHING
        data: bytes | None
        try:
            data = connected.recv(self._room_bytes)
        except (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
            return _NOTHING
        except OSError:
            data = None
        if not data:
            self.has_ended_in_order = data is not None
            self._has_ended = True
            self.loop_read()
            return _NOTHING
        self._room_bytes = _MUCH_BYTES if len(data) >= _READ_BYTES else _READ_BYTES
        return reader.feed(data)

    def take_in(self, packets: list[bytes]) -> None:
        """Has paho handle whole packets."""
        for packet in packets:
            self._fed = packet
            while self._fed and self.socket() is not None:
                self.loop_read()

    def write(self, packets: bytes) -> None:
        """Sends whole packets of ours, all together, in the order in which they are given."""
        with self._writing:
            self._own_later += packets
            self.loop_write()

    def write_at_once(self, packet: bytes) -> bool:
        """Sends a whole packet from any thread, if nothing else waits to be sent; False: nothing was done."""
        connected = self.socket()
        if connected is None or isinstance(connected, ssl.SSLSocket):  # OpenSSL wants one thread for both directions
            return False
        with self._writing:
            if self.want_write() or self.socket() is not connected:
                return False
            try:
                sent = connected.send(packet)
            except OSError:  # full, or ended: both are for the one thread to find out
                return False
            self._own = packet[sent:]
            return True

    def want_write(self) -> bool:
        """Tells whether something waits for the socket."""
        return bool(self._own or self._own_later) or super().want_write()

    def loop_write(self) -> MQTTErrorCode:
        """Sends what waits: packets of ours that were begun, then paho's, then our others."""
        with self._writing:
            self._send_own()
            code = super().loop_write()
            if self._own_later and not self._own and not super().want_write():
                self._own, self._own_later = self._own_later, b""
                self._send_own()
            return code

    def _send_own(self) -> None:
        connected = self.socket()
        if not self._own or connected is None:
            return
        try:
            sent = connected.send(self._own)
        except (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
            return
        except OSError:
            sent = len(self._own)  # the next read says that the connection has ended
        self._own = self._own[sent:]

    # paho calls these instead of its socket.

    def _sock_close(self) -> None:
        with self._writing:  # whoever sends at this moment sends to this socket, not to the next file of its number
            super()._sock_close()

    def _sock_recv(self, bufsize: int) -> bytes:
        if not self._fed and not self._has_ended:
            raise BlockingIOError
        chunk, self._fed = self._fed[:bufsize], self._fed[bufsize:]
        return chunk

    def _sock_send(self, buf: bytes | bytearray) -> int:
        self._send_own()
        if self._own:
            raise BlockingIOError
        return super()._sock_send(buf)


@functools.cache
def works() -> bool:
    """Tells whether the installed paho can be fed: a CONNACK goes in, a PINGREQ and an acknowledgement come out."""
    near, far = socket.socketpair()
    with near, far:
        far.settimeout(1.0)
        near.setblocking(False)
        try:
            has_fed = _tries_feeding(near, far)
        except Exception:  # noqa: BLE001  # boundary: another version of paho may miss any of the names
            _LOG.warning("this version of paho reads its messages one by one", exc_info=True)
            return False
    if not has_fed:
        _LOG.warning("this version of paho reads its messages one by one: it does not read what it is fed")
    return has_fed


def _tries_feeding(near: socket.socket, far: socket.socket) -> bool:
    answers: list[bool] = []
    client = BatchedClient(CallbackAPIVersion.VERSION2, client_id="self-test", protocol=MQTTProtocolVersion.MQTTv5)
    client.on_connect = lambda *_: answers.append(True)
    client._sock = near  # noqa: SLF001  # as connect() would
    try:
        client.take_in([b"\x20\x03\x00\x00\x00"])
        client.write(b"\x40\x02\x00\x07")
        has_sent = far.recv(16) == b"\x40\x02\x00\x07"
        client._send_pingreq()  # type: ignore[no-untyped-call,unused-ignore]  # noqa: SLF001
        return answers == [True] and has_sent and far.recv(16) == b"\xc0\x00"
    finally:
        client._sock = None  # noqa: SLF001  # the pair is ours to close
