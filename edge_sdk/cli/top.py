"""``edge-sdk top``: one device live on a terminal, from a broker or straight from its daemon."""

import argparse
import contextlib
import http.client
import math
import os
import socket
import sys
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import urlsplit

from edge_sdk import clock, errors
from edge_sdk.cli import access, frame, show, signals
from edge_sdk.cli.command import Command
from edge_sdk.cli.devices import Devices, Name
from edge_sdk.cli.screen import Screen
from edge_sdk.link import watch
from edge_sdk.records import telemetry
from edge_sdk.wire import codec

_POLL_S = 0.2
_REDRAW_S = 0.5
_SHORTEST_S = 0.1
"""Between two frames, however many devices speak."""
_PATIENCE_S = 5.0
"""Beyond three intervals, for the first Sample where there is nobody to wait with patience."""
_ANSWER_S = 2.0
_LOCAL: Name = ("", "daemon")

Poll = Callable[[float], bool]
"""Takes in what comes within so many seconds; True when there is a new Sample."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Puts the options of ``top`` on the parser."""
    parser.add_argument("--broker", metavar="URL", default=watch.BROKER, help=f"MQTT broker (default {watch.BROKER})")
    access.add_arguments(parser)
    parser.add_argument("--device", help="which device (default: the first that speaks)")
    parser.add_argument("--site", help="of this site")
    parser.add_argument(
        "--daemon", metavar="URL", help="ask a daemon itself, without a broker: http://HOST:PORT or unix:PATH"
    )
    parser.add_argument("--seconds", type=float, metavar="S", help="end after S seconds")


def run(arguments: argparse.Namespace) -> int:
    """Shows the device until q, SIGINT or SIGTERM; one frame and no more where stdout is no terminal.

    Raises:
        UsageError: a device or site that can't be one, a URL that is none.
        LinkError: the broker or daemon did not answer, or no Sample came in time.
    """
    ticks = clock.SystemClock()
    devices = Devices(ticks)
    with _source(arguments, devices) as poll, signals.Stop() as stop:
        if arguments.json or not sys.stdout.isatty():
            return _once(arguments, devices, poll, stop, ticks)
        ends_s = math.inf if arguments.seconds is None else ticks.boot_s() + arguments.seconds
        with Screen() as screen:
            live = _Live(arguments, devices, screen, ticks)
            while not stop.wait(0) and ticks.boot_s() < ends_s:
                has_news = poll(_POLL_S)
                has_typed = live.obey()
                if has_typed is None:
                    break
                live.refresh(is_due=has_news or has_typed)
    return 0


def _once(arguments: argparse.Namespace, devices: Devices, poll: Poll, stop: signals.Stop, ticks: clock.Clock) -> int:
    begun_s = ticks.boot_s()
    while not devices.names():
        patience_s = arguments.seconds or _PATIENCE_S + 3 * devices.interval_s()
        if stop.wait(0):
            return 0
        if ticks.boot_s() - begun_s > patience_s:
            who = arguments.device or "a device"
            raise errors.LinkError(
                f"no Sample of {who} came within {patience_s:.0f} s; `edge-sdk watch` shows who speaks"
            )
        poll(_POLL_S)
    seen = devices.seen(devices.names()[0])
    if arguments.json:
        show.print_json(_document(seen))
    else:
        print(frame.plain_text(frame.frame_lines(seen, width=_columns())), end="")
    return 0


class _Live:
    """Frames on a screen, and the keys that move in them."""

    def __init__(self, arguments: argparse.Namespace, devices: Devices, screen: Screen, ticks: clock.Clock) -> None:
        self._nobody = frame.Seen(arguments.site or "", arguments.device or "any device")
        self._devices = devices
        self._screen = screen
        self._clock = ticks
        self._shown: Name | None = None
        self._offset = 0
        self._drawn_s = -_REDRAW_S

    def obey(self) -> bool | None:
        """Does what was typed: None to leave, else whether anything was."""
        names, typed = self._devices.names(), self._screen.typed()
        for key in typed:
            if key == "q":
                return None
            if key == "tab" and names:
                position = names.index(self._shown) + 1 if self._shown in names else 0
                self._shown, self._offset = names[position % len(names)], 0
            self._offset = max(0, self._offset + {"up": -1, "down": 1}.get(key, 0))
        return bool(typed)

    def refresh(self, *, is_due: bool) -> None:
        """Draws when there is news, and now and then for what grows old."""
        now_s = self._clock.boot_s()
        if now_s - self._drawn_s < (_SHORTEST_S if is_due else _REDRAW_S):
            return
        self._drawn_s = now_s
        if self._shown is None:
            self._shown = next(iter(self._devices.names()), None)
        seen = self._devices.seen(self._shown) if self._shown else self._nobody
        width, height = self._screen.size(frame.WIDTH, frame.HEIGHT)
        self._offset = min(self._offset, max(0, len(frame.frame_lines(seen, width=width)) - height + 1))
        lines = frame.frame_lines(seen, width=width, height=height, offset=self._offset)
        self._screen.draw([_coloured(line) for line in lines])


