"""A bundle on data, and one bundle against another: the build's own metrics, on whatever the user brings."""

from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
from numpy.typing import NDArray

from edge_sdk import errors
from edge_sdk.engines import bundled, ort, registry
from edge_sdk.engines.engine import Engine
from edge_sdk.engines.protocol import Tensors
from edge_sdk.host.calibrate import data as datasets
from edge_sdk.host.calibrate import samples
from edge_sdk.host.job import Progress
from edge_sdk.host.judge import gate, metrics, pairs
from edge_sdk.records.bundle import Manifest, Score
from edge_sdk.wire import bundles


class OutputFigures(msgspec.Struct, frozen=True):
    """How far one output is from the reference; the SQNR with its 95 % interval."""

    sqnr_db: float
    cosine: float
    sqnr_low_db: float
    sqnr_high_db: float


class Evaluation(msgspec.Struct, frozen=True, kw_only=True):
    """One model against a reference on the same samples.

    Attributes:
        reference: what the figures are relative to: a bundle, or the float model inside of `bundle`.
        bundle: the folder that was judged.
        digest: of it.
        precision: of it.
        metric: as `metrics.TITLES` names it, or the user's function.
        samples: how many.
        reference_score: of the reference.
        score: of the bundle.
        drop: points lost against the reference.
        drop_low: lower end of its 95 % interval.
        drop_high: upper end of it.
        max_drop: points that may be lost; None where nothing was asked.
        passed: whether no more was lost; None where nothing was asked.
        agreement: share of samples with the same largest output, for a classifier; else the score.
        outputs: error of each output.
        skipped: unreadable files and why.
    """

    reference: str
    bundle: str
    digest: str
    precision: str
    metric: str
    samples: int
    reference_score: Score
    score: Score
    drop: float
    drop_low: float | None
    drop_high: float | None
    max_drop: float | None
    passed: bool | None
    agreement: Score
    outputs: dict[str, OutputFigures]
    skipped: dict[str, str]


def evaluated(
    path: Path,
    data: datasets.DataSpec,
    *,
    metric: str = metrics.AUTO,
    backend: str = "onnxruntime",
    progress: Progress | None = None,
) -> Evaluation:
    """Gives what a bundle is worth on `data`, against the float model inside of it.

    Args:
        path: the bundle.
        data: raw samples, as for the build.
        metric: as for the build.
        backend: what runs the bundle; the float model runs in ONNX Runtime.
        progress: called as (stage, done, total).

    Raises:
        BundleError: the bundle does not hold.
        DataError: the data does not fit it.
        EngineError: an engine failed.
    """
    checked = bundles.read_bundle(path)
    opened = _opened(checked.manifest, data, metric)
    run_float = ort.runner_from_model(str(checked.file(bundles.FLOAT_MODEL)))
    with _as_judged(checked, backend) as engine:
        sides = _Sides(f"the float model of {path}", run_float, checked, engine.infer, is_raw=False)
        return _judged(sides, opened, metric, is_asked=False, max_drop=None, progress=progress)


def compared(
    first: Path,
    second: Path,
    data: datasets.DataSpec,
    *,
    metric: str = metrics.AUTO,
    max_drop: float | None = None,
    backend: str = "onnxruntime",
    progress: Progress | None = None,
) -> Evaluation:
    """Gives what `second` is worth against `first` on the same raw samples, each with its own preprocessing.

    `max_drop` None is the metric's own budget, `metrics.BUDGETS`.

    Raises:
        UsageError: the bundles do not take and give the same.
        BundleError: a bundle does not hold.
        DataError: the data does not fit.
        EngineError: an engine failed.
    """
    one, other = (bundles.read_bundle(path) for path in (first, second))
    _check_alike(one, other)
    opened = _opened(one.manifest, data, metric)
    with ExitStack() as stack:
        engines = [stack.enter_context(_as_judged(bundle, backend)) for bundle in (one, other)]

        def run_other(raw: Mapping[str, NDArray[Any]]) -> Tensors:
            manifest = other.manifest
            return engines[1].infer(samples.prepared_feeds(raw, manifest.inputs, manifest.preprocess))

        def run_one(raw: Mapping[str, NDArray[Any]]) -> Tensors:
            manifest = one.manifest
            return engines[0].infer(samples.prepared_feeds(raw, manifest.inputs, manifest.preprocess))

        sides = _Sides(str(first), run_one, other, run_other, is_raw=True)
        return _judged(sides, opened, metric, is_asked=True, max_drop=max_drop, progress=progress)


