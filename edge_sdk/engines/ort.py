"""ONNX Runtime on the CPU: the engine where there is no GPU. The only door to onnxruntime."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import onnxruntime as ort
from numpy.typing import NDArray

from edge_sdk import errors
from edge_sdk.engines.protocol import StageTimes, Tensors
from edge_sdk.records import tensors

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
    """

    def __init__(self, model: Path, options: Mapping[str, str | int]) -> None:
        settings = ort.SessionOptions()
        settings.intra_op_num_threads = int(options.get("threads", 0))
        settings.log_severity_level = 3  # errors only: warnings about graph optimisation are not the user's
        self._session = session_from_model(str(model), settings)
        self._inputs = tuple(_spec(argument) for argument in self._session.get_inputs())
        self._names = [argument.name for argument in self._session.get_outputs()]

    def inputs(self) -> tuple[tensors.TensorSpec, ...]:
        """Gives what the model takes."""
        return self._inputs

    def run(self, feeds: Mapping[str, NDArray[Any]], spent: StageTimes) -> Tensors:  # noqa: ARG002 - copies are not apart here
        """Runs once; ONNX Runtime allocates the outputs, so they are the caller's."""
        return dict(zip(self._names, self._session.run(None, feeds), strict=True))

    def close(self) -> None:
        """Drops the session."""
        del self._session


def session_from_model(model: str | bytes, settings: "ort.SessionOptions | None" = None) -> "ort.InferenceSession":
    """Gives a CPU session for a model file or serialised model.

    Raises:
        ModelError: ONNX Runtime cannot load it, for example because it lacks an operator; with its own words.
    """
    try:
        return ort.InferenceSession(model, settings, providers=["CPUExecutionProvider"])
    except Exception as error:  # boundary: onnxruntime raises a dozen unrelated classes, RuntimeError among them
        name = model if isinstance(model, str) else "the model"
        raise errors.ModelError(f"ONNX Runtime {ort.__version__} cannot load {name}: {error}") from error


def version() -> str:
    """Gives ONNX Runtime's version."""
    return str(ort.__version__)


def _spec(argument: Any) -> tensors.TensorSpec:
    if argument.type not in _DTYPES:
        raise errors.ModelError(
            f"input {argument.name!r} is a {argument.type}; only plain tensors of numbers are served"
        )
    shape = tuple(axis if isinstance(axis, int) else None for axis in argument.shape)
    return tensors.TensorSpec(argument.name, _DTYPES[argument.type], shape)
