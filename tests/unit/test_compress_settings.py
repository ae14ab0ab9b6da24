"""What compress refuses before any work: amounts, combinations, and techniques of no use on the target."""

import msgspec
import pytest

from edge_sdk import errors
from edge_sdk.host.compress.settings import COMPUTE_CAPABILITIES, CompressSettings, check_settings

GOOD = CompressSettings()


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"prune": -0.1}, "from 0 to 0.9"),
        ({"prune": 0.95}, "from 0 to 0.9"),
        ({"prune": float("nan")}, "from 0 to 0.9"),
        ({"round_to": 4}, "8, 16 or 32"),
        ({"sparsity": "1:4"}, "tensor cores skip no other pattern"),
        ({"temperature": 0.0}, "temperature"),
        ({"teacher_weight": 1.5}, "teacher_weight"),
        ({"steps": -1}, "steps"),
        ({"batch": 1}, "batch norm"),
        ({"rate": 0.0}, "rate"),
        ({"weight_decay": -1.0}, "weight_decay"),
        ({"threads": -1}, "threads"),
        ({"seed": -1}, "seed"),
        ({"new_head": 1}, "2 classes or more"),
        ({"new_head": 5, "steps": 0}, "give steps"),
        ({"freeze": True}, "give new_head"),
        ({"freeze": True, "new_head": 3, "prune": 0.3}, "neither prune nor sparsity"),
        ({"distill": True}, "teaches it nothing"),
        ({"distill": True, "prune": 0.3, "steps": 0}, "give steps"),
        ({"distill": True, "prune": 0.3, "new_head": 3}, "not the new head's"),
    ],
)
def test_what_is_out_of_bounds_or_of_no_use_together_is_refused(changes, says):
    with pytest.raises(errors.UsageError, match=says):
        check_settings(msgspec.structs.replace(GOOD, **changes))


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"prune": 0.9},
        {"prune": 0.3, "steps": 0},
        {"prune": 0.3, "sparsity": "2:4", "distill": True, "round_to": 8},
        {"new_head": 3, "freeze": True},
    ],
)
def test_what_makes_sense_passes(changes):
    check_settings(msgspec.structs.replace(GOOD, **changes))


def test_a_teacher_makes_distillation_of_an_unchanged_network_sensible_and_needs_it():
    check_settings(CompressSettings(distill=True), has_teacher=True)
    with pytest.raises(errors.UsageError, match="add distill"):
        check_settings(GOOD, has_teacher=True)


@pytest.mark.parametrize("target", sorted(COMPUTE_CAPABILITIES))
def test_2_to_4_is_refused_where_no_tensor_core_skips_zeros(target):
    settings = CompressSettings(sparsity="2:4", target=target)
    if target.startswith(("nano", "tx", "xavier", "agx-xavier")):
        with pytest.raises(errors.UsageError, match=rf"no use on {target} .*use prune"):
            check_settings(settings)
    else:
        check_settings(settings)


@pytest.mark.parametrize("target", ["nano", "tx2", "orin-nano"])
def test_pruning_is_for_every_target(target):
    check_settings(CompressSettings(prune=0.3, target=target))


def test_an_unknown_target_names_the_nearest():
    with pytest.raises(errors.UsageError, match="did you mean 'orin-nano'"):
        check_settings(CompressSettings(target="orin-nono"))
