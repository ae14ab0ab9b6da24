"""``edge-sdk doctor``: this machine, what works on it, what is missing, and the command that mends it."""

import argparse
import shutil
import socket
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from edge_sdk import clock
from edge_sdk.cli import diagnosis, places, show
from edge_sdk.cli.command import Command
from edge_sdk.cli.diagnosis import Finding
from edge_sdk.device.sense import board, boards, machine, together
from edge_sdk.records import metrics
from edge_sdk.records.telemetry import Reading

_BETWEEN_S = 0.3
"""Between the two readings that counters need."""
_ANSWER_S = 1.0
_MARKS = {diagnosis.OK: "ok", diagnosis.MISSING: "MISSING", diagnosis.BROKEN: "BROKEN", diagnosis.ABSENT: "-"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Puts the options of ``doctor`` on the parser."""
    parser.add_argument("--broker", default="mqtt://127.0.0.1:1883", metavar="URL", help="broker to knock at")
    parser.add_argument(
        "--rails", action="store_true", help="only the table of power rails by module, with its sources"
    )
    parser.add_argument("--root", type=Path, default=Path("/"), metavar="DIR", help="look at a copy of a board's files")


def run(arguments: argparse.Namespace) -> int:
    """Looks at everything; gives 1 when something is missing without which no bundle runs here, else 0."""
    if arguments.rails:
        return _rails(arguments)
    here = machine.read_machine(arguments.root)
    software = diagnosis.look_at_software(arguments.root, is_jetson=boards.read_board(arguments.root) is not None)
    groups = {
        "software": software,
        "broker": _look_for_broker(arguments.broker),
        "versions": diagnosis.look_at_versions(places.state_folders(arguments.root)),
    }
    readings = _readings(arguments.root)
    wanting = [one for one in software if one.status in (diagnosis.MISSING, diagnosis.BROKEN) and one.is_needed]
    if arguments.json:
        show.print_json(_document(here, groups, readings, wanting))
    else:
        print(_text(here, groups, readings, wanting), end="")
    return 1 if wanting else 0


def _rails(arguments: argparse.Namespace) -> int:
    """Prints what is known of every module's rails, and which module this is."""
    here = boards.read_board(arguments.root)
    if arguments.json:
        rows = [{**one._asdict(), "rails": [rail._asdict() for rail in one.rails]} for one in boards.BOARDS]
        show.print_json({"here": here.part if here else None, "boards": rows})
        return 0
    for one in boards.BOARDS:
        total = f"total of {one.boundary}" if one.boundary else "no rail is the total; rails are never summed"
        print(f"{one.names[0]} ({one.part}, {one.soc}): {total}{'   <- this machine' if one == here else ''}")
        print(f"  {'source':<18} {'':<6} {one.source}")
        for rail in one.rails:
            print(f"  {rail.label:<18} {rail.role:<6} {rail.source}")
    return 0


def _readings(root: Path) -> list[Reading]:
    ticks = clock.SystemClock()
    sensors = together.Sensors(board.sensors_of(root, clocks=ticks, state_folder=Path.cwd()))
    sensors.collect()
    ticks.sleep(_BETWEEN_S)
    readings = sensors.collect()
    sensors.close()
    order = {name: position for position, name in enumerate(metrics.NAMES)}
    return sorted(readings, key=lambda one: (order.get(one.metric.partition(".")[0], len(order)), one.metric))


def _look_for_broker(url: str) -> list[Finding]:
    found = [diagnosis.look_at_package("iotcore", remedy="pip install 'edge_sdk[broker]'")]
    mosquitto = shutil.which("mosquitto") or shutil.which("mosquitto", path="/usr/sbin:/usr/local/sbin")
    status = diagnosis.OK if mosquitto else diagnosis.ABSENT
    found.append(Finding("mosquitto", status, mosquitto or "not on PATH", "sudo apt install mosquitto"))
    address = urlsplit(url)
    try:
        socket.create_connection((address.hostname or "", address.port or 1883), _ANSWER_S).close()
    except (OSError, ValueError) as error:
        remedy = "edge-sdk broker, or name yours with --broker"
        found.append(Finding(url, diagnosis.ABSENT, f"nobody answers: {error}", remedy))
    else:
        found.append(Finding(url, diagnosis.OK, "somebody answers", ""))
    return found


def _document(
    here: dict[str, Any],
    groups: Mapping[str, list[Finding]],
    readings: list[Reading],
    wanting: list[Finding],
) -> dict[str, Any]:
    return {
        "ok": not wanting,
        "machine": here,
        **{title: [one._asdict() for one in findings] for title, findings in groups.items()},
        "sensors": {one.metric: one.value for one in readings},
        "missing_sensors": {one.metric: one.reason for one in readings if one.value is None},
        "missing": [{"name": one.name, "words": one.words, "remedy": one.remedy} for one in wanting],
    }


def _text(
    here: dict[str, Any],
    groups: Mapping[str, list[Finding]],
    readings: list[Reading],
    wanting: list[Finding],
) -> str:
    lines = ["machine"]
    lines += [f"  {key:<14} {value}" for key, value in here.items() if value is not None]
    lines.append(f"  {'python':<14} {sys.version.split()[0]} ({sys.executable})")
    for title, findings in groups.items():
        lines += ["", title] if findings else []
        for one in findings:
            lines.append(f"  {_MARKS[one.status]:<8} {one.name:<22} {one.words}")
            if one.status != diagnosis.OK and one.remedy:
                lines.append(f"  {'':<8} {'':<22} -> {one.remedy}")
    working = [one for one in readings if one.value is not None]
    lines += ["", f"sensors: {len(working)} of {len(readings)} readings work"]
    lines += [f"  {one.metric:<28} {_shown(one)}" for one in readings]
    lines += ["", *_closing(wanting)]
    return "\n".join(lines) + "\n"


def _shown(reading: Reading) -> str:
    if reading.value is None:
        return f"null: {reading.reason}"
    return f"{reading.value:.6g}" if isinstance(reading.value, float) else str(reading.value)


def _closing(wanting: list[Finding]) -> list[str]:
    if not wanting:
        return ["This machine can run bundles."]
    return ["This machine can't run bundles yet:", *(f"  {one.name}: {one.remedy}" for one in wanting)]


COMMAND = Command(
    add_arguments, run, "  edge-sdk doctor\n  edge-sdk doctor --json | jq .missing\n  edge-sdk doctor --rails"
)
