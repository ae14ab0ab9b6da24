"""The gate over the evaluation data, asked as often as a search needs it."""

import itertools
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from numpy.typing import NDArray

from edge_sdk.engines import ort
from edge_sdk.engines.protocol import Tensors
from edge_sdk.host.calibrate import samples
from edge_sdk.host.job import Graph, Job, Opened, Scan
from edge_sdk.host.judge import gate, metrics
from edge_sdk.host.pack import golden

REMEMBERED_BYTES = 32 * 1024 * 1024
"""Of the float model's outputs; a search that judges several INT8 models need not compute these again."""


class _Remembered:
    """Runs a model on the same batches again and again, and keeps the first outputs that fit into memory."""

    def __init__(self, run: gate.Run) -> None:
        self._run = run
        self._kept: list[Tensors] = []
        self._is_full = False

    def from_start(self) -> gate.Run:
        """Gives a function that is called with each batch in order."""
        numbers = itertools.count()
        return lambda feeds: self._outputs(next(numbers), feeds)

    def _outputs(self, number: int, feeds: Mapping[str, NDArray[Any]]) -> Tensors:
        if number < len(self._kept):
            return self._kept[number]
        outputs = self._run(feeds)
        used = sum(values.nbytes for kept in (*self._kept, outputs) for values in kept.values())
        self._is_full = self._is_full or used > REMEMBERED_BYTES
        if not self._is_full:
            self._kept.append(outputs)
        return outputs


class Gate:
    """Judges INT8 models against the float model of one build.

    Attributes:
        job: of the build.
        data: of the build.
        graph: of the build.
        run_float: runs the float model.
        metric: by name, or the one that model and data allow.
        max_drop: points of it that may be lost.
    """

    def __init__(self, job: Job, data: Opened, scan: Scan, graph: Graph) -> None:
        self.job, self.data, self.graph = job, data, graph
        self.run_float = ort.runner_from_model(graph.model.content(), is_frugal=True)
        self.metric = metrics.chosen(
            job.metric,
            graph.model.outputs,
            is_labelled=data.evaluation.is_labelled,
            probe=self.run_float(scan.probe),
        )
        self.max_drop = self.metric.budget if job.max_drop is None else job.max_drop
        self._count = len(scan.digests)
        self._picks = golden.Picks(self._count, job.seed)
        self._is_picked = False
        self._remembered = _Remembered(self.run_float)

    def judgement(self, int8: bytes | None, *, stage: str = "gate") -> gate.Judgement:
        """Gives the judgement of a serialised INT8 model; of the float model itself for None."""
        with self.job.stages(stage):
            judgement = gate.judged(
                self._remembered.from_start(),
                ort.runner_from_model(int8) if int8 else self._remembered.from_start(),
                self._watched(self.data.evaluation.batches()),
                outputs=self.graph.model.outputs,
                metric=self.metric,
                max_drop=self.max_drop,
                on_samples=self.job.stages.counter(stage, self._count),
            )
        self._is_picked = True
        return judgement

    def golden(self, judged: bytes | None, *, precision: str = "int8") -> Tensors:
        """Gives the arrays of golden.npz for the model that was judged, in `precision`; None is the float model."""
        with self.job.stages("gate"):
            run = ort.runner_from_model(judged) if judged else None
            return self._picks.arrays(self.run_float, run, precision=precision)

    def _watched(self, batches: Iterable[samples.Batch]) -> Iterator[gate.Evaluated]:
        for batch in batches:
            if not self._is_picked:
                self._picks.look(batch.first, batch.raw, batch.feeds)
            yield batch.feeds, batch.labels
