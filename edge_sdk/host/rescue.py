"""What becomes of a model that misses its budget in INT8: few layers back to float, FP16, or a refusal."""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from edge_sdk import errors
from edge_sdk.engines import ort
from edge_sdk.engines.protocol import Tensors
from edge_sdk.host import halving, layerwise, quantizing
from edge_sdk.host.gating import Gate
from edge_sdk.host.graph import macs, placement
from edge_sdk.host.job import Int8, Judged
from edge_sdk.host.judge import gate, sensitivity
from edge_sdk.records.bundle import Pinned

MOST_FLOAT_RATIO = 0.5
"""With more of the arithmetic in float than this, INT8 saves less than a quarter: ``auto`` takes FP16 then."""

LARGEST_HALF = 65504.0
"""What float16 can hold."""

UNLIKE_DB = 10.0
"""INT8 that is this much worse on evaluation than on calibration samples was calibrated on something else."""

_SHOWN = 3


Ranking = tuple[sensitivity.Sensitivity, ...]


def judged(
    gatekeeper: Gate, int8: Int8 | None, *, noise: Mapping[str, float] | None = None, reason: str = ""
) -> Judged:
    """Gives what goes into the bundle.

    Args:
        gatekeeper: of the build.
        int8: the INT8 model; None where there is none.
        noise: by layer, what INT8 does to its own output, where that was measured already.
        reason: why there is none.

    Raises:
        GateError: INT8 was asked for, and not even pinning keeps it within the budget; or FP16 was, and it does not.
    """
    if int8 is None:
        if _is_half_next(gatekeeper):
            return halving.judged(gatekeeper, reason)
        return halving.in_float(gatekeeper, reason)
    judgement = gatekeeper.judgement(int8.content)
    if judgement.verdict.passed:
        ranking = sensitivity.ranked(noise or {})
        return Judged("int8", int8, judgement, None, "", ranking, gatekeeper.golden(int8.content))
    ranking, unlike = _ranking(gatekeeper, int8, noise or {}, judgement)
    found = _pinned(gatekeeper, int8, ranking)
    if found is None:
        return _without_int8(gatekeeper, int8, judgement, ranking, unlike)
    pinned, final = found
    names = [entry.node for entry in pinned.placed.pinned[len(int8.placed.pinned) :]]
    reason = (
        f"INT8 {_where(int8, ranking)} lost {judgement.verdict.drop:.2f} points, {judgement.verdict.max_drop:g} "
        f"allowed; with {len(names)} of {len(ranking)} layers {_more(int8, ranking)}back in float it "
        f"{gate.drop_text(final.verdict.drop)}{unlike}"
    )
    return Judged("int8", pinned, final, judgement, reason, ranking, gatekeeper.golden(pinned.content))


def _is_half_next(gatekeeper: Gate) -> bool:
    """Says whether FP16 was asked for, or only the target stands against INT8."""
    precision = gatekeeper.job.precision
    return precision == "fp16" or (precision == "auto" and bool(gatekeeper.graph.placed.weights))


def _ranking(
    gatekeeper: Gate, int8: Int8, noise: Mapping[str, float], judgement: gate.Judgement
) -> tuple[Ranking, str]:
    """Gives the layers by their noise on calibration samples, which the gate never sees, the noisiest first.

    Gives what to say where calibration and evaluation data are not alike, too.
    """
    outputs = gatekeeper.graph.model.outputs
    with gatekeeper.job.stages("sensitivity"):
        batches = _batches(gatekeeper, int8, layerwise.SAMPLES)
        if not noise:
            noise = layerwise.measured(int8.base, int8.placed, int8.choice.ranges, batches).noise
        references = [(feeds, gatekeeper.run_float(feeds)) for feeds in batches]
        run = ort.runner_from_model(int8.content)
        calibration_db = gate.worst_output_sqnr_db(run, references, outputs)
    return sensitivity.ranked(noise), _unlike_text(calibration_db, judgement)


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
        return held
    found: list[Tensors] = []
    for batch in gatekeeper.data.calibration.batches():
        left = count - sum(map(_count, found))
        if left <= 0:
            break
        found.append({name: values[:left] for name, values in batch.feeds.items()})
    return found