def _as_judged(checked: bundles.Bundle, backend: str) -> Engine:
    """Gives an Engine of the very model that the gate judged, not of the form that is fastest here.

    On a CPU it computes INT8 as the gate did, and as TensorRT does: Q/DQ as written.
    """
    if checked.manifest.precision == "int8" and registry.can_choose(backend):
        model, outputs = checked.file(bundles.INT8_MODEL), checked.manifest.outputs
        return registry.open_backend(backend, model, outputs=outputs, options={"simulated": 1})
    return bundled.engine_from_bundle(checked, backend=backend, variant=checked.manifest.precision)


def _opened(manifest: Manifest, data: datasets.DataSpec, metric: str) -> samples.Data:
    metrics.check_metric(metric)
    count = pairs.class_count(manifest.outputs)
    opened = datasets.open_data(
        data,
        manifest.inputs,
        preprocess=manifest.preprocess,
        classes=samples.Classes(None if ":" in metric else count, manifest.classes),
    )
    if not metrics.takes_labels(metric, manifest.outputs):
        gate.check_labels(manifest.outputs, is_labelled=opened.is_labelled)
    return opened


class _Sides(NamedTuple):
    """What is compared: both are run on raw samples, or both on prepared ones."""

    reference: str
    run_reference: gate.Run
    checked: bundles.Bundle
    run: gate.Run
    is_raw: bool


def _judged(
    sides: _Sides,
    opened: samples.Data,
    metric: str,
    *,
    is_asked: bool,
    max_drop: float | None,
    progress: Progress | None,
) -> Evaluation:
    """Gives the evaluation; where `is_asked` whether a budget holds, None is the metric's own."""
    checked = sides.checked
    batches = opened.batches()
    first = next(batches)
    probe = sides.run_reference(first.raw if sides.is_raw else first.feeds)
    scored = metrics.chosen(metric, checked.manifest.outputs, is_labelled=opened.is_labelled, probe=probe)
    judgement = gate.judged(
        sides.run_reference,
        sides.run,
        _evaluated(first, batches, is_raw=sides.is_raw),
        outputs=checked.manifest.outputs,
        metric=scored,
        max_drop=scored.budget if max_drop is None else max_drop,
        on_samples=lambda done: progress("evaluate", done, opened.expected or done + 1) if progress else None,
    )
    verdict = judgement.verdict
    return Evaluation(
        reference=sides.reference,
        bundle=str(checked.path),
        digest=checked.digest,
        precision=checked.manifest.precision,
        metric=verdict.metric,
        samples=verdict.samples,
        reference_score=verdict.float_score,
        score=verdict.int8_score,
        drop=verdict.drop,
        drop_low=verdict.drop_low,
        drop_high=verdict.drop_high,
        max_drop=verdict.max_drop if is_asked else None,
        passed=verdict.passed if is_asked else None,
        agreement=verdict.agreement,
        outputs={name: OutputFigures(*error) for name, error in judgement.outputs.items()},
        skipped=dict(opened.skipped),
    )


def _evaluated(first: samples.Batch, rest: Iterator[samples.Batch], *, is_raw: bool) -> Iterator[gate.Evaluated]:
    yield (first.raw if is_raw else first.feeds), first.labels
    for batch in rest:
        yield (batch.raw if is_raw else batch.feeds), batch.labels


def _check_alike(one: bundles.Bundle, other: bundles.Bundle) -> None:
    for what in ("inputs", "outputs"):
        mine, theirs = ({spec.name: str(spec) for spec in getattr(b.manifest, what)} for b in (one, other))
        if mine != theirs:
            raise errors.UsageError(
                f"{one.path} and {other.path} can't be compared: their {what} are {mine} and {theirs}; give two "
                "bundles of the same network"
            )
