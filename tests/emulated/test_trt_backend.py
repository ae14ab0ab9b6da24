"""The TensorRT back end on the emulated driver: right answers, nothing left behind, every failure an EngineError."""

import threading
from concurrent.futures import ThreadPoolExecutor

import emulated
import harness
import numpy as np
import pytest
import tensorrt_double

from edge_sdk import errors
from edge_sdk.engines import network
from edge_sdk.testing import engine_checks


@pytest.mark.parametrize("check", engine_checks.CHECKS, ids=lambda check: check.__name__)
def test_it_keeps_the_promises_of_a_back_end(check, tmp_path, memory):
    plan = harness.dynamic_plan(tmp_path)
    check(lambda: harness.open_plan(plan))


@pytest.mark.parametrize("graph", [0, 1])
@pytest.mark.parametrize("make", [harness.static_plan, harness.dynamic_plan])
def test_the_answers_are_those_of_the_same_onnx(tmp_path, memory, make, graph):
    with harness.open_plan(make(tmp_path), graph=graph) as engine:
        for seed in range(2 * network.STEADY_RUNS):
            x = harness.some_input(seed=seed)
            np.testing.assert_allclose(engine.infer({"x": x})["y"], harness.expected(x), rtol=1e-6)
        assert (emulated.calls("cuGraphLaunch") > 0) == bool(graph)


def test_a_thousand_inferences_allocate_nothing_and_leave_nothing(tmp_path, memory):
    with harness.open_plan(harness.static_plan(tmp_path)) as engine:
        before = emulated.live()
        made = {
            name: emulated.calls(name)
            for name in ("cuMemAlloc_v2", "cuMemHostAlloc", "cuEventCreate", "cuStreamCreate")
        }
        for seed in range(1000):
            engine.infer({"x": harness.some_input(seed=seed)})
        assert emulated.live() == before
        assert made == {name: emulated.calls(name) for name in made}


def test_shared_memory_is_not_copied_and_own_memory_is_copied_from_page_locked(tmp_path, memory):
    with harness.open_plan(harness.static_plan(tmp_path)) as engine:
        before = emulated.calls("cuMemcpyHtoDAsync_v2"), emulated.calls("cuMemcpyDtoHAsync_v2")
        engine.infer({"x": harness.some_input()})
        after = emulated.calls("cuMemcpyHtoDAsync_v2"), emulated.calls("cuMemcpyDtoHAsync_v2")
    assert [b - a for a, b in zip(before, after, strict=True)] == ([0, 0] if memory else [1, 1])
    assert emulated.pageable_copies() == 0


def test_buffers_filled_in_place_are_the_page_locked_ones_and_the_host_copies_nothing(tmp_path, memory, monkeypatch):
    copied = []
    monkeypatch.setattr(
        network.np, "copyto", lambda target, source: copied.append(source) or target.__setitem__(..., source)
    )
    with harness.open_plan(harness.static_plan(tmp_path)) as engine:
        x = harness.some_input()
        engine.infer({"x": x})
        before, copied[:] = emulated.live(), []
        with engine.input_buffers() as buffers:
            buffers["x"][...] = x
            for _ in range(3):
                np.testing.assert_allclose(engine.infer(buffers)["y"], harness.expected(x), rtol=1e-6)
        assert copied == []
        assert emulated.live() == before
        assert emulated.pageable_copies() == 0
        with pytest.raises(ValueError, match="read-only"):
            buffers["x"][...] = 0


def test_before_xavier_mapped_memory_is_slow_so_it_is_not_used(tmp_path):
    emulated.configure(integrated=1, cc_major=6, cc_minor=2)
    here = harness.HERE.__class__(
        **{**{f: getattr(harness.HERE, f) for f in harness.HERE.__struct_fields__}, "compute_capability": "6.2"}
    )
    plan = harness.write_plan(tmp_path, tensorrt_double.plan_from_onnx(harness.onnx_model(batch=2)), here=here)
    with harness.open_plan(plan) as engine:
        engine.infer({"x": harness.some_input()})
    assert emulated.calls("cuMemcpyHtoDAsync_v2") > 0


def test_times_come_from_the_device_and_add_up(tmp_path, memory):
    with harness.open_plan(harness.static_plan(tmp_path)) as engine:
        timings = engine.run({"x": harness.some_input()}).timings
    assert timings.copy_in_ns > 0
    assert timings.copy_out_ns > 0
    assert timings.compute_ns > 0


