"""What a child process of ours says on its stdout, a line of JSON each: steps of its work, then one answer."""

import contextlib
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO, TypeVar

import msgspec

Progress = Callable[[str, int, int], None]
"""Takes stage, done and total."""

_BOOT = "import sys; sys.path[:] = sys.argv[2:]; from edge_sdk.engines import MODULE; MODULE.main(sys.argv[1])"
_Answer = TypeVar("_Answer", bound=msgspec.Struct)


class Step(msgspec.Struct, frozen=True, tag="step"):
    """How far the compiler is."""

    stage: str
    done: int
    total: int


def command(module: str, argument: str) -> list[str]:
    """Gives the command that calls `main(argument)` of a module of `engines`, with this process's import paths."""
    paths = [entry or str(Path.cwd()) for entry in sys.path]
    return [sys.executable, "-I", "-c", _BOOT.replace("MODULE", module), argument, *paths]


def take_lines() -> BinaryIO:
    """Gives the stream for lines, in the child; whatever else it prints goes to stderr from now on."""
    lines = sys.stdout.buffer
    sys.stdout = sys.stderr
    return lines


def write(lines: BinaryIO, record: msgspec.Struct) -> None:
    """Writes one line."""
    lines.write(msgspec.json.encode(record) + b"\n")
    lines.flush()


def read_answer(
    process: "subprocess.Popen[bytes]", kind: type[_Answer], progress: Progress | None = None
) -> _Answer | None:
    """Gives the answer of a child, telling `progress` of its steps; None when it ended without one."""
    assert process.stdout is not None
    decoder: msgspec.json.Decoder[object] = msgspec.json.Decoder(Step | kind)
    for line in process.stdout:
        with contextlib.suppress(msgspec.DecodeError):  # the last line of one that crashed
            found = decoder.decode(line)
            if isinstance(found, kind):
                return found
            if isinstance(found, Step) and progress is not None:
                progress(found.stage, found.done, found.total)
    process.wait()
    return None
