"""Thousands of MQTT 5 connections on one event loop, for a fleet that does not exist: each device has its own.

They speak as `edge_sdk.link` does and read by its reader; what is left out is what a single process needs no thread
for. Everything happens inside `Swarm.run_for`, on the caller's thread. Source of the packets: MQTT Version 5.0, OASIS
Standard, 2019, sections 3.1, 3.2, 3.8 and 3.14.
"""

import asyncio
import random
import ssl
from collections.abc import Callable

from edge_sdk import clock, errors
from edge_sdk.link import backoff, reading
from edge_sdk.link.protocol import Handler, LinkState
from edge_sdk.link.settings import MqttSettings, parse_url

_PACKET_MAX_BYTES = 1 << 20
_AT_ONCE = 50  # connections being made; a broker's listen queue holds about a hundred
_WATCH_S = 5.0
_CONNACK, _SUBACK, _DISCONNECT = 0x20, 0x90, 0xE0
_PINGREQ = b"\xc0\x00"
_GOODBYE = b"\xe0\x00"
_RECEIVE_MAXIMUM = 0x21
_REFUSED = 128
_ID_MAX = 65535

# Of the properties that a CONNACK may have: those of a fixed number of bytes, and those that say their own length.
_FIXED = {0x11: 4, 0x13: 2, 0x21: 2, 0x22: 2, 0x24: 1, 0x25: 1, 0x27: 4, 0x28: 1, 0x29: 1, 0x2A: 1}
_TEXTS = {0x12: 1, 0x15: 1, 0x16: 1, 0x1A: 1, 0x1C: 1, 0x1F: 1, 0x26: 2}


class Swarm:
    """The connections and their loop. Order of use: `link`, `run_for` again and again, `close`."""

    def __init__(
        self, settings: MqttSettings, tls: ssl.SSLContext | None, clocks: clock.Clock, rng: random.Random
    ) -> None:
        """Prepares; nothing is connected before a link is opened.

        Args:
            settings: of all of them; the number of a link goes behind `client_id`.
            tls: for ``mqtts``.
            clocks: for keep-alive.
            rng: for the waits between attempts.
        """
        self.settings = settings
        self.address = parse_url(settings.url)
        self.tls = tls
        self.clock = clocks
        self.rng = rng
        self.loop = asyncio.new_event_loop()
        self.turn = asyncio.Semaphore(_AT_ONCE)
        self._links: list[SwarmLink] = []
        self._watch = self.loop.create_task(self._keep_alive())

    def link(self, number: int) -> "SwarmLink":
        """Gives an unopened link."""
        self._links.append(SwarmLink(self, f"{self.settings.client_id}-{number}"))
        return self._links[-1]

    def run_for(self, seconds: float) -> None:
        """Sends, receives, connects and calls handlers for so long."""
        self.loop.run_until_complete(asyncio.sleep(seconds))

    def run_until(self, condition: Callable[[], bool], timeout_s: float) -> bool:
        """Does the same until a condition holds; tells whether it does."""
        deadline_s = self.clock.boot_s() + timeout_s
        while not condition() and self.clock.boot_s() < deadline_s:
            self.run_for(0.01)
        return condition()

    def close(self) -> None:
        """Ends all links and the loop."""
        for link in self._links:
            link.leave()
        self._watch.cancel()
        self.run_for(0.05)
        self.loop.close()

    async def _keep_alive(self) -> None:
        while True:
            await asyncio.sleep(_WATCH_S)
            now_s = self.clock.boot_s()
            for link in self._links:
                link.keep_alive(now_s)