def test_shapes_may_change_from_call_to_call_within_the_profile(tmp_path, memory):
    with harness.open_plan(harness.dynamic_plan(tmp_path)) as engine:
        for batch in [1, 32, 3, 3, 1, *[5] * (network.STEADY_RUNS + 3), 2]:
            x = harness.some_input(batch, seed=batch)
            np.testing.assert_allclose(engine.infer({"x": x})["y"], harness.expected(x), rtol=1e-6)
    assert emulated.calls("cuGraphLaunch") == 4  # the check of the graph, then the steady calls after it


def test_a_shape_outside_the_profile_is_refused_and_the_engine_works_on(tmp_path):
    with harness.open_plan(harness.dynamic_plan(tmp_path)) as engine:
        before = engine.infer({"x": harness.some_input()})["y"]
        with pytest.raises(errors.InputError, match=r"from \[1, 8\] to \[32, 8\], but was given \[33, 8\]"):
            engine.infer({"x": harness.some_input(33)})
        np.testing.assert_array_equal(engine.infer({"x": harness.some_input()})["y"], before)


def test_eight_threads_share_an_engine(tmp_path, memory):
    with harness.open_plan(harness.dynamic_plan(tmp_path)) as engine, ThreadPoolExecutor(8) as pool:
        inputs = [harness.some_input(1 + seed % 4, seed) for seed in range(64)]
        for x, got in zip(inputs, pool.map(lambda x: engine.infer({"x": x})["y"], inputs), strict=True):
            np.testing.assert_allclose(got, harness.expected(x), rtol=1e-6)


def test_it_may_be_closed_by_another_thread_than_opened_it(tmp_path):
    opened = []
    thread = threading.Thread(target=lambda: opened.append(harness.open_plan(harness.static_plan(tmp_path))))
    thread.start()
    thread.join()
    opened[0].infer({"x": harness.some_input()})
    thread = threading.Thread(target=opened[0].close)
    thread.start()
    thread.join()


def test_two_engines_in_one_process_do_not_disturb_each_other(tmp_path, memory):
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    with harness.open_plan(harness.static_plan(tmp_path / "a")) as one:
        with harness.open_plan(harness.static_plan(tmp_path / "b", batch=3)) as two:
            for seed in range(20):
                x = harness.some_input(3, seed)
                np.testing.assert_allclose(two.infer({"x": x})["y"], harness.expected(x), rtol=1e-6)
                np.testing.assert_allclose(one.infer({"x": x[:2]})["y"], harness.expected(x[:2]), rtol=1e-6)
        x = harness.some_input()
        np.testing.assert_allclose(one.infer({"x": x})["y"], harness.expected(x), rtol=1e-6)


@pytest.mark.parametrize(("call", "nth"), [
    *[("cuMemAlloc_v2", nth) for nth in (1, 2, 3, 4)],  # TensorRT's two, then one per tensor
    *[("cuMemHostAlloc", nth) for nth in (1, 2)],
])  # fmt: skip
def test_out_of_memory_at_load_is_an_engine_error_and_leaves_nothing(tmp_path, call, nth):
    plan = harness.static_plan(tmp_path)
    for attempt in range(3):  # pycuda collects garbage and tries again before it gives up
        emulated.fail(call, nth=nth + attempt, code=emulated.OUT_OF_MEMORY)
    with pytest.raises(errors.EngineError, match=r"memory is used up|Cuda Runtime"):
        harness.open_plan(plan)


@pytest.mark.parametrize(
    "call", ["cuInit", "cuDevicePrimaryCtxRetain", "cuStreamCreate", "cuEventCreate", "cuStreamSynchronize"]
)
def test_a_driver_that_fails_while_loading_is_an_engine_error(tmp_path, call):
    emulated.fail(call, code=emulated.DEVICE_LOST)
    with pytest.raises(errors.EngineError, match="CUDA"):
        harness.open_plan(harness.static_plan(tmp_path))


