"""``edge-sdk run``: frames of a camera, a video or a folder through a bundle, results to wherever they are wanted."""

import argparse
import secrets
import socket
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from edge_sdk import clock, errors
from edge_sdk.cli import access, places, show, signals
from edge_sdk.cli.command import Command
from edge_sdk.device.feed import sinks, sources, stream
from edge_sdk.device.feed.pump import Pump
from edge_sdk.device.feed.results import Reading
from edge_sdk.device.feed.sinks import Sink
from edge_sdk.device.feed.stream import Tally
from edge_sdk.device.settings import device_from_hostname
from edge_sdk.engines import bundled, registry, variants
from edge_sdk.link.mqtt import MqttLink
from edge_sdk.link.settings import MqttSettings
from edge_sdk.wire import bundles

_CONNECT_S = 5.0
_GOODBYE_S = 2.0
_UNREADABLE_SHOWN = 20


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Puts the options of ``run`` on the parser."""
    parser.add_argument("bundle", type=Path, help="folder that `edge-sdk build` wrote")
    parser.add_argument(
        "--source",
        required=True,
        metavar="SRC",
        help="folder of pictures, picture or video file, /dev/video0 or a camera's number, rtsp://..., or gst:PIPELINE",
    )
    parser.add_argument(
        "--sink",
        action="append",
        metavar="SINK",
        help="- for lines of JSON on stdout (default), a folder, or mqtt://HOST:PORT for events of this device; may be "
        "given repeatedly",
    )
    parser.add_argument("--watch", action="store_true", help="take the pictures that come into the folder from now on")
    parser.add_argument("--poll", type=float, default=0.5, metavar="S", help="seconds between looks (default 0.5)")
    parser.add_argument("--count", type=int, metavar="N", help="end after so many frames")
    parser.add_argument(
        "--queue", type=int, default=2, metavar="N", help="frames that may wait; a live source drops the oldest"
    )
    parser.add_argument("--top", type=int, default=3, help="classes of a classifier's result (default %(default)s)")
    parser.add_argument("--score", type=float, default=0.25, help="least score of a detection (default %(default)s)")
    parser.add_argument(
        "--backend",
        default="onnxruntime",
        help=f"{', '.join(registry.BACKENDS)} or module:Class (default %(default)s)",
    )
    parser.add_argument("--variant", choices=(variants.AUTO, *variants.FILES), default=variants.AUTO)
    parser.add_argument("--threads", type=int, default=0, help="CPU threads; 0 (default) leaves it to the back end")
    parser.add_argument("--site", default="default", help="first part of the topic, for an mqtt sink")
    parser.add_argument("--device", help="second part of the topic (default: the host name)")
    access.add_arguments(parser)


def run(arguments: argparse.Namespace) -> int:
    """Runs until the source ends, or until Ctrl-C; then says what became of the frames."""
    for name in ("poll", "queue", "count"):
        if (value := getattr(arguments, name)) is not None and not value > 0:
            raise errors.UsageError(f"--{name} is {value:g}; expected more than 0")
    ticks = clock.SystemClock()
    bundled.check_machine(arguments.bundle, backend=arguments.backend)
    checked = bundles.read_bundle(arguments.bundle)
    given = stream.Input(checked.manifest)
    reading = Reading(
        checked.manifest, checked.digest, given.layout, given.rule, top=arguments.top, least_score=arguments.score
    )
    with ExitStack() as stack:
        source = sources.open_source(arguments.source, ticks=ticks, is_watched=arguments.watch, poll_s=arguments.poll)
        stack.callback(source.close)
        engine = stack.enter_context(
            bundled.engine_from_bundle(
                checked,
                backend=arguments.backend,
                threads=arguments.threads,
                variant=arguments.variant,
                memory=places.variants_folder(),
            )
        )
        taking = [stack.enter_context(_open_sink(text, arguments)) for text in arguments.sink or ["-"]]
        stop = stack.enter_context(signals.Stop())
        pump = Pump(source, capacity=arguments.queue, is_stopped=lambda: stop.wait(0))
        stack.callback(pump.close)
        show.say(f"running {checked.manifest.name} on {engine.name}; Ctrl-C ends")
        started_s = ticks.boot_s()
        results, unsent = stream.stream(
            pump, engine, given, reading, taking, ticks=ticks, most=arguments.count, on_unsent=_Once()
        )
        tally = Tally(results, pump.dropped, unsent, source.unreadable(), round(ticks.boot_s() - started_s, 3))
    if arguments.json and "-" not in (arguments.sink or ["-"]):
        show.print_json(tally)
    _say_tally(tally)
    return 0


@contextmanager
def _open_sink(text: str, arguments: argparse.Namespace) -> Iterator[Sink]:
    """Gives the sink that `text` names, open as long as the block."""
    if text == "-":
        yield sinks.JsonLines(_write_line)
    elif "://" not in text:
        yield sinks.FolderSink(Path(text))
    else:
        device = arguments.device or device_from_hostname(socket.gethostname())
        link = MqttLink(
            MqttSettings(
                url=text,
                client_id=f"edge-run.{arguments.site}.{device}.{secrets.token_hex(4)}",
                **access.access_from_arguments(arguments)._asdict(),
            )
        )
        link.open()
        try:
            if not link.wait_for_connected(_CONNECT_S):
                raise errors.LinkError(f"no broker answers at {text}: {link.snapshot().last_error or 'no connection'}")
            yield sinks.EventSink(link, site=arguments.site, device=device, boot=secrets.token_hex(8))
        finally:
            link.close(_GOODBYE_S)


def _write_line(line: str) -> None:
    sys.stdout.write(line)
    sys.stdout.flush()


class _Once:
    """Says the first reason for which results were not sent; the count of all comes at the end."""

    def __init__(self) -> None:
        self._is_said = False

    def __call__(self, reason: str) -> None:
        if not self._is_said:
            show.say(f"a result was not sent: {reason}")
            self._is_said = True


def _say_tally(tally: Tally) -> None:
    rate = tally.results / tally.seconds if tally.seconds else 0.0
    extra = f", {tally.unsent} not sent" if tally.unsent else ""
    show.say(f"{tally.results} results, {tally.dropped} frames dropped{extra}, {rate:.1f}/s")
    for name, reason in list(tally.unreadable.items())[:_UNREADABLE_SHOWN]:
        show.say(f"  left out {name}: {reason}")
    if len(tally.unreadable) > _UNREADABLE_SHOWN:
        show.say(f"  and {len(tally.unreadable) - _UNREADABLE_SHOWN} more files")


COMMAND = Command(
    add_arguments,
    run,
    "  edge-sdk run fashion.edge --source photos/\n"
    "  edge-sdk run detector.edge --source /dev/video0 --sink results/ --sink mqtt://127.0.0.1:1883",
)
