"""Built on the target: the engine with its passport and timing cache goes into the bundle, and runs from there."""

import emulated
import harness
import msgspec
import numpy as np
import pytest
import tensorrt_double

from edge_sdk import errors
from edge_sdk.engines import bundled, compilers, finish, modules, nvidia, plans, trt
from edge_sdk.testing.board import FakeBoard
from edge_sdk.wire import bundles


@pytest.fixture
def finished(tiny_bundle):
    return finish.compile_bundle(tiny_bundle.path, compiler="tensorrt")


def test_a_finished_bundle_lists_engine_passport_and_timing_cache_and_still_holds(finished):
    token = harness.HERE.token()
    assert finished.plan == f"engine.{token}.plan"
    names = set(bundles.read_bundle(finished.bundle.path).manifest.files)
    assert {f"engine.{token}.plan", f"engine.{token}.json", f"timing.{token}.cache"} <= names
    made = plans.read_engine_passport(finished.bundle.path / finished.plan)
    assert made.built_on == harness.HERE
    assert made.sha256 == finished.bundle.manifest.files[finished.plan].sha256


def test_it_runs_from_the_bundle(finished):
    with bundled.open_engine(finished.bundle.path, backend="tensorrt") as engine:
        x = np.array([[1.0, 2.0, 3.0]], np.float32)
        assert engine.infer({"x": x})["y"].tolist() == [[5.0, 9.0]]
        assert engine.inputs == finished.bundle.manifest.inputs


def test_a_bundle_without_an_engine_for_this_machine_says_what_to_do(tiny_bundle):
    with pytest.raises(errors.BundleError, match="holds no TensorRT engine.*edge-sdk compile"):
        bundled.open_engine(tiny_bundle.path, backend="tensorrt")


def test_the_passport_is_compared_before_an_engine_byte_is_hashed(finished):
    engine = finished.bundle.path / finished.plan
    engine.write_bytes(b"damaged" + engine.read_bytes()[7:])
    emulated.configure(sm_count=4)
    with pytest.raises(errors.BundleError, match="multiprocessors: built for 16, here is 4"):
        bundled.open_engine(finished.bundle.path, backend="tensorrt")
    emulated.configure(sm_count=16)
    with pytest.raises(errors.BundleError, match="does not match the manifest"):
        bundled.open_engine(finished.bundle.path, backend="tensorrt")


def test_of_several_engines_the_one_for_this_machine_runs(finished):
    here = finished.bundle
    emulated.configure(sm_count=4)
    both = finish.compile_bundle(here.path, compiler="tensorrt").bundle
    assert sum(name.endswith(".plan") for name in both.manifest.files) == 2
    for count in (4, 16):
        emulated.configure(sm_count=count)
        assert f"x{count}-" in trt.find_plan(both.path, both.manifest.files).name


def test_the_timing_cache_of_the_same_machine_is_used_and_of_another_is_not(finished):
    again = finish.compile_bundle(finished.bundle.path, compiler="tensorrt").bundle
    cache = again.path / plans.timing_name(harness.HERE.token())
    assert cache.read_bytes() == b"|timed|timed"  # it went in and came out longer
    passport = again.path / plans.passport_name(harness.HERE.token())
    made = plans.read_engine_passport(passport.with_suffix(".plan"))
    other_driver = msgspec.structs.replace(made, built_on=msgspec.structs.replace(made.built_on, cuda="12.8"))
    passport.write_bytes(msgspec.json.encode(other_driver))
    assert plans.read_timing_cache(again.path, harness.HERE) == b""


def test_a_timing_cache_that_tensorrt_does_not_know_is_discarded_and_said(finished):
    (finished.bundle.path / plans.timing_name(harness.HERE.token())).write_bytes(b"of another version")
    made = trt.compile_model(
        (finished.bundle.path / bundles.FLOAT_MODEL).read_bytes(),
        shapes={},
        options=nvidia.BuildOptions(timings=finished.bundle.path),
    )
    assert made.report.ok
    assert any("discarded" in message for message in made.report.messages)
    assert made.timing_cache == b"|timed"


def test_the_workspace_is_half_of_what_is_free_and_the_network_strongly_typed(finished):
    config = tensorrt_double.Switches.last_config
    assert config._pools == {tensorrt_double.MemoryPoolType.WORKSPACE: 8 << 30}
    assert tensorrt_double.BuilderFlag.INT8 not in config._flags


def test_progress_reaches_the_caller(tiny_onnx):
    seen = []
    compilers.compile_model(tiny_onnx, name="tensorrt", progress=lambda *step: seen.append(step))
    assert seen[0] == ("compile", 1, 3)
    assert seen[-1] == ("compile", 3, 3)


def test_what_the_compiler_does_not_take_is_refused_in_its_words():
    with pytest.raises(errors.EngineError, match="refused the model"):
        compilers.compile_model(b"not onnx", name="tensorrt")


def test_the_dla_is_used_with_the_gpu_behind_it_where_the_module_has_one(tmp_path, tiny_onnx):
    board = FakeBoard(tmp_path)
    board.write("proc/device-tree/compatible", "nvidia,p3767-0001\0nvidia,tegra234\0")
    made = trt.compile_model(tiny_onnx, shapes={}, options=nvidia.BuildOptions(dla_core=0), root=tmp_path)
    config = tensorrt_double.Switches.last_config
    assert made.passport.dla_core == 0
    assert (config.default_device_type, config.DLA_core) == (tensorrt_double.DeviceType.DLA, 0)
    assert {f.name for f in config._flags} == {"GPU_FALLBACK", "INT8", "FP16", "SPARSE_WEIGHTS"}
    with pytest.raises(errors.UsageError, match="this module has 1"):
        trt.compile_model(tiny_onnx, shapes={}, options=nvidia.BuildOptions(dla_core=1), root=tmp_path)


def test_without_a_dla_it_is_refused_with_the_reason(tmp_path, tiny_bundle):
    before = tiny_bundle.path.stat().st_mtime_ns
    with pytest.raises(errors.UsageError, match="no Jetson module.*leave it out"):
        finish.compile_bundle(tiny_bundle.path, compiler="tensorrt", dla_core=0)
    assert tiny_bundle.path.stat().st_mtime_ns == before
    assert "no DLA" in modules.dla_refusal("p3767-0005", tensorrt="10.3", l4t="36.4.3")


def test_an_earlier_model_serves_while_the_next_is_built(finished, make_bundle):
    with bundled.open_engine(finished.bundle.path, backend="tensorrt") as engine:
        x = np.ones((1, 3), np.float32)
        answers = []
        finish.compile_bundle(
            make_bundle("next").path,
            compiler="tensorrt",
            progress=lambda *_: answers.append(engine.infer({"x": x})["y"]),
        )
    assert len(answers) == 3
    assert all(answer.tolist() == [[3.0, 2.5]] for answer in answers)


def test_a_machine_without_a_gpu_falls_back_to_the_compiler_that_needs_none(tiny_onnx):
    emulated.fail("cuInit", code=100)
    report = compilers.check_model(tiny_onnx)
    assert report.name in ("tensorrt-rtx", "")
