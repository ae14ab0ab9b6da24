"""What must hold for any values: histograms nest, merge and commute; quantisation loses at most half a step."""

import functools

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as stn

from edge_sdk.numerics import quantize, ranges, thresholds

FINITE = st.floats(allow_nan=False, allow_infinity=False, width=32)
TENSORS = stn.arrays(np.float32, st.integers(1, 200), elements=FINITE)
USUAL = stn.arrays(np.float32, st.integers(1, 200), elements=st.floats(-1e6, 1e6, width=32))


def same(one, other):
    return (one.exponent, one.zeros, one.minimum, one.maximum) == (
        other.exponent,
        other.zeros,
        other.minimum,
        other.maximum,
    ) and np.array_equal(one.counts, other.counts)


def merged(parts):
    return functools.reduce(ranges.merge, map(ranges.histogram_from_tensor, parts))


@given(TENSORS)
def test_every_value_is_counted_once_and_lies_below_the_limit(values):
    found = ranges.histogram_from_tensor(values)
    assert found.counts.sum() + found.zeros == values.size
    assert (found.counts >= 0).all()
    assert found.peak == np.abs(values).max()
    assert found.peak < 2.0**found.exponent


@given(TENSORS, st.lists(st.integers(0, 200), max_size=6), st.randoms(use_true_random=False))
def test_any_split_in_any_order_gives_the_same_histogram(values, cuts, shuffle):
    parts = [part for part in np.split(values, sorted(cut for cut in cuts if cut < values.size)) if part.size]
    shuffle.shuffle(parts)
    assert same(merged(parts), ranges.histogram_from_tensor(values))


@given(TENSORS, TENSORS, TENSORS)
def test_merging_is_associative_and_commutative(a, b, c):
    left, middle, right = map(ranges.histogram_from_tensor, (a, b, c))
    assert same(ranges.merge(left, middle), ranges.merge(middle, left))
    assert same(ranges.merge(ranges.merge(left, middle), right), ranges.merge(left, ranges.merge(middle, right)))


@given(TENSORS, TENSORS)
def test_merging_leaves_its_arguments_alone(a, b):
    first, second = ranges.histogram_from_tensor(a), ranges.histogram_from_tensor(b)
    before = first.counts.copy(), second.counts.copy()
    ranges.merge(first, second)
    assert np.array_equal(first.counts, before[0])
    assert np.array_equal(second.counts, before[1])


@settings(max_examples=50)
@given(TENSORS, st.sampled_from(sorted(thresholds.METHODS)))
def test_a_threshold_always_makes_a_scale(values, method):
    found = ranges.histogram_from_tensor(values)
    threshold = thresholds.METHODS[method](found)
    assert 0 < threshold <= (found.peak or 1.0)


@given(USUAL)
def test_inside_the_range_quantisation_loses_at_most_half_a_step(values):
    scale = quantize.scale_from_threshold(float(np.abs(values).max()))
    back = quantize.dequantized(quantize.quantized(values, scale), scale)
    assert np.abs(back - values).max() <= scale * 0.5001
    assert (np.sign(back) * np.sign(values) >= 0).all()


@given(
    stn.arrays(
        np.float32, stn.array_shapes(min_dims=2, max_dims=4, max_side=6), elements=st.floats(-1e6, 1e6, width=32)
    )
)
def test_weights_come_back_within_half_a_step_of_their_channel(values):
    for axis in range(values.ndim):
        codes, scales = quantize.quantized_weights(values, axis=axis)
        along = scales.reshape([-1 if i == axis else 1 for i in range(values.ndim)])
        assert codes.dtype == np.int8
        assert (np.abs(codes * along.astype(np.float64) - values) <= along * 0.5001).all()


@given(USUAL)
def test_quantising_twice_changes_nothing(values):
    scale = quantize.scale_from_threshold(float(np.abs(values).max()))
    once = quantize.quantized(values, scale)
    assert np.array_equal(quantize.quantized(quantize.dequantized(once, scale), scale), once)
