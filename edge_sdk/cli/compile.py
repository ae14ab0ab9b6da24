"""``edge-sdk compile``: finishes a bundle's engine for this machine, or for another one on it."""

import argparse
import functools
import os
import signal
import sys
from pathlib import Path
from typing import NoReturn

from edge_sdk import __version__, errors
from edge_sdk.cli import elsewhere, places, show
from edge_sdk.cli.command import Command
from edge_sdk.engines import away, bundled, compilers, finish, guest
from edge_sdk.engines.finish import Finished
from edge_sdk.engines.guest import CPU
from edge_sdk.engines.nvidia import ShapeRange
from edge_sdk.engines.remembered import Choice
from edge_sdk.wire import bundles

SERVE = "-"
"""In place of a bundle: be the far end of ``--on``."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Puts the options of ``compile`` on the parser."""
    parser.add_argument("bundle", type=Path, help="folder that `edge-sdk build` wrote; - is the far end of --on")
    parser.add_argument(
        "--backend",
        choices=sorted((*compilers.COMPILERS, CPU)),
        default="tensorrt",
        help="tensorrt: for this machine's GPU (default); tensorrt-rtx: builds without a GPU, as a check; onnxruntime: "
        "checks and times the bundle's forms on this CPU and remembers the fastest",
    )
    add_engine_arguments(parser)
    elsewhere.add_arguments(parser, what="build it on that machine and bring engine, passport and timing cache back")


def add_engine_arguments(parser: argparse.ArgumentParser) -> None:
    """Puts what an engine is built for on a parser: the accelerator, and the ranges of free axes."""
    parser.add_argument(
        "--dla",
        type=int,
        metavar="N",
        help="use deep learning accelerator N of this module, and the GPU for what it cannot do (tensorrt only)",
    )
    parser.add_argument(
        "--shape",
        action="append",
        default=[],
        metavar="INPUT=MIN:USUAL:MAX",
        help="range of an input with free axes, for example image=1x3x320x320:1x3x640x640:4x3x640x640; "
        "a free batch alone needs none",
    )


def run(arguments: argparse.Namespace) -> int:
    """Builds the engine and prints what the compiler said."""
    if str(arguments.bundle) == SERVE:
        _serve()
    if arguments.dla is not None and (arguments.backend != "tensorrt" or arguments.dla < 0):
        raise errors.UsageError(f"--dla {arguments.dla} needs --backend tensorrt and a core counted from 0")
    if arguments.backend == CPU:
        return _check_on_cpu(arguments)
    finished = _finished(arguments)
    if arguments.json:
        show.print_json(document_of(arguments.bundle, finished, on=arguments.on))
        return 0
    print(finished_text(arguments.bundle, finished, on=arguments.on))
    if arguments.backend == "tensorrt-rtx":
        print("  this proves that NVIDIA's parser and compiler take the graph; a Jetson finishes its own engine")
    return 0


def document_of(bundle: Path, finished: Finished, *, on: str | None) -> dict[str, object]:
    """Gives what ``--json`` prints of a finished bundle."""
    document = {
        "bundle": str(bundle),
        "digest": finished.bundle.digest,
        "plan": finished.plan,
        "compiler": finished.report,
    }
    return document if on is None else {**document, "on": on}


def finished_text(bundle: Path, finished: Finished, *, on: str | None) -> str:
    """Gives what the compiler made and said, for people."""
    report = finished.report
    lines = [
        f"{report.name} {report.version} built {bundle / finished.plan}{'' if on is None else f' on {on}'}",
        f"  {report.engine_bytes:,} bytes in {report.seconds:.1f} s",
        f"  the bundle's digest is now {finished.bundle.digest}",
    ]
    return "\n".join([*lines, *(f"  it says: {message}" for message in report.messages)])


