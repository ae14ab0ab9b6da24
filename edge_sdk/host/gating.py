"""The gate over the evaluation data, asked as often as a search needs it."""

from collections.abc import Iterable, Iterator

from edge_sdk.engines import ort
from edge_sdk.engines.protocol import Tensors
from edge_sdk.host.calibrate import samples
from edge_sdk.host.job import Graph, Job, Opened, Scan
from edge_sdk.host.judge import gate, metrics
from edge_sdk.host.pack import golden


class Gate:
    """Judges INT8 models against the float model of one build.

    Attributes:
        job: of the build.
        data: of the build.
        graph: of the build.
        run_float: runs the float model.
        metric: by name, or the one that model and data allow.
    """

    def __init__(self, job: Job, data: Opened, scan: Scan, graph: Graph) -> None:
        self.job, self.data, self.graph = job, data, graph
        self.run_float = ort.runner_from_model(graph.model.to_bytes())
        self.metric = metrics.chosen(
            job.metric,
            graph.model.outputs,
            is_labelled=data.evaluation.is_labelled,
            probe=self.run_float(scan.probe),
        )
        self._count = len(scan.digests)
        self._picks = golden.Picks(self._count, job.seed)
        self._is_picked = False

    def judgement(self, int8: bytes | None, *, stage: str = "gate") -> gate.Judgement:
        """Gives the judgement of a serialised INT8 model; of the float model itself for None."""
        with self.job.stages(stage):
            judgement = gate.judged(
                self.run_float,
                ort.runner_from_model(int8) if int8 else self.run_float,
                self._watched(self.data.evaluation.batches()),
                outputs=self.graph.model.outputs,
                metric=self.metric,
                max_drop=self.job.max_drop,
                on_samples=self.job.stages.counter(stage, self._count),
            )
        self._is_picked = True
        return judgement

    def golden(self, int8: bytes | None) -> Tensors:
        """Gives the arrays of golden.npz; `judgement` was asked before."""
        with self.job.stages("gate"):
            return self._picks.arrays(self.run_float, ort.runner_from_model(int8) if int8 else None)

    def _watched(self, batches: Iterable[samples.Batch]) -> Iterator[gate.Evaluated]:
        for batch in batches:
            if not self._is_picked:
                self._picks.look(batch.first, batch.raw, batch.feeds)
            yield batch.feeds, batch.labels
