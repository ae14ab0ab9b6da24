"""Runs one command: its parser, its errors as one line, its exit code."""

import argparse
import os
import signal
import sys
import traceback
from collections.abc import Callable
from typing import cast

from edge_sdk import errors, imports
from edge_sdk.cli.command import Command

INTERRUPTED = 130
"""The shell's code for a program ended by Ctrl-C."""

EXTRAS = {"cv2": "camera", "zmq": "zmq", "onnx": "host", "onnxruntime": "device", "PIL": "host", "iotcore": "broker"}
"""Which extra brings a package."""


def run(argv: list[str], commands: dict[str, tuple[str, str]], overview: Callable[[], str]) -> int:
    """Gives the exit code for `argv`; what a user can mend is one line on stderr, never a traceback."""
    if not argv:
        print(overview(), end="")
        return errors.UsageError.exit_code
    try:
        return _run_command(argv[0], argv[1:], commands)
    except errors.EdgeError as error:
        print(f"edge-sdk: {error}", file=sys.stderr)
        return error.exit_code
    except ModuleNotFoundError as error:
        print(f"edge-sdk: {_missing_package_text(argv[0], error)}", file=sys.stderr)
        return errors.UsageError.exit_code
    except KeyboardInterrupt:
        print("edge-sdk: interrupted", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:
        # The reader (head, less) went away; leave quietly, as other Unix tools do.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + signal.SIGPIPE
    except Exception:  # noqa: BLE001 # boundary: a fault of ours; the trace goes into the report, the code says so
        traceback.print_exc()
        print("edge-sdk: internal fault; please report it with the lines above", file=sys.stderr)
        return errors.EdgeError.exit_code


def parser_for(name: str, summary: str, command: Command) -> argparse.ArgumentParser:
    """Gives the parser of one command, with what every command has."""
    parser = argparse.ArgumentParser(
        prog=f"edge-sdk {name}",
        description=f"{summary[0].upper()}{summary[1:]}.",
        epilog=f"example:\n{command.example}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--json", action="store_true", help="one JSON document on stdout; progress and logs on stderr")
    command.add_arguments(parser)
    return parser


def _run_command(name: str, argv: list[str], commands: dict[str, tuple[str, str]]) -> int:
    if name not in commands:
        raise errors.UsageError(f"no command {name!r}{imports.nearest(name, commands)}; `edge-sdk --help` lists them")
    summary, spec = commands[name]
    command = cast("Command", imports.object_from_spec(spec))
    return command.run(parser_for(name, summary, command).parse_args(argv))


def _missing_package_text(command: str, error: ModuleNotFoundError) -> str:
    package = (error.name or "").partition(".")[0]
    remedy = f"pip install 'edge_sdk[{EXTRAS[package]}]'" if package in EXTRAS else f"pip install {package}"
    return f"`{command}` needs the package {package!r}, which is not installed here: {remedy}"
