"""What a command module offers to `main`: its arguments, what it runs, a worked example."""

import argparse
from collections.abc import Callable
from typing import NamedTuple


class Command(NamedTuple):
    """One sub-command.

    Attributes:
        add_arguments: puts its options on the parser (``--json`` is there already).
        run: does the work and gives the exit code; raises EdgeError for everything a user can mend.
        example: shown below ``--help``.
    """

    add_arguments: Callable[[argparse.ArgumentParser], None]
    run: Callable[[argparse.Namespace], int]
    example: str
