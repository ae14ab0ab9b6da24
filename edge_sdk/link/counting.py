"""What every link keeps account of, and how one waits for it: the part that carries nothing."""

import abc
import threading
from collections.abc import Callable

from edge_sdk import errors
from edge_sdk.link.dispatch import Dispatch
from edge_sdk.link.protocol import BatchHandler, Handler, LinkState


class CountingLink(abc.ABC):
    """Subscriptions, connect actions, counts and waiting of a Link; whoever carries messages derives from it."""

    def __init__(self) -> None:
        self._dispatch = Dispatch()
        self._changed = threading.Condition()
        self._is_connected = False
        self._connects = self._published = self._refused = 0
        self._last_error = ""

    def on_connect(self, act: Callable[[], None]) -> None:
        """Has `act` called on the link's thread after every accepted connect, subscriptions done; it may publish.

        Raises:
            UsageError: the link is open already.
        """
        self._check_unopened()
        self._dispatch.on_connect(act)

    def subscribe(self, topic_filter: str, handler: Handler) -> None:
        """Has `handler` called on the link's thread for messages that match; survives reconnects.

        Raises:
            UsageError: not a topic filter, or the link is open already.
        """
        self._check_unopened()
        self._dispatch.subscribe(topic_filter, handler)

    def subscribe_batches(self, topic_filter: str, handler: BatchHandler) -> None:
        """Has `handler` called on the link's thread with all matching messages that came at once.

        Raises:
            UsageError: not a topic filter, or the link is open already.
        """
        self._check_unopened()
        self._dispatch.subscribe_batches(topic_filter, handler)

    def wait_for_connected(self, timeout_s: float) -> bool:
        """Tells whether a connection stood within `timeout_s`."""
        with self._changed:
            return self._changed.wait_for(lambda: self._is_connected, timeout_s)

    def snapshot(self) -> LinkState:
        """Gives the state at this moment."""
        with self._changed:
            stalled_s = self._stalled_s()
            return LinkState(
                is_connected=self._is_connected and stalled_s is not None,
                connects=self._connects,
                published=self._published,
                refused=self._refused,
                received=self._dispatch.received,
                handler_errors=self._dispatch.handler_errors,
                in_flight=self._in_flight(),
                last_error=self._last_error,
                stalled_s=stalled_s or 0.0,
            )

    def _gain(self) -> None:
        """Notes a connection."""
        with self._changed:
            self._is_connected = True
            self._connects += 1
            self._changed.notify_all()

    def _check_unopened(self) -> None:
        if self._is_opened():
            raise errors.UsageError("subscribe and on_connect come before open")

    @abc.abstractmethod
    def _is_opened(self) -> bool:
        """Tells whether `open` was called."""

    def _in_flight(self) -> int:
        """Gives how many messages have no acknowledgement yet."""
        return 0

    def _stalled_s(self) -> float | None:
        """Gives for how long the link's thread has been busy with one thing; None when it has ended."""
        return 0.0
