"""What was handed to a link and not yet acknowledged: bounded, in order, sent again after a break."""

from collections import deque
from typing import NamedTuple

from edge_sdk.link.protocol import Qos

ATTEMPTS_MAX = 5
"""A message that was under way in five connections that all broke is given up: it may be what breaks them."""


class Outgoing(NamedTuple):
    """One message on its way.

    Attributes:
        topic, payload, retain: the message.
        attempts: connections in which it was sent so far.
        qos: of MQTT; what has 0 is sent on the connection it was meant for or not at all.
    """

    topic: str
    payload: bytes
    retain: bool
    attempts: int = 0
    qos: Qos = 1

    @property
    def size_bytes(self) -> int:
        """Topic and payload: what a broker counts, but for its header."""
        return len(self.topic.encode()) + len(self.payload)


class Window:
    """Messages waiting to be sent, and sent ones by packet id. The owner locks."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._waiting: deque[Outgoing] = deque()
        self._sent: dict[int, Outgoing] = {}

    def __len__(self) -> int:
        return len(self._waiting) + len(self._sent)

    @property
    def is_full(self) -> bool:
        """Tells whether no further message may come in."""
        return len(self) >= self.limit

    def has_turn(self, at_once_max: int) -> bool:
        """Tells whether a new message may be sent before it is added: nothing waits, and fewer are unacknowledged."""
        return not self._waiting and len(self._sent) < at_once_max

    def add(self, message: Outgoing) -> None:
        """Puts one message at the end."""
        self._waiting.append(message)

    def take(self, at_once_max: int) -> Outgoing | None:
        """Gives the next message to send, or None: nothing waits, or `at_once_max` are unacknowledged."""
        if not self._waiting or len(self._sent) >= at_once_max:
            return None
        return self._waiting.popleft()

    def give_back(self, message: Outgoing) -> None:
        """Puts back what `take` gave and could not be sent."""
        self._waiting.appendleft(message)

    def mark_sent(self, packet_id: int, message: Outgoing) -> None:
        """Remembers a message until it is acknowledged."""
        self._sent[packet_id] = message._replace(attempts=message.attempts + 1)

    def acknowledge(self, packet_id: int) -> Outgoing | None:
        """Gives the message that `packet_id` stood for, which is now done with."""
        return self._sent.pop(packet_id, None)

    def drop_largest(self) -> Outgoing | None:
        """Forgets the largest unacknowledged message and gives it; None if there is none."""
        if not self._sent:
            return None
        return self._sent.pop(max(self._sent, key=lambda packet_id: self._sent[packet_id].size_bytes))

    def rewind(self) -> list[Outgoing]:
        """Has everything unacknowledged wait again, in its old order; gives what is given up instead."""
        kept: list[Outgoing] = []
        given_up: list[Outgoing] = []
        for message in self._sent.values():
            (given_up if message.attempts >= ATTEMPTS_MAX else kept).append(message)
        self._sent.clear()
        self._waiting = deque(kept + [message for message in self._waiting if message.qos])
        return given_up

    def clear(self) -> int:
        """Forgets everything; gives how many messages that were."""
        count = len(self)
        self._waiting.clear()
        self._sent.clear()
        return count
