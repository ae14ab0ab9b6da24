"""NVIDIA's compiler as a wheel: builds without a GPU, and its refusals reach the user in its own words."""

import importlib.util
import shutil

import msgspec
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edge_sdk import errors
from edge_sdk.cli import compile as compile_command
from edge_sdk.cli import main
from edge_sdk.engines import compilers, finish
from edge_sdk.wire import bundles

HAS_RTX = importlib.util.find_spec("tensorrt_rtx_bindings") is not None
rtx = pytest.mark.skipif(
    not HAS_RTX, reason="the wheel of TensorRT for RTX is not installed (pip install 'edge_sdk[rtx]')"
)


def qdq_conv(*, weight_zero_point=0, activation_dtype=np.int8, width: int | str = 16, channels=16) -> bytes:
    rng = np.random.default_rng(0)
    weights = rng.standard_normal((channels, 3, 3, 3)).astype(np.float32)
    scale = (np.abs(weights).max((1, 2, 3)) / 127).astype(np.float32)
    initialisers = {
        "w_q": np.clip(np.round(weights / scale[:, None, None, None]), -127, 127).astype(np.int8),
        "w_scale": scale,
        "w_zero": np.full(channels, weight_zero_point, np.int8),
        "b": np.zeros(channels, np.float32),
        "x_scale": np.float32(0.02),
        "x_zero": np.array(0 if activation_dtype == np.int8 else 128, activation_dtype),
    }
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "x_scale", "x_zero"], ["x_q"]),
        helper.make_node("DequantizeLinear", ["x_q", "x_scale", "x_zero"], ["x_d"]),
        helper.make_node("DequantizeLinear", ["w_q", "w_scale", "w_zero"], ["w_d"], axis=0),
        helper.make_node("Conv", ["x_d", "w_d", "b"], ["y"], pads=[1, 1, 1, 1], name="conv"),
    ]
    graph = helper.make_graph(
        nodes,
        "conv",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 3, 16, width])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", channels, 16, width])],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in initialisers.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9).SerializeToString()


@rtx
def test_a_symmetric_qdq_graph_becomes_an_engine_with_int8_weights_in_it():
    steps = []
    compiled = compilers.compile_model(
        qdq_conv(channels=512), name="tensorrt-rtx", progress=lambda *step: steps.append(step)
    )
    assert compiled.report.ok
    assert compiled.report.engine_bytes == len(compiled.plan) > 512 * 3 * 9
    assert compiled.report.name == "tensorrt-rtx"
    assert steps[-1][1] == steps[-1][2]


@rtx
def test_the_same_graph_gives_the_same_engine():
    first, second = (compilers.compile_model(qdq_conv(), name="tensorrt-rtx").plan for _ in range(2))
    assert first == second


@rtx
@pytest.mark.parametrize(
    "graph", [qdq_conv(weight_zero_point=3), qdq_conv(activation_dtype=np.uint8)], ids=["zero point", "uint8"]
)
def test_what_tensorrt_forbids_is_refused_in_its_own_words(graph):
    with pytest.raises(errors.EngineError, match="[Zz]ero|UINT8|UInt8"):
        compilers.compile_model(graph, name="tensorrt-rtx")
    report = compilers.check_model(graph)
    assert report.ok is False
    assert report.messages


@rtx
def test_a_free_axis_beyond_the_batch_needs_a_range():
    graph = qdq_conv(width="W")
    with pytest.raises(errors.UsageError, match="--shape x="):
        compilers.compile_model(graph, name="tensorrt-rtx")
    shapes = {"x": ((1, 3, 16, 8), (1, 3, 16, 16), (4, 3, 16, 32))}
    assert compilers.compile_model(graph, name="tensorrt-rtx", shapes=shapes).report.ok


@rtx
def test_compile_adds_the_plan_and_the_bundle_still_holds(tiny_bundle, tmp_path):
    path = tmp_path / "copy.edge"
    shutil.copytree(tiny_bundle.path, path)
    before = bundles.read_bundle(path)
    finished = finish.compile_bundle(path, compiler="tensorrt-rtx")
    after = bundles.read_bundle(path)
    assert after.digest == finished.bundle.digest != before.digest
    assert set(after.manifest.files) - set(before.manifest.files) == {finished.plan}
    assert (path / finished.plan).stat().st_size == finished.report.engine_bytes
    assert sorted(p.name for p in tmp_path.iterdir() if "copy" in p.name) == ["copy.edge"]


@rtx
def test_a_signed_bundle_is_not_changed(tiny_bundle, tmp_path):
    path = tmp_path / "signed.edge"
    shutil.copytree(tiny_bundle.path, path)
    (path / bundles.SIGNATURE).write_bytes(b"signature")
    names = sorted(p.name for p in path.iterdir())
    with pytest.raises(errors.BundleError, match="signed"):
        finish.compile_bundle(path, compiler="tensorrt-rtx")
    assert sorted(p.name for p in path.iterdir()) == names


@rtx
def test_the_command_prints_json(tiny_bundle, tmp_path, capsys):
    path = tmp_path / "copy.edge"
    shutil.copytree(tiny_bundle.path, path)
    assert main.run(["compile", str(path), "--backend", "tensorrt-rtx", "--json"]) == 0
    document = msgspec.json.decode(capsys.readouterr().out)
    assert document["compiler"]["ok"] is True
    assert document["plan"].startswith("engine.rtx-")


@pytest.mark.skipif(importlib.util.find_spec("tensorrt") is not None, reason="TensorRT is installed here")
def test_an_absent_compiler_says_how_to_get_it(tiny_bundle, capsys):
    assert main.run(["compile", str(tiny_bundle.path)]) == errors.UsageError.exit_code
    assert "python3-libnvinfer" in capsys.readouterr().err


def test_an_unknown_compiler_is_refused_with_the_nearest_name():
    with pytest.raises(errors.UsageError, match="did you mean 'tensorrt'"):
        compilers.compile_model(b"", name="tensort")


@pytest.mark.parametrize("text", ["image", "image=1x2", "image=1x2:1x2:axb", "=::"])
def test_a_bad_shape_is_refused_with_an_example(text):
    with pytest.raises(errors.UsageError, match="for example"):
        compile_command.parse_shape(text)


def test_the_report_of_a_machine_without_a_compiler_does_not_claim_success():
    assert compilers.ABSENT.report.ok is None
    assert onnx.ModelProto.FromString(qdq_conv()).graph.node
