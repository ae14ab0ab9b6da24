"""``edge-sdk daemon``: settings and signals around the on-device runtime."""

import argparse
import functools
import logging
import os
import socket
import sys
from pathlib import Path

import msgspec

from edge_sdk import clock
from edge_sdk.cli import places, settings_file, signals
from edge_sdk.cli.command import Command
from edge_sdk.device.daemon import Daemon, DaemonState
from edge_sdk.device.notify import Notifier
from edge_sdk.device.settings import DaemonSettings, device_from_hostname
from edge_sdk.link.mqtt import MqttLink
from edge_sdk.link.settings import MqttSettings

_LOG = logging.getLogger(__name__)

_OPTIONS = {
    "bundle": "bundles",
    "broker": "broker",
    "site": "site",
    "device": "device",
    "port": "http_port",
    "backend": "backend",
    "state": "state_folder",
}
"""Which setting an option overrides."""

_PATHS = (
    "bundles",
    "http_socket",
    "grpc_socket",
    "frames_socket",
    "model_repository",
    "state_folder",
    "ca_file",
    "cert_file",
    "key_file",
)
_SECRETS = ("password",)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Puts the options of ``daemon`` on the parser."""
    parser.add_argument("--config", type=Path, metavar="FILE", help="device.toml; options override what it says")
    parser.add_argument("--bundle", action="append", metavar="DIR", help="a bundle to serve; may be given repeatedly")
    parser.add_argument("--broker", metavar="URL", help="MQTT broker (default mqtt://127.0.0.1:1883)")
    parser.add_argument("--site", help="first part of the topics (default: default)")
    parser.add_argument("--device", help="this device's name in its topics (default: the host name)")
    parser.add_argument("--port", type=int, help="HTTP port on loopback (default 8000); 0 takes any free one")
    parser.add_argument("--closing", type=Path, metavar="FILE", help="write the final counts there as JSON at the end")
    parser.add_argument(
        "--root",
        type=Path,
        default=Path("/"),
        metavar="DIR",
        help="sense the board whose files lie here (a simulated one)",
    )
    parser.add_argument("--backend", help="what runs the bundles (default onnxruntime)")
    parser.add_argument(
        "--state",
        metavar="DIR",
        help="where telemetry waits for its receipt (default systemd's, else edge-sdk/SITE.DEVICE in ~/.local/state)",
    )


def run(arguments: argparse.Namespace) -> int:
    """Serves until SIGTERM or SIGINT; then stops within three seconds and gives 0."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s", stream=sys.stderr)
    settings = _with_state_folder(settings_from_arguments(arguments))
    # The command line is the one place that reads the environment.
    notifier = Notifier(os.environ.get("NOTIFY_SOCKET"))  # noqa: TID251
    connect = functools.partial(MqttLink, mqtt_settings(settings))
    daemon = Daemon(
        settings,
        connect,
        clocks=clock.SystemClock(),
        root=arguments.root,
        notifier=notifier,
        memory=places.variants_folder(),
    )
    with signals.Stop() as stop:
        try:
            daemon.start()
            _say_ready(settings, daemon.snapshot(), is_json=arguments.json)
            daemon.run(stop.wait)
        finally:
            daemon.stop()
    state = daemon.snapshot()
    if arguments.closing is not None:
        arguments.closing.write_bytes(msgspec.json.encode(state))
    _LOG.info(
        "stopped: %d Samples taken, %d receipted, %d dropped",
        state.samples,
        state.spool.receipted,
        state.spool.dropped,
    )
    return 0


def settings_from_arguments(arguments: argparse.Namespace) -> DaemonSettings:
    """Gives the settings of the file, overridden by the options, with what only this machine knows filled in.

    Raises:
        SettingsError: an unknown key, or a value outside its bounds.
    """
    options = {setting: getattr(arguments, option) for option, setting in _OPTIONS.items()}
    here = {
        "device": device_from_hostname(socket.gethostname()),
        "state_folder": os.environ.get("STATE_DIRECTORY"),  # noqa: TID251 - as above
    }
    return settings_file.settings_from_sources(
        DaemonSettings, arguments.config, options, places=_PATHS, secrets=_SECRETS, defaults=here
    )


def mqtt_settings(settings: DaemonSettings) -> MqttSettings:
    """Gives how the device connects.

    Raises:
        SettingsError: the password is to be found where there is none.
    """
    return MqttSettings(
        url=settings.broker,
        client_id=f"edge.{settings.site}.{settings.device}",
        username=settings.username,
        password=settings_file.secret_from_text(settings.password),
        ca_file=_path(settings.ca_file),
        cert_file=_path(settings.cert_file),
        key_file=_path(settings.key_file),
    )


def _with_state_folder(settings: DaemonSettings) -> DaemonSettings:
    """Gives a daemon that was started by hand a place of its own, so that its telemetry outlives it too."""
    if settings.state_folder is not None or settings.device is None:
        return settings
    folder = places.state_folder(settings.site, settings.device)
    return settings if folder is None else msgspec.structs.replace(settings, state_folder=str(folder))


def _path(text: str | None) -> Path | None:
    return Path(text) if text else None


def _say_ready(settings: DaemonSettings, state: DaemonState, *, is_json: bool) -> None:
    models = ", ".join(state.models) or "no model"
    where = f"{settings.broker} as {settings.site}/{state.device}"
    _LOG.info("ready: %s serves %s; telemetry to %s", ", ".join(state.urls), models, where)
    if is_json:
        ready = {
            "url": state.url,
            "urls": state.urls,
            "device": state.device,
            "boot": state.boot,
            "models": state.models,
        }
        sys.stdout.write(msgspec.json.encode(ready).decode() + "\n")
        sys.stdout.flush()


COMMAND = Command(
    add_arguments,
    run,
    "  edge-sdk daemon --bundle fashion.edge --broker mqtt://127.0.0.1:1883 --device cam-7\n"
    "  edge-sdk daemon --config /etc/edge-sdk/device.toml",
)
