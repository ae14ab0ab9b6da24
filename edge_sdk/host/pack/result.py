"""What a build made and measured, with the figures that no two builds share: seconds and memory."""

import resource
from pathlib import Path

import msgspec

from edge_sdk.host.pack import decision
from edge_sdk.host.pack.report import Coverage, CpuForm, Report, Sensitivity
from edge_sdk.records.bundle import CompilerReport, Correction, Pinned, WorthIt
from edge_sdk.wire.bundles import Bundle


class BuildResult(msgspec.Struct, frozen=True, kw_only=True):
    """What a build made and measured; `edge-sdk build --json` prints it.

    Attributes:
        bundle: the folder.
        digest: SHA-256 of its manifest; the same inputs, seed and versions give the same one.
        precision: ``int8``, ``fp16`` or ``float``.
        reason: why it is not plain INT8; empty where it is.
        worth_it: whether INT8 is, and why.
        sensitivity: the layers by what INT8 does to their own outputs, the noisiest first; empty where not measured.
        corrections: changes to the weights that were tried.
        method: of calibration.
        samples: calibration samples behind the ranges; 0 where nothing was calibrated.
        calibration_samples: the same, as it was called at first.
        evaluation_samples: samples behind the figures.
        skipped: unreadable files and why, by data set.
        metric: as `edge_sdk.host.judge.metrics.TITLES` names it, or the user's function.
        float_value: of the float model, 0 to 1.
        int8_value: of the model in the bundle, 0 to 1.
        drop: in points (hundredths).
        drop_low: lower end of its 95 % interval.
        drop_high: upper end of it.
        max_drop: in points.
        passed: the gate's answer.
        agreement: share of samples with the same largest output.
        sqnr_db: of each output.
        pinned: weighted nodes in float, and why.
        int8_compute_ratio: share of multiply-accumulates in INT8.
        compiler: NVIDIA's, and what it said.
        seconds: wall time of each stage.
        peak_rss_bytes: of the largest of this process and its children so far.
        origin: what the model was made from.
        warnings: what makes the figures less sure than they look, a sentence each; report.html has the same.
        notes: what was changed on the way to ONNX, and what was found of the data and not refused.
        coverage: whether more calibration data would help.
        cpu: the INT8 model for ONNX Runtime's integer kernels; None where the bundle is not INT8.
    """

    bundle: str
    digest: str
    precision: str
    reason: str
    worth_it: WorthIt | None
    sensitivity: tuple[Sensitivity, ...]
    corrections: tuple[Correction, ...]
    method: str
    samples: int
    calibration_samples: int
    evaluation_samples: int
    skipped: dict[str, dict[str, str]]
    metric: str
    float_value: float
    int8_value: float
    drop: float
    drop_low: float | None
    drop_high: float | None
    max_drop: float
    passed: bool
    agreement: float
    sqnr_db: dict[str, float]
    pinned: tuple[Pinned, ...]
    int8_compute_ratio: float
    compiler: CompilerReport
    seconds: dict[str, float]
    peak_rss_bytes: int
    origin: str
    warnings: tuple[str, ...]
    notes: tuple[str, ...]
    coverage: Coverage
    cpu: CpuForm | None


def result_from_report(
    figures: Report, bundle: Bundle, *, compiler: CompilerReport, seconds: dict[str, float]
) -> BuildResult:
    """Gives the result of a build whose bundle was written just now."""
    verdict = figures.verdict
    return BuildResult(
        bundle=str(bundle.path),
        digest=bundle.digest,
        precision=figures.precision,
        reason=figures.reason,
        worth_it=figures.worth_it,
        sensitivity=figures.sensitivity,
        corrections=figures.corrections,
        method=figures.method,
        samples=figures.calibration_samples,
        calibration_samples=figures.calibration_samples,
        evaluation_samples=verdict.samples,
        skipped=figures.skipped,
        metric=verdict.metric,
        float_value=verdict.float_score.value,
        int8_value=verdict.int8_score.value,
        drop=verdict.drop,
        drop_low=verdict.drop_low,
        drop_high=verdict.drop_high,
        max_drop=verdict.max_drop,
        passed=verdict.passed,
        agreement=verdict.agreement.value,
        sqnr_db={name: error.sqnr_db for name, error in figures.output_errors.items()},
        pinned=figures.pinned,
        int8_compute_ratio=figures.int8_compute_ratio,
        compiler=compiler,
        seconds=seconds,
        peak_rss_bytes=peak_rss_bytes(),
        origin=figures.origin,
        warnings=decision.cautions(figures),
        notes=figures.conversion + figures.notes,
        coverage=figures.coverage,
        cpu=figures.cpu,
    )


def peak_rss_bytes() -> int:
    """Gives the largest resident memory so far of this process or any child that ended, whichever is larger.

    Linux keeps its own as VmHWM; getrusage, used elsewhere, also counts the parent's from before this program started.
    """
    children = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024
    return max(_own_peak_bytes(), children)


def _own_peak_bytes() -> int:
    status = Path("/proc/self/status")
    if status.is_file():
        for line in status.read_text(encoding="ascii").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
