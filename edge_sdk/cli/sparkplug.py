"""``edge-sdk sparkplug``: the fleet's telemetry for a SCADA system that speaks Sparkplug B."""

import argparse
import logging
import os
import sys

import msgspec

from edge_sdk import clock
from edge_sdk.cli import access, show, signals
from edge_sdk.cli.command import Command
from edge_sdk.collector.export.sparkplug_bridge import Bridge, Profile
from edge_sdk.link.mqtt import MqttLink
from edge_sdk.link.protocol import WillSource
from edge_sdk.link.settings import MqttSettings, parse_url

_TICK_S = 0.5
_BROKER = "mqtt://127.0.0.1:1883"
_IN_FLIGHT_MAX = 65535  # a rebirth of all devices of a site goes out at once
_RECONNECT_CAP_S = 10.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Puts the options of ``sparkplug`` on the parser."""
    parser.add_argument("--broker", metavar="URL", default=_BROKER, help=f"the fleet's broker (default {_BROKER})")
    parser.add_argument("--to", metavar="URL", help="the SCADA system's broker (default: the fleet's)")
    parser.add_argument("--group", default="edge", help="Sparkplug's group id (default edge)")
    parser.add_argument("--primary-host", default="", metavar="ID", help="publish only while this host is online")
    parser.add_argument("--site", help="only this site (default: all)")
    parser.add_argument("--client-id", default="edge-sparkplug", metavar="ID", help="default edge-sparkplug")
    parser.add_argument("--seconds", type=float, metavar="S", help="end after S seconds (default: until Ctrl-C)")
    access.add_arguments(parser)


def run(arguments: argparse.Namespace) -> int:
    """Carries telemetry over until SIGINT, SIGTERM or ``--seconds``; then tells of every node's end and gives 0.

    Raises:
        UsageError: a group, host or site that can't stand in a topic.
        SettingsError: a URL that is none, or a certificate that can't be read.
    """
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s", stream=sys.stderr)
    ticks = clock.SystemClock()
    target = arguments.to or arguments.broker
    parse_url(target)  # refused now, not at the first Sample

    def connect(site: str, will: WillSource) -> MqttLink:
        return MqttLink(_settings(arguments, target, f"{arguments.client_id}-{site}"), will)

    profile = Profile(arguments.group, arguments.primary_host, arguments.site)
    source = MqttLink(_settings(arguments, arguments.broker, f"{arguments.client_id}-{os.getpid()}"))
    bridge = Bridge(profile, source, connect, ticks)
    with signals.Stop() as stop:
        try:
            bridge.start()
            show.say(f"edge-sdk: {arguments.broker} to spBv1.0/{arguments.group} at {target}; Ctrl-C ends it")
            ends_s = None if arguments.seconds is None else ticks.boot_s() + arguments.seconds
            while not stop.wait(_TICK_S) and (ends_s is None or ticks.boot_s() < ends_s):
                bridge.tick()
            counts = msgspec.structs.asdict(bridge.snapshot())
        finally:
            bridge.close()
    if arguments.json:
        show.print_json(counts)
    else:
        print(", ".join(f"{name} {value}" for name, value in counts.items()))
    return 0


def _settings(arguments: argparse.Namespace, url: str, client_id: str) -> MqttSettings:
    return MqttSettings(
        url=url,
        client_id=client_id,
        session_expiry_s=0,  # Sparkplug wants a clean start; a birth says all that matters
        in_flight_max=_IN_FLIGHT_MAX,
        reconnect_cap_s=_RECONNECT_CAP_S,
        **access.access_from_arguments(arguments)._asdict(),
    )


COMMAND = Command(
    add_arguments,
    run,
    "  edge-sdk sparkplug --group plant --to mqtt://scada.example --primary-host ignition\n"
    "  mosquitto_sub -h scada.example -t 'spBv1.0/#' -v",
)
