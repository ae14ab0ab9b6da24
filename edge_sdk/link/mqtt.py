"""A Link over MQTT 5: with link/batched.py the only door to paho.

What paho would do on its own (queue while offline, send twice after a reconnect, wait a fixed time between attempts)
does not happen: every connection gets a fresh paho client, driven step by step by the link's own thread.
"""

import os
import random
import select
import socket
import ssl
from collections.abc import Callable
from typing import Any

from paho.mqtt import client as paho
from paho.mqtt.enums import CallbackAPIVersion, MQTTErrorCode, MQTTProtocolVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode

from edge_sdk import clock, errors
from edge_sdk.link import batched, filters, reading, tls
from edge_sdk.link.batched import BatchedClient
from edge_sdk.link.dispatch import Dispatch
from edge_sdk.link.mending import Connection, MendingLink
from edge_sdk.link.protocol import Message, Will, WillSource
from edge_sdk.link.reading import PacketReader, Part
from edge_sdk.link.settings import MqttSettings, parse_url
from edge_sdk.link.window import Outgoing

__all__ = ["MqttLink", "MqttSettings"]

_UNSPECIFIED = 128
_TOO_LARGE = 149
_TAKEN_OVER = 142
_PACKET_MAX_BYTES = 268_435_455  # what the length field of MQTT can say
_RECEIVED_MAX_BYTES = 4 * 2**20  # no broker may fill our memory: our records end at 64 kB
_HEADER_BYTES = 32  # fixed header, lengths, packet id and properties of a PUBLISH, rounded up


class MqttLink(MendingLink):
    """A Link to an MQTT 5 broker that mends itself.

    Messages that were handed over and not acknowledged when a connection broke are sent again on the next one (at
    least once). Where topic filters overlap, a broker may deliver one message several times.
    """

    def __init__(
        self,
        settings: MqttSettings,
        will: WillSource | None = None,
        *,
        ticks: clock.Clock | None = None,
        rng: random.Random | None = None,
    ) -> None:
        """Prepares a link; nothing is sent before `open`.

        Args:
            settings: which broker, as whom.
            will: what the broker says if this client vanishes; a function gives a new one for each connection.
            ticks: for deadlines.
            rng: for the jitter; seeded by the client id unless given, so that no two devices wait alike.

        Raises:
            SettingsError: the url is not of that form, a certificate can't be read, or a password has no username.
        """
        super().__init__(settings, ticks=ticks, rng=rng)
        if settings.password and not settings.username:
            raise errors.SettingsError("a password goes with a username; give both")
        if isinstance(will, Will):
            filters.check_topic(will.topic)
        self._will = will
        self._tls = tls.context_from_settings(settings)

    def _connection(self, *, wake_fd: int, is_first: bool) -> Connection:
        return _PahoConnection(
            self._settings,
            self._will,
            self._tls,
            self._dispatch,
            self._acknowledged,
            wake_fd=wake_fd,
            is_first=is_first,
        )


