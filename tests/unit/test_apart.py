"""NVIDIA's compiler in its own process: the same answer, its progress, and a crash that is an answer too."""

import importlib.util

import host_graphs as hg
import pytest

from edge_sdk import errors
from edge_sdk.engines import apart, child, compilers

HAS_RTX = importlib.util.find_spec("tensorrt_rtx_bindings") is not None


def content():
    return hg.residual().SerializeToString()


@pytest.mark.skipif(not HAS_RTX, reason="needs NVIDIA's TensorRT for RTX wheel")
@pytest.mark.rtx
def test_the_answer_is_that_of_the_compiler_itself():
    here, there = compilers.check_model(content()), apart.check_model(content())
    assert there.ok
    assert (there.name, there.version, there.messages) == (here.name, here.version, here.messages)


@pytest.mark.skipif(not HAS_RTX, reason="needs NVIDIA's TensorRT for RTX wheel")
@pytest.mark.rtx
def test_steps_are_told_and_a_refusal_is_in_the_report():
    steps = []
    apart.check_model(content(), progress=lambda *step: steps.append(step))
    assert {stage for stage, _, _ in steps} == {"compile"}
    refused = apart.check_model(b"no model at all")
    assert refused.ok is False
    assert refused.messages


@pytest.mark.skipif(not HAS_RTX, reason="needs NVIDIA's TensorRT for RTX wheel")
@pytest.mark.rtx
def test_free_axes_beyond_the_batch_are_checked_in_their_range():
    model = hg.residual()
    for axis, name in ((2, "H"), (3, "W")):
        model.graph.input[0].type.tensor_type.shape.dim[axis].dim_param = name
    with pytest.raises(errors.UsageError, match="--shape image="):
        apart.check_model(model.SerializeToString())
    shapes = {"image": ((1, 1, 8, 8), (1, 1, 16, 16), (4, 1, 32, 32))}
    assert apart.check_model(model.SerializeToString(), shapes=shapes).ok


@pytest.mark.parametrize(
    "fault", ["import os; os.kill(os.getpid(), 11)", "import os; os._exit(3)", "raise RuntimeError('lost')"]
)
def test_a_crash_is_told_with_its_last_words(monkeypatch, fault):
    monkeypatch.setattr(child, "_BOOT", f"import sys; print('about to go', file=sys.stderr, flush=True); {fault}")
    with pytest.raises(errors.EngineError, match=r"ended with code (-11|3|1) on this graph[^$]*about to go"):
        apart.check_model(content())


def test_lines_that_are_no_answer_are_passed_over(monkeypatch):
    monkeypatch.setattr(child, "_BOOT", "print('{half a line'); print('hello')")
    with pytest.raises(errors.EngineError, match="without an answer"):
        apart.check_model(content())
