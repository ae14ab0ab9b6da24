"""``edge-sdk compare``: one bundle against another on the same data; exit code 1 when the second is worse."""

import argparse
from pathlib import Path

from edge_sdk import errors
from edge_sdk.cli import evaluate, show
from edge_sdk.cli.command import Command
from edge_sdk.host import evaluation
from edge_sdk.host.judge import metrics


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Puts the options of ``compare`` on the parser."""
    parser.add_argument("first", type=Path, metavar="A", help="bundle that is the reference")
    parser.add_argument("second", type=Path, metavar="B", help="bundle that may not be worse")
    evaluate.add_data_arguments(parser)
    parser.add_argument("--max-drop", type=float, help=f"points that B may lose (default: {metrics.BUDGETS_TEXT})")


def run(arguments: argparse.Namespace) -> int:
    """Prints the comparison; 1 when B is worse than A by more than allowed."""
    if arguments.max_drop is not None and not arguments.max_drop >= 0:
        raise errors.UsageError(f"--max-drop is {arguments.max_drop}; expected 0 or more, in points of the metric")
    evaluate.find_own_modules()
    with show.Progress() as progress:
        found = evaluation.compared(
            arguments.first,
            arguments.second,
            arguments.data,
            metric=arguments.metric,
            max_drop=arguments.max_drop,
            backend=arguments.backend,
            progress=progress,
        )
    evaluate.print_evaluation(found, as_json=arguments.json)
    return 0 if found.passed else 1


COMMAND = Command(add_arguments, run, "  edge-sdk compare shipped.edge candidate.edge --data test.npz --max-drop 0.5")
