"""The builder against its peers, on five models of different kinds: cost, memory, accuracy, rules; all of one run."""

import os
import sys
import tempfile
import venv
from pathlib import Path

import draw
import numpy as np
import quantisers
import scales
import whole
import zoo
from measure import run
from rows import Row, better_row, main, mb, ms, ratio_row

from edge_sdk.engines import compilers
from edge_sdk.host.graph import audit

SPEED = (
    (quantisers.OURS, quantisers.MODELOPT_ENTROPY, 1 / 3.5),
    (quantisers.OURS_ENTROPY, quantisers.MODELOPT_ENTROPY, 1 / 3.5),
    (quantisers.OURS_MAX, quantisers.MODELOPT_MAX, 1 / 2),
    (quantisers.OURS_MAX, quantisers.ORT_MINMAX, 1 / 1.3),
)
"""What is held against what: what either gives by default, then the same method on both sides."""
MOST_MODELS_BAR = 1 / 5
BUILD_BAR = 2.5
PEAK_BYTES, GROWTH_BYTES, INSTALL_BYTES = 250e6, 32e6, 300e6
SPREAD_BAR = 1e-6
KEPT_SHARE, FLOAT_SHARE = 0.95, 0.10
MANY = 2000
ACCURACY = tuple(tool for tool in quantisers.PEERS if tool not in (quantisers.ORT_DEFAULT, quantisers.QUARK))
ROWS = ("speed", "cost", "rules", "accuracy", "memory", "scales", "install")
QUICK = {"demo": {"count": 64, "evaluated": 500}, "mobilenet": {"count": 64, "evaluated": 500}}


def add_options(parser):
    parser.add_argument("--models", default=",".join(zoo.ENTRIES), help="of the zoo, by commas (default: all)")
    parser.add_argument(
        "--rows", default=",".join(ROWS), help="of the kinds of figures, by commas (default: %(default)s)"
    )
    parser.add_argument(
        "--quick", action="store_true", help="two small models, few samples: tries the bench, says little"
    )
    parser.add_argument("--keep", type=Path, help="new folder to keep every quantised model in")


def measure(arguments):
    names = list(QUICK) if arguments.quick else arguments.models.split(",")
    wanted = arguments.rows.split(",")
    if unknown := set(wanted) - set(ROWS):
        sys.exit(f"no rows {', '.join(sorted(unknown))}; known: {', '.join(ROWS)}")
    shares = []
    with tempfile.TemporaryDirectory() as temporary:
        for name in names:
            entry = zoo.ENTRIES[name](
                (arguments.keep or Path(temporary)) / name, **(QUICK[name] if arguments.quick else {})
            )
            made = {}
            if "speed" in wanted:
                yield from speed(entry, shares, made, runs=2 if name == "detector" else 3)
            yield from of_build(entry, made, wanted)
            if name == "detector" and "memory" in wanted:
                yield from memory(entry.model.parent / "320")
            if "scales" in wanted:
                yield from steady(entry)
    if shares:
        yield most(shares)
    if not arguments.quick and "install" in wanted:
        yield install()


def of_build(entry, made, wanted):
    """What takes a whole build."""
    if not {"cost", "rules", "accuracy"} & set(wanted):
        return
    built = whole.built(entry)
    if built.error:
        yield Row(f"{entry.name}: whole build", f"failed: {built.error}", "-", None, 0.0)
        return
    if "cost" in wanted:
        yield from cost(entry, built)
    if "rules" in wanted:
        yield from lawful(entry, built)
    if "accuracy" in wanted:
        yield from accuracy(entry, built, made)


def most(shares):
    """The ratio that more than half of the models keep."""
    place = len(shares) // 2
    return Row(
        f"CPU time of quantising, most of {len(shares)} models",
        f"{sorted(shares)[place]:.3f} or less on {place + 1} of {len(shares)}",
        "Model Optimizer entropy",
        round(sorted(shares)[place], 3),
        MOST_MODELS_BAR,
    )


