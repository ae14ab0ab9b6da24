"""report.json: everything the build found that another build with the same inputs would find again.

No dates, seconds, memory or paths: the bundle's digest covers this file, and the same inputs and seed must give the
same digest. Those figures are in `edge-sdk build --json`.
"""

import platform
from collections.abc import Mapping, Sequence
from importlib import metadata

import msgspec

from edge_sdk.numerics.ranges import MagnitudeHistogram
from edge_sdk.records.bundle import Correction, Pinned, Range, Verdict, WorthIt
from edge_sdk.records.tensors import TensorSpec


class OutputFigures(msgspec.Struct, frozen=True):
    """How far one INT8 output is from the float one on the evaluation data, the SQNR with its 95 % interval."""

    sqnr_db: float
    cosine: float
    sqnr_low_db: float
    sqnr_high_db: float


class Layer(msgspec.Struct, frozen=True):
    """One weighted layer: its precision, its share of the multiply-accumulates, and its SQNR in INT8.

    `sqnr_db` is None of a layer that was never in INT8.
    """

    node: str
    precision: str
    share: float
    sqnr_db: float | None


class Sensitivity(msgspec.Struct, frozen=True):
    """One layer in INT8: signal to noise of its own output on calibration samples, against float on the same input."""

    node: str
    sqnr_db: float


class CompilerWords(msgspec.Struct, frozen=True):
    """What NVIDIA's compiler said; `ok` is None when none was at hand."""

    name: str
    version: str
    ok: bool | None
    messages: tuple[str, ...]


class Tensor(msgspec.Struct, frozen=True):
    """One calibrated activation: its range, and counts of |x| in equal bins from 0 to `limit` (zeros apart)."""

    range: Range
    limit: float
    zeros: int
    counts: tuple[int, ...]


class CoveragePoint(msgspec.Struct, frozen=True):
    """The ranges after some of the calibration samples, against those after the last.

    Attributes:
        samples: behind the ranges.
        moved_share: share of the tensors whose threshold is more than 5 % off, 0 to 1.
        largest_change: of any tensor's threshold, as a share of its last one.
        sqnr_db: of the worst output on the held-out samples; None if it was not measured.
    """

    samples: int
    moved_share: float
    largest_change: float
    sqnr_db: float | None


class Coverage(msgspec.Struct, frozen=True):
    """The coverage curve, and what it says: whether more calibration data would help."""

    points: tuple[CoveragePoint, ...]
    sentence: str


class CpuForm(msgspec.Struct, frozen=True):
    """The INT8 model for ONNX Runtime's integer kernels, beside the one for TensorRT.

    Attributes:
        is_packed: it is in the bundle.
        reason: why it is not; empty where it is.
        rule: by which the scales were chosen that only it has.
        sqnr_db: of its worst output on held-out calibration samples.
        int8_sqnr_db: of the INT8 model on the same samples.
        value: of the metric on the evaluation data; None where it was refused before.
        drop: points lost against float.
    """

    is_packed: bool
    reason: str
    rule: str = ""
    sqnr_db: float | None = None
    int8_sqnr_db: float | None = None
    value: float | None = None
    drop: float | None = None


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """report.json.

    Attributes:
        name: of the model.
        version: of the model.
        precision: of the bundle.
        method: of calibration.
        method_sqnr_db: what each method measured on held-out calibration samples; empty if one was asked for by name.
        seed: of the build.
        inputs: of the network.
        outputs: of the network.
        verdict: of the gate.
        output_errors: by output name.
        calibration_samples: how many.
        skipped: unreadable files and why, by data set.
        pinned: weighted nodes in float, with the reason.
        int8_nodes: number of weighted nodes in INT8.
        int8_compute_ratio: share of multiply-accumulates in INT8.
        float_bytes: size of the float model.
        int8_bytes: size of the INT8 model; 0 if there is none.
        compiler: NVIDIA's.
        tensors: by name, in graph order.
        environment: versions of what took part.
        origin: what the model was made from.
        conversion: what was changed and measured on the way to ONNX, a sentence each.
        notes: what was found of the data and not refused, a sentence each.
        allowed: what the user let pass (``--allow``).
        swapped: tensors whose range is by another method than the others', with that method.
        coverage: whether more calibration data would help.
        reason: why the bundle is not plain INT8; empty where it is.
        refused: the verdict on plain INT8, where something else is in the bundle.
        sensitivity: the layers, the noisiest first; empty where none was measured.
        corrections: changes to the weights that were tried on held-out samples.
        layers: every weighted layer in graph order.
        worth_it: whether INT8 is worth it.
        cpu: the form for ONNX Runtime on a CPU; None where the bundle is not INT8.
        half_bytes: size of the FP16 model; 0 if there is none.
    """

    name: str
    version: str
    precision: str
    method: str
    method_sqnr_db: dict[str, float]
    seed: int
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    verdict: Verdict
    output_errors: dict[str, OutputFigures]
    calibration_samples: int
    skipped: dict[str, dict[str, str]]
    pinned: tuple[Pinned, ...]
    int8_nodes: int
    int8_compute_ratio: float
    float_bytes: int
    int8_bytes: int
    compiler: CompilerWords
    tensors: dict[str, Tensor]
    environment: dict[str, str]
    origin: str = ""
    conversion: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    allowed: tuple[str, ...] = ()
    swapped: dict[str, str] = {}
    coverage: Coverage = Coverage((), "")
    reason: str = ""
    refused: Verdict | None = None
    sensitivity: tuple[Sensitivity, ...] = ()
    corrections: tuple[Correction, ...] = ()
    layers: tuple[Layer, ...] = ()
    worth_it: WorthIt | None = None
    cpu: CpuForm | None = None
    half_bytes: int = 0


def report_bytes(report: Report) -> bytes:
    """Gives report.json, indented for people; equal reports give equal bytes."""
    return msgspec.json.format(msgspec.json.encode(report), indent=2) + b"\n"


def tensors_from_ranges(ranges: Mapping[str, Range], histograms: Mapping[str, MagnitudeHistogram]) -> dict[str, Tensor]:
    """Gives what the report says of each calibrated tensor."""
    return {
        name: Tensor(
            found,
            2.0 ** histograms[name].exponent,
            histograms[name].zeros,
            coarse_counts(histograms[name].counts.tolist()),
        )
        for name, found in ranges.items()
    }


def environment(sdk: str) -> dict[str, str]:
    """Gives the versions that a bundle's bytes depend on."""
    packages = {package: metadata.version(package) for package in ("onnx", "onnxruntime", "numpy")}
    return {"edge_sdk": sdk, **packages, "python": platform.python_version(), "machine": platform.machine()}


def coarse_counts(counts: Sequence[int], bins: int = 64) -> tuple[int, ...]:
    """Gives the counts in `bins` wider bins, enough for a picture.

    >>> coarse_counts([1, 2, 3, 4], 2)
    (3, 7)
    """
    group = max(1, len(counts) // bins)
    return tuple(sum(counts[start : start + group]) for start in range(0, len(counts), group))
