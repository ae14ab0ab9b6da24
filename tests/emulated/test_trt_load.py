"""Loading an engine: the passport first, then a child process, then this one. What is refused harms nobody."""

import hashlib

import emulated
import harness
import msgspec
import numpy as np
import pytest
import tensorrt_double

from edge_sdk import errors
from edge_sdk.engines import plans, probe, registry


def changed(**fields):
    return msgspec.structs.replace(harness.HERE, **fields)


@pytest.mark.parametrize(("built_on", "words"), [
    (changed(module="p3767-0000"), "module: built for p3767-0000 .Jetson Orin NX 16 GB., here is emulated device"),
    (changed(compute_capability="7.2"), "compute capability: built for 7.2, here is 8.7"),
    (changed(sm_count=8), "streaming multiprocessors: built for 8, here is 16"),
    (changed(tensorrt="8.6.2.3"), "TensorRT: built with 8.6.2.3, here is 10.3.0.26"),
    (changed(cuda="12.6"), "CUDA: built for 12.6, here is 13.0"),
    (changed(memory_bytes=32 << 30), "memory: built with 32.0 GiB, here is 16.0 GiB"),
])  # fmt: skip
def test_an_engine_of_another_machine_is_refused_before_a_byte_of_it_is_read(tmp_path, built_on, words):
    plan = harness.write_plan(tmp_path, b"SEGV", here=built_on, sha256="f" * 64)
    plan.unlink()  # not even there to be read
    with pytest.raises(errors.BundleError, match=words) as caught:
        registry.open_backend("tensorrt", plan)
    assert "edge-sdk compile" in str(caught.value)
    assert emulated.calls("cuDevicePrimaryCtxRetain") == 0


def test_the_child_process_takes_a_good_engine_and_so_does_this_one(tmp_path):
    with registry.open_backend("tensorrt", harness.static_plan(tmp_path)) as engine:
        x = harness.some_input()
        np.testing.assert_allclose(engine.infer({"x": x})["y"], harness.expected(x), rtol=1e-6)


@pytest.mark.parametrize(("engine", "words"), [
    (b"SEGV....", r"crashed the process with SIGSEGV \(signal 11\)"),
    (b"OOM.....", "out of memory|MemoryError"),
    (b"not a plan", "Magic tag does not match"),
])  # fmt: skip
def test_an_engine_that_breaks_the_child_is_refused_and_this_process_lives(tmp_path, engine, words):
    plan = harness.write_plan(tmp_path, engine)
    expected = plans.read_engine_passport(plan)
    with pytest.raises(errors.BundleError, match=words):
        probe.check_plan(plan, expected, limits=probe.Limits(60, memory_bytes=2 << 30))
    assert emulated.calls("cuInit") == 0


def test_an_engine_that_hangs_is_refused_when_its_time_is_over(tmp_path):
    plan = harness.write_plan(tmp_path, b"HANG....")
    with pytest.raises(errors.BundleError, match="not loaded within 3 s"):
        registry.open_backend("tensorrt", plan, options={"probe_timeout_s": 3})
    assert emulated.live() == {}


def test_a_damaged_engine_is_refused_by_its_hash_before_tensorrt_sees_it(tmp_path):
    plan = harness.static_plan(tmp_path)
    content = bytearray(plan.read_bytes())
    content[-1] ^= 1
    plan.write_bytes(content)
    for options in ({}, harness.NO_PROBE):
        with pytest.raises(errors.BundleError, match="does not match its passport"):
            registry.open_backend("tensorrt", plan, options=options)
    plan.write_bytes(content[:-1])
    with pytest.raises(errors.BundleError, match="bytes, its passport says"):
        registry.open_backend("tensorrt", plan, options=harness.NO_PROBE)


def test_host_code_is_never_allowed(tmp_path, monkeypatch):
    seen = []
    real = tensorrt_double.Runtime.deserialize_cuda_engine

    def spy(self, serialized_engine):
        seen.append(self.engine_host_code_allowed)
        return real(self, serialized_engine)

    monkeypatch.setattr(tensorrt_double.Runtime, "deserialize_cuda_engine", spy)
    harness.open_plan(harness.static_plan(tmp_path)).close()
    assert seen == [False]
    (tmp_path / "moving").mkdir()
    plan = harness.write_plan(
        tmp_path / "moving", b"-", version_compatible=True, sha256=hashlib.sha256(b"-").hexdigest()
    )
    with pytest.raises(errors.BundleError, match="carries host code"):
        harness.open_plan(plan)


def test_an_engine_without_a_passport_is_refused(tmp_path):
    plan = harness.static_plan(tmp_path)
    plan.with_suffix(".json").unlink()
    with pytest.raises(errors.BundleError, match="no engine.*json"):
        registry.open_backend("tensorrt", plan)
