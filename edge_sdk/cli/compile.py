"""``edge-sdk compile``: finishes a bundle's engine for this machine."""

import argparse
from pathlib import Path

from edge_sdk import errors
from edge_sdk.cli import show
from edge_sdk.cli.command import Command
from edge_sdk.engines import compilers, finish
from edge_sdk.engines.nvidia import ShapeRange


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Puts the options of ``compile`` on the parser."""
    parser.add_argument("bundle", type=Path, help="folder that `edge-sdk build` wrote")
    parser.add_argument(
        "--backend",
        choices=sorted(compilers.COMPILERS),
        default="tensorrt",
        help="tensorrt: for this machine's GPU (default); tensorrt-rtx: builds without a GPU, as a check",
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
    finished = finish.compile_bundle(
        arguments.bundle,
        compiler=arguments.backend,
        shapes=dict(map(parse_shape, arguments.shape)),
        progress=show.Progress(),
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
    "  edge-sdk compile fashion.edge --backend tensorrt-rtx\n  edge-sdk compile fashion.edge          (on the Jetson)",
)
