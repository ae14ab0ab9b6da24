"""``edge-sdk demo``: build, compile, serve, watch and store on this machine, by the commands that a user would type."""

import argparse
import shutil
import sys
import textwrap
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from edge_sdk import clock, errors
from edge_sdk.cli import show, table
from edge_sdk.cli.children import Child, Children
from edge_sdk.cli.command import Command
from edge_sdk.device.serve import replay
from edge_sdk.link.watch import watch
from edge_sdk.numerics import histogram
from edge_sdk.records import telemetry
from edge_sdk.wire import histograms

ASSETS = Path(__file__).parent / "demo"
MARK = ".edge-sdk-demo"
MODEL = "fashion"
DEVICE = "demo-device"
CLOSING = "daemon.json"

_MOST_OFF = 0.001 + 1e-9
"""A tenth of a point, 2 of the 2,000 images: the same file on the same processor gives the same answers."""

_BUILD_S = 300.0
_READY_S = 20.0


class Parts(NamedTuple):
    """The running parts."""

    broker_url: str
    daemon: Child
    daemon_url: str
    collector: Child


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Puts the options of ``demo`` on the parser."""
    parser.add_argument("--output", type=Path, default=Path("demo-run"), help="folder for bundle, database and logs")
    parser.add_argument("--seconds", type=float, default=10.0, help="how long to stream at least (default 10)")
    parser.add_argument("--broker-port", type=int, default=0, help="0 (default) takes any free port")


def run(arguments: argparse.Namespace) -> int:
    """Runs the demo; the answer is no (1) when a Sample was lost or the served answers are not as good as measured."""
    ticks = clock.SystemClock()
    started_s = ticks.boot_s()
    folder = _fresh_folder(arguments.output)
    with Children(folder, ticks) as children:
        built = _build(children, folder)
        parts = _start(children, folder, arguments.broker_port)
        images = replay.Replay(
            parts.daemon_url, MODEL, ASSETS / "evaluation.npz", seconds=arguments.seconds, ticks=ticks
        )
        samples = _stream(parts, images, is_live=sys.stderr.isatty())
        children.stop(parts.daemon)
        stored = children.stop(parts.collector)
    streamed = images.result()
    summary = _summary(built, streamed, samples, _read_closing(folder / CLOSING), stored or {})
    summary["seconds"] = round(ticks.boot_s() - started_s, 1)
    summary["files"] = {name: str(folder / name) for name in ("fashion.edge/report.html", "telemetry.db")}
    if arguments.json:
        show.print_json(summary)
    else:
        print(summary_text(summary, width=shutil.get_terminal_size().columns))
    is_as_measured = abs(summary["served_top1"] - summary["expected_top1"]) <= _MOST_OFF
    return 0 if summary["samples_lost"] == 0 and is_as_measured else 1


def summary_text(summary: dict[str, Any], *, width: int = 80) -> str:
    """Gives the closing summary for people, in lines of at most `width` letters."""
    compiler = summary["compiler"]
    power = summary["power"]
    rows = {
        "accuracy": f"float {summary['float_top1']:.2%}, INT8 {summary['int8_top1']:.2%} "
        f"(drop {summary['drop']:+.2f} points; as served {summary['served_top1']:.2%} of {summary['images']} images)",
        "NVIDIA's compiler": f"{compiler['name']} {compiler['version']} made {compiler['engine_bytes']:,} bytes"
        if compiler["ok"]
        else "not installed here (pip install 'edge_sdk[rtx]')",
        "latency": f"p50 {summary['latency_p50_ms']:.2f} ms, p99 {summary['latency_p99_ms']:.2f} ms inside the daemon, "
        f"{summary['engine']} on this CPU (not a Jetson figure)",
        "throughput": f"{summary['throughput_hz']:.0f} images/s, one client, over HTTP",
        "power": f"{power['value']:.1f} W ({power['boundary']})"
        if power["value"] is not None
        else f"not read: {power['reason']}",
        "peak memory": f"{summary['peak_rss_bytes'] / 1e6:.0f} MB (the build, the largest process)",
        "telemetry": f"{summary['samples_sent']} samples sent, {summary['samples_stored']} stored, "
        f"{summary['samples_lost']} lost",
        "report": summary["files"]["fashion.edge/report.html"],
        "database": summary["files"]["telemetry.db"],
        "took": f"{summary['seconds']:.0f} s",
    }
    return "\n" + "\n".join(
        textwrap.fill(text, width, initial_indent=f"  {name:<18} ", subsequent_indent=" " * 21)
        for name, text in rows.items()
    )


def _read_closing(file: Path) -> dict[str, Any]:
    """Gives what the daemon says of itself when it has ended.

    Raises:
        EngineError: it did not end cleanly.
    """
    if not file.exists():
        raise errors.EngineError(f"the daemon did not end cleanly; see {file.with_name('daemon.log')}")
    closing: dict[str, Any] = msgspec.json.decode(file.read_bytes())
    return closing


def _fresh_folder(folder: Path) -> Path:
    if folder.exists():
        if not (folder / MARK).exists() and any(folder.iterdir()):
            raise errors.UsageError(f"{folder} is not empty and not from an earlier demo; choose another with --output")
        shutil.rmtree(folder)
    folder.mkdir(parents=True)
    (folder / MARK).touch()
    return folder


def _build(children: Children, folder: Path) -> dict[str, Any]:
    command = [
        "build", str(ASSETS / "fashion_cnn.onnx"), "-o", str(folder / "fashion.edge"),
        "--calibration", str(ASSETS / "calibration.npz"), "--evaluate", str(ASSETS / "evaluation.npz"),
        "--preprocess", str(ASSETS / "preprocess.toml"), "--classes", str(ASSETS / "classes.json"), "--name", MODEL,
    ]  # fmt: skip
    show.say(f"$ edge-sdk {' '.join(command)}")
    child = children.start("build", [*command, "--json"], is_quiet=False)
    built = child.read_document(_BUILD_S)
    children.stop(child)
    show.say(f"  INT8 keeps {built['int8_value']:.2%} of {built['float_value']:.2%}: the gate lets it through")
    return built


def _start(children: Children, folder: Path, port: int) -> Parts:
    broker = children.start("broker", ["broker", "--port", str(port), "--json"]).read_document(_READY_S)
    url = str(broker["url"])
    show.say(f"$ edge-sdk broker                      {broker['name']} {broker['version']} at {url}")
    collector = children.start(
        "collector", ["collector", "--broker", url, "--database", str(folder / "telemetry.db"), "--json"]
    )
    show.say("$ edge-sdk collector --broker ...")
    daemon = children.start(
        "daemon",
        [
            "daemon",
            "--bundle",
            str(folder / "fashion.edge"),
            "--broker",
            url,
            "--device",
            DEVICE,
            "--port",
            "0",
            "--state",
            str(folder / "state"),
            "--closing",
            str(folder / CLOSING),
            "--json",
        ],
    )
    ready = daemon.read_document(_READY_S)
    show.say(f"$ edge-sdk daemon --bundle ...         serving at {ready['url']}")
    show.say(f"$ edge-sdk watch --broker {url}")
    return Parts(url, daemon, str(ready["url"]), collector)


def _stream(parts: Parts, images: replay.Replay, *, is_live: bool) -> list[telemetry.Sample]:
    """Streams the images on a thread of its own while this one shows the telemetry; gives the Samples it saw."""
    worker = threading.Thread(target=images.run, name="replay", daemon=True)
    worker.start()
    samples = []
    for sample in _samples_while(parts.broker_url, worker):
        samples.append(sample)
        _show_sample(sample, is_live=is_live, is_first=len(samples) == 1)
    worker.join()
    return samples


def _show_sample(sample: telemetry.Sample, *, is_live: bool, is_first: bool) -> None:
    """Shows one Sample as `edge-sdk watch` does: a table in place on a terminal, lines elsewhere."""
    if not is_live:
        show.say(f"  {table.sample_line(sample)}")
        return
    text = table.table_text([table.Shown(sample.device, sample, 0.0)])
    up = "" if is_first else f"\x1b[{len(text.splitlines())}A"
    show.say(up + "\n".join(f"\x1b[2K{line}" for line in text.splitlines()))


def _samples_while(url: str, worker: threading.Thread) -> Iterator[telemetry.Sample]:
    for sample in watch(url, device=DEVICE, timeout_s=_READY_S):
        yield sample
        if not worker.is_alive():
            return


def _expected_top1(built: dict[str, Any], engine: str) -> float:
    """Gives what the build measured of the very form that was served, for example ``onnxruntime:lowered``."""
    variant = engine.partition(":")[2]
    values = {"float": built["float_value"], "lowered": (built["cpu"] or {}).get("value")}
    return float(values.get(variant) or built["int8_value"])


def _summary(
    built: dict[str, Any],
    streamed: replay.Result,
    samples: list[telemetry.Sample],
    sent: dict[str, Any],
    stored: dict[str, Any],
) -> dict[str, Any]:
    latencies = histogram.merge(histograms.from_text(window.latency_hist) for s in samples for window in s.models)
    powers = [sample.power_w for sample in samples if sample.power_w is not None]
    last = samples[-1]
    return {
        "float_top1": built["float_value"],
        "int8_top1": built["int8_value"],
        "served_top1": streamed.top1,
        "expected_top1": _expected_top1(built, last.models[0].engine),
        "images": streamed.images,
        "drop": built["drop"],
        "latency_p50_ms": histogram.quantile(latencies, 0.5),
        "latency_p99_ms": histogram.quantile(latencies, 0.99),
        "throughput_hz": round(streamed.answers / streamed.seconds, 1),
        "engine": last.models[0].engine,
        "samples_sent": sent["samples"],
        "samples_stored": stored.get("stored", 0),
        "samples_lost": sent["samples"] - stored.get("stored", 0),
        "compiler": built["compiler"],
        "power": {
            "value": sum(powers) / len(powers) if powers else None,
            "reason": "" if powers else last.missing.get("power_w", "no Sample had it"),
            "boundary": last.power_boundary or "",
        },
        "peak_rss_bytes": built["peak_rss_bytes"],
    }


COMMAND = Command(add_arguments, run, "  edge-sdk demo\n  edge-sdk demo --json > summary.json")
