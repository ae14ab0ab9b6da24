"""FP16 in place of INT8: written into the graph, measured with its rounding; float where even that loses too much."""

from edge_sdk import errors
from edge_sdk.host.gating import Gate
from edge_sdk.host.graph import half
from edge_sdk.host.job import Half, Judged
from edge_sdk.host.judge import gate, sensitivity


def judged(
    gatekeeper: Gate,
    reason: str,
    *,
    refused: gate.Judgement | None = None,
    ranking: tuple[sensitivity.Sensitivity, ...] = (),
    cause: str = "",
) -> Judged:
    """Gives the FP16 model where it keeps the budget, else the float model.

    Args:
        gatekeeper: of the build.
        reason: why it is not INT8.
        refused: of the INT8 model that lost too much.
        ranking: of its layers.
        cause: what is known of why FP16 would fail, if it does.

    Raises:
        GateError: FP16 was asked for, and lost more than the budget.
        ModelError: it was asked for, and the graph can't be written in FP16, or its outputs are not finite then.
        EngineError: it was asked for, and NVIDIA's compiler refused it.
    """
    is_asked = gatekeeper.job.precision == "fp16"
    try:
        made = _half(gatekeeper)
        final = gatekeeper.judgement(made.rounded)
    except (errors.ModelError, errors.EngineError) as error:
        if is_asked:
            raise
        words = f"FP16 is not to be had either: {error}"
    else:
        if final.verdict.passed:
            loss = f". FP16 {gate.drop_text(final.verdict.drop)}" if refused else ""
            golden = gatekeeper.golden(made.rounded, precision="fp16")
            return Judged("fp16", None, final, refused, f"{reason}{loss}", ranking, golden, half=made)
        words = gate.loss_text(final.verdict, "FP16")
    if is_asked:
        raise errors.GateError(
            f"{words}; nothing was written. Build with --precision float, or allow more with --max-drop"
        )
    return in_float(gatekeeper, ". ".join(filter(None, (reason, words, cause))), refused=refused, ranking=ranking)


def in_float(
    gatekeeper: Gate,
    reason: str,
    *,
    refused: gate.Judgement | None = None,
    ranking: tuple[sensitivity.Sensitivity, ...] = (),
) -> Judged:
    """Gives the float model; see `judged`."""
    final = gatekeeper.judgement(None)
    return Judged("float", None, final, refused, reason, ranking, gatekeeper.golden(None))


def _half(gatekeeper: Gate) -> Half:
    """Gives the FP16 model, after NVIDIA's compiler was asked about it."""
    job = gatekeeper.job
    with job.stages("place"):
        model = half.half_model(gatekeeper.graph.model)
        content, rounded = model.to_bytes(), half.rounded_bytes(model)
    with job.stages("compile"):
        compiler = job.check(content)
    if compiler.ok is False:
        words = "\n  ".join(compiler.messages) or "(it gave no reason)"
        raise errors.EngineError(f"{compiler.name} {compiler.version} refused the FP16 graph:\n  {words}")
    return Half(content, rounded, compiler)
