"""A broker and links inside one process, with the MQTT rules that matter: for tests, and for trying things out.

Like a broker that keeps nothing on disk, `MemoryBroker.stop` forgets the retained messages and every connection.
"""

import queue
import threading
from collections.abc import Callable

from edge_sdk import errors
from edge_sdk.link import filters
from edge_sdk.link.counting import CountingLink
from edge_sdk.link.protocol import Message, Qos, Will, WillSource


class MemoryBroker:
    """Connects MemoryLinks; `stop` and `start` make it go away and come back, as brokers do."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._is_running = True
        self._links: list[MemoryLink] = []
        self._connected: set[MemoryLink] = set()
        self._retained: dict[str, bytes] = {}

    @property
    def retained(self) -> dict[str, bytes]:
        """A copy of the retained messages: payload by topic."""
        with self._lock:
            return dict(self._retained)

    def stop(self) -> None:
        """Breaks every connection and forgets what was retained; no will is published, as nobody is there to do it."""
        with self._lock:
            self._is_running = False
            self._retained.clear()
            for link in list(self._connected):
                self._connected.discard(link)
                link.lose("the broker went away")

    def start(self) -> None:
        """Comes back, empty; open links connect again at once."""
        with self._lock:
            self._is_running = True
            for link in self._links:
                link.invite()

    def attach(self, link: "MemoryLink") -> None:
        """Has `link` told when a connection is possible."""
        with self._lock:
            self._links.append(link)
            if self._is_running:
                link.invite()

    def accept(self, link: "MemoryLink") -> bool:
        """Connects `link` and sends it what is retained for it; False while stopped or connected already."""
        with self._lock:
            if not self._is_running or link in self._connected or link not in self._links:
                return False
            self._connected.add(link)
            link.gain()
            for topic, payload in self._retained.items():
                link.offer(Message(topic, payload, retained=True))
            return True

    def detach(self, link: "MemoryLink", *, publish_will: bool) -> None:
        """Ends the connection of `link` for good, with or without its last will."""
        with self._lock:
            if link in self._links:
                self._links.remove(link)
            if link in self._connected:
                self._connected.discard(link)
                if publish_will and link.will is not None:
                    self._route(link.will.topic, link.will.payload, retain=link.will.retain)

    def route(self, sender: "MemoryLink", topic: str, payload: bytes, *, retain: bool) -> bool:
        """Delivers one message of `sender`; False, and nothing done, if it is not connected."""
        with self._lock:
            if sender not in self._connected:
                return False
            self._route(topic, payload, retain=retain)
            return True

    def _route(self, topic: str, payload: bytes, *, retain: bool) -> None:
        if retain and payload:
            self._retained[topic] = payload
        elif retain:
            self._retained.pop(topic, None)
        for link in self._connected:
            link.offer(Message(topic, payload, retained=False))


class MemoryLink(CountingLink):
    """A Link to a MemoryBroker. Handlers and connect actions run on its own thread."""

    def __init__(self, broker: MemoryBroker, *, will: WillSource | None = None) -> None:
        super().__init__()
        self.will: Will | None = None
        self._will_source = will
        self._broker = broker
        self._work: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="memory-link", daemon=True)
        self._is_open = self._is_closed = False

    def open(self) -> None:
        """Starts connecting in the background.

        Raises:
            UsageError: opened before.
        """
        if self._is_open or self._is_closed:
            raise errors.UsageError("a link is opened once; make a new one")
        self._is_open = True
        self._thread.start()
        self._broker.attach(self)

    def publish(self, topic: str, payload: bytes, *, retain: bool = False, qos: Qos = 1) -> None:
        """Hands one message to the broker.

        Raises:
            LinkError: not connected; nothing was queued.
            UsageError: no topic to publish to.
        """
        del qos  # nothing is lost inside one process
        filters.check_topic(topic)
        if not self._broker.route(self, topic, payload, retain=retain):
            with self._changed:
                self._refused += 1
            raise errors.LinkError(f"not connected, {topic} was not published: {self._last_error or 'no broker'}")
        with self._changed:
            self._published += 1

    def close(self, timeout_s: float = 2.0) -> None:
        """Says goodbye (no will is sent) and stops."""
        self._end(publish_will=False, timeout_s=timeout_s)

    def vanish(self) -> None:
        """Goes away like a killed process: no goodbye, so that the broker publishes the last will."""
        self._end(publish_will=True, timeout_s=2.0)

    # What follows is called by the broker, under its lock: it only leaves a note for the link's own thread.

    def invite(self) -> None:
        """The broker can be connected to."""
        self._work.put(self._connect)

    def offer(self, message: Message) -> None:
        """A message passed through the broker."""
        self._work.put(lambda: self._dispatch.deliver([message]))

    def gain(self) -> None:
        """The connection stands."""
        self._gain()

    def lose(self, reason: str) -> None:
        """The connection is gone."""
        with self._changed:
            self._is_connected = False
            self._last_error = reason

    def _is_opened(self) -> bool:
        return self._is_open

    def _run(self) -> None:
        while (task := self._work.get()) is not None:
            task()

    def _connect(self) -> None:
        self.will = self._will_source() if callable(self._will_source) else self._will_source
        if self._broker.accept(self):
            self._dispatch.announce()

    def _end(self, *, publish_will: bool, timeout_s: float) -> None:
        self._broker.detach(self, publish_will=publish_will)
        with self._changed:
            self._is_connected = False
            self._is_closed = True
        self._work.put(None)
        if self._thread.is_alive() and threading.current_thread() is not self._thread:
            self._thread.join(timeout_s)
