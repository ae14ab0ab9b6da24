"""ONNX Runtime on the CPU: the engine where there is no GPU. The only door to onnxruntime."""

import ctypes
import functools
import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

from numpy.typing import NDArray

from edge_sdk import errors
from edge_sdk.engines.model_file import ModelFile, Serialized
from edge_sdk.engines.protocol import StageTimes, Tensors
from edge_sdk.records import tensors

# Its newer wheels (1.32 does) report to Microsoft and leave an identifier in the user's cache, unless this is set when
# they are loaded (microsoft/onnxruntime#27379). A board in the field tells its own operator only.
os.putenv("ORT_DISABLE_TELEMETRY", "1")
import onnxruntime as ort

_HELD_BYTES = 1 << 20
"""Serialised models above this go to ONNX Runtime as a file: a session keeps the bytes that it was made from."""

Run: TypeAlias = Callable[[Mapping[str, NDArray[Any]]], Tensors]
"""Inputs by name to outputs by name."""

_WITHOUT_KERNELS = "session.disable_quant_qdq"
"""What keeps ONNX Runtime from looking for integer kernels."""

_DTYPES = {
    "tensor(float)": "float32",
    "tensor(float16)": "float16",
    "tensor(double)": "float64",
    "tensor(bool)": "bool",
    **{f"tensor({kind}{bits})": f"{kind}{bits}" for kind in ("int", "uint") for bits in (8, 16, 32, 64)},
}


class OrtBackend:
    """A model in an ONNX Runtime session on the CPU.

    Options:
        threads: intra-op threads; 0 (default) leaves the choice to ONNX Runtime.
        awake: whether they stay awake for a while after a run, so that the next one finds them at once; 0 by default.
        simulated: 1 computes Q/DQ as written; see `runner_from_model`. 0 (default) looks for integer kernels.
    """

    def __init__(self, model: Path, options: Mapping[str, str | int]) -> None:
        self._session = session_from_model(str(model), _settings_of(options))
        self._inputs = tuple(_spec(argument) for argument in self._session.get_inputs())
        self._names = [argument.name for argument in self._session.get_outputs()]

    def inputs(self) -> tuple[tensors.TensorSpec, ...]:
        """Gives what the model takes."""
        return self._inputs

    def run(self, feeds: Mapping[str, NDArray[Any]], spent: StageTimes) -> Tensors:  # noqa: ARG002 - copies are not apart here
        """Runs once; ONNX Runtime allocates the outputs, so they are the caller's."""
        return dict(zip(self._names, self._session.run(self._names, feeds), strict=True))

    def close(self) -> None:
        """Drops the session."""
        del self._session


def session_from_model(model: str | Serialized, settings: "ort.SessionOptions") -> "ort.InferenceSession":
    """Gives a CPU session for a model file or serialised model.

    Raises:
        ModelError: ONNX Runtime cannot load it, for example because it lacks an operator; with its own words.
    """
    try:
        if isinstance(model, ModelFile):
            return ort.InferenceSession(str(model.path), settings, providers=["CPUExecutionProvider"])
        if isinstance(model, bytes) and len(model) > _HELD_BYTES:
            with tempfile.NamedTemporaryFile(prefix="edge-sdk-", suffix=".onnx") as file:
                file.write(model)
                file.flush()
                return ort.InferenceSession(file.name, settings, providers=["CPUExecutionProvider"])
        return ort.InferenceSession(model, settings, providers=["CPUExecutionProvider"])
    except Exception as error:  # boundary: onnxruntime raises a dozen unrelated classes, RuntimeError among them
        name = model if isinstance(model, str) else "the model"
        raise errors.ModelError(f"ONNX Runtime {ort.__version__} cannot load {name}: {error}") from error


def runner_from_model(
    model: str | Serialized,
    outputs: Sequence[str] | None = None,
    *,
    threads: int = 0,
    is_simulated: bool = False,
    is_frugal: bool = False,
    is_brief: bool = False,
    is_optimized: bool = False,
) -> Run:
    """Gives a function that runs a model on the CPU: inputs by name to outputs by name.

    Args:
        model: path of an ONNX file, or serialised ONNX.
        outputs: only these, which spares computing the others; None gives all.
        threads: intra-op threads; 0 leaves the choice to ONNX Runtime.
        is_simulated: compute Q/DQ as written, with float kernels between roundings and the weights dequantised once,
            instead of looking for integer kernels. Where those would not be found it is faster.
        is_frugal: give the memory of activations back after each run. Float networks lose 3 % of their speed by it, the
            many small steps of an INT8 one up to half.
        is_brief: for a few runs: frugal, and the weights are not held once more in the order that is fastest.
        is_optimized: it comes from `save_optimized` as native, and is run as it is.

    Raises:
        ModelError: ONNX Runtime cannot load it. The function itself raises EngineError when a run fails.
    """
    settings = _settings(threads=threads)
    settings.add_session_config_entry(_WITHOUT_KERNELS, str(int(is_simulated)))
    settings.enable_mem_pattern = False  # one block for each shape: a third more memory, and no faster
    if is_frugal or is_brief:
        settings.enable_cpu_mem_arena = False
    if is_brief:
        settings.add_session_config_entry("session.disable_prepacking", "1")
    if is_optimized:
        settings.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = session_from_model(model, settings)
    if is_frugal or is_brief:
        give_back()
    return _runner(session, outputs)


