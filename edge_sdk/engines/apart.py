"""NVIDIA's compiler in a process of its own: its memory is not the caller's, and a crash of it is an answer."""

import subprocess
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

import msgspec

from edge_sdk import errors
from edge_sdk.engines import child, compilers
from edge_sdk.engines.nvidia import ShapeRange
from edge_sdk.records.bundle import CompilerReport

_LAST_WORDS = 2000
_MODEL, _SHAPES = "model.onnx", "shapes.json"


class _Answer(msgspec.Struct, frozen=True, tag="answer"):
    """What it said in the end; `refusal` when the graph could not be asked about at all."""

    report: CompilerReport | None = None
    refusal: str = ""


def check_model(
    model: bytes,
    *,
    shapes: Mapping[str, ShapeRange] | None = None,
    progress: Callable[[str, int, int], None] | None = None,
) -> CompilerReport:
    """Gives what `compilers.check_model` gives, from a child process that ends with this call.

    Raises:
        EngineError: the compiler's process ended without an answer; the message holds its last words.
        UsageError: as the compiler's driver raises it.
    """
    with tempfile.TemporaryDirectory(prefix="edge-sdk-") as folder:
        words = Path(folder) / "words.txt"
        (Path(folder) / _MODEL).write_bytes(model)
        (Path(folder) / _SHAPES).write_bytes(msgspec.json.encode(shapes or {}))
        with (
            words.open("wb") as log,
            subprocess.Popen(
                child.command("apart", folder),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log,
            ) as process,
        ):
            try:
                answer = child.read_answer(process, _Answer, progress)
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


def main(folder: str) -> None:
    """Asks the compiler about the model in a folder and writes steps and answer, a line each, to stdout."""
    lines = child.take_lines()

    def progress(stage: str, done: int, total: int) -> None:
        child.write(lines, child.Step(stage, done, total))

    try:
        shapes = msgspec.json.decode((Path(folder) / _SHAPES).read_bytes(), type=dict[str, ShapeRange])
        answer = _Answer(compilers.check_model((Path(folder) / _MODEL).read_bytes(), shapes=shapes, progress=progress))
    except errors.UsageError as error:
        answer = _Answer(refusal=str(error))
    child.write(lines, answer)
