"""What becomes of a model that misses its budget in INT8: few layers back to float, FP16, or a refusal."""

from typing import NamedTuple

import numpy as np

from edge_sdk import errors
from edge_sdk.engines import ort
from edge_sdk.engines.protocol import Tensors
from edge_sdk.host import quantizing
from edge_sdk.host.gating import Gate
from edge_sdk.host.graph import macs, placement
from edge_sdk.host.job import Int8, Judged
from edge_sdk.host.judge import gate, sensitivity
from edge_sdk.host.judge.pairs import Pair
from edge_sdk.records.bundle import Pinned

MOST_FLOAT_RATIO = 0.5
"""With more of the arithmetic in float than this, INT8 saves less than a quarter: ``auto`` takes FP16 then."""

LARGEST_HALF = 65504.0
"""What float16 can hold."""

UNLIKE_DB = 10.0
"""INT8 that is this much worse on evaluation than on calibration samples was calibrated on something else."""

_SHOWN = 3


def judged(gatekeeper: Gate, int8: Int8 | None, *, reason: str = "") -> Judged:
    """Gives what goes into the bundle.

    Args:
        gatekeeper: of the build.
        int8: the plain INT8 model; None where there is none.
        reason: why there is none.

    Raises:
        GateError: INT8 was asked for, and not even pinning keeps it within the budget.
    """
    if int8 is None:
        judgement = gatekeeper.judgement(None)
        precision = _precision_without_int8(gatekeeper)
        return Judged(precision, None, judgement, None, reason, (), gatekeeper.golden(None))
    judgement = gatekeeper.judgement(int8.content)
    if judgement.verdict.passed:
        return Judged("int8", int8, judgement, None, "", (), gatekeeper.golden(int8.content))
    ranking, calibration_db = _ranking(gatekeeper, int8)
    unlike = _unlike_text(calibration_db, judgement)
    found = _pinned(gatekeeper, int8, ranking)
    if found is None:
        return _without_int8(gatekeeper, int8, judgement, ranking, unlike)
    pinned, final = found
    names = [entry.node for entry in pinned.placed.pinned[len(int8.placed.pinned) :]]
    reason = (
        f"INT8 everywhere lost {judgement.verdict.drop:.2f} points, {judgement.verdict.max_drop:g} allowed; with "
        f"{len(names)} of {len(ranking)} layers back in float it loses {final.verdict.drop:.2f}{unlike}"
    )
    return Judged("int8", pinned, final, judgement, reason, ranking, gatekeeper.golden(pinned.content))


def _precision_without_int8(gatekeeper: Gate) -> str:
    """Gives FP16 where it was asked for, or where only the target stands against INT8."""
    precision = gatekeeper.job.precision
    return "fp16" if precision == "fp16" or (precision == "auto" and gatekeeper.graph.placed.weights) else "float"


def _ranking(gatekeeper: Gate, int8: Int8) -> tuple[tuple[sensitivity.Sensitivity, ...], float]:
    """Measures each layer alone in INT8 on calibration samples, which the gate never sees.

    Gives the SQNR there of all layers in INT8, too.
    """
    job, outputs = gatekeeper.job, gatekeeper.graph.model.outputs
    nodes = [use.node for use in int8.placed.weights]
    with job.stages("sensitivity"):
        batches = _batches(gatekeeper, int8, sensitivity.sample_count(len(nodes)))
        references = [(feeds, gatekeeper.run_float(feeds)) for feeds in batches]

        def noise_of(node: str) -> float:
            content = quantizing.variant_bytes(int8.base, int8.placed.only({node}), int8.choice.ranges, int8.shifts)
            run = ort.runner_from_model(content)
            pairs = (Pair(_count(feeds), wanted, run(feeds), None) for feeds, wanted in references)
            return sensitivity.noise_ratio(pairs, outputs, gatekeeper.metric)

        ranking = sensitivity.ranked(nodes, noise_of, job.stages.counter("sensitivity", len(nodes)))
        return ranking, gate.worst_sqnr_db(ort.runner_from_model(int8.content), references, outputs)


def _unlike_text(calibration_db: float, judgement: gate.Judgement) -> str:
    """Gives what to say where calibration and evaluation data are not alike; empty where they are."""
    evaluation_db = min(error.sqnr_db for error in judgement.outputs.values())
    if calibration_db - evaluation_db < UNLIKE_DB:
        return ""
    return (
        f". On calibration samples INT8 keeps {calibration_db:.1f} dB of the outputs, on evaluation samples "
        f"{evaluation_db:.1f} dB: the calibration data is not like what is evaluated, which no pinning mends; "
        "calibrate on data that is"
    )


