"""``auto``: the best method for all tensors, then other methods where they measure better; never worse, within a bound."""

import itertools
import math

import pytest
import test_calibrate_collect as one_pass

from edge_sdk.host.calibrate import choose

HELD = one_pass.collected(hold_out=True)
BY_METHOD = {name: choose.ranges_by_method(HELD.fitted, name) for name in choose.thresholds.METHODS}


def wishing(**wanted):
    """Measures how near each tensor's threshold is to that of the method wanted for it; counts what it was asked."""
    asked = []

    def sqnr_of(ranges):
        asked.append(ranges)
        return 40 - sum(
            20 * abs(math.log(ranges[name].threshold / BY_METHOD[method][name].threshold))
            for name, method in wanted.items()
        )

    return sqnr_of, asked


def test_tensors_get_the_method_that_measures_best():
    sqnr_of, asked = wishing(x="entropy", doubled="max")
    choice = choose.chosen(HELD, "auto", sqnr_of)
    assert choice.method == choose.MIXED
    assert choice.swapped == ({"doubled": "max"} if choice.base == "entropy" else {"x": "entropy"})
    total = HELD.histograms()
    assert choice.ranges["x"] == choose.ranges_by_method(total, "entropy")["x"]
    assert choice.ranges["doubled"] == choose.ranges_by_method(total, "max")["doubled"]
    assert choice.best_db == pytest.approx(40)
    assert len(asked) <= len(choose.thresholds.METHODS) + choose.TRIALS


def test_it_is_never_worse_than_the_best_single_method():
    for wanted in ({"x": "max"}, {"x": "entropy", "doubled": "mse"}, {"doubled": "percentile"}):
        sqnr_of, asked = wishing(**wanted)
        choice = choose.chosen(HELD, "auto", sqnr_of)
        assert choice.best_db >= max(choice.sqnr_db.values())
        assert choice.best_db >= max(map(wishing(**wanted)[0], asked)) - choose.GAIN_DB


def test_a_gain_that_is_chance_is_no_reason_to_mix():
    answers = iter([30.0, 30.01, 30.02, 30.03, 30.04, *[30.04 + choose.GAIN_DB / 2] * 50])
    choice = choose.chosen(HELD, "auto", lambda _ranges: next(answers))
    assert choice.swapped == {}
    assert choice.method == choice.base == list(choose.thresholds.METHODS)[-1]


def test_trials_are_bounded():
    sqnr_of, asked = wishing(x="mse", doubled="max")
    choose.chosen(HELD, "auto", sqnr_of, trials=0)
    assert len(asked) == len(choose.thresholds.METHODS)


@pytest.mark.parametrize("patience", [0, 1, 2])
def test_so_many_trials_in_a_row_without_a_gain_are_the_last(monkeypatch, patience):
    monkeypatch.setattr(choose, "PATIENCE", patience)
    asked = []
    choose.chosen(HELD, "auto", lambda ranges: asked.append(ranges) or 20.0)
    assert len(asked) == len(choose.thresholds.METHODS) + patience


def test_where_a_method_does_well_no_single_tensor_is_tried():
    asked = []
    choice = choose.chosen(HELD, "auto", lambda ranges: asked.append(ranges) or choose.GOOD_DB)
    assert len(asked) == len(choose.thresholds.METHODS)
    assert choice.swapped == {}


def test_the_same_measurements_give_the_same_choice():
    assert choose.chosen(HELD, "auto", wishing(x="max")[0]) == choose.chosen(HELD, "auto", wishing(x="max")[0])


def test_a_method_far_behind_on_the_first_samples_is_not_measured_on_the_others():
    near, far = 30 - choose.BEHIND_DB, 29.9 - choose.BEHIND_DB
    first = dict(zip(BY_METHOD, (far - 5, 30.0, near, 29.0, far), strict=True))
    whole = dict(zip(["percentile", "percentile-99.99", "mse"], (25.0, 27.0, 26.0), strict=True))
    quick, full = iter(first.values()), iter(whole.values())
    choice = choose.chosen(HELD, "auto", lambda _: next(full), quick_of=lambda _: next(quick), trials=0)
    assert (choice.base, choice.best_db) == ("percentile-99.99", 27.0)
    assert choice.sqnr_db == first | whole


def test_a_trial_that_fails_on_the_first_samples_is_not_measured_on_the_others():
    on_all, on_first = [], []
    choose.chosen(HELD, "auto", lambda r: on_all.append(r) or 20.0, quick_of=lambda r: on_first.append(r) or 20.0)
    assert len(on_all) == len(BY_METHOD)
    assert len(BY_METHOD) < len(on_first) <= len(BY_METHOD) + choose.PATIENCE


def test_a_trial_that_does_well_on_the_first_samples_is_kept_only_if_it_does_on_all():
    rising = itertools.count(20.0, 0.5)
    choice = choose.chosen(HELD, "auto", lambda _: 30.0, quick_of=lambda _: next(rising))
    assert (choice.swapped, choice.best_db) == ({}, 30.0)
    rising, also = itertools.count(20.0, 0.5), itertools.count(20.0, 0.5)
    assert choose.chosen(HELD, "auto", lambda _: next(also), quick_of=lambda _: next(rising)).swapped
