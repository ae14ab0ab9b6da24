"""Equalisation leaves the float model as it was and helps INT8; bias correction takes a mean error back."""

import host_graphs as hg
import numpy as np
import pytest

from edge_sdk.engines import ort
from edge_sdk.host import layerwise
from edge_sdk.host.graph import bias, clean, equalise, placement, qdq
from edge_sdk.host.graph import model as models
from edge_sdk.records.bundle import Range


def uneven(*, second="conv", activation="Relu", opset=17):
    """Two layers; the channels between them differ by up to a factor of 256."""
    first = hg.numpy_helper.to_array(hg.weight("w", 16, 16, 3, 3)) * 2.0 ** np.linspace(-4, 4, 16).reshape(16, 1, 1, 1)
    nodes = [
        hg.node("Conv", ["x", "w", "b"], ["a"], "first", pads=[1] * 4),
        hg.node(activation, ["a"], ["r"], "between"),
    ]
    if second == "conv":
        nodes.append(hg.node("Conv", ["r", "v"], ["y"], "second", pads=[1] * 4))
        other = hg.numpy_helper.to_array(hg.weight("v", 16, 16, 3, 3, seed=1)) / 2.0 ** np.linspace(-4, 4, 16).reshape(
            1, 16, 1, 1
        )
    else:
        nodes.append(hg.node("Conv", ["r", "v"], ["y"], "second", pads=[1] * 4, group=16))
        other = hg.numpy_helper.to_array(hg.weight("v", 16, 1, 3, 3, seed=1)) / 2.0 ** np.linspace(-4, 4, 16).reshape(
            16, 1, 1, 1
        )
    weights = [
        hg.constant("w", first.astype(np.float32)),
        hg.weight("b", 16),
        hg.constant("v", other.astype(np.float32)),
    ]
    return hg.graph(nodes, weights, {"x": ["N", 16, 8, 8]}, {"y": ["N", 16, 8, 8]}, opset=opset)


def prepared(tmp_path, proto):
    read = models.read_model(hg.save(proto, tmp_path / "m.onnx"))
    probe = {
        s.name: np.random.default_rng(0).normal(size=[a or 8 for a in s.shape]).astype(np.float32) for s in read.inputs
    }
    model = clean.cleaned(read, probe)
    return model, placement.placement_from_model(model), probe


def outputs(model, probe, names=None):
    names = None if names is None else [name for name in names if name not in probe]
    return ort.runner_from_model(model.to_bytes() if names is None else qdq.with_outputs(model, names), names)(probe)


def scales(model, placed, probe):
    seen = outputs(model, probe, placed.tensors) | probe
    return {name: float(np.abs(seen[name]).max()) / 127 for name in placed.tensors}


def sqnr_db(wanted, given):
    return 10 * np.log10(np.square(wanted).sum() / max(np.square(wanted - given).sum(), 1e-30))


def equalised(model, placed, probe):
    chains = equalise.chains(model, placed)
    seen = outputs(model, probe, [chain.tensor for chain in chains])
    divisors = {c: equalise.factors(model, c, np.abs(seen[c.tensor]).max(axis=(0, 2, 3))) for c in chains}
    return chains, divisors, equalise.equalised(model, divisors)


@pytest.mark.parametrize("second", ["conv", "depthwise"])
@pytest.mark.parametrize("activation", ["Relu", "LeakyRelu"])
def test_float_outputs_stay_bit_for_bit_and_int8_gains(tmp_path, second, activation):
    model, placed, probe = prepared(tmp_path, uneven(second=second, activation=activation))
    chains, divisors, changed = equalised(model, placed, probe)
    assert [(c.first, c.second, c.tensor, c.is_depthwise) for c in chains] == [
        ("first", "second", "r", second != "conv")
    ]
    (by,) = divisors.values()
    assert set(np.log2(by) % 1) == {0.0}
    assert by.max() / by.min() > 4
    wanted = outputs(model, probe)["y"]
    np.testing.assert_allclose(outputs(changed, probe)["y"], wanted, rtol=1e-6, atol=1e-6 * np.abs(wanted).max())
    before, after = (
        sqnr_db(wanted, outputs(qdq.quantized_model(m, placed, scales(m, placed, probe)), probe)["y"])
        for m in (model, changed)
    )
    assert after > before + 5


@pytest.mark.parametrize("activation", ["Sigmoid", "HardSwish"])
def test_what_is_not_homogeneous_ends_a_chain(tmp_path, activation):
    model, placed, _ = prepared(tmp_path, uneven(activation=activation))
    assert equalise.chains(model, placed) == ()


def test_a_tensor_that_others_take_too_ends_a_chain(tmp_path):
    proto = uneven()
    proto.graph.node.append(hg.node("Add", ["y", "r"], ["z"], "add"))
    proto.graph.output[0].name = "z"
    model, placed, _ = prepared(tmp_path, proto)
    assert equalise.chains(model, placed) == ()


def test_a_layer_in_float_ends_a_chain(tmp_path):
    model, placed, _ = prepared(tmp_path, uneven())
    assert equalise.chains(model, placed.only({"first"})) == ()


