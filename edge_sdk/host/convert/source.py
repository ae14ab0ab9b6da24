"""Anything that holds a model -> an ONNX file that the builder can use: tells what it is and sends it to its door."""

import os
import stat
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias, cast

from msgspec.structs import replace
from numpy.typing import NDArray

from edge_sdk import errors, imports
from edge_sdk.host.convert import probe, sandbox
from edge_sdk.host.convert.jobs import Job, Made
from edge_sdk.host.convert.limits import Limits

Examples: TypeAlias = Mapping[str, NDArray[Any]] | Sequence[NDArray[Any]]

RESULT = "model.onnx"
"""Name of the file that conversion leaves."""


class ConvertedModel(NamedTuple):
    """An ONNX file that passed every check.

    Attributes:
        path: the file, in the folder that was given; weights above 1.9 GB lie beside it in ``model.onnx.data``.
        origin: what it was made from, for people: ``PyTorch 2.13.0 module nets:resnet``.
        notes: what was changed and measured on the way, a sentence each, for the report.
        transposed: inputs that took ``[N, H, W, C]`` in the source and take ``[N, C, H, W]`` here.
        is_cleaned: its constants are folded; not where nothing could be compared, or it is too large.
    """

    path: Path
    origin: str
    notes: tuple[str, ...]
    transposed: tuple[str, ...]
    is_cleaned: bool = False


class _Door(NamedTuple):
    """Where a framework is met.

    Attributes:
        task: import string of the function from Job to Made that exports a file.
        extra: what to install for it.
        environment: variables that the framework must find when it is loaded.
    """

    task: str
    extra: str
    environment: tuple[str, ...] = ()


_TORCH = "edge_sdk.host.convert.pytorch"
_KERAS = "edge_sdk.host.convert.keras_models"
# Without weights_only, torch.load runs whatever code the file holds. A function's own loading is the user's affair.
_PROGRAM = _Door(f"{_TORCH}:program_exported", "torch", ("TORCH_FORCE_WEIGHTS_ONLY_LOAD=1",))
_FUNCTION = _Door(f"{_TORCH}:function_exported", "torch")
_TENSORFLOW = ("KERAS_BACKEND=tensorflow", "TF_CPP_MIN_LOG_LEVEL=3", "TF_ENABLE_ONEDNN_OPTS=0")
_KERAS_FILE = _Door(f"{_KERAS}:keras_exported", "tensorflow", _TENSORFLOW)
_SAVED_MODEL = _Door(f"{_KERAS}:saved_model_exported", "tensorflow", _TENSORFLOW)
_TFLITE = _Door("edge_sdk.host.convert.tflite_models:tflite_exported", "tensorflow", _TENSORFLOW)
_ONNX = "edge_sdk.host.convert.onnx_model:accepted"

_BY_SUFFIX = {".pt2": _PROGRAM, ".keras": _KERAS_FILE, ".h5": _KERAS_FILE, ".hdf5": _KERAS_FILE, ".tflite": _TFLITE}
KNOWN = (
    ".onnx, .pt2 (torch.export), .keras, .h5, .tflite, a TensorFlow SavedModel folder, or module:function or "
    "file.py:function that gives a torch module and its example inputs"
)
_PICKLES = (".pt", ".pth", ".ckpt", ".bin", ".pkl")


def onnx_from_source(
    source: object,
    *,
    inputs: Examples | None = None,
    workdir: Path,
    limits: Limits | None = None,
    keep_layout: bool = False,
    keep_quantized: bool = False,
) -> ConvertedModel:
    """Gives an ONNX model made from `source`, checked, raised to a working opset and cleaned.

    Files are opened in a child process with limits. Only a file that passed is written into `workdir`; when the
    source is refused, nothing is.

    Args:
        source: a path, ``module:function`` or ``file.py:function``, or a torch or Keras model.
        inputs: example inputs by name, or in order. A torch module needs them unless the function gives them;
            elsewhere they replace the seeded random inputs on which conversions are compared.
        workdir: an existing folder for the result, ``model.onnx``.
        limits: what opening the source may cost; None takes the defaults.
        keep_layout: leave image inputs of TensorFlow as ``[N, H, W, C]``. Else they become ``[N, C, H, W]``, as
            folders of images are fed and TensorRT computes.
        keep_quantized: for an audit: any sound ONNX passes, as it is, quantised and custom operators included.

    Raises:
        ModelError: the source is no model, can't be converted, or answers differently after being converted.
        UsageError: the example inputs do not fit, or an extra is not installed.
    """
    limits = limits or Limits()
    with tempfile.TemporaryDirectory(prefix=".convert-", dir=workdir) as name:
        folder = Path(name).resolve()
        wishes = _wishes(inputs, folder, limits, keep_layout=keep_layout, keep_quantized=keep_quantized)
        file, exported = _exported(source, wishes, folder, limits)
        job = replace(wishes, source=str(file), target=str(folder / RESULT))
        if exported is not None:
            fed = probe.fed_file(file)
            job = replace(job, examples=str(fed) if fed.is_file() else None, example_names=())
        made = sandbox.made_in_child(_ONNX, job, folder=_sub(folder, "check"), limits=limits, remedy=_remedy("host"))
        path = _moved(folder / RESULT, workdir)
    if exported is None:
        return ConvertedModel(path, f"{made.origin} {file.name}", made.notes, (), made.is_cleaned)
    return ConvertedModel(path, exported.origin, exported.notes + made.notes, exported.transposed, made.is_cleaned)


