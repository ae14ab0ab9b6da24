"""The coverage curve: what it shows when ranges settle and when they do not."""

import numpy as np
import pytest
import test_calibrate_collect as one_pass

from edge_sdk.host.calibrate import choose, coverage


def curve(values, *, sqnr_of=None, expected=100, size=10):
    held = one_pass.collected(values, size=size, expected=expected)
    return coverage.curve(held, choose.chosen(held, "max", lambda _ranges: 0.0), sqnr_of), held


def test_points_are_at_an_eighth_a_quarter_a_half_and_all_whatever_the_batches():
    for size in (1, 7, 100):
        points, _ = curve(one_pass.VALUES, size=size)
        assert [point.samples for point in points] == [12, 25, 50, 100]


def test_where_the_count_is_not_known_points_double():
    points, _ = curve(one_pass.VALUES, expected=None, size=5)
    assert [point.samples for point in points] == [20, 40, 80, 100]


def test_ranges_that_grow_to_the_end_ask_for_more_data():
    growing = np.linspace(0.1, 10, 100, dtype=np.float32)[:, None] * np.ones(6, np.float32)
    points, _ = curve(growing)
    assert [point.moved_share for point in points] == [1, 1, 1, 0]
    assert points[2].largest_change == pytest.approx(0.5, abs=0.02)
    assert coverage.sentence(points).startswith("More data would help: from 50 to 100 samples 100% of the ranges")


def test_ranges_that_stand_still_are_converged():
    still = np.tile(np.linspace(-1, 1, 6, dtype=np.float32), (100, 1))
    points, _ = curve(still)
    assert [point.moved_share for point in points] == [0, 0, 0, 0]
    assert coverage.sentence(points).startswith("Converged")


def test_an_error_that_still_falls_asks_for_more_data():
    still = np.tile(np.linspace(-1, 1, 6, dtype=np.float32), (100, 1))
    falling = iter([10.0, 15.0, 20.0, 25.0])
    points, _ = curve(still, sqnr_of=lambda _ranges: next(falling))
    assert [point.sqnr_db for point in points] == [10, 15, 20, 25]
    assert "error on held-out samples by 5.0 dB" in coverage.sentence(points)
    assert coverage.sentence(points).startswith("More data")


def test_too_few_samples_say_nothing():
    points, _ = curve(one_pass.VALUES[:1], expected=1)
    assert points == ()
    assert "Too few" in coverage.sentence(points)
