"""The promises of `link.protocol.Link` as a list of checks; every link must pass all of them.

A check is a function of a Bench, which makes links to one broker and takes that broker away. With pytest::

    @pytest.mark.parametrize("check", link_checks.CHECKS, ids=lambda check: check.__name__)
    def test_my_link(check, my_bench):
        check(my_bench)
"""

import functools
import queue
import threading
from collections.abc import Callable, Sequence
from typing import NoReturn, Protocol

from edge_sdk import errors
from edge_sdk.link.protocol import Link, Message, Will

WAIT_S = 10.0
"""Longest wait for something that must come."""


class Bench(Protocol):
    """What a check needs of the implementation under test."""

    def new_link(self, *, will: Will | None = None) -> Link:
        """Gives an unopened link with a name of its own to the one broker; the bench closes it in the end."""
        ...

    def cut(self, link: Link) -> None:
        """Breaks the connection of an open link as if its process had been killed, for good."""
        ...

    def stop_broker(self) -> None:
        """Takes the broker away; returns when every open link has noticed."""
        ...

    def start_broker(self) -> None:
        """Brings it back at the same address, with nothing kept."""
        ...


class Inbox:
    """A handler that keeps what it is given."""

    def __init__(self) -> None:
        self._messages: queue.SimpleQueue[Message] = queue.SimpleQueue()
        self.threads: set[int] = set()

    def __call__(self, message: Message) -> None:
        """Keeps one message."""
        self.threads.add(threading.get_ident())
        self._messages.put(message)

    def next(self) -> Message:
        """Gives the next message; fails if none comes in time."""
        try:
            return self._messages.get(timeout=WAIT_S)
        except queue.Empty:
            raise AssertionError(f"expected a message, but none came within {WAIT_S:g} s") from None

    def payloads_until(self, last: bytes) -> list[bytes]:
        """Gives the payloads before the one that is `last`."""
        payloads = []
        while (payload := self.next().payload) != last:
            payloads.append(payload)
        return payloads


def check_delivers_in_order(bench: Bench) -> None:
    """Every message arrives, in the order of its topic, one at a time, never on the publisher's thread."""
    inbox = Inbox()
    _subscriber(bench, "t/order", inbox)
    publisher = _opened(bench.new_link())
    for number in range(50):
        publisher.publish("t/order", b"%d" % number)
    got = [inbox.next().payload for _ in range(50)]
    _expect(got == [b"%d" % number for number in range(50)], f"messages 0 to 49 in order, but got {got}")
    _expect(threading.get_ident() not in inbox.threads, "handlers on another thread than the publisher's")
    _expect(len(inbox.threads) == 1, f"one thread for all handlers, but saw {len(inbox.threads)}")


def check_keeps_payload_and_topic(bench: Bench) -> None:
    """Any bytes travel unchanged, none and all 256 values among them."""
    inbox = Inbox()
    _subscriber(bench, "t/#", inbox)
    publisher = _opened(bench.new_link())
    for payload in (b"", bytes(range(256)), b"x" * 65536):
        publisher.publish("t/bytes", payload)
        message = inbox.next()
        _expect(
            message == Message("t/bytes", payload, retained=False), f"the message as sent, but got {message!r:.200}"
        )


def check_matches_wildcards(bench: Bench) -> None:
    """``+`` stands for one level, ``#`` for all that follow, and nothing else is delivered."""
    inbox = Inbox()
    _subscriber(bench, "a/+/c/#", inbox)
    publisher = _opened(bench.new_link())
    for topic in ("a/b/c/d/e", "a/b/x", "a/b/b/c", "b/b/c/d", "a/b/c", "a/b/c/end"):
        publisher.publish(topic, topic.encode())
    got = inbox.payloads_until(b"a/b/c/end")
    _expect(got == [b"a/b/c/d/e", b"a/b/c"], f"only what matches a/+/c/#, but got {got}")


def check_keeps_retained(bench: Bench) -> None:
    """The last retained message of a topic reaches later subscribers, marked; an empty one clears it."""
    early, publisher = Inbox(), _opened(bench.new_link())
    _subscriber(bench, "t/state/#", early)
    for payload in (b"old", b"new"):
        publisher.publish("t/state/a", payload, retain=True)
    publisher.publish("t/state/b", b"gone", retain=True)
    publisher.publish("t/state/b", b"", retain=True)
    live = [early.next() for _ in range(4)]
    _expect(not any(message.retained for message in live), "live messages without the mark of retained ones")
    late = Inbox()
    _subscriber(bench, "t/state/#", late)
    message = late.next()
    _expect(message == Message("t/state/a", b"new", retained=True), f"the last retained message, but got {message}")
    publisher.publish("t/state/end", b"end")
    _expect(late.payloads_until(b"end") == [], "nothing of a topic whose retained message was cleared")


