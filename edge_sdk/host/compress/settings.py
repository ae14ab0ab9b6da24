"""What to do to a network, and how long to train it."""

from typing import Literal

import msgspec

from edge_sdk import errors, imports

MAX_AMOUNT = 0.9
"""Above nine channels in ten, a handful per layer is left: another architecture is the better answer."""

COMPUTE_CAPABILITIES = {
    "nano": 5.3,
    "tx1": 5.3,
    "tx2": 6.2,
    "xavier-nx": 7.2,
    "agx-xavier": 7.2,
    "orin-nano": 8.7,
    "orin-nx": 8.7,
    "agx-orin": 8.7,
    "thor": 11.0,
}
"""By Jetson module."""

SPARSE_CAPABILITY = 8.0
"""Ampere: the first GPU whose tensor cores skip 2:4 zeros."""


class CompressSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One run of compression. With everything at its default it is a plain fine-tuning.

    Attributes:
        prune: share of each layer's channels to remove, 0 to 0.9. Default 0: none.
        round_to: channels that stay are a multiple of this. Default 16, a tensor core's INT8 tile; 8 for narrow nets.
        sparsity: ``2:4`` zeroes two of four weights along the input channels, for Orin and later. Default none.
        distill: train towards the outputs of the float teacher too. Default no: at short schedules it cost accuracy
            in our measurements; `compare` tells for yours.
        temperature: softens both sides of the distillation loss. Default 4, the usual value.
        teacher_weight: share of the distillation loss, 0 to 1; the labels have the rest. Default 0.7.
        steps: of training, one batch each. Default 200: enough to recover from pruning 30 % on small nets.
        batch: samples per step. Default 128.
        rate: peak learning rate of the one-cycle schedule. Default 2e-3: tuning, not training from nothing.
        weight_decay: of AdamW. Default 0.01, its usual value.
        new_head: classes of a new last layer (transfer learning). Default none: the layer stays.
        freeze: train only the new last layer. Default no.
        compare: train the plain controls as well, so that the verdict knows what each technique gave. Default no: it
            doubles the time.
        target: Jetson module that it is for; a technique of no use there is refused. Default unknown.
        seed: of batches, dropout and the new layer. Default 0.
        threads: of training and of the accuracy figures; 0 leaves it to torch. Default 0.
        device: ``cpu``, ``cuda`` or ``auto`` (cuda where there is one). Default auto.
        exporter: ``dynamo``, ``classic`` or ``auto`` (dynamo, and classic where that fails). Default auto.
    """

    prune: float = 0.0
    round_to: int = 16
    sparsity: str | None = None
    distill: bool = False
    temperature: float = 4.0
    teacher_weight: float = 0.7
    steps: int = 200
    batch: int = 128
    rate: float = 2e-3
    weight_decay: float = 0.01
    new_head: int | None = None
    freeze: bool = False
    compare: bool = False
    target: str | None = None
    seed: int = 0
    threads: int = 0
    device: Literal["auto", "cpu", "cuda"] = "auto"
    exporter: Literal["auto", "dynamo", "classic"] = "auto"


def check_settings(settings: CompressSettings, *, has_teacher: bool = False) -> None:
    """Raises UsageError for values that are out of bounds, of no use together, or of no use on the target."""
    for is_wrong, problem in _problems(settings, has_teacher=has_teacher):
        if is_wrong:
            raise errors.UsageError(problem)
    _check_target(settings)


def _problems(settings: CompressSettings, *, has_teacher: bool) -> tuple[tuple[bool, str], ...]:
    """Gives pairs of (is it so, what to say)."""
    shrinks = bool(settings.prune) or settings.sparsity is not None
    return (
        (
            not 0 <= settings.prune <= MAX_AMOUNT,
            f"prune takes a share of the channels from 0 to {MAX_AMOUNT}, but was given {settings.prune}",
        ),
        (settings.round_to not in (8, 16, 32), f"round_to takes 8, 16 or 32, but was given {settings.round_to}"),
        (
            settings.sparsity not in (None, "2:4"),
            f"sparsity takes 2:4, but was given {settings.sparsity!r}: tensor cores skip no other pattern of zeros",
        ),
        (not 0 < settings.temperature <= 100, f"temperature takes 0 to 100, but was given {settings.temperature}"),
        (
            not 0 <= settings.teacher_weight <= 1,
            f"teacher_weight takes 0 to 1, but was given {settings.teacher_weight}",
        ),
        (settings.steps < 0, f"steps takes 0 or more, but was given {settings.steps}"),
        (settings.batch < 2, f"batch takes 2 or more (batch norm needs them), but was given {settings.batch}"),
        (not 0 < settings.rate <= 1, f"rate takes more than 0 and up to 1, but was given {settings.rate}"),
        (not 0 <= settings.weight_decay <= 1, f"weight_decay takes 0 to 1, but was given {settings.weight_decay}"),
        (settings.seed < 0, f"seed takes 0 or more, but was given {settings.seed}"),
        (settings.threads < 0, f"threads takes 0 or more, but was given {settings.threads}"),
        (
            settings.new_head is not None and settings.new_head < 2,
            f"a new head has 2 classes or more, but was given {settings.new_head}",
        ),
        (settings.new_head is not None and not settings.steps, "a new head knows nothing before training: give steps"),
        (
            settings.freeze and (settings.new_head is None or shrinks),
            "freeze trains a new last layer alone: give new_head, and neither prune nor sparsity with it",
        ),
        (settings.distill and not settings.steps, "distillation is a way to train: give steps"),
        (
            settings.distill and settings.new_head is not None and not has_teacher,
            "the network's classes are not the new head's: give a teacher that has them, or leave distill out",
        ),
        (
            settings.distill and not shrinks and not has_teacher,
            "distilling an unchanged network from itself teaches it nothing; add prune or sparsity, or give a teacher",
        ),
        (has_teacher and not settings.distill, "a teacher is for distillation: add distill, or leave the teacher out"),
    )


def _check_target(settings: CompressSettings) -> None:
    if settings.target is None:
        return
    if settings.target not in COMPUTE_CAPABILITIES:
        raise errors.UsageError(
            f"no target {settings.target!r}{imports.nearest(settings.target, COMPUTE_CAPABILITIES)}; known: "
            f"{', '.join(COMPUTE_CAPABILITIES)}"
        )
    capability = COMPUTE_CAPABILITIES[settings.target]
    if settings.sparsity and capability < SPARSE_CAPABILITY:
        raise errors.UsageError(
            f"2:4 zeros are of no use on {settings.target} (compute capability {capability}): tensor cores skip them "
            f"from {SPARSE_CAPABILITY} on (Orin, Thor), here they only cost accuracy; use prune, which helps everywhere"
        )