def speed(entry, shares, made, runs):
    """The quantiser's call alone, with one thread, ours and the peers' in turn; the cheapest of `runs`."""
    tools = [*dict.fromkeys(tool for ours, peer, _ in SPEED for tool in (ours, peer)), quantisers.BARE]
    turns = [[quantisers.quantised(tool, entry, entry.model.parent) for tool in tools] for _ in range(runs)]
    spent = {tool: min((turn[place] for turn in turns), key=lambda one: one.cpu_s) for place, tool in enumerate(tools)}
    bare = spent[quantisers.BARE]
    for ours, peer, bar in SPEED:
        made[peer] = spent[peer]
        yield from quicker(f"{entry.name}, n={entry.count}", ours, peer, spent, bar)
    entropy = spent[quantisers.MODELOPT_ENTROPY]
    if not entropy.error:
        yield ratio_row(
            f"{entry.name}, n={entry.count}: CPU time of nothing but running the float model once over the samples",
            bare.cpu_s,
            entropy.cpu_s,
            unit=ms,
            what=quantisers.MODELOPT_ENTROPY.title,
            bar=None,
        )
        if not spent[quantisers.OURS_ENTROPY].error:
            shares.append(spent[quantisers.OURS_ENTROPY].cpu_s / entropy.cpu_s)


def quicker(what, ours, peer, spent, bar):
    """One of our methods against one of a peer's: processor time and memory of the call."""
    figure = f"{what}: CPU time of quantising by {ours.method}"
    if failed := next((tool for tool in (ours, peer) if spent[tool].error), None):
        yield Row(
            figure, f"{failed.title} failed: {spent[failed].error[:100]}", "-", None, 0.0 if failed is ours else None
        )
        return
    ratio, bare = (round(spent[tool].cpu_s / spent[peer].cpu_s, 3) for tool in (ours, quantisers.BARE))
    least = f"; a bare float pass alone is {bare:.3f} of that" if bare and ratio > bar else ""
    yield Row(figure, ms(spent[ours].cpu_s), f"{ms(spent[peer].cpu_s)} {peer.title}{least}", ratio, round(bar, 3))
    peaks = spent[ours].peak_bytes, spent[peer].peak_bytes
    yield ratio_row(f"{what}: peak memory of a build by {ours.method}", *peaks, unit=mb, what=peer.title, bar=None)


def cost(entry, built):
    """The whole command against a bare float loop; with its own default threads, as it is used."""
    calibration, both = whole.bare(entry, entry.raw), whole.bare(entry, entry.raw, entry.evaluation)
    for what, floor in (("calibration images", calibration), ("calibration and evaluation images", both)):
        yield ratio_row(
            f"{entry.name}: whole build, CPU time",
            built.cpu_s,
            floor.cpu_s,
            unit=ms,
            what=f"bare float loop over the {what}",
            bar=BUILD_BAR,
        )
    stages = sorted(built.document["seconds"].items(), key=lambda stage: -stage[1])[:4]
    yield Row(
        f"{entry.name}: whole build, wall time",
        f"{ms(built.wall_s)} ({', '.join(f'{name} {seconds:.1f}' for name, seconds in stages)})",
        f"{ms(both.wall_s)} bare float loop over both",
        round(built.wall_s / both.wall_s, 2),
        None,
    )


def lawful(entry, built):
    """Rules broken by the bundle's INT8 graph, and what NVIDIA's compiler says of it."""
    broken = len(audit.audit_file(built.model).violations)
    yield Row(f"{entry.name}: rules broken by our graph", str(broken), "0 allowed", float(broken), 0.0)
    report = compilers.check_model(built.model.read_bytes())
    if report.ok is not None:
        yield Row(
            f"{entry.name}: our graph in {report.name} {report.version}",
            "builds" if report.ok else "refused",
            "must build",
            float(not report.ok),
            0.0,
        )


def accuracy(entry, built, made):
    """Our bundle and every peer's model on the evaluation samples; the floor is the best of what NVIDIA takes."""
    wanted, labels = entry.outputs(entry.model), entry.labels()
    ours = entry.score(wanted, entry.outputs(built.model), labels)
    legal = {}
    for tool in ACCURACY:
        spent = made.get(tool) or quantisers.quantised(tool, entry, entry.model.parent)
        if not spent.error and compilers.check_model(spent.output.read_bytes()).ok:
            legal[tool.title] = entry.score(wanted, entry.outputs(spent.output), labels)
    for figure, value in ours.items():
        best = max(legal, key=lambda title: legal[title][figure])
        yield compared(f"{entry.name}: {figure}", value, legal[best][figure], best)
    yield gated(entry, built)
    if "detections kept" in ours:
        yield better_row(
            f"{entry.name}: detections kept", ours["detections kept"], KEPT_SHARE, unit=percent, what="to keep", bar=1.0
        )
        in_float = 1 - built.document["int8_compute_ratio"]
        yield ratio_row(
            f"{entry.name}: compute left in float", in_float, FLOAT_SHARE, unit=percent, what="allowed", bar=1.0
        )