def test_matrix_layers_are_equalised_too(tmp_path):
    first = hg.numpy_helper.to_array(hg.weight("w", 32, 64)) * 2.0 ** np.linspace(-4, 4, 64)
    nodes = [hg.node("Gemm", ["x", "w", "b"], ["a"], "first"), hg.node("Relu", ["a"], ["r"], "between"),
             hg.node("Gemm", ["r", "v"], ["y"], "second", transB=1)]  # fmt: skip
    weights = [hg.constant("w", first.astype(np.float32)), hg.weight("b", 64), hg.weight("v", 10, 64)]
    model, placed, probe = prepared(tmp_path, hg.graph(nodes, weights, {"x": ["N", 32]}, {"y": ["N", 10]}))
    chains = equalise.chains(model, placed)
    peaks = np.abs(outputs(model, probe, ["r"])["r"]).max(axis=0)
    changed = equalise.equalised(model, {c: equalise.factors(model, c, peaks) for c in chains})
    assert len(chains) == 1
    np.testing.assert_allclose(outputs(changed, probe)["y"], outputs(model, probe)["y"], rtol=1e-5)


def test_dead_channels_keep_their_weights(tmp_path):
    model, placed, _ = prepared(tmp_path, uneven())
    (chain,) = equalise.chains(model, placed)
    peaks = np.ones(16, np.float32)
    peaks[3] = 0
    assert equalise.factors(model, chain, peaks)[3] == 1
    assert equalise.factors(model, chain, np.zeros(16, np.float32)).tolist() == [1] * 16


def ranges_of(scales):
    return {name: Range(-127 * scale, 127 * scale, 127 * scale, scale) for name, scale in scales.items()}


def test_the_layer_whose_own_scale_is_coarse_is_the_noisy_one_whatever_the_batches(tmp_path):
    model, placed, _ = prepared(tmp_path, hg.residual())
    probe = {"image": np.random.default_rng(1).uniform(0, 1, (64, 1, 8, 8)).astype(np.float32)}
    fine = scales(model, placed, probe)
    (tensor,) = {use.tensor for use in placed.activations if use.node == "branch"}
    coarse = fine | {tensor: 8 * fine[tensor]}
    plain, worse = (layerwise.measured(model, placed, ranges_of(one), [probe]).noise for one in (fine, coarse))
    assert max(worse, key=worse.get) == "branch"
    assert worse["branch"] == pytest.approx(64 * plain["branch"], rel=0.7)
    assert {node for node in plain if worse[node] != plain[node]} == {"branch"}
    parts = [{"image": probe["image"][start : start + 10]} for start in range(0, 64, 10)]
    found = layerwise.measured(model, placed, ranges_of(coarse), parts)
    assert found.noise == pytest.approx(worse, rel=1e-4)
    whole = layerwise.measured(model, placed, ranges_of(coarse), [probe])
    np.testing.assert_allclose(found.shifts["branch"], whole.shifts["branch"], atol=1e-5)


@pytest.mark.parametrize("opset", [13, 17, 18])
def test_the_mean_of_every_layer_comes_back(tmp_path, opset):
    proto = hg.residual(opset=opset)
    model, placed, _ = prepared(tmp_path, proto)
    probe = {"image": np.random.default_rng(1).uniform(0, 1, (64, 1, 8, 8)).astype(np.float32)}
    coarse = {name: 6 * scale for name, scale in scales(model, placed, probe).items()}
    shifts = layerwise.measured(model, placed, ranges_of(coarse), [probe]).shifts
    assert shifts.keys() == placed.nodes
    wanted = outputs(model, probe)["logits"]
    plain, corrected = (
        outputs(qdq.quantized_model(m, placed, coarse), probe)["logits"]
        for m in (model, bias.with_biases(model, shifts))
    )
    assert np.abs((wanted - corrected).mean(axis=0)).max() < 0.5 * np.abs((wanted - plain).mean(axis=0)).max()
    assert sqnr_db(wanted, corrected) > sqnr_db(wanted, plain)


def test_a_layer_without_a_bias_gets_one_and_a_matmul_has_none(tmp_path):
    nodes = [hg.node("Conv", ["x", "w"], ["a"], "bare"), hg.node("ConvTranspose", ["a", "v"], ["b"], "up", group=2),
             hg.node("MatMul", ["b", "u"], ["y"], "product")]  # fmt: skip
    weights = [hg.weight("w", 16, 16, 1, 1), hg.weight("v", 16, 8, 1, 1), hg.weight("u", 16, 16)]
    model, placed, probe = prepared(
        tmp_path, hg.graph(nodes, weights, {"x": ["N", 16, 4, 16]}, {"y": ["N", 16, 4, 16]})
    )
    found = layerwise.measured(model, placed, ranges_of(scales(model, placed, probe)), [probe])
    assert found.shifts.keys() == {"bare", "up"}
    assert found.noise.keys() == {"bare", "up", "product"}
    assert {shift.shape for shift in found.shifts.values()} == {(16,)}
    shifted = bias.with_biases(model, {layer: np.ones(16, np.float32) for layer in found.shifts})
    assert [len(n.input) for n in shifted.proto.graph.node] == [3, 3, 2]
    assert (outputs(shifted, probe, ["a"])["a"] - outputs(model, probe, ["a"])["a"]).mean() == pytest.approx(1)
