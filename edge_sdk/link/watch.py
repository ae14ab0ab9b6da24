"""Listening in: what the devices of a broker say, as it comes."""

import contextlib
import os
import queue
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from edge_sdk import clock, errors
from edge_sdk.link.mqtt import MqttLink, MqttSettings
from edge_sdk.link.protocol import LinkState, Message
from edge_sdk.records import telemetry
from edge_sdk.wire import codec, topics

BROKER = "mqtt://127.0.0.1:1883"
"""Where `edge-sdk broker` listens."""

CONNECT_S = 5.0
"""How long a broker may take to answer before it counts as not there."""

_HELD_MAX = 10_000


def watch(
    broker: str = BROKER, *, device: str | None = None, site: str | None = None, timeout_s: float | None = None
) -> Iterator[telemetry.Sample]:
    """Gives every Sample as it arrives; payloads that are no Sample are left out.

    The connection mends itself, so a broker that restarts does not end the iteration.

    Args:
        broker: its URL.
        device: only this one; None for all.
        site: only this one; None for all.
        timeout_s: how long to wait for the broker (None: 5 s), and for each further Sample before the iteration ends
            (None: for ever).

    Raises:
        UsageError: a device or site that can't be one, or a URL that is none.
        LinkError: the broker did not answer in time.
    """
    topic_filter = telemetry_filter(device=device, site=site)
    with open_tap(broker, [topic_filter], timeout_s=CONNECT_S if timeout_s is None else timeout_s) as tap:
        while (message := tap.next(timeout_s)) is not None:
            try:
                sample = codec.from_bytes(message.payload, telemetry.Sample)
            except errors.PayloadError:
                continue
            yield sample


def telemetry_filter(*, device: str | None = None, site: str | None = None, what: str = "telemetry") -> str:
    """Gives the filter for what devices publish; None stands for all.

    Raises:
        UsageError: a device or site that can't be one.
    """
    return topics.up(_level("site", site), _level("device", device), what)


def everything_filter(*, device: str | None = None, site: str | None = None) -> str:
    """Gives the filter for all that devices say and are told; None stands for all.

    Raises:
        UsageError: a device or site that can't be one.
    """
    if device is None and site is None:
        return f"{topics.ROOT}/#"
    return str(topics.Topic(_level("site", site), _level("device", device), "#"))


class Tap:
    """Messages of an open subscription, in the order in which they came."""

    def __init__(self, link: MqttLink, held: "queue.Queue[Message]") -> None:
        self._link = link
        self._held = held

    def next(self, timeout_s: float | None) -> Message | None:
        """Gives the next message; None if none came within `timeout_s` (None: waits for ever)."""
        try:
            return self._held.get(timeout=timeout_s)
        except queue.Empty:
            return None

    def snapshot(self) -> LinkState:
        """Gives the link's state."""
        return self._link.snapshot()


class Access(NamedTuple):
    """What a broker that does not let everybody in asks for; see `edge_sdk.link.settings.MqttSettings`."""

    username: str = ""
    password: str = ""
    ca_file: Path | None = None
    cert_file: Path | None = None
    key_file: Path | None = None


OPEN = Access()
"""For a broker that lets everybody in."""


@contextlib.contextmanager
def open_tap(
    broker: str, topic_filters: list[str], *, timeout_s: float = CONNECT_S, access: Access = OPEN
) -> Iterator[Tap]:
    """Subscribes while the context is open. A reader that falls far behind loses the newest messages.

    Raises:
        SettingsError: a URL that is none, or a certificate that can't be read.
        LinkError: the broker did not answer within `timeout_s`.
    """
    held: queue.Queue[Message] = queue.Queue(_HELD_MAX)

    def hold(message: Message) -> None:
        with contextlib.suppress(queue.Full):
            held.put_nowait(message)

    # Its own name for each, as two clients of one name push each other out; and no session, as it leaves for good.
    name = f"edge-watch-{os.getpid()}-{clock.SystemClock().tick_ns():x}"
    link = MqttLink(
        MqttSettings(url=broker, client_id=name, session_expiry_s=0, reconnect_cap_s=5.0, **access._asdict())
    )
    for topic_filter in topic_filters:
        link.subscribe(topic_filter, hold)
    link.open()
    try:
        if not link.wait_for_connected(timeout_s):
            reason = link.snapshot().last_error or f"{broker} gave no answer within {timeout_s:g} s"
            raise errors.LinkError(f"{reason}; is a broker running there? (`edge-sdk broker` starts one)")
        yield Tap(link, held)
    finally:
        link.close()


def _level(kind: str, name: str | None) -> str:
    return "+" if name is None else topics.check_name(kind, name)
