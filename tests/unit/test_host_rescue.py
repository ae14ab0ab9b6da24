"""A model that misses its budget in INT8: the layer to blame goes back to float, or FP16 is built, or nothing."""

import json

import host_graphs as hg
import msgspec
import numpy as np
import pytest

import edge_sdk
from edge_sdk import errors
from edge_sdk.host import builder
from edge_sdk.host.graph import audit
from edge_sdk.records.bundle import Calibration, CompilerReport, Preprocess
from edge_sdk.wire import bundles

RULES = {"image": Preprocess(scale=1 / 255)}
ABSENT = CompilerReport("", "", None, 0, 0.0, ())


def outlier(*, last_kernel=3, size=1000.0, seen=0.0):
    """Three convolutions and a head; four channels before the middle one are `size` times as large and weigh `seen`."""
    pads = [last_kernel // 2] * 4
    nodes = [
        hg.node("Conv", ["image", "w1"], ["c1"], "stem", pads=[1] * 4),
        hg.node("Relu", ["c1"], ["r1"], "relu1"),
        hg.node("Mul", ["r1", "gain"], ["m1"], "gain"),
        hg.node("Conv", ["m1", "w2"], ["c2"], "middle", pads=[1] * 4),
        hg.node("Relu", ["c2"], ["r2"], "relu2"),
        hg.node("Conv", ["r2", "w3"], ["c3"], "last", pads=pads),
        hg.node("Relu", ["c3"], ["r3"], "relu3"),
        hg.node("GlobalAveragePool", ["r3"], ["pooled"], "pool"),
        hg.node("Flatten", ["pooled"], ["flat"], "flatten"),
        hg.node("Gemm", ["flat", "w4"], ["logits"], "head", transB=1),
    ]
    gain = np.ones((16, 1, 1), np.float32)
    gain[:4] = size
    blind = hg.numpy_helper.to_array(hg.weight("w2", 16, 16, 3, 3)).copy()
    blind[:, :4] *= seen
    weights = [hg.weight("w1", 16, 1, 3, 3), hg.constant("w2", blind), hg.weight("w3", 16, 16, last_kernel, last_kernel),
               hg.weight("w4", 10, 16), hg.constant("gain", gain)]  # fmt: skip
    return hg.graph(nodes, weights, {"image": ["N", 1, 8, 8]}, {"logits": ["N", 10]})


@pytest.fixture
def build(tmp_path):
    """Builds a net on random pictures."""

    def make(net, **options):
        hg.save(net, tmp_path / "net.onnx")
        np.savez(tmp_path / "calibration.npz", image=hg.pixels(80, 1))
        np.savez(tmp_path / "evaluation.npz", image=hg.pixels(200, 2))
        given = {
            "calibration": tmp_path / "calibration.npz",
            "evaluation": tmp_path / "evaluation.npz",
            "preprocess": RULES,
            "check": lambda _model: ABSENT,
            "metric": "signal",
            "max_drop": 2.0,
            "allow": ("noise",),
        }
        return builder.build_bundle(tmp_path / "net.onnx", tmp_path / "net.edge", **(given | options))

    return make


def report(folder):
    return json.loads((folder / "net.edge" / "report.json").read_bytes())


@pytest.mark.parametrize("method", ["auto", "max"])
def test_the_one_layer_to_blame_goes_back_to_float(build, tmp_path, method):
    built = build(outlier(), method=method)
    (pinned,) = built.pinned
    assert (built.precision, pinned.node, built.passed) == ("int8", "middle", True)
    assert "number 1 of 4 by measured noise" in pinned.reason
    assert "with 1 of 4 layers back in float" in built.reason
    assert [one.node for one in built.sensitivity][0] == "middle"
    assert len(built.sensitivity) == 4
    assert 0.4 < built.int8_compute_ratio < 0.6


def test_what_was_refused_and_why_is_in_the_report(build, tmp_path):
    build(outlier())
    found = report(tmp_path)
    assert found["refused"]["drop"] > 2 > found["verdict"]["drop"]
    assert not found["refused"]["passed"]
    assert {layer["node"]: layer["precision"] for layer in found["layers"]} == {
        "stem": "int8", "middle": "float", "last": "int8", next(n for n in (e["node"] for e in found["layers"]) if n not in ("stem", "middle", "last")): "int8",
    }  # fmt: skip
    page = (tmp_path / "net.edge" / "report.html").read_text()
    assert "What was refused" in page
    assert "back in float" in page


def test_the_rescued_graph_keeps_the_rules_and_only_its_own_ranges(build, tmp_path):
    build(outlier())
    model = hg.onnx.load(tmp_path / "net.edge" / "model.int8.onnx")
    assert audit.audit_model(model).violations == ()
    kept = msgspec.json.decode((tmp_path / "net.edge" / "calibration.json").read_bytes(), type=Calibration).ranges
    assert kept.keys() == {n.input[0] for n in model.graph.node if n.op_type == "QuantizeLinear"}
    assert "m1" not in kept


def test_a_rescue_ends_the_same_each_time(build, tmp_path):
    assert build(outlier()).digest == build(outlier(), force=True).digest


def test_progress_is_told_of_ranking_and_pinning(build):
    seen = []
    built = build(outlier(), progress=lambda *step: seen.append(step))
    ends = {stage: (done, total) for stage, done, total in seen}
    assert ends["pin"] == (200, 200)
    assert {"sensitivity", "pin"} <= built.seconds.keys()


def test_where_pinning_would_leave_little_in_int8_fp16_is_built_with_the_reason(build, tmp_path):
    built = build(outlier(last_kernel=1))
    assert (built.precision, built.int8_compute_ratio) == ("fp16", 0)
    assert 0 < built.drop < 0.01
    for word in ("INT8 has signal share", "2 allowed", "middle", "half of the arithmetic", "FP16 loses nothing"):
        assert word in built.reason, word
    assert (built.worth_it.answer, built.worth_it.reason[:5]) == ("no", "FP16 ")
    manifest = bundles.read_bundle(tmp_path / "net.edge").manifest
    assert manifest.precision == "fp16"
    assert "model.int8.onnx" not in manifest.files
    assert report(tmp_path)["refused"]["drop"] > 2


def test_who_insists_on_int8_gets_it_with_most_of_it_in_float(build):
    built = build(outlier(last_kernel=1), precision="int8")
    assert (built.precision, [entry.node for entry in built.pinned]) == ("int8", ["middle"])


def test_what_fp16_can_t_hold_either_stays_in_float(build):
    built = build(outlier(last_kernel=1, size=1e6, seen=1e-5))
    assert (built.precision, built.drop) == ("float", 0)
    assert "FP16 has signal share" in built.reason
    assert "FP16 holds up to 65504" in built.reason


def test_fp16_that_was_asked_for_and_loses_too_much_is_refused(build, tmp_path):
    net = outlier(last_kernel=1, size=1e6, seen=1e-5)
    with pytest.raises(errors.GateError, match=r"FP16 has .* points lost, 2 allowed; nothing was written.*float"):
        build(net, precision="fp16")
    assert not (tmp_path / "net.edge").exists()
    assert build(outlier(last_kernel=1), precision="fp16").precision == "fp16"


def test_an_fp16_bundle_holds_the_graph_in_fp16_and_runs(build, tmp_path):
    built = build(outlier(), precision="fp16")
    checked = bundles.read_bundle(tmp_path / "net.edge")
    model = hg.onnx.load(checked.file(bundles.HALF_MODEL))
    kinds = {tensor.data_type for tensor in model.graph.initializer}
    assert kinds == {hg.TensorProto.FLOAT16}
    assert checked.file(bundles.HALF_MODEL).stat().st_size < 0.7 * checked.file(bundles.FLOAT_MODEL).stat().st_size
    golden = np.load(checked.file(bundles.GOLDEN))
    assert 0 < np.abs(golden["fp16.logits"] - golden["float.logits"]).max() <= golden["tolerance.logits"]
    with edge_sdk.open_engine(tmp_path / "net.edge") as engine:
        answer = engine.infer({"image": golden["prepared.image"]})["logits"]
    assert np.abs(answer - golden["fp16.logits"]).max() <= golden["tolerance.logits"]
    assert built.compiler == ABSENT


def test_a_compiler_that_refuses_fp16_leaves_float_or_says_so(build, tmp_path):
    no = CompilerReport("stand-in", "1", False, 0, 0.0, ("half is no good",))
    with pytest.raises(errors.EngineError, match="refused the FP16 graph"):
        build(outlier(), precision="fp16", check=lambda _model: no)
    assert not (tmp_path / "net.edge").exists()
    built = build(outlier(), target="nano", check=lambda _model: no)
    assert (built.precision, built.compiler.ok) == ("float", None)
    assert "half is no good" in built.reason


def test_a_refusal_names_the_layers_and_writes_nothing(build, tmp_path):
    with pytest.raises(errors.GateError, match=r"noisiest, .*: middle .* dB.*nothing was written.*--precision auto"):
        build(outlier(), precision="int8", method="max", max_drop=0.0, evaluation=dark(tmp_path))
    assert not (tmp_path / "net.edge").exists()


def dark(folder):
    """Evaluation data on which INT8 can't agree with float: all values far below one step of the input's scale."""
    raw = np.random.default_rng(0).integers(0, 2, (200, 1, 8, 8), dtype=np.uint8)
    np.savez(folder / "dark.npz", image=raw)
    return folder / "dark.npz"


def test_calibration_on_other_data_than_is_evaluated_is_named_as_the_cause(build, tmp_path):
    np.savez(tmp_path / "other.npz", image=hg.pixels(80, 1) // 32)
    built = build(hg.residual(), method="max", calibration=tmp_path / "other.npz")
    assert "the calibration data is not like what is evaluated" in built.reason
    assert "not like" not in build(outlier(), force=True).reason


def test_fp16_can_be_asked_for(build):
    built = build(outlier(), precision="fp16")
    assert (built.precision, built.reason) == ("fp16", "fp16 was asked for")


def test_a_target_without_int8_gets_fp16_and_is_told_why(build):
    built = build(outlier(), target="nano")
    assert built.precision == "fp16"
    assert "no INT8 for Jetson Nano" in built.worth_it.reason
    assert build(hg.residual(), target="orin-nano", force=True).precision == "int8"
