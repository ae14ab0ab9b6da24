"""NVIDIA's compiler in a process of its own: its memory is not the caller's, and a crash of it is an answer."""

import contextlib
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

import msgspec

from edge_sdk import errors
from edge_sdk.engines import compilers
from edge_sdk.records.bundle import CompilerReport

_BOOT = "import sys; sys.path[:] = sys.argv[2:]; from edge_sdk.engines import apart; apart.main(sys.argv[1])"
_LAST_WORDS = 2000


class _Step(msgspec.Struct, frozen=True, tag="step"):
    """How far the compiler is."""

    stage: str
    done: int
    total: int


class _Answer(msgspec.Struct, frozen=True, tag="answer"):
    """What it said in the end; `refusal` when the graph could not be asked about at all."""

    report: CompilerReport | None = None
    refusal: str = ""


def check_model(model: bytes, *, progress: Callable[[str, int, int], None] | None = None) -> CompilerReport:
    """Gives what `compilers.check_model` gives, from a child process that ends with this call.

    Raises:
        EngineError: the compiler's process ended without an answer; the message holds its last words.
        UsageError: as the compiler's driver raises it.
    """
    paths = [entry or str(Path.cwd()) for entry in sys.path]
    with tempfile.TemporaryDirectory(prefix="edge-sdk-") as folder:
        file, words = Path(folder) / "model.onnx", Path(folder) / "words.txt"
        file.write_bytes(model)
        with (
            words.open("wb") as log,
            subprocess.Popen(
                [sys.executable, "-I", "-c", _BOOT, str(file), *paths],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log,
            ) as process,
        ):
            try:
                answer = _answer(process, progress)
            finally:
                process.kill()
        if answer is None:
            spoken = words.read_text(encoding="utf-8", errors="replace")[-_LAST_WORDS:].strip()
            raise errors.EngineError(
                f"NVIDIA's compiler ended with code {process.returncode} on this graph, without an answer:\n  {spoken}"
            )
    if answer.report is None:
        raise errors.UsageError(answer.refusal)
    return answer.report


def main(model: str) -> None:
    """Asks the compiler about a file and writes steps and answer, a line each, to stdout."""
    lines = sys.stdout.buffer
    sys.stdout = sys.stderr  # whatever the compiler prints is no line of ours

    def progress(stage: str, done: int, total: int) -> None:
        _write(lines, _Step(stage, done, total))

    try:
        answer = _Answer(compilers.check_model(Path(model).read_bytes(), progress=progress))
    except errors.UsageError as error:
        answer = _Answer(refusal=str(error))
    _write(lines, answer)


def _answer(process: "subprocess.Popen[bytes]", progress: Callable[[str, int, int], None] | None) -> _Answer | None:
    """Gives the answer of a child; None when it ended without one."""
    assert process.stdout is not None
    decoder = msgspec.json.Decoder(_Step | _Answer)
    for line in process.stdout:
        with contextlib.suppress(msgspec.DecodeError):  # the last line of one that crashed
            found = decoder.decode(line)
            if isinstance(found, _Answer):
                return found
            if progress:
                progress(found.stage, found.done, found.total)
    process.wait()
    return None


def _write(stream: BinaryIO, record: msgspec.Struct) -> None:
    stream.write(msgspec.json.encode(record) + b"\n")
    stream.flush()
