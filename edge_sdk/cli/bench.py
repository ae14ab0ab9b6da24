"""``edge-sdk bench``: how fast a bundle runs on this machine, warm and for long, beside the library's own run."""

import argparse
from collections.abc import Mapping
from pathlib import Path

from edge_sdk import clock, errors
from edge_sdk.cli import bench_page, places, show
from edge_sdk.cli.command import Command
from edge_sdk.device.sense import board, machine, together
from edge_sdk.engines import benching, bundled, registry, variants
from edge_sdk.engines.benching import Bench, Loop, Plan
from edge_sdk.engines.sustained import SETTLED_K, SETTLED_S, Conditions
from edge_sdk.records.telemetry import Reading
from edge_sdk.wire import bundles

_SOAK_S = 900.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Puts the options of ``bench`` on the parser."""
    parser.add_argument("bundle", type=Path, help="folder that `edge-sdk build` wrote")
    parser.add_argument("--seconds", type=float, default=5.0, help="how long to measure (default %(default)s)")
    parser.add_argument(
        "--soak",
        type=float,
        nargs="?",
        const=_SOAK_S,
        default=0.0,
        metavar="S",
        help=f"first run under load until the heat settles (within {SETTLED_K:g} K for {SETTLED_S:.0f} s), at most S "
        f"seconds (default {_SOAK_S:.0f})",
    )
    parser.add_argument("--idle", type=float, default=0.0, metavar="S", help="measure S seconds of idle power before")
    parser.add_argument("--page", type=Path, metavar="FILE", help="write a page with the plots: one file, no network")
    parser.add_argument(
        "--root", type=Path, default=Path("/"), metavar="DIR", help="sense the board whose files lie here"
    )
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
    for name, low in (("seconds", "more than 0"), ("soak", "0 or more"), ("idle", "0 or more")):
        value = getattr(arguments, name)
        if not 0 <= value <= 86400 or (name == "seconds" and value == 0):
            raise errors.UsageError(f"--{name} is {value:g}; expected {low} and at most 86400")
    if arguments.page is not None:
        _check_page(arguments.page)
    bundled.check_machine(arguments.bundle, backend=arguments.backend)
    checked = bundles.read_bundle(arguments.bundle)
    options = {"backend": arguments.backend, "threads": arguments.threads}
    choice = bundled.chosen(checked, variant=arguments.variant, memory=places.variants_folder(), **options)
    meter = BoardMeter(arguments.root)
    plan = Plan(arguments.seconds, soak_s=arguments.soak, idle_s=arguments.idle)
    try:
        with show.Progress() as progress:
            found = benching.bench(checked, choice, plan=plan, meter=meter, progress=progress, **options)
    finally:
        meter.close()
    here = machine.read_machine(arguments.root)
    if arguments.page is not None:
        _write_page(arguments.page, checked, found, here, meter)
    if arguments.json:
        show.print_json(
            {
                "bundle": str(checked.path),
                "digest": checked.digest,
                "machine": here,
                "simulated": meter.is_simulated,
                "power_boundary": meter.boundary,
                "bench": found,
            }
        )
    else:
        print(bench_text(checked, found, boundary=meter.boundary, simulated=meter.is_simulated))
    return 0


def _check_page(page: Path) -> None:
    """Refuses before minutes are spent on measuring."""
    if page.is_dir():
        raise errors.UsageError(f"--page {page} is a folder; expected the name of a file")
    if not page.absolute().parent.is_dir():
        raise errors.UsageError(f"--page {page}: there is no folder {page.absolute().parent}")


def _write_page(
    page: Path, checked: bundles.Bundle, found: Bench, here: Mapping[str, object], meter: "BoardMeter"
) -> None:
    title = f"{checked.manifest.name} {checked.manifest.version}"
    text = bench_page.page_text(title, found, here, boundary=meter.boundary, simulated=meter.is_simulated)
    try:
        page.write_text(text, encoding="utf-8")
    except OSError as error:
        show.say(f"edge-sdk: the page could not be written to {page}: {error.strerror}")  # the figures are still told
    else:
        show.say(f"edge-sdk: the plots are in {page}")


class BoardMeter:
    """The machine's own senses, as the daemon reads them.

    Attributes:
        boundary: what its power covers; empty where none was read.
        is_simulated: whether the board was made up.
    """

    def __init__(self, root: Path = Path("/")) -> None:
        sensors = board.sensors_of(root, clocks=clock.SystemClock(), state_folder=Path())
        self._sensors = together.Sensors(sensors)
        self._reasons: dict[str, str] = {}
        self.boundary = ""
        self.is_simulated = False

    def begin(self) -> None:
        """Begins to measure."""
        self._sensors.collect()

    def tick(self) -> None:
        """Reads what is integrated."""
        self._sensors.tick()

    def take(self) -> Conditions:
        """Gives what was measured since the call before."""
        found = {reading.metric: reading for reading in self._sensors.collect()}
        self._sensors.take_happenings()
        self.is_simulated |= "simulated" in found
        if "power_boundary" in found and isinstance(found["power_boundary"].value, str):
            self.boundary = found["power_boundary"].value
        return Conditions(
            energy_j=self._number("energy_j", found, "energy_j"),
            power_w=self._number("power_w", found, "power_w"),
            temperature_c=self._number("temperature_c", found, "temperature_max_c"),
            clock_hz=self._number("clock_hz", found, "gpu_frequency_hz", "cpu_frequency_hz"),
            throttled=self._truth(found),
        )

    def reasons(self) -> dict[str, str]:
        """Gives why a field had no value; of several reasons the first."""
        return dict(self._reasons)

    def close(self) -> None:
        """Gives back what the sensors hold open."""
        self._sensors.close()

    def _number(self, field: str, found: Mapping[str, Reading], *metrics: str) -> float | None:
        for metric in metrics:
            value = found[metric].value if metric in found else None
            if isinstance(value, (int, float)) and not isinstance(value, bool):
                return float(value)
        # The energy's own reason only points at the power's.
        self._missed(field, found, "power_w" if field == "energy_j" else metrics[0], metrics[0])
        return None

    def _truth(self, found: Mapping[str, Reading]) -> bool | None:
        value = found["throttled"].value if "throttled" in found else None
        if isinstance(value, bool):
            return value
        self._missed("throttled", found, "throttled")
        return None

    def _missed(self, field: str, found: Mapping[str, Reading], *metrics: str) -> None:
        reasons = [found[metric].reason for metric in metrics if metric in found and found[metric].reason]
        self._reasons.setdefault(field, (reasons or ["no sensor for it on this machine"])[0])


def bench_text(checked: bundles.Bundle, found: Bench, *, boundary: str, simulated: bool) -> str:
    """Gives the figures for people."""
    threads = f", {found.threads} thread{'s' if found.threads > 1 else ''}" if found.threads else ""
    rows = {"runs as": found.engine + threads, "inference": loop_text(found.loop)}
    if found.bare is not None and found.p50_ratio is not None:
        rows["bare loop"] = loop_text(found.bare)
        rows["ratio"] = f"{found.p50_ratio:.3f} of the bare loop's p50"
    rows |= board_rows(found, boundary=boundary)
    if found.forms_ms:
        rows["forms"] = ", ".join(f"{name} {spent_ms:.3f} ms" for name, spent_ms in found.forms_ms.items())
    lines = [f"{checked.manifest.name} {checked.manifest.version}"]
    if simulated:
        lines.append(
            "  SIMULATED    power, heat, clocks and limits are of a simulated board; times are of this machine"
        )
    lines += [f"  {name:<12} {text}" for name, text in rows.items()]
    lines += [f"  not run      {name}: {reason}" for name, reason in found.refused.items()]
    return "\n".join(lines)


def board_rows(found: Bench, *, boundary: str) -> dict[str, str]:
    """Gives what the board said, or why it did not."""
    missing = {name: f"not read: {reason}" for name, reason in found.missing.items()}
    rows = {"energy": f"not read: {found.energy_reason}"}
    if found.energy_per_inference_j is not None and found.power_w is not None:
        rows["energy"] = f"{found.energy_per_inference_j:.4g} J per inference, idle power included"
        if found.extra_energy_per_inference_j is not None:
            rows["energy"] += f"; {found.extra_energy_per_inference_j:.4g} J beyond the idle {found.idle_power_w:.3g} W"
        rows["power"] = f"{found.power_w:.3g} W ({boundary or 'boundary not known'})"
    rows["heat"] = missing.get("temperature_c", "not read")
    if found.temperature_max_c is not None:
        rows["heat"] = (
            f"{found.temperature_first_c:.1f} to {found.temperature_last_c:.1f} °C, at most "
            f"{found.temperature_max_c:.1f} °C; {soak_text(found)}"
        )
    elif found.soaked_s:
        rows["heat"] += f"; {soak_text(found)}"
    rows["limits"] = missing.get("throttled", "not read all the time")
    if found.throttled_s is not None:
        rows["limits"] = (
            f"slowed down for {found.throttled_s:.1f} s: these are figures of a throttled machine"
            if found.throttled_s
            else "none met during the measurement"
        )
    return rows


def soak_text(found: Bench) -> str:
    """Says how warm the machine was when the measurement began."""
    if not found.soaked_s:
        return "not soaked (--soak)"
    ended = {True: "the heat had settled", False: "the heat still moved", None: "nobody can tell whether it settled"}
    return f"soaked {found.soaked_s:.0f} s, {ended[found.has_settled]}"


def loop_text(loop: Loop) -> str:
    """Gives one loop's figures."""
    return (
        f"p50 {loop.p50_ms:.3f} ms, p90 {loop.p90_ms:.3f} ms, p99 {loop.p99_ms:.3f} ms, "
        f"{loop.throughput_hz:,.0f}/s, {loop.inferences:,} inferences"
    )


COMMAND = Command(
    add_arguments,
    run,
    "  edge-sdk bench fashion.edge --seconds 10\n"
    "  edge-sdk bench fashion.edge --soak --seconds 300 --idle 30 --page bench.html\n"
    "  edge-sdk bench fashion.edge --json",
)