def _count(feeds: Tensors) -> int:
    return len(next(iter(feeds.values())))


def _pinned(gatekeeper: Gate, int8: Int8, ranking: Ranking) -> tuple[Int8, gate.Judgement] | None:
    """Gives the INT8 model with the fewest layers of the ranking in float that keeps the budget; None if none does."""
    order = _affordable(gatekeeper, int8, ranking)
    ranks = {one.node: rank for rank, one in enumerate(ranking, 1)}
    judgements: dict[int, gate.Judgement] = {}

    def placed(count: int) -> placement.Placement:
        reasons = {one.node: sensitivity.reason(one, ranks[one.node], len(ranking)) for one in order[:count]}
        return int8.placed.without([Pinned(*found) for found in reasons.items()])

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


def _affordable(gatekeeper: Gate, int8: Int8, ranking: Ranking) -> Ranking:
    """Gives the head of the ranking that leaves INT8 enough of the arithmetic; one layer stays in INT8 at least."""
    most = MOST_FLOAT_RATIO if gatekeeper.job.precision == "auto" else 1.0
    left = tuple(one for one in ranking if one.node in int8.placed.nodes)
    kept = int8.placed.nodes
    for index, one in enumerate(left[:-1]):
        kept -= {one.node}
        if macs.int8_compute_ratio(gatekeeper.graph.macs, kept) < 1 - most:
            return left[:index]
    return left[:-1]


def _where(int8: Int8, ranking: Ranking) -> str:
    """Says how much of the model the INT8 of the first judgement was."""
    before = len(ranking) - len(int8.placed.nodes)
    return f"with {before} of {len(ranking)} layers in float" if before else "everywhere"


def _more(int8: Int8, ranking: Ranking) -> str:
    return "more " if len(ranking) > len(int8.placed.nodes) else ""


class _Words(NamedTuple):
    """What was lost, and what was tried."""

    lost: str
    tried: str


def _without_int8(
    gatekeeper: Gate,
    int8: Int8,
    judgement: gate.Judgement,
    ranking: Ranking,
    unlike: str,
) -> Judged:
    words = _words(gatekeeper, int8, judgement, ranking)
    if gatekeeper.job.precision != "auto":
        raise errors.GateError(
            f"{words.lost}. {words.tried}{unlike}; nothing was written. Give calibration data closer to what the model "
            "sees in use, another --method, a larger --max-drop, or --precision auto, which builds FP16 then"
        )
    peak = max((found.peak for found in int8.collected.histograms().values()), default=0.0)
    cause = f"FP16 holds up to {LARGEST_HALF:g}, an activation reaches {peak:.4g}" if peak > LARGEST_HALF else ""
    reason = f"{words.lost}. {words.tried}{unlike}"
    return halving.judged(gatekeeper, reason, refused=judgement, ranking=ranking, cause=cause)


def _words(gatekeeper: Gate, int8: Int8, judgement: gate.Judgement, ranking: Ranking) -> _Words:
    lost = gate.loss_text(judgement.verdict, "INT8")
    worst = ", ".join(f"{one.node} ({one.sqnr_db:.1f} dB)" for one in ranking[:_SHOWN])
    most, left = len(_affordable(gatekeeper, int8, ranking)), len(int8.placed.nodes)
    if most == 0 and left > 1:
        tried = "The noisiest layer alone is more than half of the arithmetic: without it INT8 would gain little"
    elif most < left - 1:
        tried = f"{most} of {left} layers, half of the arithmetic, back in float did not mend it"
    else:
        tried = "The noisiest layers back in float did not mend it"
    return _Words(lost, f"{tried} (noisiest, by what INT8 leaves of their own output: {worst})")
