"""The gate over the evaluation data, asked as often as a search needs it.

INT8 is judged as TensorRT computes it: the Q/DQ graph as it is written, float arithmetic over quantised values with the
biases in float. Integer kernels of this CPU round at other places, and are slower where they find little to fuse; their
own form of the model is judged by itself, as what it is (`cpu_form`).
"""

import itertools
import os
from collections.abc import Iterable, Iterator, Mapping
from concurrent import futures
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


class _Kept:
    """Keeps what a model answers to the golden samples that go by one to a batch, as a request would.

    Attributes:
        is_golden: whether the batch that is next is such a sample.
    """

    def __init__(self) -> None:
        self.is_golden = False
        self._answers: dict[str, list[Tensors]] = {"float": [], "judged": []}

    def watched(self, what: str, run: gate.Run) -> gate.Run:
        """Gives `run`, which keeps such answers."""

        def run_and_keep(feeds: Mapping[str, NDArray[Any]]) -> Tensors:
            outputs = run(feeds)
            if self.is_golden:
                self._answers[what].append(outputs)
            return outputs

        return run_and_keep

    def replayed(self, what: str, count: int) -> gate.Run | None:
        """Gives a function that answers the golden samples in order; None unless all `count` of them were kept."""
        answers = iter(self._answers[what])
        return (lambda _: next(answers)) if len(self._answers[what]) == count else None


class Gate:
    """Judges INT8 models against the float model of one build.

    Attributes:
        job: of the build.
        data: of the build.
        graph: of the build.
        metric: by name, or the one that model and data allow.
        max_drop: points of it that may be lost.
    """

    def __init__(self, job: Job, data: Opened, scan: Scan, graph: Graph) -> None:
        self.job, self.data, self.graph = job, data, graph
        # Both models run side by side: two threads on one network cost more processor time than one on each of two.
        self._threads = max(1, len(os.sched_getaffinity(0)) // 2)
        self._float: gate.Run | None = None
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
        self._kept = _Kept()
        self._judged: bytes | None = None

    def run_float(self, feeds: Mapping[str, NDArray[Any]]) -> Tensors:
        """Runs the float model."""
        if self._float is None:
            self._float = ort.runner_from_model(self.graph.model.content(), threads=self._threads)
        return self._float(feeds)

    def rest(self) -> None:
        """Closes the float model, which holds its weights once more; the next who asks it opens it anew."""
        self._float = None
        ort.give_back()

    def judgement(self, model: bytes | None, *, stage: str = "gate", is_integer: bool = False) -> gate.Judgement:
        """Gives the judgement of a serialised model; of the float model itself for None.

        Args:
            model: Q/DQ, which is computed as written.
            stage: that the time goes to.
            is_integer: run it in integer kernels, for which it was made.
        """
        self._kept, self._judged = _Kept(), model
        with self.job.stages(stage), futures.ThreadPoolExecutor(1) as beside:
            judgement = gate.judged(
                self._kept.watched("float", self._remembered.from_start()),
                self._kept.watched(
                    "judged", self._runner(model, is_integer=is_integer) if model else self._remembered.from_start()
                ),
                self._watched(self.data.evaluation.batches()),
                outputs=self.graph.model.outputs,
                metric=self.metric,
                max_drop=self.max_drop,
                on_samples=self.job.stages.counter(stage, self._count),
                beside=None if model is None else beside,
            )
        self._is_picked = True
        return judgement

    def golden(self, judged: bytes | None, *, precision: str = "int8") -> Tensors:
        """Gives the arrays of golden.npz for the model that was judged, in `precision`; None is the float model."""
        with self.job.stages("gate"):
            kept = self._kept if judged == self._judged else _Kept()
            count = self._picks.taken
            run_float = kept.replayed("float", count) or self.run_float
            run = (kept.replayed("judged", count) or self._runner(judged)) if judged else None
            return self._picks.arrays(run_float, run, precision=precision)

    def _runner(self, model: bytes, *, is_integer: bool = False) -> gate.Run:
        return ort.runner_from_model(model, threads=self._threads, is_simulated=not is_integer)

    def _watched(self, batches: Iterable[samples.Batch]) -> Iterator[gate.Evaluated]:
        for batch in batches:
            if not self._is_picked:
                self._picks.look(batch.first, batch.raw, batch.feeds)
            self._kept.is_golden = len(batch.digests) == 1 and self._picks.has_taken(batch.first)
            yield batch.feeds, batch.labels