class SwarmLink(asyncio.Protocol):
    """One connection that mends itself; what has no acknowledgement when it breaks is sent on the next one."""

    def __init__(self, swarm: Swarm, client_id: str) -> None:
        self._swarm = swarm
        self._client_id = client_id
        self._handlers: dict[str, Handler] = {}
        self._on_connect: list[Callable[[], None]] = []
        self._sent: dict[int, bytes] = {}
        self._last_id = 0
        self._at_once_max = 0
        self._transport: asyncio.Transport | None = None
        self._reader = reading.PacketReader(_PACKET_MAX_BYTES)
        self._is_ready = self._is_leaving = False
        self._task: asyncio.Task[None] | None = None
        self._lost: asyncio.Future[None] | None = None
        self._heard_s = self._spoke_s = 0.0
        self._connects = self._published = self._refused = self._received = 0
        self._last_error = ""

    def open(self) -> None:
        """Starts connecting."""
        self._task = self._swarm.loop.create_task(self._stay_connected())

    def on_connect(self, act: Callable[[], None]) -> None:
        """Has `act` called after every accepted connect."""
        self._on_connect.append(act)

    def subscribe(self, topic_filter: str, handler: Handler) -> None:
        """Has `handler` called for messages on a topic, which is no pattern: a device hears what is for it alone."""
        self._handlers[topic_filter] = handler

    def publish(self, topic: str, payload: bytes, *, retain: bool = False) -> None:
        """Hands one message (QoS 1) to the broker.

        Raises:
            LinkError: not connected, or the broker takes no more before it has acknowledged some.
        """
        if not self._is_ready or self._transport is None:
            raise errors.LinkError(self._last_error or "not connected")
        if len(self._sent) >= self._at_once_max:
            raise errors.LinkError(f"{len(self._sent)} messages in flight; more are taken once some are acknowledged")
        number = self._next_id()
        packet = self._sent[number] = reading.publish_packet(topic, payload, number, retain=retain)
        self._transport.write(packet)
        self._spoke_s = self._swarm.clock.boot_s()

    def wait_for_connected(self, timeout_s: float) -> bool:
        """Tells whether a connection stood within `timeout_s`."""
        return self._swarm.run_until(lambda: self._is_ready, timeout_s)

    def snapshot(self) -> LinkState:
        """Gives the state at this moment."""
        return LinkState(
            is_connected=self._is_ready,
            connects=self._connects,
            published=self._published,
            refused=self._refused,
            received=self._received,
            handler_errors=0,
            in_flight=len(self._sent),
            last_error=self._last_error,
        )

    def close(self, timeout_s: float = 2.0) -> None:
        """Lets what is in flight go out for at most `timeout_s`, and says goodbye."""
        if self._sent and self._is_ready:
            self._swarm.run_until(lambda: not self._sent or not self._is_ready, timeout_s)
        self.leave()

    def leave(self) -> None:
        """Says goodbye at once."""
        self._is_leaving = True
        if self._transport is not None:
            self._transport.write(_GOODBYE)
            self._transport.close()
        if self._task is not None:
            self._task.cancel()

    def keep_alive(self, now_s: float) -> None:
        """Asks a broker that was not spoken to for long, and gives up one that does not answer."""
        keepalive_s = self._swarm.settings.keepalive_s
        if self._transport is None:
            return
        if now_s - self._heard_s > 2 * keepalive_s:
            self._last_error = f"nothing heard for {2 * keepalive_s} s"
            self._transport.abort()
        elif self._is_ready and now_s - min(self._spoke_s, self._heard_s) > keepalive_s - 2 * _WATCH_S:
            self._transport.write(_PINGREQ)
            self._spoke_s = now_s

    # What asyncio calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Asks to be let in."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._reader = reading.PacketReader(_PACKET_MAX_BYTES)
        self._heard_s = self._spoke_s = self._swarm.clock.boot_s()
        transport.write(_connect_packet(self._client_id, self._swarm.settings))

    def data_received(self, data: bytes) -> None:
        """Takes what came: acknowledgements, receipts, answers."""
        self._heard_s = self._swarm.clock.boot_s()
        part = self._reader.feed(data)
        for packet in part.others:
            self._take(packet)
        for number, reason in part.acknowledged:
            if self._sent.pop(number, None) is not None:
                self._published += reason < _REFUSED
                self._refused += reason >= _REFUSED
        for message in part.messages:
            self._received += 1
            handler = self._handlers.get(message.topic)
            if handler is not None:
                handler(message)
        if part.acks and self._transport is not None:
            self._transport.write(part.acks)
        if part.problem:
            self._fail(part.problem)

    def connection_lost(self, exc: Exception | None) -> None:
        """Lets the next attempt begin."""
        self._transport, self._is_ready = None, False
        if exc is not None:
            self._last_error = str(exc)
        if self._lost is not None and not self._lost.done():
            self._lost.set_result(None)

    async def _stay_connected(self) -> None:
        swarm, address = self._swarm, self._swarm.address
        cap_s = swarm.settings.reconnect_cap_s
        waits = backoff.delays(swarm.rng, cap_s=cap_s)
        while not self._is_leaving:
            before = self._connects
            self._lost = swarm.loop.create_future()
            try:
                async with swarm.turn:
                    connecting = swarm.loop.create_connection(lambda: self, address.host, address.port, ssl=swarm.tls)
                    await asyncio.wait_for(connecting, swarm.settings.connect_timeout_s)
                await self._lost
            except (OSError, asyncio.TimeoutError) as error:
                self._last_error = str(error) or f"no connection within {swarm.settings.connect_timeout_s:g} s"
            if self._connects > before:
                waits = backoff.delays(swarm.rng, cap_s=cap_s)
            await asyncio.sleep(next(waits))

    def _take(self, packet: bytes) -> None:
        kind, body = packet[0], _body(packet)
        if kind == _CONNACK:
            reason = packet[body + 1]
            if reason >= _REFUSED:
                self._fail(reading.refusal(reason))
                return
            self._at_once_max = min(self._swarm.settings.in_flight_max, receive_maximum(packet[body + 2 :]))
            self._subscribe()
        elif kind == _SUBACK:
            self._welcome()
        elif kind == _DISCONNECT:
            reason = packet[body] if body < len(packet) else 0
            self._fail(f"the broker ended the connection: {reading.refusal(reason) or 'no reason given'}")

    def _subscribe(self) -> None:
        if not self._handlers:
            self._welcome()
            return
        filters = b"".join(_text(name) + b"\x01" for name in self._handlers)
        content = self._next_id().to_bytes(2, "big") + b"\0" + filters
        assert self._transport is not None
        self._transport.write(_packet(0x82, content))

    def _welcome(self) -> None:
        self._is_ready = True
        self._connects += 1
        self._last_error = ""
        assert self._transport is not None
        self._transport.write(b"".join(self._sent.values()))
        for act in self._on_connect:
            act()

    def _fail(self, reason: str) -> None:
        self._last_error = reason
        if self._transport is not None:
            self._transport.abort()

    def _next_id(self) -> int:
        self._last_id = self._last_id % _ID_MAX + 1
        while self._last_id in self._sent:
            self._last_id = self._last_id % _ID_MAX + 1
        return self._last_id


