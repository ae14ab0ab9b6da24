"""Before the gate: noisy layers that are a small share of the arithmetic go to float, where held-out samples gain."""

import host_graphs as hg
import numpy as np
import pytest

from edge_sdk.host import builder, correcting
from edge_sdk.records.bundle import CompilerReport, Preprocess


def net(*, size, cheap=True):
    """A stem, a layer behind four channels `size` times as large that weigh nothing, and three large layers."""
    kernel = 1 if cheap else 3
    nodes = [
        hg.node("Conv", ["image", "w0"], ["c0"], "stem", pads=[1] * 4),
        hg.node("Relu", ["c0"], ["r0"], "relu0"),
        hg.node("Mul", ["r0", "gain"], ["m0"], "gain"),
        hg.node("Conv", ["m0", "w1"], ["c1"], "suspect", pads=[kernel // 2] * 4),
        hg.node("Relu", ["c1"], ["r1"], "relu1"),
        hg.node("Conv", ["r1", "w2"], ["c2"], "large1", pads=[1] * 4),
        hg.node("Relu", ["c2"], ["r2"], "relu2"),
        hg.node("Conv", ["r2", "w3"], ["c3"], "large2", pads=[1] * 4),
        hg.node("Relu", ["c3"], ["r3"], "relu3"),
        hg.node("GlobalAveragePool", ["r3"], ["pooled"], "pool"),
        hg.node("Flatten", ["pooled"], ["flat"], "flatten"),
        hg.node("Gemm", ["flat", "w4"], ["logits"], "head", transB=1),
    ]
    gain = np.ones((16, 1, 1), np.float32)
    gain[:4] = size
    blind = hg.numpy_helper.to_array(hg.weight("w1", 32, 16, kernel, kernel)).copy()
    blind[:, :4] = 0
    weights = [hg.weight("w0", 16, 1, 3, 3), hg.constant("w1", blind), hg.weight("w2", 32, 32, 3, 3),
               hg.weight("w3", 32, 32, 3, 3), hg.weight("w4", 10, 32), hg.constant("gain", gain)]  # fmt: skip
    return hg.graph(nodes, weights, {"image": ["N", 1, 8, 8]}, {"logits": ["N", 10]})


@pytest.fixture
def build(tmp_path):
    """Builds a net on smooth pictures, with a budget that plain INT8 keeps, too."""

    def make(proto, **options):
        hg.save(proto, tmp_path / "net.onnx")
        np.savez(tmp_path / "calibration.npz", image=hg.pixels(80, 1))
        np.savez(tmp_path / "evaluation.npz", image=hg.pixels(120, 2))
        return builder.build_bundle(
            tmp_path / "net.onnx", tmp_path / "net.edge", calibration=tmp_path / "calibration.npz",
            evaluation=tmp_path / "evaluation.npz", preprocess={"image": Preprocess(scale=1 / 255)},
            check=lambda _model: CompilerReport("", "", None, 0, 0.0, ()), metric="signal", method="max",
            max_drop=50, force=True, **options,
        )  # fmt: skip

    return make


def test_a_noisy_layer_that_costs_little_is_left_in_float_where_that_gains(build):
    built = build(net(size=100.0))
    assert [entry.node for entry in built.pinned] == ["suspect"]
    assert "number 1 of 5 by measured noise" in built.pinned[0].reason
    assert built.int8_compute_ratio >= 1 - correcting.FLOAT_RATIO
    (tried,) = (one for one in built.corrections if one.name == "noisiest layers in float")
    assert tried.kept
    assert tried.layers == 1
    assert tried.after_db >= tried.before_db + correcting.FLOAT_GAIN_DB
    assert (built.precision, built.reason, built.sensitivity[0].node) == ("int8", "", "suspect")


def test_a_layer_that_is_much_of_the_arithmetic_stays_in_int8_while_the_budget_holds(build):
    built = build(net(size=100.0, cheap=False))
    assert built.pinned == ()
    assert built.int8_compute_ratio == 1
    assert "noisiest layers in float" not in {one.name for one in built.corrections}


def test_without_noise_nothing_is_tried(build):
    built = build(net(size=1.0))
    assert (built.pinned, built.corrections) == ((), ())
    assert {one.node for one in built.sensitivity} == {"large1", "large2", "suspect", "stem", "head"}  # ranked still
    assert min(one.sqnr_db for one in built.sensitivity) > 30


@pytest.mark.parametrize(("activation", "has_chains"), [("Relu", True), ("Elu", False)])
def test_a_net_with_nothing_to_equalise_is_not_said_to_need_a_pass_for_it(build, activation, has_chains):
    proto = net(size=100.0)
    for node in proto.graph.node:
        node.op_type = activation if node.op_type == "Relu" else node.op_type
    seen = []
    built = build(proto, progress=lambda *step: seen.append(step))
    assert built.corrections
    assert has_chains == any("equalisation" in one.name for one in built.corrections)
    (total,) = {total for stage, done, total in seen if stage == "correct" and (done, total) != (0, 1)}
    assert has_chains == (total > built.calibration_samples)
