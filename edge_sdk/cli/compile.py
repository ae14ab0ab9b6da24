"""``edge-sdk compile``: finishes a bundle's engine for this machine."""

import argparse
from pathlib import Path

from edge_sdk import errors
from edge_sdk.cli import places, show
from edge_sdk.cli.command import Command
from edge_sdk.engines import bundled, compilers, finish
from edge_sdk.engines.nvidia import ShapeRange
from edge_sdk.wire import bundles

CPU = "onnxruntime"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Puts the options of ``compile`` on the parser."""
    parser.add_argument("bundle", type=Path, help="folder that `edge-sdk build` wrote")
    parser.add_argument(
        "--backend",
        choices=sorted((*compilers.COMPILERS, CPU)),
        default="tensorrt",
        help="tensorrt: for this machine's GPU (default); tensorrt-rtx: builds without a GPU, as a check; onnxruntime: "
        "checks and times the bundle's forms on this CPU and remembers the fastest",
    )
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
    if arguments.dla is not None and (arguments.backend != "tensorrt" or arguments.dla < 0):
        raise errors.UsageError(f"--dla {arguments.dla} needs --backend tensorrt and a core counted from 0")
    if arguments.backend == CPU:
        return _check_on_cpu(arguments)
    finished = finish.compile_bundle(
        arguments.bundle,
        compiler=arguments.backend,
        shapes=dict(map(parse_shape, arguments.shape)),
        progress=show.Progress(),
        dla_core=arguments.dla,
    )
    report = finished.report
    if arguments.json:
        show.print_json(
            {
                "bundle": str(arguments.bundle),
                "digest": finished.bundle.digest,
                "plan": finished.plan,
                "compiler": report,
            }
        )
        return 0
    print(f"{report.name} {report.version} built {arguments.bundle / finished.plan}")
    print(f"  {report.engine_bytes:,} bytes in {report.seconds:.1f} s")
    print(f"  the bundle's digest is now {finished.bundle.digest}")
    for message in report.messages:
        print(f"  it says: {message}")
    if arguments.backend == "tensorrt-rtx":
        print("  this proves that NVIDIA's parser and compiler take the graph; a Jetson finishes its own engine")
    return 0


def _check_on_cpu(arguments: argparse.Namespace) -> int:
    """Loads every form of the bundle, holds it against the golden samples, times them and remembers the fastest."""
    if arguments.shape:
        raise errors.UsageError("--shape is for a compiler; onnxruntime takes every shape that the model takes")
    checked = bundles.read_bundle(arguments.bundle)
    choice = bundled.chosen(checked, backend=CPU, memory=places.variants_folder())
    with bundled.engine_of_choice(checked, choice, backend=CPU) as engine:
        name = engine.name
    if arguments.json:
        document = {"bundle": str(arguments.bundle), "digest": checked.digest, "engine": name, "choice": choice}
        show.print_json(document)
        return 0
    print(f"{arguments.bundle} runs as {name}")
    if choice is None:
        print("  it loads; there is nothing to choose")
        return 0
    earlier = ", measured earlier" if choice.is_remembered else ""
    for form, spent_ns in choice.best_ns.items():
        print(f"  {form:<8} {spent_ns / 1e6:8.3f} ms, answers the golden samples{earlier}")
    for form, reason in choice.refused.items():
        print(f"  {form:<8} does not run here: {reason}")
    return 0


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
    return name, (low, usual, high)


COMMAND = Command(
    add_arguments,
    run,
    "  edge-sdk compile fashion.edge --backend tensorrt-rtx\n  edge-sdk compile fashion.edge          (on the Jetson)\n"
    "  edge-sdk compile fashion.edge --dla 0  (with its accelerator)",
)