def _coloured(line: frame.Line) -> str:
    # https://no-color.org: any value that is not empty asks for none.
    is_plain = bool(os.environ.get("NO_COLOR"))  # noqa: TID251 - the command line reads the environment
    return "".join(span.text for span in line) if is_plain else frame.coloured_text(line)


def _columns() -> int:
    found = os.environ.get("COLUMNS", "")  # noqa: TID251 - as above
    return int(found) if found.isdecimal() and int(found) >= 40 else frame.WIDTH


def _document(seen: frame.Seen) -> dict[str, Any]:
    return {
        "site": seen.site,
        "device": seen.device,
        "online": seen.is_online,
        "age_s": seen.age_s,
        "machine": dict(seen.machine),
        "sample": seen.sample,
        "withdrawn": list(seen.withdrawn),
        "events": list(seen.events),
    }


@contextlib.contextmanager
def _source(arguments: argparse.Namespace, devices: Devices) -> Iterator[Poll]:
    """Gives what fills `devices`."""
    if arguments.daemon is not None:
        yield _DaemonSource(arguments.daemon, devices).poll
        return
    filters = [
        watch.telemetry_filter(device=arguments.device, site=arguments.site, what=kind)
        for kind in ("telemetry", "status", "birth", "event")
    ]
    with watch.open_tap(arguments.broker, filters, access=access.access_from_arguments(arguments)) as tap:

        def poll(seconds: float) -> bool:
            message = tap.next(seconds)
            return message is not None and devices.take(message)

        yield poll


class _DaemonSource:
    """Asks a daemon for its last Sample, over HTTP on TCP or a unix socket."""

    def __init__(self, url: str, devices: Devices) -> None:
        self._url = url
        self._devices = devices
        self._clock = clock.SystemClock()
        parts = urlsplit(url)
        if parts.scheme == "unix" and parts.path:
            self._connection: http.client.HTTPConnection = _UnixConnection(parts.path)
        elif parts.scheme == "http" and parts.hostname:
            self._connection = http.client.HTTPConnection(parts.hostname, parts.port or 8000, timeout=_ANSWER_S)
        else:
            raise errors.UsageError(f"{url!r} is not a daemon's address; expected http://HOST:PORT or unix:PATH")

    def poll(self, seconds: float) -> bool:
        """Asks once, and waits.

        Raises:
            LinkError: it did not answer, or with something else.
        """
        try:
            self._connection.request("GET", "/telemetry")
            response = self._connection.getresponse()
            body = response.read()
        except (OSError, http.client.HTTPException) as error:
            self._connection.close()
            if self._devices.names():  # it was there, and may come back: what is shown grows old and says so
                self._clock.sleep(seconds)
                return False
            raise errors.LinkError(f"{self._url} did not answer: {error}; is a daemon running there?") from error
        is_new = False
        if response.status == http.HTTPStatus.OK:
            sample = codec.from_bytes(body, telemetry.Sample)
            is_new = self._devices.take_sample((_LOCAL[0], sample.device), sample)
        elif response.status != http.HTTPStatus.SERVICE_UNAVAILABLE:
            raise errors.LinkError(
                f"{self._url} answered {response.status} to GET /telemetry: is it an edge-sdk daemon?"
            )
        self._clock.sleep(seconds)
        return is_new


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: str) -> None:
        super().__init__("localhost", timeout=_ANSWER_S)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


COMMAND = Command(
    add_arguments,
    run,
    "  edge-sdk top --device cam-7                    # live; q or Ctrl-C leaves\n"
    "  edge-sdk top --daemon http://127.0.0.1:8000    # on the device itself, without a broker\n"
    "  edge-sdk top --json | jq .sample.power_w",
)
