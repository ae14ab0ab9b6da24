"""What a link promises; the in-memory one and MQTT pass the same checks (edge_sdk.testing.link_checks)."""

from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple, Protocol

import msgspec


class Message(NamedTuple):
    """One message as it came in."""

    topic: str
    payload: bytes
    retained: bool


Handler = Callable[[Message], None]
"""Called for every message, one at a time, never on the publisher's thread. What it raises is counted in
`LinkState.handler_errors` and logged; it never stops the link."""

BatchHandler = Callable[[Sequence[Message]], None]
"""The same for all messages that came at once: at a high rate one call for many. The broker is told that they arrived
when it returns, so a handler that waits slows the sender down instead of losing anything."""


Qos = Literal[0, 1]
"""1: acknowledged by the broker, and sent again on the next connection. 0: at most once, on this connection only."""


class Will(NamedTuple):
    """What the broker publishes (QoS 1, retained unless said) when this client vanishes without a goodbye."""

    topic: str
    payload: bytes
    retain: bool = True


WillSource = Will | Callable[[], Will]
"""One for all connections, or a new one for each: called on the link's thread just before each CONNECT is sent."""


class LinkState(msgspec.Struct, frozen=True):
    """A link at one moment.

    Attributes:
        is_connected: the broker has accepted us and the network thread is alive.
        connects: accepted connections since `open`.
        published: messages that the broker has acknowledged (QoS 1). Not a receipt: see records.telemetry.Receipt.
        refused: publishes that failed or that the broker refused with a reason code.
        received: messages handed to handlers.
        handler_errors: exceptions that handlers raised.
        in_flight: published but not yet acknowledged by the broker.
        last_error: why the last connection or publish failed; empty when none did.
        stalled_s: for how long the network thread has been inside one handler or write; it comes round at least once a
            second otherwise.
    """

    is_connected: bool
    connects: int
    published: int
    refused: int
    received: int
    handler_errors: int
    in_flight: int
    last_error: str
    stalled_s: float = 0.0


class Link(Protocol):
    """A connection to a broker that mends itself.

    Order of use: `subscribe` and `on_connect` first, then `open`, then `publish`, then `close`.
    """

    def open(self) -> None:
        """Starts connecting in the background and returns at once; a broker that is not there yet is no error."""
        ...

    def on_connect(self, act: Callable[[], None]) -> None:
        """Has `act` called after every accepted connect, subscriptions done; it may publish."""
        ...

    def subscribe(self, topic_filter: str, handler: Handler) -> None:
        """Has `handler` called for messages that match (MQTT wildcards); survives reconnects."""
        ...

    def subscribe_batches(self, topic_filter: str, handler: BatchHandler) -> None:
        """Has `handler` called with all matching messages that came at once; survives reconnects."""
        ...

    def publish(self, topic: str, payload: bytes, *, retain: bool = False, qos: Qos = 1) -> None:
        """Hands one message to the broker, without waiting for its acknowledgement.

        Raises:
            LinkError: not connected, or too many messages in flight. Nothing was queued: keep it and try again.
        """
        ...

    def wait_for_connected(self, timeout_s: float) -> bool:
        """Tells whether a connection stood within `timeout_s`."""
        ...

    def snapshot(self) -> LinkState:
        """Gives the state at this moment."""
        ...

    def close(self, timeout_s: float = 2.0) -> None:
        """Lets messages in flight go out for at most `timeout_s`, says goodbye (no will is sent) and stops."""
        ...
