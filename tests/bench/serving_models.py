"""The three models that serving is measured with, and bundles of them; weights are random, since only time counts."""

import hashlib
from pathlib import Path

import numpy as np
from onnx import TensorProto, helper, numpy_helper

from edge_sdk.records import bundle
from edge_sdk.records.tensors import TensorSpec
from edge_sdk.wire import bundles

FRAME = (1, 3, 224, 224)


class Model:
    """An ONNX model with one input ``x`` and one output ``y``."""

    def __init__(self, name, x, y, nodes, weights):
        self.name, self.x, self.y = name, tuple(x), tuple(y)
        graph = helper.make_graph(
            nodes,
            name,
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, x)],
            [helper.make_tensor_value_info("y", TensorProto.FLOAT, y)],
            [numpy_helper.from_array(array, key) for key, array in weights.items()],
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
        self.onnx = model.SerializeToString()

    def input(self):
        return np.random.default_rng(1).normal(size=self.x).astype(np.float32)

    def write(self, folder: Path, *, version="1", counter=1, scale=1.0) -> Path:
        """Writes a bundle; `scale` is of its preprocessing, so that uint8 is taken as well."""
        score = bundle.Score(0.9, 0.8, 1.0)
        files = {bundles.FLOAT_MODEL: self.onnx, bundles.CALIBRATION: b"{}"}
        manifest = bundle.Manifest(
            schema=bundle.SCHEMA, name=self.name, version=version, counter=counter, sdk="0", precision="float",
            inputs=(TensorSpec("x", "float32", self.x),), outputs=(TensorSpec("y", "float32", self.y),),
            preprocess={"x": bundle.Preprocess(scale=scale)}, classes=(),
            calibration=hashlib.sha256(files[bundles.CALIBRATION]).hexdigest(),
            verdict=bundle.Verdict("top-1", 10, score, score, score, 0.0, 0.5, True),
            files={file: bundles.file_entry(content) for file, content in files.items()},
        )  # fmt: skip
        return bundles.write_bundle(folder / f"{self.name}-{version}.edge", manifest, files).path


def mlp() -> Model:
    """64 to 64 to 10: next to no work, so what remains is what serving costs."""
    rng = np.random.default_rng(0)
    weights = {"a": rng.normal(size=(64, 64)).astype(np.float32), "b": rng.normal(size=(64, 10)).astype(np.float32)}
    nodes = [
        helper.make_node("MatMul", ["x", "a"], ["h"]),
        helper.make_node("Relu", ["h"], ["r"]),
        helper.make_node("MatMul", ["r", "b"], ["y"]),
    ]
    return Model("mlp", (1, 64), (1, 10), nodes, weights)


def gap() -> Model:
    """The mean of each channel of a float32 camera frame, 602,112 bytes."""
    return Model("gap", FRAME, (1, 3, 1, 1), [helper.make_node("GlobalAveragePool", ["x"], ["y"])], {})


def head() -> Model:
    """The first 1,024 values of a frame: nothing but transport, 602,112 bytes in and 4,096 out."""
    weights = {"shape": np.array([1, -1]), "start": np.array([0]), "end": np.array([1024]), "axis": np.array([1])}
    nodes = [
        helper.make_node("Reshape", ["x", "shape"], ["flat"]),
        helper.make_node("Slice", ["flat", "start", "end", "axis"], ["y"]),
    ]
    return Model("head", FRAME, (1, 1024), nodes, weights)


def mnet025() -> Model:
    """MobileNet v1 of width 0.25: 13 depthwise-separable blocks."""
    rng, weights, nodes = np.random.default_rng(0), {}, []

    def conv(source, name, channels_in, channels, *, kernel, stride=1, group=1):
        shape = (channels, channels_in // group, kernel, kernel)
        weights[name] = (rng.normal(size=shape) / np.sqrt(np.prod(shape[1:]))).astype(np.float32)
        pads = [kernel // 2] * 4
        nodes.append(
            helper.make_node(
                "Conv",
                [source, name],
                [f"{name}_c"],
                kernel_shape=[kernel] * 2,
                strides=[stride] * 2,
                pads=pads,
                group=group,
            )
        )
        nodes.append(helper.make_node("Relu", [f"{name}_c"], [f"{name}_r"]))
        return f"{name}_r"

    last, width = conv("x", "stem", 3, 8, kernel=3, stride=2), 8
    plan = [(16, 1), (32, 2), (32, 1), (64, 2), (64, 1), (128, 2), *[(128, 1)] * 5, (256, 2), (256, 1)]
    for number, (channels, stride) in enumerate(plan):
        last = conv(last, f"dw{number}", width, width, kernel=3, stride=stride, group=width)
        last, width = conv(last, f"pw{number}", width, channels, kernel=1), channels
    weights["fc"] = rng.normal(size=(width, 1000)).astype(np.float32)
    nodes.append(helper.make_node("GlobalAveragePool", [last], ["pool"]))
    nodes.append(helper.make_node("Flatten", ["pool"], ["flat"]))
    nodes.append(helper.make_node("MatMul", ["flat", "fc"], ["y"]))
    return Model("mnet025", FRAME, (1, 1000), nodes, weights)
