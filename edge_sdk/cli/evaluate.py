"""``edge-sdk evaluate``: a bundle's task metric and output errors on data of the user's."""

import argparse
import sys
from pathlib import Path

from edge_sdk.cli import show
from edge_sdk.cli.command import Command
from edge_sdk.engines import registry
from edge_sdk.host import evaluation
from edge_sdk.host.evaluation import Evaluation
from edge_sdk.host.judge import metrics


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Puts the options of ``evaluate`` on the parser."""
    parser.add_argument("bundle", type=Path, help="folder that `edge-sdk build` wrote")
    add_data_arguments(parser)


def add_data_arguments(parser: argparse.ArgumentParser) -> None:
    """Puts the options on the parser that say what to evaluate on."""
    parser.add_argument(
        "--data", required=True, metavar="DATA", help="a folder of images, an .npz or .npy file, or module:function"
    )
    parser.add_argument(
        "--metric",
        default=metrics.AUTO,
        metavar="NAME",
        help=f"{', '.join(metrics.TITLES)}, some as NAME@THRESHOLD, or module:function (default: what the data allows)",
    )
    parser.add_argument(
        "--backend",
        default="onnxruntime",
        help=f"{', '.join(registry.BACKENDS)} or module:Class (default %(default)s)",
    )


def run(arguments: argparse.Namespace) -> int:
    """Prints the evaluation."""
    find_own_modules()
    with show.Progress() as progress:
        found = evaluation.evaluated(
            arguments.bundle,
            arguments.data,
            metric=arguments.metric,
            backend=arguments.backend,
            progress=progress,
        )
    print_evaluation(found, as_json=arguments.json)
    return 0


def find_own_modules() -> None:
    """Puts the current folder on the path, so that module:function finds the user's own file, as `python -m` would."""
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)


def print_evaluation(found: Evaluation, *, as_json: bool) -> None:
    """Prints an evaluation as JSON or for people."""
    if as_json:
        show.print_json(found)
    else:
        print(evaluation_text(found))


def evaluation_text(found: Evaluation) -> str:
    """Gives an evaluation for people: every figure with its 95 % interval."""
    allowed = "" if found.max_drop is None else f", {found.max_drop:g} allowed"
    score, reference = found.score, found.reference_score
    lines = [
        f"{found.bundle} ({found.precision}) against {found.reference}, {found.samples} samples",
        f"  {found.metric:<20} {score.value:.2%} ({score.low:.2%} to {score.high:.2%}), was {reference.value:.2%}",
        f"  {'points lost':<20} {found.drop:+.2f} ({found.drop_low:+.2f} to {found.drop_high:+.2f}){allowed}",
    ]
    if found.agreement != found.score:
        lines.append(f"  {'same answer':<20} {found.agreement.value:.2%} of the samples")
    lines += [
        f"  {name:<20} {error.sqnr_db:.1f} dB SQNR ({error.sqnr_low_db:.1f} to {error.sqnr_high_db:.1f}), "
        f"cosine {error.cosine:.6f}"
        for name, error in found.outputs.items()
    ]
    lines += [f"  left out             {name}: {reason}" for name, reason in found.skipped.items()]
    return "\n".join(lines)


COMMAND = Command(
    add_arguments,
    run,
    "  edge-sdk evaluate fashion.edge --data test.npz\n"
    "  edge-sdk evaluate detector.edge --data images/ --metric detection@0.3",
)