def _finished(arguments: argparse.Namespace) -> Finished:
    shapes = dict(map(parse_shape, arguments.shape))
    host = elsewhere.host_from_arguments(arguments)
    compiled = finish.compile_bundle if host is None else functools.partial(away.compile_bundle_on, host=host)
    with show.Progress() as progress:
        return compiled(
            arguments.bundle, compiler=arguments.backend, shapes=shapes, progress=progress, dla_core=arguments.dla
        )


def _serve() -> NoReturn:
    """Builds for another machine, whose questions come on stdin and are answered on stdout."""
    sink = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # whatever a compiler prints is no answer of ours
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda ending, _frame: sys.exit(128 + ending))  # so that what it keeps is removed
    code = guest.serve(sys.stdin.buffer, sink, guest.Setting(__version__, places.variants_folder()))
    sink.flush()
    os._exit(code)  # a compiler's thread may still be at work, for a client that has gone


def _check_on_cpu(arguments: argparse.Namespace) -> int:
    """Loads every form of the bundle, holds it against the golden samples, times them and remembers the fastest."""
    if arguments.shape:
        raise errors.UsageError("--shape is for a compiler; onnxruntime takes every shape that the model takes")
    host = elsewhere.host_from_arguments(arguments)
    if host is not None:
        timed = away.time_bundle_on(arguments.bundle, host)
        digest, name, choice = timed.bundle.digest, timed.done.engine, timed.done.choice
    else:
        checked = bundles.read_bundle(arguments.bundle)
        choice = bundled.chosen(checked, backend=CPU, memory=places.variants_folder())
        with bundled.engine_of_choice(checked, choice, backend=CPU) as engine:
            digest, name = checked.digest, engine.name
    if arguments.json:
        document = {"bundle": str(arguments.bundle), "digest": digest, "engine": name, "choice": choice}
        show.print_json(document | ({} if host is None else {"on": host.target}))
    else:
        print(f"{arguments.bundle} runs{'' if host is None else f' on {host.target}'} as {name}")
        print(_choice_text(choice))
    return 0


def _choice_text(choice: Choice | None) -> str:
    if choice is None:
        return "  it loads; there is nothing to choose"
    earlier = ", measured earlier" if choice.is_remembered else ""
    lines = [
        f"  {form:<8} {spent_ns / 1e6:8.3f} ms, answers the golden samples{earlier}"
        for form, spent_ns in choice.best_ns.items()
    ]
    lines += [f"  {form:<8} does not run there: {reason}" for form, reason in choice.refused.items()]
    return "\n".join(lines)


def parse_shape(text: str) -> tuple[str, ShapeRange]:
    """Gives name and range of one ``--shape``.

    Raises:
        UsageError: it is not of that form.

    >>> parse_shape("image=1x28:2x28:4x28")
    ('image', ((1, 28), (2, 28), (4, 28)))
    """
    name, _, ranges = text.partition("=")
    try:
        low, usual, high = (tuple(int(axis) for axis in shape.split("x")) for shape in ranges.split(":"))
    except ValueError as error:
        raise errors.UsageError(
            f"--shape {text!r} is not INPUT=MIN:USUAL:MAX, for example image=1x28:2x28:4x28"
        ) from error
    is_even = len(low) == len(usual) == len(high)
    if not is_even or not all(1 <= a <= b <= c for a, b, c in zip(low, usual, high, strict=True)):
        raise errors.UsageError(
            f"--shape {text!r} does not fit: expected as many axes in each, from 1 up, and MIN <= USUAL <= MAX on each "
            "of them, for example image=1x28:2x28:4x28"
        )
    return name, (low, usual, high)


COMMAND = Command(
    add_arguments,
    run,
    "  edge-sdk compile fashion.edge --backend tensorrt-rtx\n  edge-sdk compile fashion.edge          (on the Jetson)\n"
    "  edge-sdk compile fashion.edge --dla 0  (with its accelerator)\n"
    "  edge-sdk compile fashion.edge --on nvidia@orin  (from here, for that Jetson)",
)
