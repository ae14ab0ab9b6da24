"""What tests of several wings need: a real bundle, small enough to make for every test."""

import hashlib
import itertools

import hypothesis
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edge_sdk.records import bundle
from edge_sdk.records.tensors import TensorSpec
from edge_sdk.wire import bundles

# A loaded machine is slow: how long an example takes says nothing about the code.
hypothesis.settings.register_profile("loaded", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow])
hypothesis.settings.load_profile("loaded")

WEIGHT = np.array([[1.0, -1.0], [2.0, 0.5], [0.0, 3.0]], np.float32)


STATE_FOLDERS = itertools.count()


@pytest.fixture(scope="session", autouse=True)
def state_home(tmp_path_factory):
    """A place for daemons that the tests start: never the user's own."""
    with pytest.MonkeyPatch.context() as patch:
        home = tmp_path_factory.mktemp("state")
        patch.setenv("XDG_STATE_HOME", str(home))
        yield home


@pytest.fixture(autouse=True)
def _own_state_home(state_home, monkeypatch):
    """One for each test, as a queue that one leaves behind is the next one's."""
    monkeypatch.setenv("XDG_STATE_HOME", str(state_home / str(next(STATE_FOLDERS))))


@pytest.fixture(scope="session")
def tiny_onnx() -> bytes:
    """``y = x @ WEIGHT``: float32[N, 3] in, float32[N, 2] out."""
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        "tiny",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 3])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 2])],
        [numpy_helper.from_array(WEIGHT, "w")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.checker.check_model(model)
    return model.SerializeToString()


@pytest.fixture
def work(tmp_path):
    """An empty folder for a conversion."""
    folder = tmp_path / "work"
    folder.mkdir()
    return folder


@pytest.fixture
def make_bundle(tmp_path, tiny_onnx):
    """Writes a bundle of that model under a name of the test's choice; gives it as read back."""
    return lambda name: write_tiny(tmp_path / f"{name}.edge", tiny_onnx, name=name)


@pytest.fixture(scope="session")
def write_bundle():
    """Writes a bundle at a path: ``write_bundle(path, model, name=..., version=..., counter=...)``."""
    return write_tiny


@pytest.fixture
def tiny_bundle(make_bundle) -> bundles.Bundle:
    """A bundle named ``tiny`` in a folder of this test's own; uint8 input is scaled by 1/255 on the device."""
    return make_bundle("tiny")


def write_tiny(target, model, *, name, version="1.2.0", counter=1) -> bundles.Bundle:
    score = bundle.Score(0.9, 0.8, 1.0)
    files = {bundles.FLOAT_MODEL: model, bundles.CALIBRATION: b"{}"}
    manifest = bundle.Manifest(
        schema=bundle.SCHEMA,
        name=name,
        version=version,
        counter=counter,
        sdk="0",
        precision="float",
        inputs=(TensorSpec("x", "float32", (None, 3)),),
        outputs=(TensorSpec("y", "float32", (None, 2)),),
        preprocess={"x": bundle.Preprocess(scale=1 / 255)},
        classes=(),
        calibration=hashlib.sha256(files[bundles.CALIBRATION]).hexdigest(),
        verdict=bundle.Verdict("top-1", 10, score, score, score, 0.0, 0.5, True),
        files={file: bundles.file_entry(content) for file, content in files.items()},
    )
    return bundles.write_bundle(target, manifest, files)
