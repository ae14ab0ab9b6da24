"""``edge-sdk watch``: live telemetry as a table, as lines, as JSON, or everything as it is."""

import argparse
import shutil
import sys
from collections.abc import Callable
from typing import Protocol

import msgspec

from edge_sdk import clock, errors
from edge_sdk.cli import access, show, signals, table
from edge_sdk.cli.command import Command
from edge_sdk.link import watch
from edge_sdk.link.protocol import Message
from edge_sdk.records import telemetry
from edge_sdk.wire import codec, compact, topics

_POLL_S = 0.2
_REDRAW_S = 0.5


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Puts the options of ``watch`` on the parser."""
    parser.add_argument("--broker", metavar="URL", default=watch.BROKER, help=f"MQTT broker (default {watch.BROKER})")
    access.add_arguments(parser)
    parser.add_argument("--device", help="only this device")
    parser.add_argument("--site", help="only this site")
    parser.add_argument("--raw", action="store_true", help="topic and payload of every message, receipts included")
    parser.add_argument("--count", type=int, metavar="N", help="end after N messages")
    parser.add_argument("--seconds", type=float, metavar="S", help="end after S seconds")


def run(arguments: argparse.Namespace) -> int:
    """Shows messages until SIGINT, SIGTERM, ``--count`` or ``--seconds``; then gives 0.

    Raises:
        UsageError: a device or site that can't be one, a URL that is none.
        LinkError: the broker did not answer within five seconds.
    """
    ticks = clock.SystemClock()
    view = _view(arguments, ticks)
    allowed = access.access_from_arguments(arguments)
    with watch.open_tap(arguments.broker, _filters(arguments), access=allowed) as tap, signals.Stop() as stop:
        connects = tap.snapshot().connects
        is_connected = True
        left = arguments.count
        ends_s = None if arguments.seconds is None else ticks.boot_s() + arguments.seconds
        while (left is None or left > 0) and (ends_s is None or ticks.boot_s() < ends_s) and not stop.wait(0):
            message = tap.next(_POLL_S if ends_s is None else min(_POLL_S, max(0.0, ends_s - ticks.boot_s())))
            if message is not None and view.show(message) and left is not None:
                left -= 1
            view.refresh()
            state = tap.snapshot()
            if state.is_connected and state.connects > connects:
                show.say(f"edge-sdk: connected to {arguments.broker} again")
            elif is_connected and not state.is_connected:
                show.say(f"edge-sdk: {state.last_error}; trying again")
            connects, is_connected = state.connects, state.is_connected
    return 0


class View(Protocol):
    """How messages are shown."""

    def show(self, message: Message) -> bool:
        """Shows one message; False for one that does not count."""
        ...

    def refresh(self) -> None:
        """Does what time asks for."""
        ...


class LineView:
    """One line for each message, whatever `line` makes of it."""

    def __init__(self, line: Callable[[Message], str]) -> None:
        self._line = line

    def show(self, message: Message) -> bool:
        """Shows one message; False, and a word on stderr, for one that is not what it should be."""
        try:
            text = self._line(message)
        except errors.PayloadError as error:
            show.say(f"edge-sdk: left out a message on {table.printable(message.topic)}: {table.printable(str(error))}")
            return False
        print(text, flush=True)
        return True

    def refresh(self) -> None:
        """Does nothing: lines stay."""


class TableView:
    """A table on a terminal, refreshed in place."""

    def __init__(self, ticks: clock.Clock) -> None:
        self._ticks = ticks
        self._seen: dict[str, table.Shown] = {}
        self._came_s: dict[str, float] = {}
        self._drawn_s = -1.0

    def show(self, message: Message) -> bool:
        """Takes one message into the table; only a Sample that is newer than the one before counts as one."""
        try:
            topic = topics.parse(message.topic)
            before = self._seen.get(topic.device, table.Shown(topic.device, None, None))
            if topic.leaf == "up/status":
                status = codec.from_bytes(message.payload, telemetry.Status)
                self._seen[topic.device] = before._replace(is_online=status.state == "online")
                return False
            sample = codec.from_bytes(message.payload, telemetry.Sample)
        except errors.PayloadError:
            return False
        if not table.is_newer(sample, before.sample):
            return False
        self._seen[topic.device] = before._replace(sample=sample)
        self._came_s[topic.device] = self._ticks.boot_s()
        return True

    def refresh(self) -> None:
        """Draws the table anew, twice a second."""
        now_s = self._ticks.boot_s()
        if now_s - self._drawn_s < _REDRAW_S:
            return
        self._drawn_s = now_s
        size = shutil.get_terminal_size((table.WIDTH, 24))
        devices = [
            shown._replace(age_s=now_s - self._came_s[name] if name in self._came_s else None)
            for name, shown in self._seen.items()
        ]
        # Line by line over what is there, then what is below: a screen that is cleared first flickers. Each line is
        # cleared before it is written, since clearing after one that is full takes its last letter away.
        text = table.table_text(devices, width=size.columns, height=size.lines)
        sys.stdout.write("\x1b[H" + "".join(f"\x1b[2K{line}\n" for line in text.splitlines()) + "\x1b[J")
        sys.stdout.flush()


def json_line(message: Message) -> str:
    """Gives the payload of a Sample as it came, on one line; of a compact one its JSON.

    Raises:
        PayloadError: it is no Sample.
    """
    sample = codec.from_bytes(message.payload, telemetry.Sample)
    payload = codec.to_bytes(sample) if compact.is_compact(message.payload) else message.payload
    if b"\n" in payload or b"\r" in payload:
        payload = msgspec.json.format(payload, indent=-1)
    return payload.decode(errors="replace")


def plain_line(message: Message) -> str:
    """Gives one line for people.

    Raises:
        PayloadError: it is no Sample.
    """
    return table.sample_line(codec.from_bytes(message.payload, telemetry.Sample))


def raw_line(message: Message) -> str:
    """Gives topic and payload; what a terminal would obey is shown as ``?``."""
    return table.printable(f"{message.topic} {message.payload.decode(errors='replace')}")


def raw_json_line(message: Message) -> str:
    """Gives topic and payload as one JSON document; a payload that is not JSON as text."""
    try:
        payload: object = msgspec.json.decode(message.payload)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        payload = message.payload.decode(errors="replace")
    return msgspec.json.encode({"topic": message.topic, "payload": payload}).decode()


def _view(arguments: argparse.Namespace, ticks: clock.Clock) -> View:
    if arguments.raw:
        return LineView(raw_json_line if arguments.json else raw_line)
    if arguments.json:
        return LineView(json_line)
    return TableView(ticks) if sys.stdout.isatty() else LineView(plain_line)


def _filters(arguments: argparse.Namespace) -> list[str]:
    if not arguments.raw:
        kinds = ["telemetry"] if arguments.json or not sys.stdout.isatty() else ["telemetry", "status"]
        return [watch.telemetry_filter(device=arguments.device, site=arguments.site, what=kind) for kind in kinds]
    return [watch.everything_filter(device=arguments.device, site=arguments.site)]


COMMAND = Command(
    add_arguments,
    run,
    "  edge-sdk watch                                 # a live table\n"
    "  edge-sdk watch --json --count 10 | jq .power_w\n"
    "  edge-sdk watch --raw --device cam-7",
)
