"""Who is told what: the subscriptions and connect actions of one link, with a fence around the user's code."""

import functools
import logging
import threading
from collections.abc import Callable, Sequence
from typing import NamedTuple

from edge_sdk.link import filters
from edge_sdk.link.protocol import BatchHandler, Handler, Message

_LOG = logging.getLogger(__name__)

_TOPICS_HELD = 100_000
_LOGGED_FULLY = 10
_LOGGED_EVERY = 1000  # a handler that always fails must not fill the disk with its traces


class Subscription(NamedTuple):
    """One topic filter and what is called for it, with one message or with all that came at once."""

    topic_filter: str
    handler: Handler | None
    batch_handler: BatchHandler | None


class Dispatch:
    """Calls handlers and connect actions; whatever these raise is counted and logged, and ends here."""

    def __init__(self) -> None:
        self.subscriptions: list[Subscription] = []
        self.received = 0
        self.handler_errors = 0
        self._acts: list[Callable[[], None]] = []
        self._matching: dict[tuple[str, str], bool] = {}
        self._lock = threading.Lock()

    def subscribe(self, topic_filter: str, handler: Handler) -> None:
        """Adds a subscription.

        Raises:
            UsageError: not a topic filter.
        """
        filters.check_filter(topic_filter)
        self.subscriptions.append(Subscription(topic_filter, handler, None))

    def subscribe_batches(self, topic_filter: str, handler: BatchHandler) -> None:
        """Adds a subscription that takes messages together.

        Raises:
            UsageError: not a topic filter.
        """
        filters.check_filter(topic_filter)
        self.subscriptions.append(Subscription(topic_filter, None, handler))

    def on_connect(self, act: Callable[[], None]) -> None:
        """Adds a connect action."""
        self._acts.append(act)

    def announce(self) -> None:
        """Calls every connect action."""
        for act in self._acts:
            self._call(act, "after the connect")

    def deliver(self, messages: Sequence[Message]) -> None:
        """Calls every handler whose filter matches: the messages of a filter in their order, one at a time or together.

        Used by one thread.
        """
        for subscription in self.subscriptions:
            topic_filter = subscription.topic_filter
            wanted = [message for message in messages if self._matches(topic_filter, message.topic)]
            with self._lock:
                self.received += len(wanted)
            if subscription.batch_handler and wanted:
                self._call(functools.partial(subscription.batch_handler, wanted), f"on {wanted[0].topic!r} and others")
            elif subscription.handler:
                for message in wanted:
                    self._call(functools.partial(subscription.handler, message), f"on {message.topic!r}")

    def count_error(self) -> int:
        """Counts one failure on the way to a handler; gives how many there were."""
        with self._lock:
            self.handler_errors += 1
            return self.handler_errors

    def _matches(self, topic_filter: str, topic: str) -> bool:
        """Tells whether they match; the answer is remembered, as a device speaks on the same topic each second."""
        known = self._matching.get((topic_filter, topic))
        if known is None:
            if len(self._matching) >= _TOPICS_HELD:
                self._matching.clear()
            known = self._matching[topic_filter, topic] = filters.matches(topic_filter, topic)
        return known

    def _call(self, act: Callable[[], object], when: str) -> None:
        try:
            act()
        except Exception:  # noqa: BLE001  # boundary: the user's code raises anything; the network thread goes on
            count = self.count_error()
            if count <= _LOGGED_FULLY or count % _LOGGED_EVERY == 0:
                _LOG.exception("a handler failed %s (failure %d); the link goes on", when, count)
