"""The table of NVIDIA's compilers: a name to the module that drives it, imported when it is chosen."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple, cast

from edge_sdk import errors, imports
from edge_sdk.engines.nvidia import BuildOptions, Compiled, ShapeRange
from edge_sdk.records.bundle import CompilerReport
from edge_sdk.records.passport import Passport


class Row(NamedTuple):
    """A compiler: where its driver is, what brings its package, and what reads the machine that its engines are for."""

    spec: str
    remedy: str
    machine: str = ""


COMPILERS: dict[str, Row] = {
    "tensorrt": Row(
        "edge_sdk.engines.trt:compile_model",
        "on a Jetson `sudo apt install python3-libnvinfer` and a virtual environment with --system-site-packages; "
        "on a workstation `pip install tensorrt`",
        machine="edge_sdk.engines.trt:read_here",
    ),
    "tensorrt-rtx": Row("edge_sdk.engines.rtx:compile_model", "pip install 'edge_sdk[rtx]' (x86-64; needs no GPU)"),
}

ABSENT = Compiled(CompilerReport("", "", None, 0, 0.0, ("no NVIDIA compiler is installed here",)), b"", "")
"""The answer of `check_model` on a machine without any compiler."""


def compile_model(
    model: bytes | Path,
    *,
    name: str,
    shapes: Mapping[str, ShapeRange] | None = None,
    progress: Callable[[str, int, int], None] | None = None,
    options: BuildOptions | None = None,
) -> Compiled:
    """Gives what the compiler `name` made of a serialised ONNX.

    Args:
        model: serialised ONNX, explicit Q/DQ for INT8; or the file of one whose weights lie beside it.
        name: a row of COMPILERS.
        shapes: smallest, usual and largest shape of inputs with free axes; a free batch alone needs none.
        progress: called as (stage, done, total).
        options: timing cache and accelerator, for a build on the target.

    Raises:
        UsageError: no such compiler, its package is not installed, or a free axis without a range.
        EngineError: the compiler refused the graph; the message holds its own words.
    """
    compiled = _driver(name)(model, shapes=shapes or {}, progress=progress, options=options)
    if not compiled.report.ok:
        words = "\n  ".join(compiled.report.messages) or "(it gave no reason)"
        raise errors.EngineError(f"{name} {compiled.report.version} refused the model:\n  {words}")
    return compiled


def check_model(
    model: bytes,
    *,
    shapes: Mapping[str, ShapeRange] | None = None,
    progress: Callable[[str, int, int], None] | None = None,
) -> CompilerReport:
    """Gives the report of the first compiler that is installed; a refusal is in the report, not raised.

    TensorRT proper comes first; on a machine with neither, the report's `ok` is None.

    Args:
        model: serialised ONNX.
        shapes: as for `compile_model`.
        progress: called as (stage, done, total).

    Raises:
        UsageError: a free axis beyond the batch without a range.
    """
    for name in COMPILERS:
        try:
            driver = _driver(name)
        except errors.UsageError:
            continue  # not installed here; the next one may be
        try:
            return driver(model, shapes=shapes or {}, progress=progress).report
        except errors.EngineError:
            continue  # it builds on a GPU only, and here is none
    return ABSENT.report


def machine_here(name: str) -> Passport | None:
    """Gives what the engines of a compiler are tied to on this machine; None where they are tied to none.

    Raises:
        UsageError: no such compiler, or its package is not installed.
        EngineError: it needs a GPU, and here is none.
    """
    _driver(name)
    spec = COMPILERS[name].machine
    return cast("Callable[[], Passport]", imports.object_from_spec(spec))() if spec else None


def _driver(name: str) -> Callable[..., Compiled]:
    if name not in COMPILERS:
        known = ", ".join(COMPILERS)
        raise errors.UsageError(f"no compiler {name!r}{imports.nearest(name, COMPILERS)}; known: {known}")
    try:
        return cast("Callable[..., Compiled]", imports.object_from_spec(COMPILERS[name].spec))
    except ModuleNotFoundError as error:
        raise errors.UsageError(
            f"{name} is not installed here (no module {error.name!r}): {COMPILERS[name].remedy}"
        ) from error
