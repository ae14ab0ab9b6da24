"""The `edge-sdk` command: finds the sub-command's module by name, so that ``--help`` imports nothing heavy."""

import argparse
import os
import signal
import sys
from typing import NamedTuple, NoReturn, cast

from edge_sdk import __version__, errors, imports
from edge_sdk.cli.command import Command


class Row(NamedTuple):
    """One line of ``edge-sdk --help``."""

    summary: str
    spec: str


COMMANDS: dict[str, Row] = {
    "build": Row("a model to a gated INT8 bundle", "edge_sdk.cli.build:COMMAND"),
    "compile": Row("finish a bundle's engine for this machine", "edge_sdk.cli.compile:COMMAND"),
    "inspect": Row("what is in a bundle", "edge_sdk.cli.inspect:COMMAND"),
    "verify": Row("is every byte of a bundle right", "edge_sdk.cli.verify:COMMAND"),
    "infer": Row("run a bundle on arrays or images", "edge_sdk.cli.infer:COMMAND"),
    "doctor": Row(
        "what works on this machine, what is missing, and the command that mends it", "edge_sdk.cli.doctor:COMMAND"
    ),
    "daemon": Row("the on-device runtime", "edge_sdk.cli.daemon:COMMAND"),
    "collector": Row("the central collector", "edge_sdk.cli.collector:COMMAND"),
    "broker": Row("an MQTT broker on loopback for trying things out", "edge_sdk.cli.broker:COMMAND"),
    "watch": Row("live telemetry of the fleet", "edge_sdk.cli.watch:COMMAND"),
    "demo": Row("all of it on this machine with the shipped model", "edge_sdk.cli.demonstration:COMMAND"),
}

INTERRUPTED = 130
"""The shell's code for a program ended by Ctrl-C."""


def entry() -> NoReturn:
    """Runs the command line of this process and leaves with its exit code."""
    sys.exit(run(sys.argv[1:]))


def run(argv: list[str]) -> int:
    """Gives the exit code for `argv`; what a user can mend is one line on stderr, never a traceback."""
    if not argv or argv[0] in ("-h", "--help"):
        print(overview(), end="")
        return 0 if argv else errors.UsageError.exit_code
    if argv[0] in ("-V", "--version"):
        print(f"edge-sdk {__version__}")
        return 0
    try:
        name = argv[0]
        if name not in COMMANDS:
            raise errors.UsageError(
                f"no command {name!r}{imports.nearest(name, COMMANDS)}; `edge-sdk --help` lists them"
            )
        command = cast("Command", imports.object_from_spec(COMMANDS[name].spec))
        return command.run(parser_for(name, command).parse_args(argv[1:]))
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


def overview() -> str:
    """Gives ``edge-sdk --help``."""
    width = max(map(len, COMMANDS))
    rows = "".join(f"  {name:<{width}}  {row.summary}\n" for name, row in COMMANDS.items())
    return (
        "usage: edge-sdk COMMAND [OPTION ...]\n\n"
        "Edge deployment for NVIDIA Jetson: gated INT8 bundles, an on-device runtime, telemetry that arrives.\n\n"
        f"{rows}\n"
        "`edge-sdk COMMAND --help` explains one, with an example. Every command takes --json.\n"
        "Exit codes: 0 ok, 1 the answer is no, 2 usage, 3 bundle refused, 4 engine failed, 5 link failed,\n"
        "70 internal fault.\n\n"
        "example: edge-sdk demo\n"
    )


def parser_for(name: str, command: Command) -> argparse.ArgumentParser:
    """Gives the parser of one command, with what every command has."""
    parser = argparse.ArgumentParser(
        prog=f"edge-sdk {name}",
        description=COMMANDS[name].summary[0].upper() + COMMANDS[name].summary[1:] + ".",
        epilog=f"example:\n{command.example}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--json", action="store_true", help="one JSON document on stdout; progress and logs on stderr")
    command.add_arguments(parser)
    return parser


def _missing_package_text(command: str, error: ModuleNotFoundError) -> str:
    extras = {"onnx": "host", "onnxruntime": "device", "PIL": "host", "iotcore": "broker"}
    package = (error.name or "").partition(".")[0]
    extra = extras.get(package)
    remedy = f"pip install 'edge_sdk[{extra}]'" if extra else f"pip install {package}"
    return f"`{command}` needs the package {package!r}, which is not installed here: {remedy}"
