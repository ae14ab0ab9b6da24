"""The verdict says plainly what helped, what did not, and what was not measured."""

import numpy as np
import pytest

from edge_sdk.host.compress import measure, report
from edge_sdk.host.compress.settings import CompressSettings
from edge_sdk.numerics import scores


def side(*, right=900, nonzero=1000, parameters=1000, macs=1000):
    return report.Side(
        top1=scores.wilson_score(right, 1000),
        parameters=parameters,
        nonzero_parameters=nonzero,
        macs=macs,
        onnx_bytes=4000,
        latency_ms=1.0,
    )


def control(name, difference, margin=0.3):
    return report.Control(
        name=name,
        top1=scores.wilson_score(900, 1000),
        difference_points=difference,
        margin_points=margin,
        cpu_s=10.0,
    )


def verdict(settings, **changes):
    figures = {
        "settings": settings,
        "samples": 1000,
        "before": side(),
        "after": side(macs=450),
        "difference_points": -0.6,
        "margin_points": 0.4,
        "untuned_top1": None,
        "majority_ratio": 0.1,
        "speedup_ratio": 2.0,
        "latency_rounds": 100,
        "pruned": {"conv": (32, 16)},
        "sparse": (),
        "dense": {},
        "new_head": None,
        "steps": 200,
        "first_loss": 1.0,
        "last_loss": 0.5,
        "cpu_s": 20.0,
        "exporter": "dynamo",
        "export_difference": 1e-6,
        "controls": (),
        "helped": {},
        "verdict": (),
    }
    return report.judged(report.Report(**{**figures, **changes}))


def test_pruning_that_speeds_up_helped_and_its_cost_is_said():
    judged = verdict(CompressSettings(prune=0.3))
    assert judged.helped == {"prune": True}
    assert "45% of the MACs, 2.00x the speed" in judged.verdict[0]
    assert "0.60 points worse (+- 0.40)" in judged.verdict[0]


def test_the_fairest_baseline_is_the_one_with_the_same_training():
    judged = verdict(CompressSettings(prune=0.3), controls=(control(report.UNCOMPRESSED, -1.5),))
    assert "1.50 points worse (+- 0.30) against the uncompressed network with the same training" in judged.verdict[0]


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"speedup_ratio": 1.01}, "did not help on this CPU"),
        ({"pruned": {}}, "left every layer as it was; try --round-to 8"),
        ({"after": side(right=100)}, "no better than by guessing"),
        ({"difference_points": -34.2, "margin_points": 3.4}, "34.20 points worse (+- 3.40)"),
        ({"controls": (control(report.UNCOMPRESSED, -6.0),)}, "Give more --steps, or prune less"),
    ],
)
def test_pruning_that_did_not_help_says_so(changes, says):
    judged = verdict(CompressSettings(prune=0.3), **changes)
    assert judged.helped == {"prune": False}
    assert says in judged.verdict[0]


def test_pruning_whose_loss_may_be_small_is_not_called_a_loss():
    assert verdict(CompressSettings(prune=0.3), difference_points=-7.0, margin_points=3.0).helped == {"prune": True}


def test_2_to_4_promises_no_speed_that_was_not_measured():
    judged = verdict(CompressSettings(sparsity="2:4"), sparse=("conv",), pruned={}, after=side(nonzero=500))
    assert judged.helped == {"sparsity": None}
    assert "neither the file smaller nor this CPU faster" in judged.verdict[0]
    assert "Orin and Thor" in judged.verdict[0]
    assert "not measured here" in judged.verdict[0]


def test_2_to_4_where_no_layer_fits_did_not_help():
    assert verdict(CompressSettings(sparsity="2:4"), sparse=()).helped["sparsity"] is False


@pytest.mark.parametrize(
    ("difference", "helped", "says"),
    [
        (0.8, True, "helped: 0.80 points better"),
        (0.1, False, "did not help: no measurable difference"),
        (-0.7, False, "did not help: 0.70 points worse"),
    ],
)
def test_distillation_is_judged_against_plain_training_with_the_same_steps(difference, helped, says):
    settings = CompressSettings(prune=0.3, distill=True, compare=True)
    judged = verdict(settings, controls=(control(report.UNDISTILLED, difference),))
    assert judged.helped["distill"] is helped
    assert says in judged.verdict[1]
    assert "2.0 times the processor time" in judged.verdict[1]


def test_distillation_without_a_control_is_not_called_a_help():
    judged = verdict(CompressSettings(prune=0.3, distill=True))
    assert judged.helped["distill"] is None
    assert "--compare" in judged.verdict[1]


@pytest.mark.parametrize(("right", "helped"), [(700, True), (110, False)])
def test_a_new_head_is_held_against_always_giving_the_most_frequent_answer(right, helped):
    judged = verdict(
        CompressSettings(new_head=5), new_head="4", after=side(right=right), difference_points=None, margin_points=None
    )
    assert judged.helped == {"new_head": helped}
    assert "most frequent class gives 0.1000" in judged.verdict[0]


@pytest.mark.parametrize(("difference", "helped"), [(1.0, True), (0.2, False), (-1.0, False)])
def test_plain_fine_tuning_is_judged_too(difference, helped):
    assert verdict(CompressSettings(), difference_points=difference).helped == {"tune": helped}


def test_nothing_asked_is_said():
    assert "as it came" in verdict(CompressSettings(steps=0), steps=0).verdict[0]


def test_a_difference_on_the_same_samples_is_clear_earlier_than_two_separate_figures():
    rng = np.random.default_rng(0)
    first = rng.random(2000) < 0.9
    second = first.copy()
    second[np.flatnonzero(first)[:20]] = False
    change = measure.paired_difference(first, second)
    assert change.points == pytest.approx(-1.0)
    assert change.is_clear
    separate = scores.wilson_score(int(first.sum()), 2000)
    assert change.margin_points < 100 * (separate.high - separate.low) / 2


def test_no_change_is_no_clear_difference():
    right = np.ones(10, bool)
    assert not measure.paired_difference(right, right).is_clear