def compared(figure, value, floor, title):
    """Noise over noise for decibels, share over share for the rest; above 1 we are worse."""
    if figure.endswith("SQNR"):
        noise = 10 ** ((floor - value) / 20)
        return Row(figure, f"{value:.2f} dB", f"{floor:.2f} dB {title}, best of the legal peers", round(noise, 4), 1.0)
    return better_row(figure, value, floor, unit=percent, what=f"{title}, best of the legal peers", bar=1.0)


def gated(entry, built):
    answer = (
        "refused at the metric's budget"
        if built.is_refused
        else f"passed, {built.document['max_drop']:g} points allowed"
    )
    pinned = len(built.document["pinned"])
    return Row(
        f"{entry.name}: gate",
        f"{answer}; {pinned} layers in float; {built.document['metric']} {built.document['int8_value']:.4f}",
        f"float {built.document['float_value']:.4f}",
        None,
        None,
    )


def percent(share):
    return f"{share:.2%}"


def memory(folder):
    """Peak of our quantiser on a 320x320 detector with 128 samples, and how it grows from 32 to MANY."""
    entry = zoo.detector(folder, evaluated=zoo.FEW, side=320)
    few, usual = (quantisers.quantised(quantisers.OURS, entry, folder, count=count) for count in (32, entry.count))
    many = quantisers.quantised(quantisers.OURS, entry, folder, count=MANY, raw=drawn(folder / "many.npy", MANY, 320))
    if failed := next((spent.error for spent in (few, usual, many) if spent.error), ""):
        yield Row(f"{entry.name}: memory", f"failed: {failed}", "-", None, 0.0)
        return
    yield ratio_row(
        f"{entry.name}: peak memory, n={entry.count}", usual.peak_bytes, PEAK_BYTES, unit=mb, what="allowed", bar=1.0
    )
    growth = max(many.peak_bytes - few.peak_bytes, 0)
    yield ratio_row(
        f"{entry.name}: growth from 32 to {MANY} samples", growth, GROWTH_BYTES, unit=mb, what="allowed", bar=1.0
    )


def drawn(file, count, side):
    """Scenes in parts: this process must not hold half a gigabyte of them."""
    part = 100
    scenes = np.lib.format.open_memmap(file, "w+", np.uint8, (count, 3, side, side))
    for start in range(0, count, part):
        scenes[start : start + part] = draw.scenes(part, zoo.CALIBRATION_SEED + 1 + start)[:, :, :side, :side]
    scenes.flush()
    return file


def steady(entry):
    """Scales for other batches, orders and workers."""
    for way, spread in scales.spreads(entry).items():
        yield Row(
            f"{entry.name}: largest change of a scale, {way}",
            f"{spread:.1e}",
            f"{SPREAD_BAR:.0e} of batch 1's",
            spread,
            SPREAD_BAR,
        )


def install():
    """Size of an environment with the builder's quantiser in it, pip and setuptools apart."""
    with tempfile.TemporaryDirectory() as folder:
        venv.create(folder, with_pip=True)
        run(
            [
                f"{folder}/bin/python",
                "-m",
                "pip",
                "install",
                "--quiet",
                "--disable-pip-version-check",
                f"{zoo.ROOT}[host]",
            ]
        )
        size = size_of(Path(folder))
    peer = Path(quantisers.python_of(quantisers.MODELOPT_ENTROPY)).parents[1]
    floor = f"{mb(INSTALL_BYTES)} allowed; {mb(size_of(peer))} Model Optimizer"
    return Row("install of edge_sdk[host]", mb(size), floor, round(size / INSTALL_BYTES, 2), 1.0)


def size_of(environment):
    files = (Path(at) / name for at, _, names in os.walk(environment) for name in names)
    ours = (file for file in files if not {"pip", "setuptools"} & set(file.parts) and not file.is_symlink())
    return sum(file.stat().st_size for file in ours)


if __name__ == "__main__":
    sys.exit(main("build", measure, add_options))
