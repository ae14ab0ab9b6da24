"""``edge-sdk build``: a model of any framework to a gated INT8 bundle."""

import argparse
import sys
from pathlib import Path
from typing import Any

import msgspec

from edge_sdk import errors
from edge_sdk.cli import compile as compiling
from edge_sdk.cli import elsewhere, settings_file, show
from edge_sdk.cli.command import Command
from edge_sdk.engines import away
from edge_sdk.engines.finish import Finished
from edge_sdk.engines.nvidia import ShapeRange
from edge_sdk.host import builder
from edge_sdk.host.calibrate import inspect, rangefile
from edge_sdk.host.convert import source
from edge_sdk.host.judge import metrics, targets
from edge_sdk.host.pack.result import BuildResult
from edge_sdk.numerics import thresholds
from edge_sdk.records.bundle import Preprocess

_DATA = "a folder of images, an .npz or .npy file, or module:function"
_MESSAGES_SHOWN = 5

FINISHER = "tensorrt"
"""The compiler with which another machine finishes the bundle."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Puts the options of ``build`` on the parser."""
    parser.add_argument("model", metavar="SOURCE", help=source.KNOWN)
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="OUT.edge", help="bundle folder to write")
    parser.add_argument("--calibration", required=True, metavar="DATA", help=f"what the ranges are taken from: {_DATA}")
    parser.add_argument(
        "--evaluate", required=True, metavar="DATA", help="what both models are judged on, with labels for top-1"
    )
    parser.add_argument("--max-drop", type=float, help=f"points INT8 may lose (default: {metrics.BUDGETS_TEXT})")
    parser.add_argument(
        "--metric",
        default=metrics.AUTO,
        metavar="NAME",
        help=f"{', '.join(metrics.TITLES)}, some as NAME@THRESHOLD, or module:function (default: what the data allows)",
    )
    parser.add_argument("--train", metavar="DATA", help="what the model was trained on: tells over- and underfitting")
    parser.add_argument("--target", metavar="MODULE", help=f"what it is meant for: {', '.join(targets.TARGETS)}")
    parser.add_argument("--bench", type=Path, metavar="FILE.json", help="measured on a device: is INT8 worth it?")
    methods = ["auto", *thresholds.METHODS]
    parser.add_argument("--method", default="auto", help=f"{', '.join(methods)} (default: least measured error)")
    parser.add_argument(
        "--precision",
        default="auto",
        help=f"{', '.join(builder.PRECISIONS)}; where the budget is missed, auto falls to fp16 and then to float, "
        "int8 and fp16 refuse (default %(default)s)",
    )
    parser.add_argument("--preprocess", type=Path, metavar="FILE.toml", help="scale, mean, std of each input")
    parser.add_argument("--classes", type=Path, metavar="FILE.json", help="list of class names in the model's order")
    parser.add_argument("--name", help="of the model in the bundle (default: from the file)")
    parser.add_argument("--version", default="1", help="of the model (default %(default)s)")
    parser.add_argument("--counter", type=int, default=0, help="devices never go below the one they have (default 0)")
    parser.add_argument("--seed", type=int, default=0, help="picks the golden samples (default 0)")
    parser.add_argument(
        "--min-samples",
        type=int,
        default=builder.MIN_SAMPLES,
        help="refuse fewer calibration samples (default %(default)s)",
    )
    parser.add_argument("--force", action="store_true", help="replace a bundle that is there")
    parser.add_argument(
        "--resume", action="store_true", help="go on from where an interrupted build of the same bundle was"
    )
    parser.add_argument(
        "--allow",
        action="append",
        default=[],
        metavar="WHAT",
        help="let something odd about the data pass, on record: "
        + "; ".join(f"{name} ({text})" for name, text in inspect.ALLOWANCES.items()),
    )
    parser.add_argument("--save-ranges", type=Path, metavar="FILE", help="write what calibration saw, to be reused")
    parser.add_argument(
        "--ranges",
        type=Path,
        action="append",
        default=[],
        metavar="FILE",
        help="start from what an earlier calibration of this model saw, in full or in parts (several files): its "
        "samples are not run again",
    )
    parser.add_argument("--keep-layout", action="store_true", help="leave image inputs of TensorFlow as [N, H, W, C]")
    elsewhere.add_arguments(parser, what="finish the engine on that Jetson, and bring it back into the bundle")
    compiling.add_engine_arguments(parser)