@pytest.mark.parametrize("code", [emulated.LAUNCH_FAILED, emulated.DEVICE_LOST])
@pytest.mark.parametrize("graph", [0, 1])
def test_a_failed_launch_or_a_lost_device_is_an_engine_error_and_it_still_closes(tmp_path, memory, code, graph):
    engine = harness.open_plan(harness.static_plan(tmp_path), graph=graph)
    emulated.fail("op.host", code=code, is_sticky=True)
    with pytest.raises(errors.EngineError, match="CUDA failed"):
        engine.infer({"x": harness.some_input()})
    with pytest.raises(errors.EngineError):
        engine.infer({"x": harness.some_input()})
    engine.close()


def test_a_refused_enqueue_is_an_engine_error_in_tensorrts_words(tmp_path, memory):
    with harness.open_plan(harness.static_plan(tmp_path), graph=0) as engine:
        engine.infer({"x": harness.some_input()})
        tensorrt_double.Switches.refused_enqueues = 1
        with pytest.raises(errors.EngineError, match="ordered by the test"):
            engine.infer({"x": harness.some_input(seed=1)})
        x = harness.some_input(seed=2)
        np.testing.assert_allclose(engine.infer({"x": x})["y"], harness.expected(x), rtol=1e-6)


@pytest.mark.parametrize("call", ["cuStreamBeginCapture_v2", "cuStreamEndCapture", "cuGraphInstantiateWithFlags"])
def test_where_no_graph_can_be_made_it_runs_without_one(tmp_path, memory, call, caplog):
    emulated.fail(call, code=801)
    with harness.open_plan(harness.static_plan(tmp_path)) as engine:
        x = harness.some_input()
        np.testing.assert_allclose(engine.infer({"x": x})["y"], harness.expected(x), rtol=1e-6)
    assert "runs without a CUDA graph" in caplog.text
    assert emulated.calls("cuGraphLaunch") == 0


def test_a_graph_that_captured_nothing_is_noticed_and_dropped(tmp_path, memory, caplog, monkeypatch):
    real = tensorrt_double.IExecutionContext.execute_async_v3
    calls = []

    def forgets_in_capture(self, stream_handle):
        calls.append(1)
        return True if len(calls) == 2 else real(self, stream_handle)  # the second enqueue is the captured one

    monkeypatch.setattr(tensorrt_double.IExecutionContext, "execute_async_v3", forgets_in_capture)
    with harness.open_plan(harness.static_plan(tmp_path)) as engine:
        x = harness.some_input()
        np.testing.assert_allclose(engine.infer({"x": x})["y"], harness.expected(x), rtol=1e-6)
    assert "gave another answer" in caplog.text


@pytest.mark.parametrize(("meta", "words"), [
    ({"locations": {"x": "HOST"}}, "shape tensor"),
    ({"formats": {"x": "CHW32"}}, "linear format"),
])  # fmt: skip
def test_what_cannot_be_served_is_refused_at_load(tmp_path, meta, words):
    plan = harness.write_plan(tmp_path, tensorrt_double.plan_from_onnx(harness.onnx_model(batch=2), **meta))
    with pytest.raises(errors.EngineError, match=words):
        harness.open_plan(plan)


def test_a_plan_that_tensorrt_does_not_take_is_refused_in_its_words(tmp_path):
    with pytest.raises(errors.EngineError, match="Magic tag"):
        harness.open_plan(harness.write_plan(tmp_path, b"not a plan at all"))


def test_addresses_are_set_once(tmp_path, monkeypatch):
    real = tensorrt_double.IExecutionContext.set_tensor_address
    calls = []
    monkeypatch.setattr(
        tensorrt_double.IExecutionContext, "set_tensor_address",
        lambda self, name, memory: calls.append(name) or real(self, name, memory),
    )  # fmt: skip
    with harness.open_plan(harness.dynamic_plan(tmp_path)) as engine:
        for batch in (1, 5, 1, 7):
            engine.infer({"x": harness.some_input(batch)})
    assert sorted(calls) == ["x", "y"]


def test_a_device_that_hangs_holds_up_its_caller_and_nobody_else(tmp_path):
    """What a watchdog needs: the other threads run on, so that one of them can notice."""
    with harness.open_plan(harness.static_plan(tmp_path)) as engine:
        emulated.fail("cuStreamSynchronize", hang_s=1.0)
        caller = threading.Thread(target=lambda: engine.infer({"x": harness.some_input()}))
        caller.start()
        beats = 0
        while caller.is_alive():
            caller.join(0.01)
            beats += 1
    assert beats >= 20
