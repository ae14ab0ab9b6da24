"""Keras models and TensorFlow SavedModels -> ONNX by tf2onnx. A door to TensorFlow; the other is tflite_models.py.

A SavedModel is code: TensorFlow runs its graph, which may read and write files. The child has limits, but that is no
jail: open only SavedModels of people you trust. In ``.keras`` and ``.h5`` files Python code (Lambda layers) is refused.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import keras
import tensorflow as tf
import tf2onnx
import tf2onnx.convert
from numpy.typing import NDArray

from edge_sdk import errors
from edge_sdk.host.convert import tf_check
from edge_sdk.host.convert.jobs import Job, Made
from edge_sdk.records.tensors import TensorSpec

_KERAS_ERRORS = (ValueError, TypeError, KeyError, AttributeError, OSError, ImportError)
_CONVERT_ERRORS = (
    ValueError,
    TypeError,
    KeyError,
    AttributeError,
    RuntimeError,
    NotImplementedError,
    tf.errors.OpError,
)


_NOT_COMPUTATION = ("File", "PyFunc", "Save", "Restore", "Checkpoint", "Summary", "Reader", "Dataset", "Print", "Rpc")
"""Parts of the names of TensorFlow's operators that touch files, processes or the network."""


class _Call(NamedTuple):
    """A network as a function of its inputs in order, giving its outputs by name."""

    function: Callable[..., Mapping[str, Any]]
    signature: tuple[Any, ...]


def keras_exported(job: Job) -> Made:
    """Exports a ``.keras`` or ``.h5`` file, in inference mode.

    Raises:
        ModelError: it can't be read, holds Python code, or has no ONNX form.
        UsageError: the example inputs do not fit.
    """
    path = Path(job.source)
    try:
        model = keras.saving.load_model(path, compile=False, safe_mode=True)
    except _KERAS_ERRORS as error:
        raise errors.ModelError(
            f"Keras {keras.__version__} can't read {path}: {_first_line(error)}; a layer of your own must become "
            "built-in ones, or save the model with model.export as a SavedModel"
        ) from error
    if not getattr(model, "inputs", None):
        raise errors.ModelError(f"{path.name} was saved before it had seen an input; call the model once, then save it")
    # A Sequential model has no names of its outputs, only the tensors.
    names = list(getattr(model, "output_names", ())) or [output.name for output in tf.nest.flatten(model.outputs)]

    def call(*arguments: Any) -> Mapping[str, Any]:
        outputs = model(arguments[0] if len(arguments) == 1 else list(arguments), training=False)
        return dict(zip(names, tf.nest.flatten(outputs), strict=True))

    signature = tuple(tf.TensorSpec(given.shape, given.dtype, name=given.name) for given in model.inputs)
    return _made(_Call(call, signature), job, f"Keras {keras.__version__} model {path.name}", "Keras")


def saved_model_exported(job: Job) -> Made:
    """Exports a SavedModel folder: its ``serving_default`` signature, or the only one that it has.

    Raises:
        ModelError: it can't be read, or has no ONNX form.
        UsageError: the example inputs do not fit.
    """
    path = Path(job.source)
    try:
        loaded = tf.saved_model.load(str(path))
    except (*_KERAS_ERRORS, RuntimeError, tf.errors.OpError) as error:
        raise errors.ModelError(f"TensorFlow {tf.__version__} can't read {path}: {_first_line(error)}") from error
    found = dict(loaded.signatures)
    chosen = found.get("serving_default") or (next(iter(found.values())) if len(found) == 1 else None)
    if chosen is None:
        raise errors.ModelError(
            f"{path} has the signatures {sorted(found)}; expected 'serving_default', as Keras' model.export writes it"
        )
    _check_computes_only(chosen.graph.as_graph_def(), path)
    inputs: dict[str, Any] = chosen.structured_input_signature[1]

    def call(*arguments: Any) -> Mapping[str, Any]:
        answers: Mapping[str, Any] = chosen(**dict(zip(inputs, arguments, strict=True)))
        return answers

    signature = tuple(tf.TensorSpec(given.shape, given.dtype, name=name) for name, given in inputs.items())
    return _made(_Call(call, signature), job, f"TensorFlow {tf.__version__} SavedModel {path.name}", "TensorFlow")


def _check_computes_only(graph: Any, path: Path) -> None:
    """Refuses a graph that does more than compute, before it is run to be compared."""
    parts = (graph.node, *(function.node_def for function in graph.library.function))
    for node in (node for nodes in parts for node in nodes):
        if any(word in node.op for word in _NOT_COMPUTATION):
            raise errors.ModelError(
                f"{node.op} node {node.name!r} of {path} touches files, processes or the network; export a signature "
                "that only computes"
            )


def _made(call: _Call, job: Job, origin: str, label: str) -> Made:
    specs = tuple(_spec(given) for given in call.signature)
    turned = tf_check.images(specs, job)
    try:
        with tf_check.eager_garbage_collection():
            proto, _ = tf2onnx.convert.from_function(
                tf.function(call.function),
                input_signature=call.signature,
                opset=tf_check.OPSET,
                inputs_as_nchw=list(turned),
            )
    except _CONVERT_ERRORS as error:
        raise errors.ModelError(
            f"tf2onnx {tf2onnx.__version__} can't convert the model: {_first_line(error)}"
        ) from error

    def run(feeds: Mapping[str, NDArray[Any]]) -> Mapping[str, NDArray[Any]]:
        outputs = call.function(*(tf.constant(feeds[spec.name]) for spec in specs))
        return {name: value.numpy() for name, value in outputs.items()}

    notes = tf_check.checked(proto, run, specs, job, label=label)
    return Made(origin=origin, notes=notes, transposed=turned)


def _spec(given: Any) -> TensorSpec:
    if given.shape.rank is None:
        raise errors.ModelError(
            f"input {given.name!r} has no known number of axes; export the model with an input shape"
        )
    return TensorSpec(given.name, given.dtype.name, tuple(given.shape.as_list()))


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0][:400]}"
