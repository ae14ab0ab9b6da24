"""Everything a build found out, as the report and the files of a bundle."""

from edge_sdk import __version__
from edge_sdk.engines import compilers
from edge_sdk.host.graph import macs
from edge_sdk.host.job import Graph, Int8, Job, Judged, Opened
from edge_sdk.host.judge import gate
from edge_sdk.host.pack import bundle as packing
from edge_sdk.host.pack import report
from edge_sdk.records.bundle import Calibration
from edge_sdk.wire import bundles

NO_RANGES = "none"


def packed(
    job: Job, data: Opened, graph: Graph, int8: Int8 | None, judged: Judged
) -> tuple[bundles.Bundle, report.Report]:
    """Writes the bundle and gives it with its report; see `pack.bundle.packed` for what it raises."""
    with job.stages("pack"):
        figures = _report(job, data, graph, int8, judged.judgement)
        calibration = Calibration(
            method=figures.method,
            count=figures.calibration_samples,
            skipped=dict(data.calibration.skipped),
            samples=int8.collected.digests if int8 else (),
            preprocess=packing.preprocess_digest(job.preprocess),
            ranges=int8.choice.ranges if int8 else {},
        )
        artefacts = packing.Artefacts(
            float_model=graph.model.to_bytes(),
            int8_model=int8.content if int8 else None,
            calibration=calibration,
            golden=judged.golden,
            report=figures,
            preprocess=job.preprocess,
            classes=job.classes or data.evaluation.classes,
            counter=job.counter,
            sdk=__version__,
        )
        return packing.packed(job.target, artefacts, replace=job.force), figures


def _report(job: Job, data: Opened, graph: Graph, int8: Int8 | None, judgement: gate.Judgement) -> report.Report:
    words = int8.compiler if int8 else compilers.ABSENT.report
    int8_nodes = graph.placed.nodes if int8 else frozenset()
    return report.Report(
        name=job.name,
        version=job.version,
        precision="int8" if int8 else "float",
        method=int8.choice.method if int8 else NO_RANGES,
        method_sqnr_db=int8.choice.sqnr_db if int8 else {},
        seed=job.seed,
        inputs=graph.model.inputs,
        outputs=graph.model.outputs,
        verdict=judgement.verdict,
        output_errors={name: report.OutputFigures(*error) for name, error in judgement.outputs.items()},
        calibration_samples=len(int8.collected.digests) if int8 else 0,
        skipped={"calibration": dict(data.calibration.skipped), "evaluation": dict(data.evaluation.skipped)},
        pinned=graph.placed.pinned,
        int8_nodes=len(int8_nodes),
        int8_compute_ratio=macs.int8_compute_ratio(graph.macs, int8_nodes),
        float_bytes=len(graph.model.to_bytes()),
        int8_bytes=len(int8.content) if int8 else 0,
        compiler=report.CompilerWords(words.name, words.version, words.ok, words.messages),
        tensors=report.tensors_from_ranges(int8.choice.ranges, int8.collected.histograms()) if int8 else {},
        environment=report.environment(__version__),
    )
