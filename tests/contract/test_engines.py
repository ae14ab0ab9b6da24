"""Every back end keeps the promises of edge_sdk.testing.engine_checks; broken ones are caught by them."""

import threading

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edge_sdk import errors
from edge_sdk.engines import registry
from edge_sdk.engines.engine import Engine
from edge_sdk.records.tensors import TensorSpec
from edge_sdk.testing import engine_checks


@pytest.fixture(scope="session")
def small_model(tmp_path_factory):
    rng = np.random.default_rng(1)
    weights = numpy_helper.from_array(rng.standard_normal((8, 4)).astype(np.float32), "w")
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["h"]), helper.make_node("Relu", ["h"], ["y"])],
        "small",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 4])],
        [weights],
    )
    path = tmp_path_factory.mktemp("model") / "small.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)
    return path


@pytest.mark.parametrize("check", engine_checks.CHECKS, ids=lambda check: check.__name__)
@pytest.mark.parametrize("backend", sorted(registry.BACKENDS))
def test_back_end(backend, check, small_model):
    if registry.BACKENDS[backend].finder:
        pytest.skip("runs what was built for one GPU: tests/emulated runs the same checks on it")
    check(lambda: registry.open_backend(backend, small_model, options={"threads": 1}))


class Doubler:
    """A correct back end, and the parent of the broken ones: y = 2x."""

    def inputs(self):
        return (TensorSpec("x", "float32", (None, 8)),)

    def run(self, feeds, spent):
        return {"y": feeds["x"] * 2}

    def close(self):
        pass


class ReusesItsOutput(Doubler):
    def __init__(self):
        self._out = np.empty((1, 8), np.float32)

    def run(self, feeds, spent):
        if feeds["x"].shape != self._out.shape:
            return super().run(feeds, spent)
        np.multiply(feeds["x"], 2, out=self._out)
        return {"y": self._out}


class WritesIntoItsInput(Doubler):
    def run(self, feeds, spent):
        feeds["x"][...] *= 2
        return {"y": feeds["x"].copy()}


class MixesRows(Doubler):
    def run(self, feeds, spent):
        return {"y": feeds["x"] * 2 + feeds["x"].mean()}


class LendsWhatItDoesNotRead(Doubler):
    def __init__(self):
        self._lent = {}

    def buffers(self, shapes):
        self._lent = {name: np.zeros(shape, np.float32) for name, shape in shapes.items()}
        return self._lent

    def run(self, feeds, spent):
        return {"y": feeds["x"] * (0 if feeds["x"] is self._lent.get("x") else 2)}


class Drifts(Doubler):
    calls = 0

    def run(self, feeds, spent):
        self.calls += 1
        return {"y": feeds["x"] * 2 + self.calls}


@pytest.mark.parametrize("check", engine_checks.CHECKS, ids=lambda check: check.__name__)
def test_the_correct_one_passes(check):
    check(lambda: Engine(Doubler(), name="doubler"))


@pytest.mark.parametrize(
    ("broken", "check"),
    [
        (ReusesItsOutput, engine_checks.check_outputs_belong_to_the_caller),
        (WritesIntoItsInput, engine_checks.check_inputs_are_left_alone),
        (MixesRows, engine_checks.check_batch_is_rows),
        (Drifts, engine_checks.check_same_input_same_output),
        (LendsWhatItDoesNotRead, engine_checks.check_buffers_may_be_filled_in_place),
    ],
)
def test_a_broken_back_end_is_caught(broken, check):
    with pytest.raises(AssertionError):
        check(lambda: Engine(broken(), name="broken"))


def test_buffers_are_of_the_models_shape_and_another_thread_waits_for_their_end():
    answered = threading.Event()

    def ask():
        engine.infer({"x": np.zeros((1, 8), np.float32)})
        answered.set()

    with Engine(Doubler(), name="doubler") as engine:
        other = threading.Thread(target=ask)
        with engine.input_buffers() as buffers:
            assert {name: array.shape for name, array in buffers.items()} == {"x": (1, 8)}
            other.start()
            buffers["x"][...] = 4
            assert engine.infer(buffers)["y"].tolist() == [[8.0] * 8]
            assert not answered.is_set()
        other.join(10)
        assert answered.is_set()
        with pytest.raises(errors.InputError, match="no input 'z'"), engine.input_buffers({"z": (1, 8)}):
            pass
        with pytest.raises(errors.InputError, match="given float32"), engine.input_buffers({"x": (1, 9)}):
            pass
    with pytest.raises(errors.EngineError, match="closed"), engine.input_buffers():
        pass


def test_the_users_own_back_end_comes_by_import_string(small_model, tmp_path, monkeypatch):
    (tmp_path / "mine.py").write_text(
        "from edge_sdk.records.tensors import TensorSpec\n"
        "class Mine:\n"
        "    def __init__(self, model, options): self.model = model\n"
        "    def inputs(self): return (TensorSpec('x', 'float32', (None, 8)),)\n"
        "    def run(self, feeds, spent): return {'y': feeds['x'] + 1}\n"
        "    def close(self): pass\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    with registry.open_backend("mine:Mine", small_model) as engine:
        assert engine.infer({"x": np.zeros((1, 8), np.float32)})["y"].tolist() == [[1.0] * 8]


def test_an_unknown_back_end_is_refused_with_the_nearest_name(small_model):
    with pytest.raises(errors.UsageError, match="did you mean 'onnxruntime'"):
        registry.open_backend("onnxruntim", small_model)


def test_a_back_end_whose_package_is_absent_says_what_to_install(small_model, tmp_path, monkeypatch):
    (tmp_path / "needy.py").write_text("import package_that_is_not_there\nclass Needy: pass\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(errors.UsageError, match="package_that_is_not_there"):
        registry.open_backend("needy:Needy", small_model)


def test_a_file_that_is_no_model_is_refused(tmp_path):
    junk = tmp_path / "junk.onnx"
    junk.write_bytes(b"not a model")
    with pytest.raises(errors.ModelError, match="cannot load"):
        registry.open_backend("onnxruntime", junk)


def test_what_a_back_end_raises_becomes_an_engine_error_with_its_cause():
    class Fails(Doubler):
        def run(self, feeds, spent):
            raise RuntimeError("the device is lost")

    with (
        Engine(Fails(), name="fails") as engine,
        pytest.raises(errors.EngineError, match="the device is lost") as caught,
    ):
        engine.infer({"x": np.zeros((1, 8), np.float32)})
    assert isinstance(caught.value.__cause__, RuntimeError)


def test_stage_times_of_the_back_end_are_taken_out_of_compute():
    class Copies(Doubler):
        def run(self, feeds, spent):
            spent.copy_in_ns, spent.copy_out_ns = 5, 7
            return super().run(feeds, spent)

    with Engine(Copies(), name="copies") as engine:
        timings = engine.run({"x": np.zeros((1, 8), np.float32)}).timings
    assert (timings.copy_in_ns, timings.copy_out_ns) == (5, 7)
    assert timings.total_ns >= timings.compute_ns + 12


def test_the_message_names_input_expected_and_given():
    with Engine(Doubler(), name="doubler") as engine, pytest.raises(errors.InputError) as caught:
        engine.infer({"x": np.zeros((1, 4, 2), np.uint8)})
    assert str(caught.value) == "input 'x' takes float32[N, 8], but was given uint8[1, 4, 2]"