def _runner(session: "ort.InferenceSession", outputs: Sequence[str] | None = None) -> Run:
    names = list(outputs) if outputs is not None else [argument.name for argument in session.get_outputs()]

    def run(feeds: Mapping[str, NDArray[Any]]) -> Tensors:
        try:
            return dict(zip(names, session.run(names, feeds), strict=True))
        except Exception as error:  # boundary: onnxruntime raises a dozen unrelated classes
            raise errors.EngineError(f"ONNX Runtime failed while running the model: {error}") from error

    return run


def bare_loop(model: Path, threads: int) -> Callable[[Mapping[str, NDArray[Any]]], object]:
    """Gives ``session.run`` of a model file with nothing around it: the floor that a bench is held against.

    Raises:
        ModelError: ONNX Runtime cannot load it.
    """
    return functools.partial(session_from_model(str(model), _settings(threads=threads)).run, None)


def specs_from_model(model: str | Serialized) -> tuple[tuple[tensors.TensorSpec, ...], tuple[tensors.TensorSpec, ...]]:
    """Gives what a model takes and gives, shapes inferred; raises as `session_from_model` does."""
    settings = _settings()
    settings.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL  # nothing will be run
    settings.add_session_config_entry("session.disable_prepacking", "1")  # would hold the weights a second time
    session = session_from_model(model, settings)
    inputs, outputs = session.get_inputs(), session.get_outputs()
    return tuple(_spec(argument) for argument in inputs), tuple(_spec(argument, "output") for argument in outputs)


def save_optimized(model: str | bytes, file: Path, *, is_native: bool = False) -> Run:
    """Writes the model as ONNX Runtime's basic optimiser leaves it: constants and batch norms folded, dead nodes gone.

    Gives a function that runs what was written, as `runner_from_model` does.

    The basic level rewrites within the standard operators; the higher ones fuse into ONNX Runtime's own.

    Args:
        model: path of an ONNX file, or serialised ONNX.
        file: to write.
        is_native: all levels, for this very processor.

    Raises:
        ModelError: ONNX Runtime cannot load it.
    """
    settings = _settings()
    settings.add_session_config_entry("session.disable_prepacking", "1")  # it is run once or twice
    settings.enable_cpu_mem_arena = False
    if not is_native:
        settings.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_BASIC
    settings.optimized_model_filepath = str(file)
    return _runner(session_from_model(model, settings))


def give_back() -> None:
    """Hands freed memory back to the system: glibc keeps the blocks of large weights, and what follows comes on top."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


def version() -> str:
    """Gives ONNX Runtime's version."""
    return str(ort.__version__)


def _settings_of(options: Mapping[str, str | int]) -> "ort.SessionOptions":
    settings = _settings(threads=int(options.get("threads", 0)), is_awake=bool(int(options.get("awake", 0))))
    settings.add_session_config_entry(_WITHOUT_KERNELS, str(int(options.get("simulated", 0))))
    return settings


def _settings(*, threads: int = 0, is_awake: bool = False) -> "ort.SessionOptions":
    settings = ort.SessionOptions()
    settings.intra_op_num_threads = threads
    # A pool that spins after each run takes the cores from whoever asks next: on two cores a client in another
    # process got 2.6 times as many answers a second without it. Only a process that asks itself gains by it.
    settings.add_session_config_entry("session.intra_op.allow_spinning", str(int(is_awake)))
    settings.log_severity_level = 3  # errors only: warnings about graph optimisation are not the user's
    return settings


def _spec(argument: Any, role: str = "input") -> tensors.TensorSpec:
    if argument.type not in _DTYPES:
        raise errors.ModelError(
            f"{role} {argument.name!r} is a {argument.type}; only plain tensors of numbers are served"
        )
    shape = tuple(axis if isinstance(axis, int) else None for axis in argument.shape)
    return tensors.TensorSpec(argument.name, _DTYPES[argument.type], shape)
