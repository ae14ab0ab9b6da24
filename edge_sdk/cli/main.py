"""The `edge-sdk` command's front: the table of commands and the overview, in as few imports as can be.

``edge-sdk --help`` starts in less than twice the time of a bare interpreter, so this module takes nothing that a bare
interpreter has not loaded already: no argparse, no typing, no re. Everything else waits in `edge_sdk.cli.run`.
"""

import sys

from edge_sdk import __version__, imports

COMMANDS: dict[str, tuple[str, str]] = {
    "build": ("a model to a gated INT8 bundle", "edge_sdk.cli.build:COMMAND"),
    "compress": ("prune, distil or fine-tune a torch classifier before the build", "edge_sdk.cli.compress:COMMAND"),
    "audit": ("which of TensorRT's rules a Q/DQ model of any tool breaks", "edge_sdk.cli.audit:COMMAND"),
    "compile": ("finish a bundle's engine for this machine", "edge_sdk.cli.compile:COMMAND"),
    "inspect": ("what is in a bundle", "edge_sdk.cli.inspect:COMMAND"),
    "verify": ("is every byte of a bundle right", "edge_sdk.cli.verify:COMMAND"),
    "evaluate": ("a bundle's accuracy and output errors on your data", "edge_sdk.cli.evaluate:COMMAND"),
    "compare": ("one bundle against another on the same data", "edge_sdk.cli.compare:COMMAND"),
    "infer": ("run a bundle on arrays or images", "edge_sdk.cli.infer:COMMAND"),
    "run": ("a camera, video or folder through a bundle", "edge_sdk.cli.stream:COMMAND"),
    "bench": ("how fast a bundle runs here, beside a bare loop", "edge_sdk.cli.bench:COMMAND"),
    "doctor": ("what works on this machine, what is missing, and what mends it", "edge_sdk.cli.doctor:COMMAND"),
    "daemon": ("the on-device runtime", "edge_sdk.cli.daemon:COMMAND"),
    "collector": ("the central collector", "edge_sdk.cli.collector:COMMAND"),
    "broker": ("an MQTT broker on loopback for trying things out", "edge_sdk.cli.broker:COMMAND"),
    "ca": ("the fleet's certificates: init, issue, renew, revoke", "edge_sdk.cli.ca:COMMAND"),
    "sparkplug": ("the telemetry as Sparkplug B, for a SCADA system", "edge_sdk.cli.sparkplug:COMMAND"),
    "simulate": ("a fleet that does not exist, at a broker of your own", "edge_sdk.cli.simulate:COMMAND"),
    "watch": ("live telemetry of the fleet", "edge_sdk.cli.watch:COMMAND"),
    "top": ("one device live on a terminal", "edge_sdk.cli.top:COMMAND"),
    "demo": ("all of it on this machine with the shipped model", "edge_sdk.cli.demonstration:COMMAND"),
}

"""By name: one line for the overview, and the Command that runs it (see `edge_sdk.cli.command`)."""


def entry() -> None:
    """Runs the command line of this process and leaves with its exit code."""
    sys.exit(run(sys.argv[1:]))


def run(argv: list[str]) -> int:
    """Gives the exit code for `argv`."""
    if argv and argv[0] in ("-h", "--help"):
        sys.stdout.write(overview())
        return 0
    if argv and argv[0] in ("-V", "--version"):
        sys.stdout.write(f"edge-sdk {__version__}\n")
        return 0
    code: int = imports.object_from_spec("edge_sdk.cli.run:run")(argv, COMMANDS, overview)  # type: ignore[operator]  # by name
    return code


def overview() -> str:
    """Gives ``edge-sdk --help``."""
    width = max(map(len, COMMANDS))
    rows = "".join(f"  {name:<{width}}  {summary}\n" for name, (summary, _) in COMMANDS.items())
    return (
        "usage: edge-sdk COMMAND [OPTION ...]\n\n"
        "Edge deployment for NVIDIA Jetson: gated INT8 bundles, an on-device runtime, telemetry that arrives.\n\n"
        f"{rows}\n"
        "`edge-sdk COMMAND --help` explains one, with an example. Every command takes --json.\n"
        "Exit codes: 0 ok, 1 the answer is no, 2 usage, 3 bundle refused, 4 engine failed, 5 link failed,\n"
        "70 internal fault.\n\n"
        "example: edge-sdk demo\n"
    )