def _exported(source: object, wishes: Job, folder: Path, limits: Limits) -> tuple[Path, Made | None]:
    """Gives an ONNX file, and what its door says of it; None when the source is one already."""
    exports = _sub(folder, "export")
    target = exports / RESULT
    if not isinstance(source, str | os.PathLike):
        families = {kind.__module__.partition(".")[0] for kind in type(source).__mro__}
        if "keras" not in families:
            return target, _from_object(source, replace(wishes, target=str(target)), families)
        saved = folder / "model.keras"
        cast("Any", source).save(saved)
        source = saved
    door, name = _door(os.fspath(source))
    if door is None:
        return Path(name), None
    job = replace(wishes, source=name, target=str(target))
    remedy = _remedy(door.extra)
    made = sandbox.made_in_child(
        door.task, job, folder=exports, limits=limits, environment=door.environment, remedy=remedy
    )
    return target, made


def _from_object(source: object, job: Job, families: set[str]) -> Made:
    """Exports a torch module that the caller holds: his own code and memory, so no child is between."""
    if "torch" not in families:
        raise errors.ModelError(f"a {type(source).__name__} is not a model; expected a torch or Keras model, {KNOWN}")
    export = cast("Callable[[object, Job], Made]", imports.object_from_spec(f"{_TORCH}:module_exported"))
    return export(source, job)


def _door(text: str) -> tuple[_Door | None, str]:
    """Tells what a source is: its door, None for ONNX; and its name as a process elsewhere understands it."""
    path = Path(text).absolute()
    if path.is_dir():
        if not (path / "saved_model.pb").is_file():
            raise errors.ModelError(f"the folder {text} holds no saved_model.pb; expected {KNOWN}")
        return _SAVED_MODEL, str(path)
    holder, colon, function = text.rpartition(":")
    if colon and not path.exists():
        return _FUNCTION, f"{Path(holder).absolute()}:{function}" if holder.endswith(".py") else text
    suffix = path.suffix.lower()
    if suffix in _PICKLES:
        raise errors.ModelError(
            f"{text} is a pickled checkpoint: it holds code that would run when opened, and often only weights without "
            "the network. Give file.py:function that builds the network, loads it with torch.load(..., "
            "weights_only=True) and returns (module, example inputs); or save it with torch.export.save to a .pt2 file"
        )
    if suffix != ".onnx" and suffix not in _BY_SUFFIX:
        near = imports.nearest(suffix, [".onnx", *_BY_SUFFIX])
        raise errors.ModelError(f"{text} is of no known kind{near}; expected {KNOWN}")
    if not path.is_file():
        raise errors.ModelError(f"there is no model file {text}")
    return _BY_SUFFIX.get(suffix), str(path)


def _wishes(inputs: Examples | None, folder: Path, limits: Limits, *, keep_layout: bool, keep_quantized: bool) -> Job:
    """Gives what holds for every step; example inputs go into a file, since they go to another process."""
    wishes = Job(
        source="", target="", keep_layout=keep_layout, keep_quantized=keep_quantized, inline_bytes=limits.inline_bytes
    )
    if inputs is None:
        return wishes
    file = folder / "examples.npz"
    named = dict(inputs) if isinstance(inputs, Mapping) else {}
    probe.write_examples(list(named.values()) if isinstance(inputs, Mapping) else inputs, file)
    return replace(wishes, examples=str(file), example_names=tuple(named))


def _moved(file: Path, workdir: Path) -> Path:
    """Moves the result of the child into its place, weights first; anything but plain files is refused."""
    for part in (probe.beside(file), file):
        if part != file and not part.exists():
            continue
        if not stat.S_ISREG(part.lstat().st_mode):
            raise errors.ModelError(
                f"the conversion left {part.name} as something other than a file; don't use this model"
            )
        part.replace(workdir / part.name)
    return workdir / file.name


def _sub(folder: Path, name: str) -> Path:
    made = folder / name
    made.mkdir()
    return made


def _remedy(extra: str) -> str:
    return f"pip install 'edge_sdk[{extra}]'"
