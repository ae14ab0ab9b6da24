"""``edge-sdk collector``: settings and signals around the central collector."""

import argparse
import logging
import sys
from pathlib import Path
from typing import Any

from edge_sdk import clock, errors
from edge_sdk.cli import settings_file, show, signals
from edge_sdk.cli.command import Command
from edge_sdk.collector.service import Collector, CollectorState
from edge_sdk.collector.settings import CollectorSettings
from edge_sdk.link.mqtt import MqttLink
from edge_sdk.link.protocol import LinkState
from edge_sdk.link.settings import MqttSettings

_LOG = logging.getLogger(__name__)

_REPORT_S = 10.0
_IN_FLIGHT_MAX = 1000  # receipts for a fleet that was away go out at once
_PATHS = ("database", "ca_file", "cert_file", "key_file")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Puts the options of ``collector`` on the parser."""
    parser.add_argument("--config", type=Path, metavar="FILE", help="collector.toml; options override what it says")
    parser.add_argument("--broker", metavar="URL", help="MQTT broker (default mqtt://127.0.0.1:1883)")
    parser.add_argument("--database", metavar="FILE", help="SQLite file (default telemetry.db)")
    parser.add_argument("--site", help="collect only this site (default: all)")


def run(arguments: argparse.Namespace) -> int:
    """Collects until SIGTERM or SIGINT; then stops within three seconds and gives 0.

    Raises:
        SettingsError: a wrong setting, or a database that can't be used.
    """
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s", stream=sys.stderr)
    settings = settings_from_arguments(arguments)
    link = MqttLink(mqtt_settings(settings))
    collector = Collector(settings, link, clock.SystemClock())
    with signals.Stop() as stop:
        try:
            collector.start()
            _LOG.info("storing %s of %s in %s", settings.site or "all sites", settings.broker, settings.database)
            while not stop.wait(_REPORT_S):
                state = collector.snapshot()
                _LOG.info("%s", report_line(state, link.snapshot()))
                if not state.is_running:
                    raise errors.StoreError("the collector's worker ended; the lines above say why")
        finally:
            collector.close()
    summary = summary_from_state(collector.snapshot(), settings.database)
    if arguments.json:
        show.print_json(summary)
    else:
        print(", ".join(f"{name} {value}" for name, value in summary.items()))
    return 0


def settings_from_arguments(arguments: argparse.Namespace) -> CollectorSettings:
    """Gives the settings of the file, overridden by the options.

    Raises:
        SettingsError: an unknown key, or a value outside its bounds.
    """
    table: dict[str, Any] = {}
    source = "options"
    if arguments.config is not None:
        source = str(arguments.config)
        table = settings_file.read_table(arguments.config)
        settings_file.settings_from_table(table, CollectorSettings, source=source)
        # A path in a file means the same wherever the collector is started.
        table.update({key: str(arguments.config.parent / table[key]) for key in _PATHS if table.get(key)})
    for option in ("broker", "database", "site"):
        if getattr(arguments, option) is not None:
            table[option] = getattr(arguments, option)
    return settings_file.settings_from_table(table, CollectorSettings, source=source)


def mqtt_settings(settings: CollectorSettings) -> MqttSettings:
    """Gives how the collector connects."""
    return MqttSettings(
        url=settings.broker,
        client_id=settings.client_id,
        in_flight_max=_IN_FLIGHT_MAX,
        username=settings.username,
        password=settings.password,
        ca_file=_path(settings.ca_file),
        cert_file=_path(settings.cert_file),
        key_file=_path(settings.key_file),
    )


def report_line(state: CollectorState, link: LinkState) -> str:
    """Gives one line for the log."""
    counts = (
        f"{state.devices} devices, {state.stored} stored, {state.duplicates} duplicates, {state.refused} refused, "
        f"{state.lost} lost, {state.waiting} waiting"
    )
    problems = [
        f"not connected: {link.last_error}" if not link.is_connected else "",
        f"{state.overflowed} not taken, as the database is too slow" if state.overflowed else "",
        f"{state.store_failures} failed commits, the last: {state.last_error}" if state.store_failures else "",
    ]
    return "; ".join([counts, *filter(None, problems)])


def summary_from_state(state: CollectorState, database: str) -> dict[str, Any]:
    """Gives what is printed at the end."""
    return {
        "received": state.received,
        "stored": state.stored,
        "duplicates": state.duplicates,
        "refused": state.refused,
        "lost": state.lost,
        "others": state.others,
        "overflowed": state.overflowed,
        "abandoned": state.abandoned,
        "receipts": state.receipts,
        "store_failures": state.store_failures,
        "devices": state.devices,
        "database": database,
    }


def _path(text: str) -> Path | None:
    return Path(text) if text else None


COMMAND = Command(
    add_arguments,
    run,
    "  edge-sdk collector --broker mqtt://127.0.0.1:1883 --database telemetry.db\n"
    '  sqlite3 telemetry.db "SELECT device, seq, t FROM samples ORDER BY id DESC LIMIT 5"',
)
