"""Everything a build found out, as the report and the files of a bundle."""

from typing import NamedTuple

from edge_sdk import __version__
from edge_sdk.engines import model_file
from edge_sdk.host.calibrate import coverage
from edge_sdk.host.graph import macs
from edge_sdk.host.job import Graph, Int8, Job, Judged, Opened
from edge_sdk.host.judge import targets, worth
from edge_sdk.host.pack import bundle as packing
from edge_sdk.host.pack import report
from edge_sdk.records.bundle import Calibration, Range, WorthIt
from edge_sdk.wire import bundles

NO_RANGES = "none"


class Background(NamedTuple):
    """What the report says of the model's and the data's past.

    Attributes:
        origin: what the model was made from.
        conversion: what was changed and measured on the way to ONNX, a sentence each.
        notes: what was found of the data and not refused, a sentence each.
        points: of the coverage curve.
    """

    origin: str
    conversion: tuple[str, ...]
    notes: tuple[str, ...]
    points: tuple[coverage.Point, ...]


def packed(
    job: Job, data: Opened, graph: Graph, judged: Judged, background: Background
) -> tuple[bundles.Bundle, report.Report]:
    """Writes the bundle and gives it with its report; see `pack.bundle.packed` for what it raises."""
    with job.stages("pack"):
        float_model = graph.model.content()
        figures = _report(job, data, graph, judged, background, float_bytes=model_file.size_bytes(float_model))
        int8 = judged.int8
        calibration = Calibration(
            method=figures.method,
            count=figures.calibration_samples,
            skipped=dict(data.calibration.skipped),
            samples=int8.collected.digests if int8 else (),
            preprocess=packing.preprocess_digest(job.preprocess),
            ranges=_ranges(int8) if int8 else {},
        )
        artefacts = packing.Artefacts(
            float_model=float_model,
            int8_model=int8.content if int8 else None,
            half_model=judged.half.content if judged.half else None,
            cpu_model=judged.cpu.content if judged.cpu else None,
            calibration=calibration,
            golden=judged.golden,
            report=figures,
            preprocess=job.preprocess,
            classes=job.classes or data.evaluation.classes,
            counter=job.counter,
            sdk=__version__,
        )
        return packing.packed(job.target, artefacts, replace=job.force), figures


def _report(
    job: Job, data: Opened, graph: Graph, judged: Judged, background: Background, *, float_bytes: int
) -> report.Report:
    int8 = judged.int8
    words = judged.compiler
    placed = int8.placed if int8 else graph.placed
    int8_nodes = placed.nodes if int8 else frozenset()
    return report.Report(
        name=job.name,
        version=job.version,
        precision=judged.precision,
        method=int8.choice.method if int8 else NO_RANGES,
        method_sqnr_db=int8.choice.sqnr_db if int8 else {},
        seed=job.seed,
        inputs=graph.model.inputs,
        outputs=graph.model.outputs,
        verdict=judged.judgement.verdict,
        output_errors={name: report.OutputFigures(*error) for name, error in judged.judgement.outputs.items()},
        calibration_samples=len(int8.collected.digests) if int8 else 0,
        skipped={"calibration": dict(data.calibration.skipped), "evaluation": dict(data.evaluation.skipped)},
        pinned=placed.pinned,
        int8_nodes=len(int8_nodes),
        int8_compute_ratio=macs.int8_compute_ratio(graph.costs.total, int8_nodes),
        float_bytes=float_bytes,
        int8_bytes=len(int8.content) if int8 else 0,
        half_bytes=len(judged.half.content) if judged.half else 0,
        compiler=report.CompilerWords(words.name, words.version, words.ok, words.messages),
        tensors=report.tensors_from_ranges(_ranges(int8), int8.collected.histograms()) if int8 else {},
        environment=report.environment(__version__),
        origin=background.origin,
        conversion=background.conversion,
        notes=background.notes,
        allowed=tuple(sorted(job.allowed)),
        swapped=int8.choice.swapped if int8 else {},
        coverage=report.Coverage(
            tuple(report.CoveragePoint(*point) for point in background.points),
            coverage.sentence(background.points) if background.points else "",
        ),
        reason=judged.reason,
        refused=judged.refused.verdict if judged.refused else None,
        sensitivity=tuple(report.Sensitivity(one.node, one.sqnr_db) for one in judged.ranking),
        corrections=int8.corrections if int8 else (),
        layers=_layers(graph, int8, judged),
        worth_it=_worth_it(job, graph, judged),
        cpu=judged.cpu.figures if judged.cpu else None,
    )


def _layers(graph: Graph, int8: Int8 | None, judged: Judged) -> tuple[report.Layer, ...]:
    """Gives every layer that counts: its precision, its share of the arithmetic, its error where that was measured."""
    total = sum(graph.costs.total.values()) or 1
    sqnr_db = {one.node: one.sqnr_db for one in judged.ranking}
    int8_nodes = int8.placed.nodes if int8 else frozenset()
    rest = "float" if judged.precision == "int8" else judged.precision
    return tuple(
        report.Layer(node, "int8" if node in int8_nodes else rest, count / total, sqnr_db.get(node))
        for node, count in graph.costs.total.items()
    )


def _worth_it(job: Job, graph: Graph, judged: Judged) -> WorthIt:
    placed = judged.int8.placed if judged.int8 else graph.placed
    target = targets.find_target(job.board) if job.board else None
    return worth.worth_it(
        worth.Known(
            precision=judged.precision,
            reason=judged.reason,
            drop=judged.judgement.verdict.drop,
            compute_ratio=macs.int8_compute_ratio(graph.costs.total, placed.nodes),
            bound=worth.speed_bound(graph.costs.total, graph.costs.elements, placed.nodes, target),
            target=(job.board, target) if job.board and target else None,
            bench=job.bench,
        )
    )


def _ranges(int8: Int8) -> dict[str, Range]:
    """Gives the ranges that the model in the bundle holds."""
    return {name: int8.choice.ranges[name] for name in int8.placed.tensors}
