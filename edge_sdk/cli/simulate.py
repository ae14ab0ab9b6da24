"""``edge-sdk simulate``: a fleet that does not exist, at a broker of your own."""

import argparse
import contextlib
import os
import random
import resource
import tempfile
from pathlib import Path
from typing import Any

import msgspec

from edge_sdk import clock, errors, imports
from edge_sdk.cli import access, show, signals
from edge_sdk.cli.command import Command
from edge_sdk.link import tls
from edge_sdk.link.settings import MqttSettings

_FAULTS = ("reboot", "silence", "poison", "replay", "sensor", "clock")
_FLEET, _SWARM = "edge_sdk.testing.fleet", "edge_sdk.testing.swarm:Swarm"
_FILES = 64  # besides the connections


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Puts the options of ``simulate`` on the parser."""
    parser.add_argument("--devices", type=int, default=10, metavar="N", help="how many (default 10)")
    parser.add_argument(
        "--broker", metavar="URL", default="mqtt://127.0.0.1:1883", help="default mqtt://127.0.0.1:1883"
    )
    parser.add_argument("--seconds", type=float, metavar="S", help="end after S seconds (default: until Ctrl-C)")
    parser.add_argument("--interval", type=float, default=1.0, metavar="S", help="between two Samples (default 1)")
    parser.add_argument("--sites", type=int, default=4, metavar="N", help="over which they are spread (default 4)")
    parser.add_argument(
        "--connections",
        type=int,
        metavar="N",
        help="most connections; with fewer than devices several share one (default one for each)",
    )
    parser.add_argument("--fault", action="append", default=[], choices=_FAULTS, help="happens at random; repeatable")
    parser.add_argument("--fault-rate", type=float, default=0.01, metavar="HZ", help="for each device (default 0.01)")
    parser.add_argument("--drain", type=float, default=10.0, metavar="S", help="wait so long for receipts (default 10)")
    parser.add_argument("--prefix", default="sim", help="of the devices' names (default sim)")
    parser.add_argument("--seed", type=int, default=0, help="of everything random (default 0)")
    access.add_arguments(parser)


def run(arguments: argparse.Namespace) -> int:
    """Publishes until SIGINT, SIGTERM or ``--seconds``, waits for receipts, and gives 0.

    Raises:
        UsageError: a number that makes no fleet.
        LinkError: the broker did not answer within 30 seconds.
    """
    links = min(arguments.devices, arguments.devices if arguments.connections is None else arguments.connections)
    if links < 1 or arguments.sites < 1 or arguments.interval <= 0:
        raise errors.UsageError("--devices, --sites, --connections and --interval must be above 0")
    _make_room(links)
    ticks = clock.SystemClock()
    swarm = _swarm(arguments, ticks)
    with (
        contextlib.closing(swarm),
        tempfile.TemporaryDirectory(prefix="edge-fleet-") as folder,
        signals.Stop() as stop,
    ):
        fleet = _fleet(arguments, Path(folder), ticks, swarm, links)
        try:
            fleet.open()
            show.say(f"edge-sdk: {arguments.devices} simulated devices at {arguments.broker}; Ctrl-C ends them")
            started_s = ticks.boot_s()
            while not stop.wait(0) and (arguments.seconds is None or ticks.boot_s() - started_s < arguments.seconds):
                fleet.step()
            fleet.drain(arguments.drain)
        finally:
            fleet.close()
    counts = msgspec.structs.asdict(fleet.snapshot())
    if arguments.json:
        show.print_json(counts)
    else:
        print(", ".join(f"{name} {value}" for name, value in counts.items()))
    return 0


def _fleet(arguments: argparse.Namespace, folder: Path, ticks: clock.Clock, swarm: Any, links: int) -> Any:
    """Gives the fleet; it is loaded by name, as the command line does not know the fakes that are shipped for tests."""
    plan: Any = imports.object_from_spec(f"{_FLEET}:Plan")
    fleet: Any = imports.object_from_spec(f"{_FLEET}:Fleet")
    wanted = plan(
        devices=arguments.devices,
        sites=arguments.sites,
        interval_s=arguments.interval,
        faults=tuple(arguments.fault),
        fault_rate_hz=arguments.fault_rate,
        seed=arguments.seed,
        prefix=arguments.prefix,
    )
    return fleet(wanted, folder, swarm.link, ticks, links=links, rest=swarm.run_for)


def _swarm(arguments: argparse.Namespace, ticks: clock.Clock) -> Any:
    """Gives the connections, by name likewise."""
    settings = MqttSettings(
        url=arguments.broker,
        client_id=f"{arguments.prefix}-{os.getpid()}",
        session_expiry_s=0,
        in_flight_max=1000,
        reconnect_cap_s=5.0,
        **access.access_from_arguments(arguments)._asdict(),
    )
    swarm: Any = imports.object_from_spec(_SWARM)
    return swarm(settings, tls.context_from_settings(settings), ticks, random.Random(arguments.seed))  # noqa: S311  # a simulation


def _make_room(links: int) -> None:
    """Lets this process open a file for each connection.

    Raises:
        UsageError: the system does not let it.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = links + _FILES
    if soft == resource.RLIM_INFINITY or wanted <= soft:
        return
    if hard != resource.RLIM_INFINITY and wanted > hard:
        raise errors.UsageError(
            f"{links} connections need {wanted} open files; {hard} are allowed: --connections {hard - _FILES}"
        )
    resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


COMMAND = Command(
    add_arguments,
    run,
    "  edge-sdk broker &  edge-sdk collector &\n"
    "  edge-sdk simulate --devices 100 --seconds 60 --fault reboot --fault poison",
)
