"""``edge-sdk broker``: a broker on loopback until SIGINT or SIGTERM."""

import argparse
import logging
import sys
from pathlib import Path

from edge_sdk import errors
from edge_sdk.cli import show, signals
from edge_sdk.cli.command import Command
from edge_sdk.link import broker as brokers
from edge_sdk.link import broker_config

_CHECK_S = 1.0
_HOST, _PORT = "127.0.0.1", 1883


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Puts the options of ``broker`` on the parser."""
    parser.add_argument("--host", help=f"address to listen on (default {_HOST}; with --write-config all of them)")
    parser.add_argument(
        "--port", type=int, help=f"0 takes any free port (default {_PORT}; with --write-config that of mqtts, 8883)"
    )
    parser.add_argument(
        "--kind",
        choices=("auto", "mosquitto", "embedded"),
        default="auto",
        help="auto (default) takes mosquitto where it is installed, else the embedded iotcore",
    )
    parser.add_argument(
        "--write-config",
        type=Path,
        metavar="DIR",
        help="write a fleet's mosquitto configuration there instead: tuned, certificates required; then end",
    )
    parser.add_argument("--site", default="+", help="with --write-config: the only site served (default: all)")
    parser.add_argument(
        "--collector", action="append", metavar="NAME", help="with --write-config: a collector; repeatable"
    )


def run(arguments: argparse.Namespace) -> int:
    """Serves until SIGINT or SIGTERM, then gives 0.

    Raises:
        UsageError: the port is taken, or that kind of broker is not installed.
        LinkError: the broker did not start, or ended by itself.
    """
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(message)s", stream=sys.stderr)
    if arguments.write_config is not None:
        return _write_config(arguments)
    with (
        brokers.open_broker(
            _HOST if arguments.host is None else arguments.host,
            _PORT if arguments.port is None else arguments.port,
            kind=arguments.kind,
        ) as broker,
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


def _write_config(arguments: argparse.Namespace) -> int:
    """Writes the configuration; host and port are its own unless they were said."""
    host = {} if arguments.host is None else {"host": arguments.host}
    port = {} if arguments.port is None else {"port": arguments.port}
    collectors = arguments.collector or ["collector"]
    files = broker_config.write_config(
        arguments.write_config, site=arguments.site, collectors=collectors, **host, **port
    )
    if arguments.json:
        show.print_json({"files": [str(file) for file in files], "collectors": collectors})
    else:
        print("\n".join(str(file) for file in files))
    show.say(
        f"edge-sdk: certificates for it: edge-sdk ca issue broker --kind server --host NAME --out {files[0].parent}"
    )
    return 0


COMMAND = Command(
    add_arguments,
    run,
    "  edge-sdk broker\n  edge-sdk broker --port 0 --json     # any free port; prints where\n"
    "  edge-sdk broker --write-config /etc/mosquitto/fleet --collector collector-1",
)
