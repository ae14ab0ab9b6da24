"""Knows the order of the stages from a model file to a gated bundle; nobody else does.

convert -> read -> scan -> fold -> calibrate -> choose -> place -> compile -> gate -> pack. Everything that can be wrong
with the model is found in the first two, with the evaluation data in the third, and nothing is on disk before the last
but the state of an interrupted calibration.
"""

import functools
import os
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path

from edge_sdk import clock, errors
from edge_sdk.engines import apart
from edge_sdk.engines.nvidia import ShapeRange
from edge_sdk.engines.protocol import Tensors
from edge_sdk.host import checking, correcting, cpu_form, figures, gating, profiles, quantizing, ranging, rescue
from edge_sdk.host.calibrate import choose, inspect, rangefile, samples
from edge_sdk.host.calibrate import data as datasets
from edge_sdk.host.convert import onnx_shapes, source
from edge_sdk.host.convert.limits import Limits
from edge_sdk.host.graph import clean, macs, placement
from edge_sdk.host.graph import model as models
from edge_sdk.host.job import Check, Graph, Job, Opened, Progress, Ranged, Scan, Stages
from edge_sdk.host.judge import gate, metrics, pairs, targets, worth
from edge_sdk.host.pack import bundle as packing
from edge_sdk.host.pack import result
from edge_sdk.host.pack.result import BuildResult
from edge_sdk.records.bundle import Preprocess
from edge_sdk.wire import bundles

PRECISIONS = ("auto", "int8", "fp16", "float")

MIN_SAMPLES = 32
"""Fewer calibration samples than this have not shown a network's usual range yet."""

_PROBE_SAMPLES = 2


def build_bundle(
    model: object,
    output: str | Path,
    *,
    calibration: datasets.DataSpec,
    evaluation: datasets.DataSpec,
    max_drop: float | None = None,
    metric: str = metrics.AUTO,
    train: datasets.DataSpec | None = None,
    target: str | None = None,
    bench: str | Path | None = None,
    method: str = choose.AUTO,
    precision: str = "auto",
    preprocess: Mapping[str, Preprocess] | None = None,
    classes: tuple[str, ...] = (),
    name: str | None = None,
    version: str = "1",
    counter: int = 0,
    seed: int = 0,
    min_samples: int = MIN_SAMPLES,
    allow: Iterable[str] = (),
    ranges: Iterable[str | Path] = (),
    save_ranges: str | Path | None = None,
    resume: bool = False,
    examples: source.Examples | None = None,
    keep_layout: bool = False,
    shapes: Mapping[str, ShapeRange] | None = None,
    force: bool = False,
    check: Check | None = None,
    limits: Limits | None = None,
    progress: Progress | None = None,
    ticks: clock.Clock | None = None,
) -> BuildResult:
    """Builds a bundle from a model of any framework: INT8 by TensorRT's rules, gated on measured accuracy.

    Args:
        model: path of an ONNX file (opset 7 and up), ``.pt2``, ``.keras``, ``.h5``, ``.tflite`` or SavedModel folder;
            ``module:function`` or ``file.py:function`` that gives a torch module and example inputs; or the torch or
            Keras model itself.
        output: the bundle folder to write; its parent exists.
        calibration: what the ranges are taken from; see `datasets.DataSpec`. Labels are not used.
        evaluation: what both models are judged on; must not share samples with `calibration`.
        max_drop: points of the metric that INT8 may lose; None is the metric's own budget, `metrics.BUDGETS`.
        train: what the model was trained on, with labels: tells over- and underfitting.
        target: the module that it is meant for, a key of `targets.TARGETS`: for the verdict on INT8.
        bench: JSON file with what was measured on a device; see `worth.Bench`.
        metric: a key of `metrics.TITLES`, some as ``name@threshold``, ``module:function``, or ``auto``.
        method: ``max``, ``percentile``, ``mse``, ``entropy``, or ``auto`` for the one with the least measured error.
        precision: ``int8``, ``fp16``, ``float``, or ``auto``: INT8 where it keeps the budget, if need be with the
            noisiest layers in float, else FP16 where that does, else float.
        preprocess: by input name, how raw values become what the network takes; none means they go in as they are.
        classes: names of the classes in the model's order.
        name: of the model in the bundle; by default from the file's name.
        version: of the model.
        counter: a device never goes back to a lower one by itself.
        seed: picks the golden samples.
        min_samples: fewer calibration samples are refused.
        allow: keys of `inspect.ALLOWANCES`: oddities of the data that are meant.
        ranges: range files of this model; calibration samples that they know are not run again.
        save_ranges: where to write a range file.
        resume: go on from where an interrupted build of `output` was.
        examples: example inputs, for a torch module that comes without.
        keep_layout: leave image inputs of TensorFlow as ``[N, H, W, C]``.
        shapes: smallest, usual and largest shape of inputs with free axes beyond the batch, for NVIDIA's compiler. None
            takes them from the evaluation data; else every such input needs its own.
        force: replace a bundle at `output`.
        check: NVIDIA's compiler; by default the one installed here, if any.
        limits: what opening the model may cost, and from which size on its weights lie beside it.
        progress: called as (stage, done, total).
        ticks: clock for the seconds.

    Raises:
        GateError: ``precision`` is ``int8`` or ``fp16``, and that lost more than `max_drop`; nothing was written.
        UsageError: the model, the data or an argument can't be used; nothing was written.
        EngineError: NVIDIA's compiler refused the graph; nothing was written.
    """
    job = Job(
        source=model,
        keep_layout=keep_layout,
        target=Path(output),
        calibration=calibration,
        evaluation=evaluation,
        train=train,
        board=target,
        bench=None if bench is None else worth.read_bench(Path(bench)),
        max_drop=max_drop,
        metric=metric,
        method=method,
        precision=precision,
        preprocess=dict(preprocess or {}),
        classes=tuple(classes),
        name=_name_from_source(model) if name is None else name,
        version=version,
        counter=counter,
        seed=seed,
        min_samples=min_samples,
        allowed=frozenset(allow),
        ranges=tuple(map(Path, ranges)),
        save_ranges=None if save_ranges is None else Path(save_ranges),
        is_resumed=resume,
        force=force,
        check=check or apart.check_model,
        shapes=shapes,
        stages=Stages(ticks or clock.SystemClock(), progress),
        limits=limits or Limits(),
    )
    _check_job(job)
    with rangefile.work_folder(job.target):
        with tempfile.TemporaryDirectory(prefix="edge-sdk-") as folder:
            data = _opened(job, examples, Path(folder))
            scan = _scanned(job, data)
            job = job if check else _with_check(job, data, scan, progress)
            graph = _folded(job, data, scan)
        data = data._replace(model=graph.model)  # frees the weights as they were read
        return _built(job, data, scan, graph)


