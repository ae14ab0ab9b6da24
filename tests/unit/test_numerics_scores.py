"""Intervals that cover what they claim, ratios in dB, top classes."""

import numpy as np
import pytest

from edge_sdk.numerics import scores


@pytest.mark.parametrize(
    ("successes", "count", "low", "high"),
    # R, binom::binom.confint(..., methods = "wilson")
    [(0, 10, 0.0, 0.277533), (10, 10, 0.722467, 1.0), (1, 10, 0.017876, 0.404150), (81, 263, 0.255289, 0.366175)],
)
def test_wilson_intervals_are_the_textbook_s(successes, count, low, high):
    score = scores.wilson_score(successes, count)
    assert (score.low, score.high) == pytest.approx((low, high), abs=2e-3)
    assert 0 <= score.low <= score.value <= score.high <= 1


def test_wilson_intervals_cover_the_truth_19_times_in_20():
    rng = np.random.default_rng(0)
    covered = 0
    for successes in rng.binomial(400, 0.9, 2000):
        score = scores.wilson_score(int(successes), 400)
        covered += score.low <= 0.9 <= score.high
    assert 0.93 < covered / 2000 < 0.97


def test_the_interval_of_a_mean():
    score = scores.mean_score(np.array([1.0, 2.0, 3.0]))
    assert score.value == 2
    assert score.high - 2 == pytest.approx(1.96 / np.sqrt(3), rel=1e-3)
    alone = scores.mean_score(np.array([0.5]))
    assert alone.low == alone.value == alone.high == 0.5


@pytest.mark.parametrize(
    ("signal", "noise", "expected"),
    [(1, 0, 200), (0, 0, 200), (0, 1, -200), (1, 1e-30, 200), (1, 10, -10), (4, 1, 6.0206)],
)
def test_sqnr_is_finite_always(signal, noise, expected):
    assert scores.sqnr_db(signal, noise) == pytest.approx(expected, abs=1e-4)


def test_top_classes_are_in_order_and_ties_go_by_index():
    assert scores.top_classes(np.array([[0.5, 0.9, 0.5, 0.1]], np.float32), 3) == [
        (1, pytest.approx(0.9)),
        (0, 0.5),
        (2, 0.5),
    ]
    assert len(scores.top_classes(np.zeros(2), 5)) == 2
