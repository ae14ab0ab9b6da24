"""The options of commands that finish a bundle on another machine, over ssh."""

import argparse
import shlex

from edge_sdk import errors
from edge_sdk.engines.away import Host


def add_arguments(parser: argparse.ArgumentParser, *, what: str) -> None:
    """Puts ``--on`` and what belongs to it on a parser; `what` says what happens there."""
    parser.add_argument("--on", metavar="USER@HOST", help=f"{what}, over ssh; edge_sdk is installed there too")
    parser.add_argument(
        "--ssh",
        default="ssh",
        metavar="COMMAND",
        help="how to reach it, for example 'ssh -p 2222 -i key' (default ssh)",
    )
    parser.add_argument(
        "--there",
        default="edge-sdk",
        metavar="COMMAND",
        help="edge-sdk on that machine, for example /opt/edge/bin/edge-sdk (default edge-sdk)",
    )


def host_from_arguments(arguments: argparse.Namespace) -> Host | None:
    """Gives the other machine; None without ``--on``.

    Raises:
        UsageError: ``--ssh`` is no command.
    """
    if arguments.on is None:
        return None
    try:
        words = shlex.split(arguments.ssh)
    except ValueError as error:
        raise errors.UsageError(f"--ssh {arguments.ssh!r} is not a command: {error}") from error
    if not words:
        raise errors.UsageError("--ssh is empty; expected a command, for example 'ssh -p 2222'")
    return Host(arguments.on, tuple(words), arguments.there)