def check_publishes_will_when_cut(bench: Bench) -> None:
    """The broker publishes the last will of a client that vanishes, retained."""
    inbox = Inbox()
    _subscriber(bench, "t/will", inbox)
    victim = _opened(bench.new_link(will=Will("t/will", b"offline")))
    bench.cut(victim)
    _expect(inbox.next().payload == b"offline", "the will of a link that was cut")
    late = Inbox()
    _subscriber(bench, "t/will", late)
    _expect(late.next().retained, "the will as a retained message")


def check_publishes_no_will_on_close(bench: Bench) -> None:
    """A link that says goodbye leaves no will."""
    inbox = Inbox()
    _subscriber(bench, "t/#", inbox)
    leaver = _opened(bench.new_link(will=Will("t/will", b"offline")))
    leaver.close()
    _opened(bench.new_link()).publish("t/end", b"end")
    _expect(inbox.payloads_until(b"end") == [], "no will after close")


def check_survives_a_failing_handler(bench: Bench) -> None:
    """What a handler raises is counted, and the next message is delivered."""
    inbox = Inbox()

    def handler(message: Message) -> None:
        if message.payload == b"poison":
            raise ValueError("a handler that fails")
        inbox(message)

    link = _subscriber(bench, "t/x", handler)
    publisher = _opened(bench.new_link())
    for payload in (b"poison", b"poison", b"good"):
        publisher.publish("t/x", payload)
    _expect(inbox.next().payload == b"good", "the message after the poison")
    state = link.snapshot()
    _expect(state.handler_errors == 2 and state.received == 3, f"3 received, 2 handler errors, but state is {state}")
    _expect(state.is_connected, "a link that is still connected")


def check_survives_a_failing_connect_action(bench: Bench) -> None:
    """What a connect action raises is counted; the others still run."""
    told = threading.Event()
    link = bench.new_link()
    link.on_connect(_fail)
    link.on_connect(told.set)
    _opened(link)
    _expect(told.wait(WAIT_S), "the second connect action after the first failed")
    _expect(link.snapshot().handler_errors == 1, "the failed connect action counted")


def check_delivers_batches(bench: Bench) -> None:
    """Whoever takes messages together gets each once and in order, only what matches, and a failure is counted."""
    got: queue.SimpleQueue[Message] = queue.SimpleQueue()

    def handler(messages: Sequence[Message]) -> None:
        for message in messages:
            got.put(message)
        if any(message.payload == b"poison" for message in messages):
            raise ValueError("a handler that fails")

    link = bench.new_link()
    link.subscribe_batches("t/+/x", handler)
    _opened(link)
    publisher = _opened(bench.new_link())
    sent = [b"poison", *(b"%d" % number for number in range(49))]
    for payload in sent:
        publisher.publish("t/a/x", payload)
        publisher.publish("t/a/y", payload)
    came = [got.get(timeout=WAIT_S) for _ in sent]
    _expect(came == [Message("t/a/x", payload, retained=False) for payload in sent], f"all in order, but got {came}")
    publisher.publish("t/b/x", b"end")
    _expect(got.get(timeout=WAIT_S).payload == b"end", "nothing twice")
    state = link.snapshot()
    _expect((state.received, state.handler_errors) == (51, 1), f"51 received, 1 handler error, but state is {state}")


def check_publishes_inside_a_handler(bench: Bench) -> None:
    """A handler may publish; nothing deadlocks."""
    answers = Inbox()
    _subscriber(bench, "t/answer", answers)
    responder = bench.new_link()
    responder.subscribe("t/question", lambda message: responder.publish("t/answer", b"re:" + message.payload))
    _opened(responder)
    asker = _opened(bench.new_link())
    for number in range(20):
        asker.publish("t/question", b"%d" % number)
    got = [answers.next().payload for _ in range(20)]
    _expect(got == [b"re:%d" % number for number in range(20)], f"20 answers in order, but got {got}")


def check_publishes_on_connect(bench: Bench) -> None:
    """A connect action may publish, and its own link's subscriptions stand by then."""
    inbox, link = Inbox(), bench.new_link()
    link.subscribe("t/hello", inbox)
    link.on_connect(lambda: link.publish("t/hello", b"online"))
    _opened(link)
    _expect(inbox.next().payload == b"online", "the message of the connect action")


def check_refuses_while_down(bench: Bench) -> None:
    """With no broker a publish raises LinkError, and what it was given never arrives later."""
    inbox = Inbox()
    subscriber = _subscriber(bench, "t/x", inbox)
    publisher = _opened(bench.new_link())
    bench.stop_broker()
    for _ in range(3):
        _refused(publisher, "t/x", b"lost")
    _expect(publisher.snapshot().refused == 3, "3 refused publishes counted")
    bench.start_broker()
    for link in (subscriber, publisher):
        _expect(link.wait_for_connected(WAIT_S), "both links connected again")
    publisher.publish("t/x", b"end")
    _expect(inbox.payloads_until(b"end") == [], "nothing of what was refused")


