"""``edge-sdk collector``: settings and signals around the central collector."""

import argparse
import contextlib
import gc
import logging
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from edge_sdk import clock, errors
from edge_sdk.cli import settings_file, show, signals
from edge_sdk.cli.command import Command
from edge_sdk.collector.answering import Answering
from edge_sdk.collector.forwarding import Forwarding
from edge_sdk.collector.service import Collector, CollectorState
from edge_sdk.collector.settings import CollectorSettings, shown_database
from edge_sdk.collector.store import migration
from edge_sdk.link.mqtt import MqttLink
from edge_sdk.link.protocol import LinkState
from edge_sdk.link.settings import MqttSettings

_LOG = logging.getLogger(__name__)

_REPORT_S = 10.0
_STALLED_S = 60.0  # far beyond any wait for the database, which is half a second at a time
_IN_FLIGHT_MAX = 1000  # receipts for a fleet that was away go out at once
_GARBAGE_LOOKED_FOR = 50_000  # new objects; each message is some, and none of them is ever part of a cycle
_OPTIONS = ("broker", "database", "web", "victoria", "share", "site")
_PATHS = ("database", "ca_file", "cert_file", "key_file")
_SECRETS = ("password",)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Puts the options of ``collector`` on the parser."""
    parser.add_argument("--config", type=Path, metavar="FILE", help="collector.toml; options override what it says")
    parser.add_argument("--broker", metavar="URL", help="MQTT broker (default mqtt://127.0.0.1:1883)")
    parser.add_argument(
        "--database", metavar="FILE", help="SQLite file (default telemetry.db), or postgresql://USER@HOST/NAME"
    )
    parser.add_argument(
        "--web", metavar="HOST:PORT", help="query API and /metrics (default 127.0.0.1:8780; '' for none)"
    )
    parser.add_argument(
        "--victoria", metavar="URL", help="carry stored Samples on to this VictoriaMetrics, http://HOST:8428"
    )
    parser.add_argument(
        "--share", metavar="GROUP", help="share the fleet with the other collectors of this group, on one PostgreSQL"
    )
    parser.add_argument(
        "--migrate-from", metavar="FILE", help="copy this SQLite file's history into an empty PostgreSQL, then end"
    )
    parser.add_argument("--site", help="collect only this site (default: all)")


def run(arguments: argparse.Namespace) -> int:
    """Collects until SIGTERM or SIGINT; then stops within three seconds and gives 0.

    Raises:
        SettingsError: a wrong setting, or a database that can't be used.
    """
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s", stream=sys.stderr)
    settings = settings_from_arguments(arguments)
    if arguments.migrate_from is not None:
        return _migrate(arguments.migrate_from, settings.database, is_json=arguments.json)
    place = shown_database(settings.database)
    link = MqttLink(mqtt_settings(settings))
    collector = Collector(settings, link, clock.SystemClock())
    with contextlib.ExitStack() as closing, signals.Stop() as stop:
        try:
            collector.start()
            gc.freeze()
            gc.set_threshold(_GARBAGE_LOOKED_FOR)
            forwarding = _forward(settings, closing)
            _answer(settings, _counts(collector, forwarding), closing)
            _LOG.info("storing %s of %s in %s", settings.site or "all sites", settings.broker, place)
            while not stop.wait(_REPORT_S):
                state, link_state = collector.snapshot(), link.snapshot()
                _LOG.info("%s", report_line(state, link_state))
                if not state.is_running:
                    raise errors.StoreError("the collector's worker ended; the lines above say why")
                if link_state.stalled_s > _STALLED_S:
                    raise errors.LinkError(
                        f"the link has not come round for {link_state.stalled_s:.0f} s; ending, so that the service "
                        "manager starts a collector that does"
                    )
        finally:
            collector.close()
    summary = summary_from_state(collector.snapshot(), place)
    if arguments.json:
        show.print_json(summary)
    else:
        print(", ".join(f"{name} {value}" for name, value in summary.items()))
    return 0


def _migrate(source: str, target: str, *, is_json: bool) -> int:
    counts = migration.migrate(source, target)
    if is_json:
        show.print_json(counts)
    else:
        print(", ".join(f"{name} {count}" for name, count in counts.items()))
    return 0


def _forward(settings: CollectorSettings, closing: contextlib.ExitStack) -> Forwarding | None:
    """Carries stored Samples on until the stack is left, if that is wanted."""
    if not settings.victoria:
        return None
    url = settings_file.secret_from_text(settings.victoria)
    forwarding = Forwarding(settings.database, url, clock.SystemClock())
    closing.callback(forwarding.close)
    _LOG.info("carried on to %s", shown_database(url))
    return forwarding


def _counts(collector: Collector, forwarding: Forwarding | None) -> Callable[[], dict[str, float]]:
    def counts() -> dict[str, float]:
        state = msgspec.structs.asdict(collector.snapshot())
        if forwarding is not None:
            state |= msgspec.structs.asdict(forwarding.snapshot())
        return {name: float(value) for name, value in state.items() if not isinstance(value, str)}

    return counts


def _answer(settings: CollectorSettings, counts: Callable[[], dict[str, float]], closing: contextlib.ExitStack) -> None:
    """Answers questions until the stack is left; without its port the collector still collects."""
    if not settings.web:
        return
    try:
        answering = Answering(settings, counts, clock.SystemClock())
    except errors.UsageError as error:
        _LOG.warning("%s; telemetry is stored all the same", error)
        return
    closing.callback(answering.close)
    _LOG.info("questions: %s/openapi.json, metrics: %s/metrics", answering.url, answering.url)


def settings_from_arguments(arguments: argparse.Namespace) -> CollectorSettings:
    """Gives the settings of the file, overridden by the options.

    Raises:
        SettingsError: an unknown key, or a value outside its bounds.
    """
    options = {name: getattr(arguments, name) for name in _OPTIONS}
    return settings_file.settings_from_sources(
        CollectorSettings, arguments.config, options, places=_PATHS, secrets=_SECRETS
    )


def mqtt_settings(settings: CollectorSettings) -> MqttSettings:
    """Gives how the collector connects."""
    return MqttSettings(
        url=settings.broker,
        client_id=f"{settings.client_id}-{os.getpid()}" if settings.share else settings.client_id,
        # What the broker keeps for a member of a group that has gone is out of the others' reach; the devices send it
        # again, as it got no receipt.
        session_expiry_s=0 if settings.share else 3600,
        in_flight_max=_IN_FLIGHT_MAX,
        username=settings.username,
        password=settings_file.secret_from_text(settings.password),
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
        f"{state.unseen} receipted before and not in this database (events of kind gap say which)"
        if state.unseen
        else "",
        f"{state.clocks_off} devices whose clock is off" if state.clocks_off else "",
        f"{state.newer} of a later edge_sdk than this one: update it" if state.newer else "",
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
        "unseen": state.unseen,
        "newer": state.newer,
        "clocks_off": state.clocks_off,
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
