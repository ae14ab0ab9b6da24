"""A placement and its ranges to an INT8 model that NVIDIA's compiler was asked about."""

from collections.abc import Mapping

from edge_sdk import errors
from edge_sdk.host.calibrate import choose, collect
from edge_sdk.host.graph import bias, placement, qdq
from edge_sdk.host.graph import model as models
from edge_sdk.host.job import Int8, Job, Shifts
from edge_sdk.records.bundle import Correction, Range


def int8_from_choice(
    job: Job,
    base: models.Model,
    *,
    placed: placement.Placement,
    choice: choose.Choice,
    collected: collect.Collected,
    shifts: Shifts | None = None,
    corrections: tuple[Correction, ...] = (),
) -> Int8:
    """Gives the INT8 model with `placed` layers in INT8; `base` is the float model that Q/DQ is written into.

    `shifts` go into the biases of the layers in INT8 alone: they take back what INT8 does to them.

    Raises:
        EngineError: NVIDIA's compiler refused it.
    """
    with job.stages("place"):
        content = qdq.quantized_model(
            _with_biases(base, placed, shifts), placed, scales_from_ranges(choice.ranges)
        ).to_bytes()
    with job.stages("compile"):
        compiler = job.check(content)
    if compiler.ok is False:
        words = "\n  ".join(compiler.messages) or "(it gave no reason)"
        raise errors.EngineError(
            f"{compiler.name} {compiler.version} refused the INT8 graph; nothing was written:\n  {words}"
        )
    return Int8(base, content, placed, choice, collected, compiler, corrections, shifts or {})


def variant_bytes(
    base: models.Model, placed: placement.Placement, ranges: Mapping[str, Range], shifts: Shifts | None = None
) -> bytes:
    """Gives a serialised INT8 model for a measurement, without the checks of one that is shipped."""
    corrected = _with_biases(base, placed, shifts)
    return models.serialized(qdq.quantized_proto(corrected, placed, scales_from_ranges(ranges)))


def _with_biases(base: models.Model, placed: placement.Placement, shifts: Shifts | None) -> models.Model:
    wanted = {node: shift for node, shift in (shifts or {}).items() if node in placed.nodes}
    return bias.with_biases(base, wanted) if wanted else base


def scales_from_ranges(ranges: Mapping[str, Range]) -> dict[str, float]:
    """Gives the scale of each calibrated tensor."""
    return {name: found.scale for name, found in ranges.items()}