def check_mends_itself(bench: Bench) -> None:
    """After the broker's return subscriptions stand again and connect actions run again."""
    inbox = Inbox()
    connects: queue.SimpleQueue[None] = queue.SimpleQueue()
    link = bench.new_link()
    link.subscribe("t/x", inbox)
    link.on_connect(lambda: connects.put(None))
    _opened(link)
    connects.get(timeout=WAIT_S)
    bench.stop_broker()
    _expect(not link.snapshot().is_connected, "a link that knows that it is not connected")
    bench.start_broker()
    connects.get(timeout=WAIT_S)
    _opened(bench.new_link()).publish("t/x", b"again")
    _expect(inbox.next().payload == b"again", "a message after the broker's return")
    _expect(link.snapshot().connects == 2, f"2 connects, but state is {link.snapshot()}")


def check_opens_before_the_broker(bench: Bench) -> None:
    """A broker that is not there yet is no error: the link connects when it comes."""
    bench.stop_broker()
    link = bench.new_link()
    link.open()
    _expect(not link.wait_for_connected(0.05), "no connection without a broker")
    _refused(link, "t/x", b"early")
    bench.start_broker()
    _expect(link.wait_for_connected(WAIT_S), "a connection once the broker is there")


def check_closes_after_delivery(bench: Bench) -> None:
    """What was handed over before `close` arrives."""
    inbox = Inbox()
    _subscriber(bench, "t/x", inbox)
    leaver = _opened(bench.new_link())
    for number in range(50):
        leaver.publish("t/x", b"%d" % number)
    leaver.close(WAIT_S)
    got = {inbox.next().payload for _ in range(50)}
    _expect(len(got) == 50, f"50 messages of a link that was closed at once, but got {len(got)}")
    state = leaver.snapshot()
    _expect((state.published, state.in_flight) == (50, 0), f"50 published, none in flight, but state is {state}")


def check_closes_once_and_for_all(bench: Bench) -> None:
    """Close works unopened, twice and while a handler runs; afterwards publish raises LinkError."""
    bench.new_link().close()
    link = _opened(bench.new_link())
    link.close()
    link.close()
    _refused(link, "t/x", b"late")
    _expect(not link.snapshot().is_connected, "a closed link that is not connected")


def check_closes_inside_a_handler(bench: Bench) -> None:
    """A handler may close its own link."""
    closed = threading.Event()
    link = bench.new_link()

    def handler(_message: Message) -> None:
        link.close()
        closed.set()

    link.subscribe("t/x", handler)
    _opened(link)
    _opened(bench.new_link()).publish("t/x", b"stop")
    _expect(closed.wait(WAIT_S), "a close inside a handler that returns")


def check_refuses_wrong_calls(bench: Bench) -> None:
    """Wildcards in a topic, a malformed filter, and a second open are UsageErrors, and nothing is sent."""
    inbox = Inbox()
    link = bench.new_link()
    link.subscribe("t/#", inbox)
    for topic_filter in ("", "a/#/b", "a+/b"):
        _misused(functools.partial(link.subscribe, topic_filter, inbox), f"filter {topic_filter!r}")
    _opened(link)
    _misused(link.open, "a second open")
    for topic in ("", "t/+", "t/#"):
        _misused(functools.partial(link.publish, topic, b"x"), f"topic {topic!r}")
    link.publish("t/end", b"end")
    _expect(inbox.payloads_until(b"end") == [], "nothing sent by calls that were refused")


CHECKS: tuple[Callable[[Bench], None], ...] = (
    check_delivers_in_order,
    check_keeps_payload_and_topic,
    check_matches_wildcards,
    check_keeps_retained,
    check_publishes_will_when_cut,
    check_publishes_no_will_on_close,
    check_survives_a_failing_handler,
    check_survives_a_failing_connect_action,
    check_delivers_batches,
    check_publishes_inside_a_handler,
    check_publishes_on_connect,
    check_refuses_while_down,
    check_mends_itself,
    check_opens_before_the_broker,
    check_closes_after_delivery,
    check_closes_once_and_for_all,
    check_closes_inside_a_handler,
    check_refuses_wrong_calls,
)
"""All of them; each stands alone."""


def _expect(is_so: bool, what: str) -> None:
    if not is_so:
        raise AssertionError(f"expected {what}")


def _fail() -> NoReturn:
    raise ValueError("a connect action that fails")


def _opened(link: Link) -> Link:
    link.open()
    _expect(link.wait_for_connected(WAIT_S), f"a connection within {WAIT_S:g} s, but state is {link.snapshot()}")
    return link


def _subscriber(bench: Bench, topic_filter: str, handler: Callable[[Message], None]) -> Link:
    link = bench.new_link()
    link.subscribe(topic_filter, handler)
    return _opened(link)


def _refused(link: Link, topic: str, payload: bytes) -> None:
    try:
        link.publish(topic, payload)
    except errors.LinkError:
        return
    raise AssertionError("expected a LinkError from publish without a connection, but it returned")


def _misused(act: Callable[[], object], what: str) -> None:
    try:
        act()
    except errors.UsageError:
        return
    raise AssertionError(f"expected a UsageError for {what}, but it was taken")
