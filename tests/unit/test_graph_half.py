"""FP16: the same inputs and outputs, and a twin in float that rounds and overflows as FP16 does."""

import subprocess
import sys

import host_graphs as hg
import numpy as np
import pytest

from edge_sdk.engines import ort
from edge_sdk.host.graph import half
from edge_sdk.host.graph import model as models


def read(tmp_path, proto):
    return models.read_model(hg.save(proto, tmp_path / "m.onnx"))


def product(first, second):
    """x times one constant, through a ReLU, times another."""
    nodes = [hg.node("Mul", ["x", "a"], ["y"], "up"), hg.node("Relu", ["y"], ["r"], "relu"),
             hg.node("Conv", ["r", "w"], ["c"], "conv"), hg.node("Mul", ["c", "b"], ["z"], "down")]  # fmt: skip
    weights = [hg.constant("a", np.float32([first])), hg.constant("b", np.float32([second])),
               hg.constant("w", np.eye(16, dtype=np.float32).reshape(16, 16, 1, 1))]  # fmt: skip
    return hg.graph(nodes, weights, {"x": ["N", 16, 1, 1]}, {"z": ["N", 16, 1, 1]})


def run(content, x):
    return ort.runner_from_model(content)({"x": x})["z"].ravel()


def test_every_result_is_rounded_to_half(tmp_path):
    x = np.linspace(0.1, 3, 16, dtype=np.float32).reshape(1, 16, 1, 1)
    found = run(half.rounded_bytes(half.half_model(read(tmp_path, product(3.0, 0.7)))), x)
    wanted = ((x.astype(np.float16) * np.float16(3)) * np.float16(0.7)).astype(np.float32).ravel()
    np.testing.assert_array_equal(found, wanted)
    assert (found != x.ravel() * np.float32(3) * np.float32(0.7)).any()


def test_what_half_can_t_hold_overflows(tmp_path):
    x = np.linspace(1, 3, 16, dtype=np.float32).reshape(1, 16, 1, 1)
    for factor, is_finite in ((3e4, False), (2e4, True)):
        found = run(half.rounded_bytes(half.half_model(read(tmp_path, product(factor, 1e-3)))), x)
        assert bool(np.isfinite(found).all()) == is_finite


@pytest.mark.parametrize("opset", [13, 17])
def test_inputs_and_outputs_stay_in_float_and_answers_are_near(tmp_path, opset):
    model = read(tmp_path, hg.residual(opset=opset))
    made = half.half_model(model)
    assert (made.inputs, made.outputs) == (model.inputs, model.outputs)
    feeds = {"image": np.random.default_rng(0).uniform(0, 1, (4, 1, 8, 8)).astype(np.float32)}
    wanted = ort.runner_from_model(model.to_bytes())(feeds)["logits"]
    for content in (made.to_bytes(), half.rounded_bytes(made)):
        off = np.abs(ort.runner_from_model(content)(feeds)["logits"] - wanted).max()
        assert 0 < off < 0.01 * np.abs(wanted).max()


def test_the_converter_leaves_no_modules_of_its_own_to_be_imported_by_their_bare_names():
    program = "import sys; from edge_sdk.host.graph import half; print([p for p in sys.path if 'onnxruntime' in p])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_float_model_is_left_as_it_was(tmp_path):
    model = read(tmp_path, hg.residual())
    before = model.to_bytes()
    half.rounded_bytes(half.half_model(model))
    assert model.to_bytes() == before