def _with_check(job: Job, data: Opened, scan: Scan, progress: Progress | None) -> Job:
    """Asks the compiler that is installed here, about the shapes that the user gave or the data has."""
    told = profiles.ranges_from_data(data.model.inputs, scan.shapes) if job.shapes is None else {}
    check = functools.partial(apart.check_model, shapes=job.shapes or told, progress=progress)
    return job._replace(check=check, shapes_of_data=told)


def _built(job: Job, data: Opened, scan: Scan, graph: Graph) -> BuildResult:
    remarks = checking.preparation_notes(job, data, graph)
    reason = _reason_against_int8(job, graph)
    with checking.naming_node(graph.model, data.calibration, is_inside=True):
        ranged = None if reason else ranging.ranged(job, data, scan, graph)
    if ranged is not None:
        fixed = correcting.corrected(job, data, graph, ranged.choice, ranged.collected)
        int8 = quantizing.int8_from_choice(
            job,
            fixed.base,
            placed=fixed.placed,
            choice=fixed.choice,
            collected=fixed.collected,
            shifts=fixed.shifts,
            corrections=fixed.tried,
        )
        gatekeeper = gating.Gate(job, data, scan, graph)  # not before: its session holds the weights once more
        with checking.naming_node(graph.model, data.evaluation):
            judged = cpu_form.with_cpu_form(gatekeeper, rescue.judged(gatekeeper, int8, noise=fixed.noise))
    else:
        gatekeeper = gating.Gate(job, data, scan, graph)
        with checking.naming_node(graph.model, data.evaluation):
            judged = rescue.judged(gatekeeper, None, reason=reason)
    remarks += checking.fit_notes(gatekeeper, scan, judged.judgement)
    remarks += profiles.notes(job.shapes_of_data) if judged.compiler.ok else ()
    del gatekeeper  # its session holds the weights once more
    bundle, found = figures.packed(job, data, graph, judged, _background(data, scan, ranged, remarks))
    return result.result_from_report(found, bundle, compiler=judged.compiler, seconds=job.stages.seconds)


