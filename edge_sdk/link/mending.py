"""A link that mends itself, whatever carries it: one thread, a bounded window, attempts with jitter between them.

A publisher hands its message to the socket where that takes it at once; else it leaves it in the window and wakes the
thread, which does all the rest. Neither waits for the network or for a lock of a foreign library, so a publish inside a
handler can't deadlock.
"""

import abc
import logging
import os
import random
import threading
from collections.abc import Iterator
from typing import Protocol

from edge_sdk import clock, errors
from edge_sdk.link import backoff, filters
from edge_sdk.link.counting import CountingLink
from edge_sdk.link.protocol import Qos
from edge_sdk.link.reading import TOO_LARGE
from edge_sdk.link.settings import MqttSettings
from edge_sdk.link.window import Outgoing, Window

_LOG = logging.getLogger(__name__)

_IDLE_POLL_S = 1.0
_BUSY_POLL_S = 0.05  # while a deadline runs: connecting, closing
_REFUSALS_TOLD = 100
_UNLIMITED_BYTES = 2**31
_CLOSED_TWICE = 2  # and soon after it was accepted: two clients of one name push each other out like that
_STEADY_S = 5.0  # a connection that stood this long makes the next wait short again


class Connection(Protocol):
    """One connection, from the attempt to its end; used by one thread.

    Attributes:
        is_ready: the peer has accepted us and our subscriptions.
        error: why it failed or ended; empty when there is no reason to tell.
        was_taken_over: another client of the same name pushed us out.
        was_too_large: the peer ended it because of the size of a message.
        has_ended_in_order: the peer closed it without a word, as some brokers do when another client takes our name.
        at_once_max: most unacknowledged messages the peer takes.
        message_max_bytes: largest message the peer takes.
    """

    is_ready: bool
    error: str
    was_taken_over: bool
    was_too_large: bool
    at_once_max: int
    message_max_bytes: int

    @property
    def has_ended_in_order(self) -> bool:
        """See above."""
        ...

    def open(self) -> None:
        """Sends the first bytes; raises OSError if nobody listens."""
        ...

    def step(self, timeout_s: float) -> bool:
        """Waits at most `timeout_s` for something to do and does it; False when the connection has ended."""
        ...

    def send(self, message: Outgoing) -> int | None:
        """Gives the packet id under which `message` was sent (0 for QoS 0), or None: not sent."""
        ...

    def send_at_once(self, message: Outgoing) -> int | None:
        """Gives the packet id as `send` does, but on the publisher's thread; None: not sent, leave it to `send`.

        Never waits. The caller lets no two threads send at once.
        """
        ...

    def say_goodbye(self) -> None:
        """Ends it in order, so that no will is sent."""
        ...

    def drop(self) -> None:
        """Gives its resources back, whatever state it is in."""
        ...


