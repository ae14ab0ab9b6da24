"""What compression did: the figures before and after, the controls, and a verdict that says when it did not help."""

import msgspec

from edge_sdk.host.compress.settings import SPARSE_CAPABILITY, CompressSettings
from edge_sdk.records.bundle import Score

FASTER = 1.05
"""Below this ratio, a speed-up on a CPU is within what two builds of the same network differ by."""

FAR_WORSE_POINTS = 5.0
"""Points of top-1, surely lost, above which a network is called worse and not merely smaller."""


class Side(msgspec.Struct, frozen=True, kw_only=True):
    """The network before or after.

    Attributes:
        top1: share of right answers on the evaluation data, of the ONNX model; None where its classes are others.
        parameters: all of them.
        nonzero_parameters: those that are not zero.
        macs: multiply-accumulates for one sample.
        onnx_bytes: size of the float ONNX file.
        latency_ms: one sample, one thread, ONNX Runtime on this CPU; best of many.
    """

    top1: Score | None
    parameters: int
    nonzero_parameters: int
    macs: int
    onnx_bytes: int
    latency_ms: float


class Control(msgspec.Struct, frozen=True, kw_only=True):
    """A plain alternative, trained with the same steps, batches and seed.

    Attributes:
        name: what it is.
        top1: of it.
        difference_points: the result minus this control, on the same samples.
        margin_points: half width of the difference's 95 % interval.
        cpu_s: processor seconds of its training.
    """

    name: str
    top1: Score
    difference_points: float
    margin_points: float
    cpu_s: float

    @property
    def is_clear(self) -> bool:
        """Whether the difference is beyond what chance gives."""
        return abs(self.difference_points) > self.margin_points


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """One compression.

    Attributes:
        settings: as asked.
        samples: of the evaluation data.
        before: the network as it came.
        after: what was written.
        difference_points: top-1 after minus before; None with a new head.
        margin_points: half width of its 95 % interval.
        untuned_top1: after pruning and sparsity, before training; None where nothing was taken away.
        majority_ratio: share of the most frequent class: what always giving one answer scores.
        speedup_ratio: of the latencies, interleaved on this CPU.
        latency_rounds: runs of each.
        pruned: output channels (before, after) of each layer that lost some.
        sparse: layers with 2:4 zeros.
        dense: layers that 2:4 left alone, and why.
        new_head: name of the layer that was replaced.
        steps: of training.
        first_loss: mean of the first steps; None without training.
        last_loss: mean of the last steps.
        cpu_s: processor seconds of the training.
        exporter: ``dynamo`` or ``classic``.
        export_difference: largest difference of ONNX Runtime's outputs from torch's, of the largest output.
        controls: see Control; empty unless asked to compare.
        helped: by technique; None where it was not, or can't be, measured here.
        verdict: for people.
    """

    settings: CompressSettings
    samples: int
    before: Side
    after: Side
    difference_points: float | None
    margin_points: float | None
    untuned_top1: Score | None
    majority_ratio: float
    speedup_ratio: float
    latency_rounds: int
    pruned: dict[str, tuple[int, int]]
    sparse: tuple[str, ...]
    dense: dict[str, str]
    new_head: str | None
    steps: int
    first_loss: float | None
    last_loss: float | None
    cpu_s: float
    exporter: str
    export_difference: float
    controls: tuple[Control, ...]
    helped: dict[str, bool | None]
    verdict: tuple[str, ...]


UNCOMPRESSED = "uncompressed, same training"
UNDISTILLED = "same compression, plain training"


def judged(report: Report) -> Report:
    """Gives the report with `helped` and `verdict` filled in from its figures."""
    helped: dict[str, bool | None] = {}
    sentences = []
    for technique, is_asked, judge in (
        ("prune", bool(report.settings.prune), _prune),
        ("sparsity", report.settings.sparsity is not None, _sparsity),
        ("distill", report.settings.distill, _distill),
        ("new_head", report.new_head is not None, _new_head),
        ("tune", not _shrinks(report) and not report.new_head and not report.settings.distill, _tune),
    ):
        if is_asked:
            helped[technique], sentence = judge(report)
            sentences.append(sentence)
    return msgspec.structs.replace(report, helped=helped, verdict=tuple(sentences))