class _PahoConnection:
    """One connection by a paho client of its own; every method but `send_at_once` runs on the link's thread."""

    def __init__(
        self,
        settings: MqttSettings,
        will: WillSource | None,
        tls: ssl.SSLContext | None,
        dispatch: Dispatch,
        acknowledged: Callable[[int, str], None],
        *,
        wake_fd: int,
        is_first: bool,
    ) -> None:
        self.is_ready = self.was_taken_over = self.was_too_large = False
        self.error = ""
        self.at_once_max = settings.in_flight_max
        self.message_max_bytes = _PACKET_MAX_BYTES - _HEADER_BYTES
        self._settings = settings
        self._dispatch = dispatch
        self._acknowledged = acknowledged
        self._wake_fd = wake_fd
        self._is_first = is_first
        self._socket: socket.socket | None = None
        self._poll = select.poll()  # not select(): that fails for file descriptors above 1023
        self._reader = PacketReader(_RECEIVED_MAX_BYTES)
        self._held: Part | None = None
        self._is_polled_for_write = False
        self._ids: set[int] = set()
        self._last_id = 0
        self._unanswered: dict[int, str] = {}
        self._client = self._new_client(will, tls)

    def open(self) -> None:
        """Connects the socket and sends CONNECT; an earlier session is taken up again unless this is the first."""
        address = parse_url(self._settings.url)
        properties = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]  # paho leaves it untyped
        properties.SessionExpiryInterval = self._settings.session_expiry_s
        properties.MaximumPacketSize = _RECEIVED_MAX_BYTES
        try:
            self._client.connect(
                address.host,
                address.port,
                keepalive=self._settings.keepalive_s,
                clean_start=self._is_first or not self._settings.session_expiry_s,
                properties=properties,
            )
        except (OSError, UnicodeError) as error:
            raise errors.LinkError(f"{self._settings.url} can't be reached: {_reason(error)}") from error
        self._socket = self._client.socket()  # type: ignore[assignment]  # with transport "tcp" it is one
        if self._socket is not None:
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._poll.register(self._socket, select.POLLIN)
        self._poll.register(self._wake_fd, select.POLLIN)

    def step(self, timeout_s: float) -> bool:
        """Waits for the network or a publisher, then reads, writes and keeps the connection alive."""
        connected = self._socket
        if connected is None or self._client.socket() is None:
            return False
        if self._held is not None and isinstance(self._client, BatchedClient):
            part, self._held = self._held, None
            self._take(self._client, part)
            self._read_decrypted(connected)
            timeout_s = 0.0
        if self._client.want_write() != self._is_polled_for_write:
            self._is_polled_for_write = not self._is_polled_for_write
            self._poll.modify(connected, select.POLLIN | (select.POLLOUT if self._is_polled_for_write else 0))
        events = dict(self._poll.poll(timeout_s * 1000))
        if self._wake_fd in events:
            os.eventfd_read(self._wake_fd)
        if events.get(connected.fileno(), 0) & ~select.POLLOUT:
            self._read()
            self._read_decrypted(connected)
        if self._client.want_write():
            self._client.loop_write()
        self._client.loop_misc()
        return self._client.socket() is not None

    def _read_decrypted(self, connected: socket.socket) -> None:
        """Reads what TLS has decrypted already, which poll() does not see."""
        while (
            isinstance(connected, ssl.SSLSocket)
            and self._held is None
            and self._client.socket() is not None
            and connected.pending()
        ):
            self._read()

    def _read(self) -> None:
        client = self._client
        if not isinstance(client, BatchedClient):
            client.loop_read()
            return
        self._take(client, client.read(self._reader))

    def _take(self, client: BatchedClient, part: Part) -> None:
        others = part.others
        early = 0
        while early < len(others) and not self.is_ready:
            client.take_in(others[early : early + 1])
            early += 1
        if early and self.is_ready:  # what came with the last answer waits until the link has noted the connection
            self._held = part._replace(others=others[early:])
            return
        for packet_id, reason in part.acknowledged:
            self._ids.discard(packet_id)
            self._acknowledged(packet_id, reading.refusal(reason))
        for _ in range(part.unreadable):
            self._dispatch.count_error()
        if part.messages:
            self._dispatch.deliver(part.messages)
        if part.acks:
            client.write(part.acks)
        client.take_in(others[early:])
        if part.problem:
            raise errors.PayloadError(f"{self._settings.url} sent what can't be read: {part.problem}")

    def send(self, message: Outgoing) -> int | None:
        """Gives the packet id of the PUBLISH; 0 for QoS 0, which has none."""
        if isinstance(self._client, BatchedClient):
            packet_id = self._free_id() if message.qos else 0
            self._client.write(_packet(message, packet_id))
            return packet_id
        info = self._client.publish(message.topic, message.payload, qos=message.qos, retain=message.retain)
        return info.mid if info.rc == MQTTErrorCode.MQTT_ERR_SUCCESS else None

    def send_at_once(self, message: Outgoing) -> int | None:
        """Gives the packet id as `send` does, from any thread; None: not sent, it is left to the link's own."""
        if not isinstance(self._client, BatchedClient):
            return None
        packet_id = self._free_id() if message.qos else 0
        if self._client.write_at_once(_packet(message, packet_id)):
            if self._client.want_write():  # the socket took a part; its own thread sends the rest
                os.eventfd_write(self._wake_fd, 1)
            return packet_id
        self._ids.discard(packet_id)
        return None

    def _free_id(self) -> int:
        while True:
            self._last_id = self._last_id % 65535 + 1
            if self._last_id not in self._ids:
                self._ids.add(self._last_id)
                return self._last_id

    def say_goodbye(self) -> None:
        """Sends DISCONNECT."""
        self._client.disconnect()
        if self._client.want_write():
            self._client.loop_write()

    @property
    def has_ended_in_order(self) -> bool:
        """Tells whether the peer closed the connection itself, without a word."""
        return isinstance(self._client, BatchedClient) and self._client.has_ended_in_order and not self.was_taken_over

    def drop(self) -> None:
        """Closes the socket; paho has no call for it that says nothing to the broker."""
        if self._socket is not None:
            self._socket.close()

    def _new_client(self, will: WillSource | None, tls: ssl.SSLContext | None) -> paho.Client:
        settings = self._settings
        is_batched = settings.batched_reads and batched.works()
        client = (BatchedClient if is_batched else paho.Client)(
            CallbackAPIVersion.VERSION2,
            client_id=settings.client_id,
            protocol=MQTTProtocolVersion.MQTTv5,
            reconnect_on_failure=False,
        )
        client.connect_timeout = settings.connect_timeout_s
        client.max_inflight_messages_set(0)  # the link's window is the limit
        if settings.username:
            client.username_pw_set(settings.username, settings.password or None)
        if isinstance(will, Will):
            client.will_set(will.topic, will.payload, qos=1, retain=will.retain)
        elif will is not None:
            client.on_socket_open = lambda opened, _data, _socket: _set_will(opened, will())
        if tls is not None:
            client.tls_set_context(tls)
        client.on_connect = self._on_connect
        client.on_subscribe = self._on_subscribe
        client.on_publish = self._on_publish
        client.on_message = self._on_message
        client.on_disconnect = self._on_disconnect
        return client

    # paho calls these from within step() and send().

    def _on_connect(
        self, client: paho.Client, _data: Any, _flags: Any, reason: ReasonCode, limits: Properties | None
    ) -> None:
        if reason.is_failure:
            self.error = f"{self._settings.url} refused the connection: {reason}"
            return
        self.at_once_max = min(self.at_once_max, getattr(limits, "ReceiveMaximum", 65535))
        self.message_max_bytes = getattr(limits, "MaximumPacketSize", _PACKET_MAX_BYTES) - _HEADER_BYTES
        for topic_filter in dict.fromkeys(subscription.topic_filter for subscription in self._dispatch.subscriptions):
            _, packet_id = client.subscribe(topic_filter, qos=1)
            if packet_id is not None:
                self._unanswered[packet_id] = topic_filter
        self.is_ready = not self._unanswered

    def _on_subscribe(self, _client: Any, _data: Any, packet_id: int, reasons: list[ReasonCode], _more: Any) -> None:
        topic_filter = self._unanswered.pop(packet_id, "")
        for reason in reasons:
            if reason.is_failure:
                self.error = f"{self._settings.url} refused the subscription to {topic_filter}: {reason}"
        self.is_ready = not self._unanswered

    def _on_publish(self, _client: Any, _data: Any, packet_id: int, reason: ReasonCode, _more: Any) -> None:
        self._acknowledged(packet_id, str(reason) if reason.is_failure else "")

    def _on_message(self, _client: Any, _data: Any, message: paho.MQTTMessage) -> None:
        try:
            topic = message.topic
        except UnicodeDecodeError:
            self._dispatch.count_error()
            return
        self._dispatch.deliver([Message(topic, bytes(message.payload), bool(message.retain))])

    def _on_disconnect(self, _client: Any, _data: Any, flags: Any, reason: ReasonCode, _more: Any) -> None:
        if self.error:
            return
        if flags.is_disconnect_packet_from_server and reason.value == _TAKEN_OVER:
            self.was_taken_over = True
            self.error = f"another client connected as {self._settings.client_id!r}; give each its own client_id"
        elif flags.is_disconnect_packet_from_server:
            self.was_too_large = reason.value == _TOO_LARGE
            self.error = f"{self._settings.url} closed the connection: {reason}"
        elif reason.value == _UNSPECIFIED:
            self.error = (
                f"lost {self._settings.url} without a reason: it stopped, the network broke, "
                f"or another client connected as {self._settings.client_id!r}"
            )
        elif reason.is_failure:
            self.error = f"lost {self._settings.url}: {reason}"


def _packet(message: Outgoing, packet_id: int) -> bytes:
    return reading.publish_packet(message.topic, message.payload, packet_id, retain=message.retain)


def _set_will(client: paho.Client, will: Will) -> None:
    """Sets the will of a connection whose socket stands and whose CONNECT is not sent yet."""
    client.will_set(will.topic, will.payload, qos=1, retain=will.retain)


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error) or type(error).__name__
