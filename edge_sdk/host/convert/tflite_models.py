"""TFLite files of float models -> ONNX by tf2onnx. The only reader of TFLite; needs TensorFlow, as tf2onnx does."""

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
import tf2onnx
import tf2onnx.convert
from numpy.typing import NDArray

from edge_sdk import errors
from edge_sdk.host.convert import tf_check
from edge_sdk.host.convert.jobs import Job, Made
from edge_sdk.records.tensors import TensorSpec

_QUANTIZED = (np.int8, np.uint8, np.int16, np.int32)
_ERRORS = (ValueError, TypeError, KeyError, AttributeError, RuntimeError, NotImplementedError, AssertionError)


def tflite_exported(job: Job) -> Made:
    """Exports a TFLite file with float32 or float16 weights.

    Inputs and outputs have the names of its signature where it has one, else those of its tensors.

    Raises:
        ModelError: it is no TFLite file, is quantised, or has an operator without ONNX form.
        UsageError: the example inputs do not fit.
    """
    path = Path(job.source)
    interpreter = _opened(path)
    _check_float(interpreter, path)
    inputs, outputs = _by_public_name(interpreter)
    specs = tuple(_spec(name, detail) for name, detail in inputs.items())
    turned = tf_check.images(specs, job)
    try:
        with tf_check.eager_garbage_collection():
            proto, _ = tf2onnx.convert.from_tflite(
                str(path), opset=tf_check.OPSET, inputs_as_nchw=[inputs[name]["name"] for name in turned]
            )
    except _ERRORS as error:
        raise errors.ModelError(f"tf2onnx {tf2onnx.__version__} can't convert {path}: {_first_line(error)}") from error
    _rename(proto.graph, {detail["name"]: name for name, detail in (*inputs.items(), *outputs.items())})

    def run(feeds: Mapping[str, NDArray[Any]]) -> Mapping[str, NDArray[Any]]:
        for name, detail in inputs.items():
            interpreter.resize_tensor_input(detail["index"], feeds[name].shape)
        interpreter.allocate_tensors()
        for name, detail in inputs.items():
            interpreter.set_tensor(detail["index"], feeds[name])
        interpreter.invoke()
        return {name: interpreter.get_tensor(detail["index"]) for name, detail in outputs.items()}

    notes = tf_check.checked(proto, run, specs, job, label="TFLite")
    return Made(origin=f"TFLite {path.name}", notes=notes, transposed=turned)


def _opened(path: Path) -> Any:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # its successor is a package of its own; tf2onnx needs this one anyway
            return tf.lite.Interpreter(model_path=str(path))
    except (ValueError, RuntimeError) as error:
        raise errors.ModelError(f"{path} is not a TFLite file: {_first_line(error)}") from error


def _check_float(interpreter: Any, path: Path) -> None:
    """Refuses a model of which any part is quantised already, dynamic range included."""
    for detail in interpreter.get_tensor_details():
        if detail["dtype"] in _QUANTIZED and len(detail["quantization_parameters"]["scales"]):
            raise errors.ModelError(
                f"{path} is quantised already (tensor {detail['name']!r} is {np.dtype(detail['dtype']).name}); convert "
                "the float model to TFLite without optimizations, or give the Keras model"
            )


def _by_public_name(interpreter: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """Gives inputs and outputs by the names that people use."""
    given, made = interpreter.get_input_details(), interpreter.get_output_details()
    signatures = interpreter.get_signature_list()
    if len(signatures) != 1:
        return {detail["name"]: detail for detail in given}, {detail["name"]: detail for detail in made}
    runner = interpreter.get_signature_runner()
    return dict(runner.get_input_details()), dict(runner.get_output_details())


def _spec(name: str, detail: Mapping[str, Any]) -> TensorSpec:
    shape = tuple(None if length < 0 else int(length) for length in detail["shape_signature"])
    return TensorSpec(name, np.dtype(detail["dtype"]).name, shape)


def _rename(graph: Any, names: Mapping[str, str]) -> None:
    """Gives tensors of an ONNX graph other names."""
    for value in (*graph.input, *graph.output, *graph.value_info):
        value.name = names.get(value.name, value.name)
    for node in graph.node:
        for values in (node.input, node.output):
            values[:] = [names.get(name, name) for name in values]


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0][:400]}"
