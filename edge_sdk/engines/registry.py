"""The table of back ends: a name, or the user's own ``module:Class``; nothing heavy is imported until it is chosen."""

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple, cast

from numpy.typing import NDArray

from edge_sdk import errors, imports
from edge_sdk.engines.engine import Engine
from edge_sdk.engines.protocol import BackendFactory
from edge_sdk.records import tensors


class Row(NamedTuple):
    """A back end: where its factory is, and what brings its package.

    Attributes:
        spec: of the factory.
        remedy: what to install.
        finder: of a function that finds, among a bundle's files, the one finished for this machine; empty where the
            back end runs the ONNX itself.
        bare: of a function (model, threads) that gives the library's own run, for a bench to be held against.
        version: of a function that gives the version, for a back end that runs ONNX on the CPU and so may choose among
            the forms of a bundle; empty for all others.
    """

    spec: str
    remedy: str
    finder: str = ""
    version: str = ""
    bare: str = ""


BACKENDS: dict[str, Row] = {
    "onnxruntime": Row(
        "edge_sdk.engines.ort:OrtBackend",
        "pip install 'edge_sdk[device]'",
        version="edge_sdk.engines.ort:version",
        bare="edge_sdk.engines.ort:bare_loop",
    ),
    "tensorrt": Row(
        "edge_sdk.engines.trt:TensorRTBackend",
        "on a Jetson `sudo apt install python3-libnvinfer`, a virtual environment with --system-site-packages, and "
        "in it `pip install 'edge_sdk[jetson]'`",
        finder="edge_sdk.engines.trt:find_plan",
    ),
}


def open_backend(
    name: str,
    model: Path,
    *,
    outputs: tuple[tensors.TensorSpec, ...] = (),
    options: Mapping[str, str | int] | None = None,
    label: str = "",
) -> Engine:
    """Gives a running Engine.

    Args:
        name: a row of BACKENDS, or ``module:Class`` of the user's own back end.
        model: the file it loads.
        outputs: what the model gives, if known (from the manifest); empty keeps whatever the back end returns.
        options: for the back end, for example ``{"threads": 1}``.
        label: what the Engine is called in telemetry; by default the back end's name.

    Raises:
        UsageError: no such back end, or its package is not installed.
        EngineError: the back end could not load the model.
    """
    factory = _factory(name)
    try:
        backend = factory(model, options or {})
    except errors.EdgeError:
        raise
    except Exception as error:  # boundary: a foreign back end may raise anything while it loads
        raise errors.EngineError(f"{name} could not load {model}: {error}") from error
    return Engine(backend, name=label or name, outputs=outputs)


def find_finished(name: str, folder: Path, names: Iterable[str]) -> Path | None:
    """Gives the file of a bundle that was finished for this machine, or None where the back end runs the ONNX.

    Raises:
        UsageError: the back end's package is not installed.
        BundleError: nothing in it is for this machine; the message says field by field why. No engine was read.
    """
    row = BACKENDS.get(name)
    if row is None or not row.finder:
        return None
    return cast("Callable[[Path, Iterable[str]], Path]", _import(name, row.finder, row.remedy))(folder, names)


def can_choose(name: str) -> bool:
    """Says whether a back end runs ONNX on the CPU, and so may choose among the forms of a bundle."""
    return name in BACKENDS and bool(BACKENDS[name].version)


def backend_version(name: str) -> str:
    """Gives the version of a back end that can choose; raises UsageError when its package is not installed."""
    row = BACKENDS[name]
    return cast("Callable[[], str]", _import(name, row.version, row.remedy))()


def find_bare_loop(name: str) -> Callable[[Path, int], Callable[[Mapping[str, NDArray[Any]]], object]] | None:
    """Gives the function (model, threads) that gives a back end's own run; None for a back end without one."""
    row = BACKENDS.get(name)
    if row is None or not row.bare:
        return None
    loop = _import(name, row.bare, row.remedy)
    return cast("Callable[[Path, int], Callable[[Mapping[str, NDArray[Any]]], object]]", loop)


def _factory(name: str) -> BackendFactory:
    row = BACKENDS.get(name)
    if row is None and ":" not in name:
        known = ", ".join(sorted(BACKENDS))
        raise errors.UsageError(
            f"no back end {name!r}{imports.nearest(name, BACKENDS)}; known: {known}, or your own as module:Class"
        )
    return cast("BackendFactory", _import(name, row.spec if row else name, row.remedy if row else ""))


def _import(name: str, spec: str, remedy: str) -> object:
    try:
        return imports.object_from_spec(spec)
    except ModuleNotFoundError as error:
        remedy = remedy or f"install {error.name}"
        raise errors.UsageError(f"back end {name!r} needs the package {error.name!r}: {remedy}") from error
