"""Symmetric INT8 as ONNX Runtime computes it, and the histogram of magnitudes by hand."""

import host_graphs as hg
import numpy as np
import pytest
from onnx import TensorProto

from edge_sdk.engines import ort
from edge_sdk.numerics import quantize, ranges


def test_codes_are_those_of_quantize_linear():
    scale = 0.0375
    nodes = [hg.node("QuantizeLinear", ["x", "s", "z"], ["q"]), hg.node("DequantizeLinear", ["q", "s", "z"], ["y"])]
    model = hg.graph(
        nodes, [hg.constant("s", np.float32(scale)), hg.constant("z", np.int8(0))], {"x": ["N"]}, {"y": ["N"]}
    )
    model.graph.output.add(name="q").type.tensor_type.elem_type = TensorProto.INT8
    x = np.random.default_rng(0).uniform(-4.7, 4.7, 10_000).astype(np.float32)
    ran = ort.runner_from_model(model.SerializeToString())({"x": x})
    codes = quantize.quantized(x, scale)
    np.testing.assert_array_equal(codes, ran["q"])
    np.testing.assert_array_equal(quantize.dequantized(codes, scale), ran["y"])


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_each_channel_of_weights_has_its_own_scale(axis):
    values = np.random.default_rng(0).normal(size=(4, 5, 6)).astype(np.float32)
    values *= np.float32(10.0) ** np.arange(values.shape[axis]).reshape([-1 if i == axis else 1 for i in range(3)])
    codes, scales = quantize.quantized_weights(values, axis=axis)
    assert scales.shape == (values.shape[axis],)
    along = scales.reshape([-1 if i == axis else 1 for i in range(3)])
    assert np.abs(codes * along - values).max(axis=tuple(i for i in range(3) if i != axis)) == pytest.approx(
        scales / 2, rel=0.5
    )
    assert (np.abs(codes).max(axis=tuple(i for i in range(3) if i != axis)) == 127).all()


def test_a_channel_of_zeros_has_a_positive_scale():
    codes, scales = quantize.quantized_weights(np.zeros((2, 3), np.float32), axis=0)
    assert not codes.any()
    assert (scales > 0).all()


def test_a_channel_too_small_for_a_normal_scale():
    codes, scales = quantize.quantized_weights(np.full((1, 3), 1e-44, np.float32), axis=0)
    assert np.isfinite(codes).all()
    assert (scales >= np.finfo(np.float32).tiny).all()


def test_zeros_are_counted_apart_and_bins_are_equal():
    found = ranges.histogram_from_tensor(np.array([0.0, -0.0, 0.5, -1.0, 1.75], np.float32))
    assert (found.zeros, found.exponent, found.minimum, found.maximum) == (2, 1, -1.0, 1.75)
    assert np.flatnonzero(found.counts).tolist() == [512, 1024, 1792]
    assert found.bin_width == 2 / 2048


def test_the_limit_is_above_every_value_even_a_power_of_two():
    found = ranges.histogram_from_tensor(np.array([4.0], np.float32))
    assert found.exponent == 3
    assert found.counts.sum() == 1


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_is_refused(bad):
    with pytest.raises(ValueError, match="NaN or infinite"):
        ranges.histogram_from_tensor(np.array([1.0, bad], np.float32))


def test_half_precision_is_taken_as_float():
    found = ranges.histogram_from_tensor(np.array([1.0, -2.0], np.float16))
    assert found.peak == 2