def _check_job(job: Job) -> None:
    """Refuses what can be refused without reading anything."""
    if job.precision not in PRECISIONS:
        raise errors.UsageError(f"no precision {job.precision!r}; known: {', '.join(PRECISIONS)}")
    if job.max_drop is not None and not job.max_drop >= 0:
        raise errors.UsageError(f"max_drop is {job.max_drop}; expected 0 or more, in points of the metric")
    metrics.check_metric(job.metric)
    if job.board is not None:
        targets.find_target(job.board)
    choose.check_method(job.method)
    inspect.check_allowed(job.allowed)
    packing.check_names(job.name, job.version)
    packing.check_counter(job.counter)
    bundles.check_target(job.target, replace=job.force)


def _name_from_source(model: object) -> str:
    """Gives a name for the bundle: of the file, or of the function in ``file.py:function``."""
    if not isinstance(model, str | os.PathLike):
        return "model"
    path = os.fspath(model)
    return packing.name_from_file(Path(path if Path(path).exists() else path.rpartition(":")[2]))


def _opened(job: Job, examples: source.Examples | None, folder: Path) -> Opened:
    with job.stages("convert"):
        converted = source.onnx_from_source(
            job.source, inputs=examples, workdir=folder, limits=job.limits, keep_layout=job.keep_layout
        )
    place = f"{Path(str(job.source)).absolute().parent}{os.sep}"  # the bundle is the same wherever it is made
    return _opened_as_onnx(job, converted._replace(origin=converted.origin.replace(place, "")))


def _opened_as_onnx(job: Job, converted: source.ConvertedModel) -> Opened:
    with job.stages("read"):
        model = models.read_model(converted.path, inline_bytes=job.limits.inline_bytes)
        profiles.check_shapes(model.inputs, job.shapes)
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
        train = None if job.train is None else opened(job.train, classes=samples.Classes(count, job.classes))
        checking.check_train(train, evaluation)
    return Opened(converted, model, calibration, evaluation, train)


def _scanned(job: Job, data: Opened) -> Scan:
    """Reads the evaluation data once, so that its faults are found before the long work."""
    digests: list[str] = []
    probe: Tensors = {}
    shapes: dict[str, ShapeRange] = {}
    inspector = inspect.Inspector(data.evaluation.name, data.model.inputs, allowed=job.allowed)
    on_samples = job.stages.counter("scan", data.evaluation.expected)
    with job.stages("scan"):
        for batch in data.evaluation.batches():
            digests.extend(batch.digests)
            inspector.look(batch)
            probe = probe or {name: values[:_PROBE_SAMPLES].copy() for name, values in batch.feeds.items()}
            shapes = profiles.widened(shapes, batch.feeds)
            on_samples(len(digests))
        seen = inspector.finish()
    return Scan(tuple(digests), probe, seen.fingerprints, seen.notes, shapes)


def _folded(job: Job, data: Opened, scan: Scan) -> Graph:
    with job.stages("fold"):
        is_folded = data.converted.is_cleaned
        try:
            with checking.naming_node(data.model, data.evaluation):
                model = clean.cleaned(data.model, scan.probe, is_folded=is_folded)
                costs = macs.costs_by_node(model, scan.probe, data.converted.path if is_folded else None)
        except errors.EngineError:
            onnx_shapes.check_not_empty(data.model.proto, {name: values.shape for name, values in scan.probe.items()})
            raise
        return Graph(model, placement.placement_from_model(model), costs)


def _reason_against_int8(job: Job, graph: Graph) -> str:
    """Gives why INT8 is not even tried; empty where it is."""
    if job.precision not in ("auto", "int8"):
        return worth.asked_text(job.precision)
    if not graph.placed.weights:
        reasons = "; ".join(f"{entry.node}: {entry.reason}" for entry in graph.placed.pinned[:3])
        if job.precision == "int8":
            raise errors.ModelError(f"no layer of the model can run in INT8 ({reasons}); build with --precision float")
        return f"no layer can run in INT8 ({reasons})"
    module = targets.find_target(job.board).module if job.board else None
    if job.precision == "auto" and module is not None and not module.has_int8:
        return f"TensorRT has no INT8 for {module.name} ({module.source})"
    return ""


def _background(data: Opened, scan: Scan, ranged: Ranged | None, remarks: tuple[str, ...]) -> figures.Background:
    return figures.Background(
        origin=data.converted.origin,
        conversion=data.converted.notes,
        notes=(*remarks, *(ranged.notes if ranged else ()), *scan.notes),
        points=ranged.points if ranged else (),
    )