class MendingLink(CountingLink):
    """The Link behind MqttLink; see there."""

    def __init__(
        self, settings: MqttSettings, *, ticks: clock.Clock | None = None, rng: random.Random | None = None
    ) -> None:
        super().__init__()
        self._settings = settings
        self._now_s = (ticks or clock.SystemClock()).boot_s
        self._rng = rng or random.Random(settings.client_id)  # noqa: S311  # jitter, not a secret
        self._window = Window(settings.in_flight_max)
        self._thread = threading.Thread(target=self._run, name=f"link {settings.client_id}", daemon=True)
        self._wake_fd = -1
        self._is_closing = threading.Event()
        self._standing: Connection | None = None
        self._came_round_s = 0.0
        self._drain_until_s = 0.0
        self._message_max_bytes = 0
        self._refused_bytes = _UNLIMITED_BYTES
        self._refusals: set[tuple[str, str]] = set()

    def open(self) -> None:
        """Starts connecting in the background.

        Raises:
            UsageError: opened or closed before.
        """
        with self._changed:
            if self._wake_fd >= 0 or self._is_closing.is_set():
                raise errors.UsageError("a link is opened once; make a new one")
            self._wake_fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._thread.start()

    def publish(self, topic: str, payload: bytes, *, retain: bool = False, qos: Qos = 1) -> None:
        """Hands one message to the broker, without waiting for its acknowledgement.

        Raises:
            OversizeError: larger than the broker takes, by its word or as it ended a connection for it.
            LinkError: not connected, or too many messages in flight; nothing was queued.
            UsageError: no topic to publish to.
        """
        filters.check_topic(topic)
        with self._changed:
            size_bytes = len(topic.encode()) + len(payload)
            problem = self._obstacle()
            if problem:
                self._refused += 1
                raise errors.LinkError(f"{topic} was not published: {problem}")
            if size_bytes > self._message_max_bytes:
                self._refused += 1
                raise errors.OversizeError(
                    f"{topic} was not published: it has {size_bytes} bytes; this broker takes at most "
                    f"{self._message_max_bytes}"
                )
            message = Outgoing(topic, payload, retain, qos=qos)
            if not self._sends_at_once(message):
                self._window.add(message)
                os.eventfd_write(self._wake_fd, 1)

    def _sends_at_once(self, message: Outgoing) -> bool:
        """Sends a message on this thread if it is its turn: no other thread has to wake up for it; the lock is held."""
        connection = self._standing
        if connection is None or not self._window.has_turn(connection.at_once_max):
            return False
        packet_id = connection.send_at_once(message)
        if packet_id is None:
            return False
        self._sent(packet_id, message)
        return True

    def close(self, timeout_s: float = 2.0) -> None:
        """Lets messages in flight go out for at most `timeout_s`, says goodbye and stops; again does nothing."""
        with self._changed:
            if not self._is_closing.is_set():
                self._drain_until_s = self._now_s() + timeout_s
                self._is_closing.set()
                if self._wake_fd >= 0:
                    os.eventfd_write(self._wake_fd, 1)
        if self._thread.is_alive() and threading.current_thread() is not self._thread:
            self._thread.join(timeout_s + 0.5)

    @abc.abstractmethod
    def _connection(self, *, wake_fd: int, is_first: bool) -> Connection:
        """Gives a fresh, unopened connection; `is_first` until one was accepted."""

    def _acknowledged(self, packet_id: int, refusal: str) -> None:
        """Takes the broker's answer to a message: `refusal` is empty, or its reason for not taking it."""
        with self._changed:
            message = self._window.acknowledge(packet_id)
            if message is None:
                return
            if not refusal:
                self._published += 1
                return
            self._refused += 1
            if refusal == TOO_LARGE:
                self._refused_bytes = min(self._refused_bytes, message.size_bytes)
                self._message_max_bytes = min(self._message_max_bytes, self._refused_bytes - 1)
            self._last_error = f"the broker refused {message.topic}: {refusal}"
            is_news = (message.topic, refusal) not in self._refusals
            if len(self._refusals) < _REFUSALS_TOLD:
                self._refusals.add((message.topic, refusal))
        if is_news:
            _LOG.warning("%s; it does not count as delivered", self._last_error)

    def _is_opened(self) -> bool:
        return self._wake_fd >= 0

    def _in_flight(self) -> int:
        return len(self._window)

    def _stalled_s(self) -> float | None:
        if not self._thread.is_alive():
            return None
        return max(0.0, self._now_s() - self._came_round_s - _IDLE_POLL_S) if self._is_connected else 0.0

    def _obstacle(self) -> str:
        """Gives why a message can't be taken now, or an empty string; the caller holds the lock."""
        if self._is_closing.is_set():
            return "the link is closed"
        if not self._is_connected:
            return f"not connected to {self._settings.url} ({self._last_error or 'still connecting'})"
        if self._window.is_full:
            return f"{len(self._window)} messages are in flight already; wait until the broker has acknowledged some"
        return ""

    # Everything below runs on the link's own thread.

    def _run(self) -> None:
        waits = self._waits()
        closed_by_peer = 0
        try:
            while not self._is_closing.is_set():
                connection = self._connection(wake_fd=self._wake_fd, is_first=self._connects == 0)
                stood_s = self._attempt(connection)
                if stood_s >= _STEADY_S:
                    waits = self._waits()
                wait_s = next(waits)
                closed_by_peer = closed_by_peer + 1 if connection.has_ended_in_order else 0
                is_suspect = closed_by_peer >= _CLOSED_TWICE and 0 < stood_s < _STEADY_S
                if connection.was_taken_over or is_suspect:
                    wait_s = max(wait_s, self._settings.reconnect_cap_s / 2)
                self._is_closing.wait(wait_s)
        finally:
            with self._changed:
                self._is_connected = False
                self._is_closing.set()
                self._refused += self._window.clear()
                os.close(self._wake_fd)
                self._wake_fd = -1

    def _waits(self) -> Iterator[float]:
        return backoff.delays(self._rng, cap_s=self._settings.reconnect_cap_s)

    def _attempt(self, connection: Connection) -> float:
        """Connects and serves until the end; gives the seconds for which the connection stood."""
        accepted_s = None
        try:
            connection.open()
            if self._wait_until_ready(connection):
                accepted_s = self._now_s()
                self._accept(connection)
                self._serve(connection)
        except Exception as error:  # noqa: BLE001  # boundary: malformed packets raise anything in the carrier
            connection.error = connection.error or (str(error) if isinstance(error, errors.LinkError) else repr(error))
        finally:
            with self._changed:  # nobody sends on it from here on
                self._standing = None
            connection.drop()
        self._lose(connection)
        return 0.0 if accepted_s is None else self._now_s() - accepted_s

    def _wait_until_ready(self, connection: Connection) -> bool:
        deadline_s = self._now_s() + self._settings.connect_timeout_s
        while connection.step(_BUSY_POLL_S) and not self._is_closing.is_set():
            if connection.is_ready:
                return True
            if self._now_s() > deadline_s:
                connection.error = f"no answer within {self._settings.connect_timeout_s:g} s; is it an MQTT 5 broker?"
                break
        return False

    def _accept(self, connection: Connection) -> None:
        with self._changed:
            self._came_round_s = self._now_s()
            self._message_max_bytes = min(connection.message_max_bytes, self._refused_bytes - 1)
            self._last_error = connection.error or self._last_error
            self._standing = connection
        self._gain()
        self._dispatch.announce()

    def _serve(self, connection: Connection) -> None:
        while True:
            self._came_round_s = self._now_s()
            self._send_waiting(connection)
            if self._is_closing.is_set() and (not len(self._window) or self._now_s() > self._drain_until_s):
                connection.say_goodbye()
                return
            if not connection.step(_BUSY_POLL_S if self._is_closing.is_set() else _IDLE_POLL_S):
                return

    def _send_waiting(self, connection: Connection) -> None:
        while True:
            with self._changed:  # while it sends nobody else does, so that the order stays
                message = self._window.take(connection.at_once_max)
                if message is None:
                    return
                packet_id = connection.send(message)
                if packet_id is None:
                    self._window.give_back(message)
                    return
                self._sent(packet_id, message)

    def _sent(self, packet_id: int, message: Outgoing) -> None:
        """Notes that a message is under way; the lock is held, so that its answer comes after that."""
        if message.qos:
            self._window.mark_sent(packet_id, message)
        else:
            self._published += 1

    def _lose(self, connection: Connection) -> None:
        """Notes the end of a connection; what was under way waits for the next one."""
        with self._changed:
            was_connected, self._is_connected = self._is_connected, False
            if connection.was_too_large and (largest := self._window.drop_largest()):
                self._refused += 1
                self._refused_bytes = min(self._refused_bytes, largest.size_bytes)
            for message in self._window.rewind():
                self._refused += 1
                self._last_error = f"gave up {message.topic}: every connection it was sent on broke"
            if self._is_closing.is_set():
                return
            reason = connection.error or "connection lost"
            if was_connected or reason != self._last_error:
                _LOG.warning("%s; trying again", reason)
            self._last_error = reason
