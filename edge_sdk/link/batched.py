"""A paho client that is fed: all messages of one read are taken together, and acknowledged in one send.

paho reads packet by packet, a byte at a time; at a fleet's rate that is most of the collector's CPU time. Here the
socket is read in whole pieces (link/reading.py), and paho is handed only what is no PUBLISH, through the two private
methods by which it reaches its socket. `works` tries that out; where it fails, paho reads for itself.
"""

import functools
import logging
import socket
import ssl

from paho.mqtt import client as paho
from paho.mqtt.enums import CallbackAPIVersion, MQTTErrorCode, MQTTProtocolVersion

from edge_sdk.link.reading import PacketReader, Part

_LOG = logging.getLogger(__name__)

_READ_BYTES = 262_144
_NOTHING = Part([], b"", [])


class BatchedClient(paho.Client):
    """Used by one thread, without paho's own loop."""

    _fed = b""
    _has_ended = False
    _acks = b""  # going out: nothing of paho's is half sent
    _acks_later = b""  # waiting until that is so

    def read(self, reader: PacketReader) -> Part:
        """Gives what one read of the socket completes; the end of the connection is paho's to handle."""
        connected = self.socket()
        if connected is None:
            return _NOTHING
        try:
            data = connected.recv(_READ_BYTES)
        except (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
            return _NOTHING
        except OSError:
            data = b""
        if not data:
            self._has_ended = True
            self.loop_read()
            return _NOTHING
        return reader.feed(data)

    def take_in(self, packets: list[bytes]) -> None:
        """Has paho handle whole packets."""
        for packet in packets:
            self._fed = packet
            while self._fed and self.socket() is not None:
                self.loop_read()

    def acknowledge(self, acks: bytes) -> None:
        """Sends PUBACK packets, all together."""
        self._acks_later += acks
        self.loop_write()

    def want_write(self) -> bool:
        """Tells whether something waits for the socket."""
        return bool(self._acks or self._acks_later) or super().want_write()

    def loop_write(self) -> MQTTErrorCode:
        """Sends what waits: acknowledgements that were begun, then paho's packets, then the other acknowledgements."""
        self._send_acks()
        code = super().loop_write()
        if self._acks_later and not self._acks and not super().want_write():
            self._acks, self._acks_later = self._acks_later, b""
            self._send_acks()
        return code

    def _send_acks(self) -> None:
        connected = self.socket()
        if not self._acks or connected is None:
            return
        try:
            sent = connected.send(self._acks)
        except (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
            return
        except OSError:
            sent = len(self._acks)  # the next read says that the connection has ended
        self._acks = self._acks[sent:]

    # paho calls these two instead of its socket.

    def _sock_recv(self, bufsize: int) -> bytes:
        if not self._fed and not self._has_ended:
            raise BlockingIOError
        chunk, self._fed = self._fed[:bufsize], self._fed[bufsize:]
        return chunk

    def _sock_send(self, buf: bytes | bytearray) -> int:
        self._send_acks()
        if self._acks:
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
        client.acknowledge(b"\x40\x02\x00\x07")
        has_sent = far.recv(16) == b"\x40\x02\x00\x07"
        client._send_pingreq()  # type: ignore[no-untyped-call,unused-ignore]  # noqa: SLF001
        return answers == [True] and has_sent and far.recv(16) == b"\xc0\x00"
    finally:
        client._sock = None  # noqa: SLF001  # the pair is ours to close
