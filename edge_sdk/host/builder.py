"""Knows the order of the stages from a model file to a gated bundle; nobody else does.

read -> scan -> fold -> calibrate -> place -> compile -> gate -> pack. Everything that can be wrong with the input is
found in the first two, and nothing is on disk before the last.
"""

import functools
from collections.abc import Mapping
from pathlib import Path

from edge_sdk import clock, errors
from edge_sdk.engines import compilers, ort
from edge_sdk.engines.protocol import Tensors
from edge_sdk.host import figures, gating, quantizing, rescue
from edge_sdk.host.calibrate import choose, collect, samples
from edge_sdk.host.calibrate import data as datasets
from edge_sdk.host.graph import clean, macs, placement, qdq
from edge_sdk.host.graph import model as models
from edge_sdk.host.job import Check, Graph, Int8, Job, Opened, Progress, Scan, Stages
from edge_sdk.host.judge import gate, metrics, pairs
from edge_sdk.host.pack import bundle as packing
from edge_sdk.host.pack import result
from edge_sdk.host.pack.result import BuildResult
from edge_sdk.records.bundle import Preprocess, Range
from edge_sdk.wire import bundles

PRECISIONS = ("auto", "int8", "fp16", "float")

MIN_SAMPLES = 32
"""Fewer calibration samples than this have not shown a network's usual range yet."""

_PROBE_SAMPLES = 2


def build_bundle(
    model: str | Path,
    output: str | Path,
    *,
    calibration: datasets.DataSpec,
    evaluation: datasets.DataSpec,
    max_drop: float = 0.5,
    metric: str = metrics.AUTO,
    method: str = choose.AUTO,
    precision: str = "auto",
    preprocess: Mapping[str, Preprocess] | None = None,
    classes: tuple[str, ...] = (),
    name: str | None = None,
    version: str = "1",
    counter: int = 0,
    seed: int = 0,
    min_samples: int = MIN_SAMPLES,
    force: bool = False,
    check: Check | None = None,
    progress: Progress | None = None,
    ticks: clock.Clock | None = None,
) -> BuildResult:
    """Builds a bundle from an ONNX model: INT8 by TensorRT's rules, gated on measured accuracy.

    Args:
        model: ONNX file, opset 13 or higher.
        output: the bundle folder to write; its parent exists.
        calibration: what the ranges are taken from; see `datasets.DataSpec`. Labels are not used.
        evaluation: what both models are judged on; must not share samples with `calibration`.
        max_drop: points of the metric that INT8 may lose.
        metric: a key of `metrics.TITLES`, some as ``name@threshold``, ``module:function``, or ``auto``.
        method: ``max``, ``percentile``, ``mse``, ``entropy``, or ``auto`` for the one with the least measured error.
        precision: ``int8``, ``fp16`` (the float model, which TensorRT compiles in FP16), ``float``, or ``auto``: INT8
            where it keeps the budget, if need be with the most sensitive layers in float, else FP16.
        preprocess: by input name, how raw values become what the network takes; none means they go in as they are.
        classes: names of the classes in the model's order.
        name: of the model in the bundle; by default from the file's name.
        version: of the model.
        counter: a device never goes back to a lower one by itself.
        seed: picks the golden samples.
        min_samples: fewer calibration samples are refused.
        force: replace a bundle at `output`.
        check: NVIDIA's compiler; by default the one installed here, if any.
        progress: called as (stage, done, total).
        ticks: clock for the seconds.

    Raises:
        GateError: ``precision`` is ``int8``, and INT8 lost more than `max_drop`; nothing was written.
        UsageError: the model, the data or an argument can't be used; nothing was written.
        EngineError: NVIDIA's compiler refused the INT8 graph; nothing was written.
    """
    job = Job(
        model=Path(model),
        target=Path(output),
        calibration=calibration,
        evaluation=evaluation,
        max_drop=max_drop,
        metric=metric,
        method=method,
        precision=precision,
        preprocess=dict(preprocess or {}),
        classes=tuple(classes),
        name=packing.name_from_file(Path(model)) if name is None else name,
        version=version,
        counter=counter,
        seed=seed,
        min_samples=min_samples,
        force=force,
        check=check or functools.partial(compilers.check_model, progress=progress),
        stages=Stages(ticks or clock.SystemClock(), progress),
    )
    _check_job(job)
    data = _opened(job)
    scan = _scanned(job, data)
    graph = _folded(job, data, scan)
    gatekeeper = gating.Gate(job, data, scan, graph)
    if _is_int8_wanted(job, graph):
        judged = rescue.judged(gatekeeper, _quantized(job, data, scan, graph))
    else:
        judged = rescue.judged(gatekeeper, None)
    bundle, found = figures.packed(job, data, graph, judged)
    compiler = judged.int8.compiler if judged.int8 else compilers.ABSENT.report
    return result.result_from_report(found, bundle, compiler=compiler, seconds=job.stages.seconds)


