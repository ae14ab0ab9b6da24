"""Deserialises an engine in a child process first: what crashes, hangs or eats memory there is refused here.

A damaged engine can bring TensorRT down with a segmentation fault, which no Python code can catch. The child checks
the hash, limits itself, and is the first that the kernel kills when memory runs out.
"""

import json
import resource
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple, cast

from edge_sdk import errors, imports
from edge_sdk.engines import plans
from edge_sdk.records.passport import EnginePassport

TIMEOUT_S = 120
"""An engine of hundreds of megabytes takes tens of seconds on an Orin Nano whose storage is an SD card."""

_OPENER = "edge_sdk.engines.trt:try_plan"
_REPLY_BYTES = 16 * 1024
_GRACE_S = 5


class Limits(NamedTuple):
    """What the child may use.

    Attributes:
        timeout_s: wall time, and processor time as well.
        memory_bytes: of its own writable memory; 0 takes what is available. The GPU driver reserves address space
            far beyond what it uses, so that is not limited.
    """

    timeout_s: int = TIMEOUT_S
    memory_bytes: int = 0


def check_plan(plan: Path, expected: EnginePassport, *, limits: Limits | None = None, opener: str = _OPENER) -> None:
    """Returns when a child process could deserialise the engine; this process reads none of it.

    Args:
        plan: the engine file.
        expected: its size and hash are checked by the child before TensorRT sees a byte.
        limits: for the child; None takes the usual ones.
        opener: ``module:function`` that takes the engine's bytes; the child calls it.

    Raises:
        BundleError: the child refused, crashed, hung or ran out of memory; the message says which.
    """
    limits = limits or Limits()
    request = json.dumps([str(plan), expected.sha256, expected.size_bytes, opener, *limits])
    with tempfile.TemporaryFile() as reply:
        child = subprocess.Popen(
            [sys.executable, "-m", "edge_sdk.engines.probe", request],
            stdin=subprocess.DEVNULL,
            stdout=reply,
            stderr=subprocess.STDOUT,
        )
        try:
            code = child.wait(limits.timeout_s)
        except subprocess.TimeoutExpired:
            raise errors.BundleError(_refusal(plan, f"it was not loaded within {limits.timeout_s} s")) from None
        finally:
            child.kill()  # nothing happens to a child that has ended
            child.wait()
        words = _last_words(reply.fileno())
    if code != 0:
        raise errors.BundleError(_refusal(plan, f"{_end_text(code)}{words and ': '}{words}"))


def main(arguments: Sequence[str]) -> int:
    """The child: limits itself, checks the hash, opens the engine. Gives the exit code."""
    plan, sha256, size_bytes, opener, timeout_s, memory_bytes = json.loads(arguments[0])
    _limit_myself(timeout_s, memory_bytes)
    try:
        content = plans.read_plan(Path(plan), sha256=sha256, size_bytes=size_bytes)
        cast("Callable[[bytes], None]", imports.object_from_spec(opener))(content)
    except MemoryError:
        sys.stderr.write("out of memory\n")
        return 1
    except errors.EdgeError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    return 0


def _limit_myself(timeout_s: int, memory_bytes: int) -> None:
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_CPU, (timeout_s * 2, timeout_s * 2 + _GRACE_S))
    limit_bytes = memory_bytes or _available_bytes()
    if limit_bytes:
        resource.setrlimit(resource.RLIMIT_DATA, (limit_bytes, limit_bytes))
    signal.alarm(timeout_s + _GRACE_S)  # should the parent be gone: its default action needs no Python
    try:
        Path("/proc/self/oom_score_adj").write_text("1000")
    except OSError:
        return  # the kernel then chooses for itself


def _available_bytes() -> int:
    """Gives the memory that the machine has left; 0 when it does not say."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")), 0)


def _end_text(code: int) -> str:
    if code > 0:
        return "it was refused"
    try:
        name = signal.Signals(-code).name
    except ValueError:
        name = "an unknown signal"
    reason = "; the kernel kills what takes more memory than there is" if -code == signal.SIGKILL else ""
    return f"it crashed the process with {name} (signal {-code}{reason})"


def _last_words(file: int) -> str:
    """Gives the end of what the child wrote, on one line."""
    with open(file, "rb", closefd=False) as stream:
        size_bytes = stream.seek(0, 2)
        stream.seek(max(0, size_bytes - _REPLY_BYTES))
        return " ".join(stream.read().decode(errors="replace").split())[-600:]


def _refusal(plan: Path, what: str) -> str:
    return (
        f"{plan} was tried in a child process, and {what}. It is not loaded; "
        "build it again: edge-sdk compile BUNDLE --backend tensorrt"
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