def _batches(gatekeeper: Gate, int8: Int8, count: int) -> list[Tensors]:
    """Gives the held-out calibration samples, or the first ones where none were held out, in usual batches."""
    held = int8.collected.held_feeds[:count]
    if held:
        is_free = all(spec.shape[0] is None for spec in gatekeeper.graph.model.inputs)
        is_alike = all({n: v.shape for n, v in one.items()} == {n: v.shape for n, v in held[0].items()} for one in held)
        if is_free and is_alike:
            return [{name: np.concatenate([one[name] for one in held]) for name in held[0]}]
        return list(held)
    found: list[Tensors] = []
    for batch in gatekeeper.data.calibration.batches():
        left = count - sum(map(_count, found))
        if left <= 0:
            break
        found.append({name: values[:left] for name, values in batch.feeds.items()})
    return found


def _count(feeds: Tensors) -> int:
    return len(next(iter(feeds.values())))


def _pinned(
    gatekeeper: Gate, int8: Int8, ranking: tuple[sensitivity.Sensitivity, ...]
) -> tuple[Int8, gate.Judgement] | None:
    """Gives the INT8 model with the fewest layers of the ranking in float that keeps the budget; None if none does."""
    order = _affordable(gatekeeper, ranking)
    judgements: dict[int, gate.Judgement] = {}

    def placed(count: int) -> placement.Placement:
        pins = [Pinned(one.node, _reason(one, rank, len(ranking))) for rank, one in enumerate(order[:count], 1)]
        return int8.placed.without(pins)

    def holds(count: int) -> bool:
        content = quantizing.variant_bytes(int8.base, placed(count), int8.choice.ranges, int8.shifts)
        judgements[count] = gatekeeper.judgement(content, stage="pin")
        return judgements[count].verdict.passed

    count = sensitivity.fewest([one.node for one in order], holds)
    if count is None:
        return None
    pinned = quantizing.int8_from_choice(
        gatekeeper.job,
        int8.base,
        placed=placed(count),
        choice=int8.choice,
        collected=int8.collected,
        shifts=int8.shifts,
        corrections=int8.corrections,
    )
    return pinned, judgements[count]


def _affordable(gatekeeper: Gate, ranking: tuple[sensitivity.Sensitivity, ...]) -> tuple[sensitivity.Sensitivity, ...]:
    """Gives the head of the ranking that leaves INT8 enough of the arithmetic; one layer stays in INT8 at least."""
    most = MOST_FLOAT_RATIO if gatekeeper.job.precision == "auto" else 1.0
    floats: set[str] = set()
    for index, one in enumerate(ranking[:-1]):
        floats.add(one.node)
        if macs.int8_compute_ratio(gatekeeper.graph.macs, frozenset(floats)) > most:
            return ranking[:index]
    return ranking[:-1]


def _reason(one: sensitivity.Sensitivity, rank: int, layers: int) -> str:
    return (
        f"number {rank} of {layers} by measured sensitivity: alone in INT8 it leaves the outputs {one.sqnr_db:.1f} dB"
    )


class _Words(NamedTuple):
    """What was lost, and what was tried."""

    lost: str
    tried: str


def _without_int8(
    gatekeeper: Gate,
    int8: Int8,
    judgement: gate.Judgement,
    ranking: tuple[sensitivity.Sensitivity, ...],
    unlike: str,
) -> Judged:
    words = _words(gatekeeper, judgement, ranking)
    if gatekeeper.job.precision != "auto":
        raise errors.GateError(
            f"{words.lost}. {words.tried}{unlike}; nothing was written. Give calibration data closer to what the model "
            "sees in use, another --method, a larger --max-drop, or --precision auto, which builds FP16 then"
        )
    peak = max((found.peak for found in int8.collected.histograms().values()), default=0.0)
    precision = "fp16" if peak <= LARGEST_HALF else "float"
    why = "" if precision == "fp16" else f". FP16 holds up to {LARGEST_HALF:g}, an activation reaches {peak:.4g}"
    golden = gatekeeper.golden(None)
    final = gatekeeper.judgement(None)
    return Judged(precision, None, final, judgement, f"{words.lost}. {words.tried}{unlike}{why}", ranking, golden)


def _words(gatekeeper: Gate, judgement: gate.Judgement, ranking: tuple[sensitivity.Sensitivity, ...]) -> _Words:
    verdict = judgement.verdict
    lost = (
        f"INT8 has {verdict.metric} {verdict.int8_score.value:.2%}, float {verdict.float_score.value:.2%} on "
        f"{verdict.samples} samples: {verdict.drop:.2f} points lost, {verdict.max_drop:g} allowed"
    )
    worst = ", ".join(f"{one.node} ({one.sqnr_db:.1f} dB)" for one in ranking[:_SHOWN])
    most = len(_affordable(gatekeeper, ranking))
    if most == 0 and len(ranking) > 1:
        tried = "The most harmful layer alone is more than half of the arithmetic: without it INT8 would gain little"
    elif most < len(ranking) - 1:
        tried = f"{most} of {len(ranking)} layers, half of the arithmetic, back in float did not mend it"
    else:
        tried = "The most sensitive layers back in float did not mend it"
    return _Words(lost, f"{tried} (most harmful alone: {worst})")
