"""``edge-sdk broker``: a broker on loopback until SIGINT or SIGTERM."""

import argparse
import logging
import sys

from edge_sdk import errors
from edge_sdk.cli import show, signals
from edge_sdk.cli.command import Command
from edge_sdk.link import broker as brokers

_CHECK_S = 1.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Puts the options of ``broker`` on the parser."""
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default 127.0.0.1)")
    parser.add_argument("--port", type=int, default=1883, help="0 takes any free port (default 1883)")
    parser.add_argument(
        "--kind",
        choices=("auto", "mosquitto", "embedded"),
        default="auto",
        help="auto (default) takes mosquitto where it is installed, else the embedded iotcore",
    )


def run(arguments: argparse.Namespace) -> int:
    """Serves until SIGINT or SIGTERM, then gives 0.

    Raises:
        UsageError: the port is taken, or that kind of broker is not installed.
        LinkError: the broker did not start, or ended by itself.
    """
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(message)s", stream=sys.stderr)
    with (
        brokers.open_broker(arguments.host, arguments.port, kind=arguments.kind) as broker,
        signals.Stop() as stop,
    ):
        if arguments.json:
            document = {"url": broker.url, "name": broker.name, "version": broker.version, "pid": broker.pid}
            show.print_json(document)
        else:
            print(
                f"{broker.name} {broker.version} at {broker.url}, for trying things out only: it lets everybody in "
                "and keeps nothing; Ctrl-C ends it",
                flush=True,
            )
        if not brokers.is_loopback(broker.host):
            show.say(f"warning: everybody who reaches {broker.host} can read and forge all telemetry of this broker")
        while not stop.wait(_CHECK_S):
            if not broker.is_running():
                raise errors.LinkError(f"{broker.name} ended by itself with code {broker.keeper.returncode}")
    return 0


COMMAND = Command(
    add_arguments,
    run,
    "  edge-sdk broker\n  edge-sdk broker --port 0 --json     # any free port; prints where",
)