def points_text(points: float, margin: float) -> str:
    """Gives a difference with its interval and what that means.

    >>> points_text(-1.25, 0.5), points_text(0.1, 0.5)
    ('1.25 points worse (+- 0.50)', 'no measurable difference (+0.10 +- 0.50 points)')
    """
    if abs(points) <= margin:
        return f"no measurable difference ({points:+.2f} +- {margin:.2f} points)"
    return f"{abs(points):.2f} points {'better' if points > 0 else 'worse'} (+- {margin:.2f})"


def _shrinks(report: Report) -> bool:
    return bool(report.settings.prune) or report.settings.sparsity is not None


def _cost(report: Report) -> str:
    """Gives what taking weights away did to top-1, against the fairest baseline there is."""
    control = _control(report, UNCOMPRESSED)
    if control:
        return f"top-1: {_against(control)} against the uncompressed network with the same training"
    if report.difference_points is None or report.margin_points is None:
        return "what it costs in top-1 is not known (the classes changed); --compare measures it"
    text = points_text(report.difference_points, report.margin_points)
    return f"top-1: {text} against the network as it came"


def _prune(report: Report) -> tuple[bool, str]:
    share = report.after.macs / max(report.before.macs, 1)
    if not report.pruned:
        return False, (
            f"Pruning did not help: rounding to {report.settings.round_to} channels left every layer as it was; try "
            "--round-to 8 or a larger --prune."
        )
    figures = f"{share:.0%} of the MACs, {report.speedup_ratio:.2f}x the speed on this CPU; {_cost(report)}"
    if report.speedup_ratio < FASTER:
        return False, f"Pruning did not help on this CPU: {figures}. A GPU may differ: bench it on the target."
    top1 = report.after.top1
    if top1 is not None and top1.low <= report.majority_ratio:
        return (
            False,
            f"Pruning did not help: {figures}. What is left answers no better than by guessing: give more steps.",
        )
    baseline = _control(report, UNCOMPRESSED) or report
    if -(baseline.difference_points or 0.0) - (baseline.margin_points or 0.0) > FAR_WORSE_POINTS:
        return False, f"Pruning did not help: {figures}. Give more --steps, or prune less."
    return True, f"Pruning helped: {figures}."


def _sparsity(report: Report) -> tuple[bool | None, str]:
    if not report.sparse:
        return False, "2:4 sparsity did not help: no layer is fit for it."
    zeros = 1 - report.after.nonzero_parameters / report.after.parameters
    where = report.settings.target or "Orin and Thor"
    pruned_too = "" if report.settings.prune else f" ({report.speedup_ratio:.2f}x)"
    return None, (
        f"2:4 sparsity: {zeros:.0%} of the weights are zero in {len(report.sparse)} layers; {_cost(report)}. This "
        f"makes neither the file smaller nor this CPU faster{pruned_too}; it is of use on {where} (compute capability "
        f"{SPARSE_CAPABILITY} or higher), in layers where TensorRT picks a sparse kernel. That was not measured here: "
        "bench it on the target, and use pruning elsewhere."
    )


def _distill(report: Report) -> tuple[bool | None, str]:
    control = _control(report, UNDISTILLED)
    if control is None:
        return (
            None,
            "Whether distillation helped was not measured: --compare trains the plain control with the same steps.",
        )
    cost = f"at {report.cpu_s / max(control.cpu_s, 1e-9):.1f} times the processor time"
    helped = control.is_clear and control.difference_points > 0
    word = "helped" if helped else "did not help"
    return helped, f"Distillation {word}: {_against(control)} against plain training with the same steps, {cost}."


def _new_head(report: Report) -> tuple[bool, str]:
    top1 = report.after.top1
    assert top1 is not None
    learnt = top1.low > report.majority_ratio
    figures = f"top-1 is {top1.value:.4f}, always answering the most frequent class gives {report.majority_ratio:.4f}"
    advice = "" if learnt else "; give more --steps, or train all layers (without --freeze)"
    return learnt, f"The new head {'learnt its classes' if learnt else 'did not learn its classes'}: {figures}{advice}."


def _tune(report: Report) -> tuple[bool, str]:
    if report.difference_points is None or report.margin_points is None or not report.steps:
        return False, "Nothing was asked for: the network is exported as it came."
    helped = report.difference_points > report.margin_points
    text = points_text(report.difference_points, report.margin_points)
    return helped, f"Fine-tuning {'helped' if helped else 'did not help'}: top-1: {text}."


def _against(control: Control) -> str:
    return points_text(control.difference_points, control.margin_points)


def _control(report: Report, name: str) -> Control | None:
    return next((control for control in report.controls if control.name == name), None)