def run(arguments: argparse.Namespace) -> int:
    """Builds and prints what came out."""
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)  # so that module:function finds the user's own file, as `python -m` would
    host = elsewhere.host_from_arguments(arguments)
    shapes = dict(map(compiling.parse_shape, arguments.shape))
    if arguments.dla is not None and arguments.dla < 0:
        raise errors.UsageError(f"--dla {arguments.dla} is no accelerator; they are counted from 0")
    if host is not None:
        away.check_host(host, compiler=FINISHER, dla_core=arguments.dla)  # before the long work
    elif arguments.dla is not None:
        raise errors.UsageError("--dla is for the engine that --on builds; give it with it, or to compile")
    try:
        built = _built(arguments, shapes if shapes or host else None)  # an engine's range is the user's to say
    except KeyboardInterrupt:
        if rangefile.folder_beside(arguments.output).exists():
            show.say("edge-sdk: calibration is saved; the same command with --resume goes on from there")
        raise
    finished = None if host is None else _finished(arguments, host, shapes)
    if finished is not None:
        built = msgspec.structs.replace(built, digest=finished.bundle.digest)
    if not arguments.json:
        print(result_text(built))
        if finished is not None:
            print(compiling.finished_text(arguments.output, finished, on=arguments.on))
    elif finished is None:
        show.print_json(built)
    else:
        engine = compiling.document_of(arguments.output, finished, on=arguments.on)
        show.print_json({**msgspec.to_builtins(built), "engine": engine})
    return 0


def _finished(arguments: argparse.Namespace, host: away.Host, shapes: dict[str, ShapeRange]) -> Finished:
    bundle = arguments.output
    try:
        with show.Progress() as progress:
            return away.compile_bundle_on(
                bundle, host, compiler=FINISHER, shapes=shapes, progress=progress, dla_core=arguments.dla
            )
    except (errors.EdgeError, KeyboardInterrupt):
        show.say(f"edge-sdk: {bundle} is built; `edge-sdk compile {bundle} --on {host.target}` finishes it later")
        raise


def _built(arguments: argparse.Namespace, shapes: dict[str, ShapeRange] | None) -> BuildResult:
    with show.Progress() as progress:
        return builder.build_bundle(
            arguments.model,
            arguments.output,
            calibration=arguments.calibration,
            evaluation=arguments.evaluate,
            max_drop=arguments.max_drop,
            metric=arguments.metric,
            train=arguments.train,
            target=arguments.target,
            bench=arguments.bench,
            method=arguments.method,
            precision=arguments.precision,
            preprocess=read_preprocess(arguments.preprocess) if arguments.preprocess else None,
            classes=read_classes(arguments.classes) if arguments.classes else (),
            name=arguments.name,
            version=arguments.version,
            counter=arguments.counter,
            seed=arguments.seed,
            min_samples=arguments.min_samples,
            allow=arguments.allow,
            ranges=arguments.ranges,
            save_ranges=arguments.save_ranges,
            resume=arguments.resume,
            keep_layout=arguments.keep_layout,
            shapes=shapes,
            force=arguments.force,
            progress=progress,
        )


