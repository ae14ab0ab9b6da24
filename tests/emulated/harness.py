"""What the emulated tests share: models, plans with their passports, and counts. Skips where there is no rig."""

import hashlib
import os
from pathlib import Path

import msgspec
import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

if "EDGE_SDK_EMULATED_STUBS" not in os.environ:
    pytest.skip("runs on the emulated driver only: tools/test emulated", allow_module_level=True)

import tensorrt_double

from edge_sdk.engines import registry
from edge_sdk.records.passport import EnginePassport, Passport

STUBS = Path(os.environ["EDGE_SDK_EMULATED_STUBS"])
HERE = Passport(
    module="emulated device 0 over host memory (not a GPU)",
    compute_capability="8.7",
    sm_count=16,
    tensorrt=tensorrt_double.__version__,
    cuda="13.0",
    memory_bytes=16 << 30,
)
PROFILE = {"x": [[1, 8], [4, 8], [32, 8]]}
NO_PROBE = {"probe": 0}


def onnx_model(*, batch: int | str = "N", hidden: int = 16) -> bytes:
    """Two layers of a perceptron; what every test runs."""
    rng = np.random.default_rng(7)
    weights = [
        numpy_helper.from_array(rng.standard_normal((8, hidden)).astype(np.float32), "w1"),
        numpy_helper.from_array(rng.standard_normal((hidden, 4)).astype(np.float32), "w2"),
    ]
    nodes = [
        helper.make_node("MatMul", ["x", "w1"], ["h"]),
        helper.make_node("Relu", ["h"], ["r"]),
        helper.make_node("MatMul", ["r", "w2"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes,
        "perceptron",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [batch, 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [batch, 4])],
        weights,
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    return made.SerializeToString()


def write_plan(folder: Path, plan: bytes, *, here: Passport = HERE, **changes: object) -> Path:
    """Writes an engine with its passport, as `edge-sdk compile` does."""
    file = folder / f"engine.{here.token()}.plan"
    file.write_bytes(plan)
    made = EnginePassport(
        schema=1,
        built_on=here,
        model="0" * 64,
        sha256=hashlib.sha256(plan).hexdigest(),
        size_bytes=len(plan),
    )
    file.with_suffix(".json").write_bytes(msgspec.json.encode(msgspec.structs.replace(made, **changes)))
    return file


def dynamic_plan(folder: Path) -> Path:
    return write_plan(folder, tensorrt_double.plan_from_onnx(onnx_model(), PROFILE))


def static_plan(folder: Path, *, batch: int = 2) -> Path:
    return write_plan(folder, tensorrt_double.plan_from_onnx(onnx_model(batch=batch)))


def open_plan(plan: Path, **options: int | str):
    """Opens an engine without the child process, which has tests of its own."""
    return registry.open_backend("tensorrt", plan, options={**NO_PROBE, **options})


def expected(x: np.ndarray, **model: int) -> np.ndarray:
    made = tensorrt_double.session(onnx_model(**model))
    return made.run(None, {"x": x})[0]


def some_input(batch: int = 2, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((batch, 8)).astype(np.float32)