def receive_maximum(properties: bytes) -> int:
    r"""Gives how many messages a broker takes at once, by the properties of its CONNACK.

    >>> receive_maximum(b"\x06\x22\x00\x0a\x21\x00\x14"), receive_maximum(b"\x00")
    (20, 65535)
    """
    end, at = properties[0] + 1, 1
    while at < end:
        name, at = properties[at], at + 1
        if name == _RECEIVE_MAXIMUM:
            return int.from_bytes(properties[at : at + 2], "big")
        at += _FIXED.get(name, 0)
        for _ in range(_TEXTS.get(name, 0)):
            at += 2 + int.from_bytes(properties[at : at + 2], "big")
    return _ID_MAX


def _connect_packet(client_id: str, settings: MqttSettings) -> bytes:
    flags, secrets = 0x02, b""  # a clean start
    if settings.username:
        flags |= 0x80
        secrets += _text(settings.username)
    if settings.password:
        flags |= 0x40
        secrets += _text(settings.password)
    head = _text("MQTT") + bytes([5, flags]) + settings.keepalive_s.to_bytes(2, "big") + b"\0"
    return _packet(0x10, head + _text(client_id) + secrets)


def _text(text: str) -> bytes:
    raw = text.encode()
    return len(raw).to_bytes(2, "big") + raw


def _packet(first: int, content: bytes) -> bytes:
    head, length = bytearray([first]), len(content)
    while length > 127:
        head.append(length & 127 | 128)
        length >>= 7
    head.append(length)
    return bytes(head) + content


def _body(packet: bytes) -> int:
    at = 1
    while packet[at] > 127:
        at += 1
    return at + 1