def read_preprocess(file: Path) -> dict[str, Preprocess]:
    """Gives the rules in a TOML file: a table per input with `scale`, `mean`, `std` (one, or one per channel).

    Raises:
        SettingsError: no such file, not TOML, an unknown key, or no number.
    """
    rules = {}
    for name, table in settings_file.read_table(file).items():
        if not isinstance(table, dict):
            raise errors.SettingsError(f"{file}: {name!r} stands outside a table; write [INPUT] before it")
        listed: dict[str, Any] = {key: [value] if _is_scalar(key, value) else value for key, value in table.items()}
        rules[name] = settings_file.settings_from_table(listed, Preprocess, source=f"{file} [{name}]")
    return rules


def read_classes(file: Path) -> tuple[str, ...]:
    """Gives the class names in a JSON list.

    Raises:
        SettingsError: no such file, or no list of strings.
    """
    try:
        return msgspec.json.decode(file.read_bytes(), type=tuple[str, ...])
    except OSError as error:
        raise errors.SettingsError(f"cannot read the class names {file}: {error.strerror}") from error
    except msgspec.DecodeError as error:
        raise errors.SettingsError(f"{file} is not a JSON list of class names: {error}") from error


def result_text(built: BuildResult) -> str:
    """Gives what a build made, for people."""
    compiler = built.compiler
    if compiler.ok:
        words = f"{compiler.name} {compiler.version} takes it: {compiler.engine_bytes:,} bytes"
    elif built.precision == "float":
        words = "not asked, the bundle holds the float model alone"
    else:
        words = "none at hand, not compiled (pip install 'edge_sdk[rtx]' checks without a GPU)"
    rows = {
        "made from": built.origin,
        "precision": f"{built.precision}, ranges by {built.method} of {built.samples} samples"
        if built.precision == "int8"
        else built.precision,
        built.metric: f"float {built.float_value:.2%}, bundle {built.int8_value:.2%}: {built.drop:+.2f} points lost"
        f"{_interval_text(built)}, {built.max_drop:g} allowed ({built.evaluation_samples} samples)",
        "output SQNR": ", ".join(f"{name} {value:.1f} dB" for name, value in built.sqnr_db.items()),
        "INT8 arithmetic": f"{built.int8_compute_ratio:.1%} of the multiply-accumulates",
        "compiler": words,
        "digest": built.digest,
        "took": f"{sum(built.seconds.values()):.1f} s, peak memory {built.peak_rss_bytes / 1e6:.0f} MB",
        "report": f"{built.bundle}/report.html",
    }
    if built.agreement != built.int8_value:
        rows["agreement"] = f"{built.agreement:.2%} of the samples get the same answer"
    lines = [f"built {built.bundle}", *(f"  {name:<16} {text}" for name, text in rows.items())]
    lines += [f"  warning          {caution}" for caution in built.warnings]
    if built.reason and not (built.worth_it and built.reason in built.worth_it.reason):
        lines.append(f"  why              {built.reason}")
    if built.worth_it:
        lines.append(f"  INT8 worth it?   {built.worth_it.answer}. {built.worth_it.reason}")
    if built.precision == "int8":
        lines += [f"  in float         {entry.node}: {entry.reason}" for entry in built.pinned]
    for data, skipped in built.skipped.items():
        lines += [f"  left out         {name} ({data}): {reason}" for name, reason in skipped.items()]
    lines += [f"  note             {note}" for note in built.notes]
    if built.coverage.sentence:
        lines.append(f"  more data?       {built.coverage.sentence}")
    lines += [f"  compiler says    {message}" for message in compiler.messages[:_MESSAGES_SHOWN] if compiler.ok]
    return "\n".join(lines)


def _interval_text(built: BuildResult) -> str:
    return "" if built.drop_low is None else f" ({built.drop_low:+.2f} to {built.drop_high:+.2f})"


def _is_scalar(key: str, value: object) -> bool:
    return key in ("mean", "std") and isinstance(value, int | float)


COMMAND = Command(
    add_arguments,
    run,
    "  edge-sdk build model.onnx -o model.edge --calibration images/ --evaluate test.npz \\\n"
    "      --preprocess preprocess.toml --max-drop 0.5",
)
