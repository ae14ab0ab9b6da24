"""How far two runs lie apart, and whether float sums in another order explain it."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_sdk.numerics import closeness


def apart(expected, given):
    return closeness.difference({"y": np.asarray(expected)}, {"y": np.asarray(given)})


def test_equal_outputs_do_not_differ():
    assert apart([1.0, 2.0], [1.0, 2.0]) == closeness.Difference(0.0, 0.0, "y", is_within_tolerance=True)


@pytest.mark.parametrize(
    ("dtype", "relative", "is_near"),
    [
        (np.float32, 5e-5, True),
        (np.float32, 5e-4, False),
        (np.float64, 5e-4, False),
        (np.float16, 5e-3, True),
        (np.float16, 5e-2, False),
    ],
)
def test_tolerance_is_of_the_largest_value_and_of_the_dtype(dtype, relative, is_near):
    expected = np.array([100.0, 0.0], dtype)
    assert apart(expected, (expected + [0.0, 100 * relative]).astype(dtype)).is_within_tolerance is is_near


@pytest.mark.parametrize("dtype", [np.int64, np.uint8, bool])
def test_integers_must_be_equal(dtype):
    assert apart(np.array([1, 0], dtype), np.array([1, 0], dtype)).is_within_tolerance
    assert not apart(np.array([1, 0], dtype), np.array([1, 1], dtype)).is_within_tolerance


def test_another_shape_dtype_or_name_is_infinitely_far():
    one = np.zeros(2, np.float32)
    for given_outputs in ({"y": one[:1]}, {"y": one.astype(np.float64)}, {"z": one}, {}):
        found = closeness.difference({"y": one}, given_outputs)
        assert found.ratio == np.inf
        assert not found.is_within_tolerance


def test_what_is_not_finite_must_be_in_the_same_places():
    odd = np.array([np.nan, np.inf, -np.inf, 1.0])
    assert apart(odd, odd.copy()).is_within_tolerance
    assert not apart(odd, np.array([np.nan, np.inf, np.inf, 1.0])).is_within_tolerance
    assert not apart(np.ones(4), np.array([1, 1, np.nan, 1.0])).is_within_tolerance
    assert apart(np.full(3, np.nan), np.full(3, np.nan)).is_within_tolerance


def test_the_worst_output_counts_and_is_named():
    expected = {"a": np.ones(2), "b": np.ones(2), "c": np.ones(2)}
    found = closeness.difference(expected, {"a": np.ones(2), "b": np.ones(2) + 0.5, "c": np.ones(2) + 0.1})
    assert (found.output, found.maximum) == ("b", 0.5)


def test_a_tolerable_difference_does_not_hide_an_intolerable_one():
    expected = {"half": np.ones(2, np.float16), "label": np.array([3, 4])}
    given_outputs = {"half": np.full(2, 1.009, np.float16), "label": np.array([3, 5])}
    found = closeness.difference(expected, given_outputs)
    assert (found.output, found.is_within_tolerance) == ("label", False)


def test_outputs_near_zero_do_not_divide_by_it():
    assert apart(np.zeros(3), np.zeros(3)).ratio == 0.0
    assert apart(np.zeros(0), np.zeros(0)).is_within_tolerance


@given(st.lists(st.floats(width=32), min_size=1, max_size=8))
def test_anything_is_equal_to_itself(values):
    array = np.array(values, np.float32)
    assert apart(array, array.copy()).is_within_tolerance