def _check_job(job: Job) -> None:
    """Refuses what can be refused without reading anything."""
    if job.precision not in PRECISIONS:
        raise errors.UsageError(f"no precision {job.precision!r}; known: {', '.join(PRECISIONS)}")
    if not job.max_drop >= 0:
        raise errors.UsageError(f"max_drop is {job.max_drop}; expected 0 or more, in points of the metric")
    metrics.check_metric(job.metric)
    choose.check_method(job.method)
    packing.check_names(job.name, job.version)
    bundles.check_target(job.target, replace=job.force)


def _opened(job: Job) -> Opened:
    with job.stages("read"):
        model = models.read_model(job.model)
        samples.check_preprocess(job.preprocess, model.inputs)
        count = pairs.class_count(model.outputs)
        if job.classes and len(job.classes) != count:
            raise errors.UsageError(f"{len(job.classes)} class names were given, the model gives {count} classes")
        opened = functools.partial(datasets.open_data, inputs=model.inputs, preprocess=job.preprocess)
        calibration = opened(job.calibration, classes=samples.Classes(is_used=False))
        evaluation = opened(job.evaluation, classes=samples.Classes(count, job.classes))
        if not metrics.takes_labels(job.metric, model.outputs):
            gate.check_labels(model.outputs, is_labelled=evaluation.is_labelled)
        metrics.chosen(job.metric, model.outputs, is_labelled=evaluation.is_labelled)
    return Opened(model, calibration, evaluation)


def _scanned(job: Job, data: Opened) -> Scan:
    """Reads the evaluation data once, so that its faults are found before the long work."""
    digests: list[str] = []
    probe: Tensors = {}
    on_samples = job.stages.counter("scan", data.evaluation.expected)
    with job.stages("scan"):
        for batch in data.evaluation.batches():
            digests.extend(batch.digests)
            probe = probe or {name: values[:_PROBE_SAMPLES].copy() for name, values in batch.feeds.items()}
            on_samples(len(digests))
    return Scan(tuple(digests), probe)


def _folded(job: Job, data: Opened, scan: Scan) -> Graph:
    with job.stages("fold"):
        model = clean.cleaned(data.model, scan.probe)
        return Graph(model, placement.placement_from_model(model), macs.macs_by_node(model, scan.probe))


def _is_int8_wanted(job: Job, graph: Graph) -> bool:
    if job.precision == "int8" and not graph.placed.weights:
        reasons = "; ".join(f"{entry.node}: {entry.reason}" for entry in graph.placed.pinned[:3])
        raise errors.ModelError(f"no layer of {job.model} can run in INT8 ({reasons}); build with --precision float")
    return job.precision in ("auto", "int8") and bool(graph.placed.weights)


def _quantized(job: Job, data: Opened, scan: Scan, graph: Graph) -> Int8:
    collected = _collected(job, data, scan, graph)
    with job.stages("choose"):
        run_float = ort.runner_from_model(graph.model.to_bytes())
        references = [(feeds, run_float(feeds)) for feeds in collected.held_feeds]

        def sqnr_of(ranges: Mapping[str, Range]) -> float:
            content = quantizing.variant_bytes(graph.model, graph.placed, ranges)
            return gate.worst_sqnr_db(ort.runner_from_model(content), references, graph.model.outputs)

        choice = choose.chosen(collected, job.method, sqnr_of)
    return quantizing.int8_from_choice(job, graph.model, graph.placed, choice, collected)


def _collected(job: Job, data: Opened, scan: Scan, graph: Graph) -> collect.Collected:
    tensors = graph.placed.tensors
    inputs = {spec.name for spec in graph.model.inputs}
    wanted = [name for name in tensors if name not in inputs]
    with job.stages("calibrate"):
        collected = collect.collected(
            ort.runner_from_model(qdq.with_outputs(graph.model, wanted), wanted) if wanted else lambda _feeds: {},
            tensors,
            data.calibration.batches(),
            hold_out=job.method == choose.AUTO,
            evaluated={digest: index for index, digest in enumerate(scan.digests)},
            on_samples=job.stages.counter("calibrate", data.calibration.expected),
        )
    if len(collected.digests) < job.min_samples:
        raise errors.DataError(
            f"{data.calibration.name} gave {len(collected.digests)} samples; at least {job.min_samples} are needed to "
            "see a network's usual range: give more, or allow fewer with --min-samples"
        )
    return collected
