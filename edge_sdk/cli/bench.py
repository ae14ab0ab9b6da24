"""``edge-sdk bench``: how fast a bundle runs on this machine, beside the library's own run."""

import argparse
from pathlib import Path

from edge_sdk import clock, errors
from edge_sdk.cli import places, show
from edge_sdk.cli.command import Command
from edge_sdk.device.sense import board, together
from edge_sdk.engines import benching, bundled, registry, variants
from edge_sdk.engines.benching import Bench, Loop
from edge_sdk.wire import bundles


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Puts the options of ``bench`` on the parser."""
    parser.add_argument("bundle", type=Path, help="folder that `edge-sdk build` wrote")
    parser.add_argument("--seconds", type=float, default=5.0, help="how long to measure (default %(default)s)")
    parser.add_argument(
        "--backend",
        default="onnxruntime",
        help=f"{', '.join(registry.BACKENDS)} or module:Class (default %(default)s)",
    )
    parser.add_argument(
        "--variant",
        choices=(variants.AUTO, *variants.FILES),
        default=variants.AUTO,
        help="form of an INT8 bundle on a CPU (default: the fastest that answers the golden samples)",
    )
    parser.add_argument("--threads", type=int, default=0, help="CPU threads; 0 (default) leaves it to the back end")


def run(arguments: argparse.Namespace) -> int:
    """Measures and prints the figures."""
    if not 0 < arguments.seconds <= 86400:
        raise errors.UsageError(f"--seconds is {arguments.seconds:g}; expected more than 0 and at most 86400")
    bundled.check_machine(arguments.bundle, backend=arguments.backend)
    checked = bundles.read_bundle(arguments.bundle)
    options = {"backend": arguments.backend, "threads": arguments.threads}
    choice = bundled.chosen(checked, variant=arguments.variant, memory=places.variants_folder(), **options)
    found = benching.bench(
        checked, choice, seconds=arguments.seconds, meter=BoardMeter(), progress=show.Progress(), **options
    )
    if arguments.json:
        show.print_json({"bundle": str(checked.path), "digest": checked.digest, "bench": found})
    else:
        print(bench_text(checked, found))
    return 0


class BoardMeter:
    """The machine's own power sensors, as the daemon reads them."""

    def __init__(self, root: Path = Path("/")) -> None:
        sensors = board.sensors_of(root, clocks=clock.SystemClock(), state_folder=Path())
        self._sensors = together.Sensors(sensors)
        self._reason = ""

    def begin(self) -> None:
        """Begins to measure."""
        self._sensors.collect()

    def tick(self) -> None:
        """Reads what is integrated."""
        self._sensors.tick()

    def energy_j(self) -> float | None:
        """Gives the energy since `begin`."""
        found = {reading.metric: reading for reading in self._sensors.collect()}
        energy = found.get("energy_j")
        if energy is not None and isinstance(energy.value, float | int):
            return float(energy.value)
        power = found.get("power_w")
        self._reason = (power.reason if power else "") or (energy.reason if energy else "") or "no power sensor"
        return None

    def reason(self) -> str:
        """Gives why there is no energy."""
        return self._reason


def bench_text(checked: bundles.Bundle, found: Bench) -> str:
    """Gives the figures for people."""
    threads = f", {found.threads} thread{'s' if found.threads > 1 else ''}" if found.threads else ""
    rows = {"runs as": found.engine + threads, "inference": loop_text(found.loop)}
    if found.bare is not None and found.p50_ratio is not None:
        rows["bare loop"] = loop_text(found.bare)
        rows["ratio"] = f"{found.p50_ratio:.3f} of the bare loop's p50"
    rows["energy"] = (
        f"not read: {found.energy_reason}"
        if found.energy_per_inference_j is None
        else f"{found.energy_per_inference_j:.4g} J per inference, idle power included"
    )
    if found.forms_ms:
        rows["forms"] = ", ".join(f"{name} {spent_ms:.3f} ms" for name, spent_ms in found.forms_ms.items())
    lines = [f"{checked.manifest.name} {checked.manifest.version}"]
    lines += [f"  {name:<12} {text}" for name, text in rows.items()]
    lines += [f"  not run      {name}: {reason}" for name, reason in found.refused.items()]
    return "\n".join(lines)


def loop_text(loop: Loop) -> str:
    """Gives one loop's figures."""
    return (
        f"p50 {loop.p50_ms:.3f} ms, p90 {loop.p90_ms:.3f} ms, p99 {loop.p99_ms:.3f} ms, "
        f"{loop.throughput_hz:,.0f}/s, {loop.inferences:,} inferences"
    )


COMMAND = Command(
    add_arguments, run, "  edge-sdk bench fashion.edge --seconds 10\n  edge-sdk bench fashion.edge --json"
)
