"""What the stages of one build hand on to each other."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from edge_sdk import clock
from edge_sdk.engines import compilers, ort
from edge_sdk.engines.nvidia import ShapeRange
from edge_sdk.engines.protocol import Tensors
from edge_sdk.host.calibrate import choose, collect, coverage, samples
from edge_sdk.host.calibrate import data as datasets
from edge_sdk.host.convert.limits import Limits
from edge_sdk.host.convert.source import ConvertedModel
from edge_sdk.host.graph import macs, placement
from edge_sdk.host.graph import model as models
from edge_sdk.host.judge import gate, sensitivity, worth
from edge_sdk.host.pack import report
from edge_sdk.numerics.hashes import Fingerprints
from edge_sdk.records.bundle import CompilerReport, Correction, Preprocess

Progress = Callable[[str, int, int], None]
"""Called as (stage, done, total): 0 of 1 when a stage begins, all of `total` when it is over. A total that can't be
known before is the most that it can be; what turns out not to be needed counts as done."""

Check = Callable[[bytes], CompilerReport]
"""Says what NVIDIA's compiler makes of a serialised INT8 graph."""


_T = TypeVar("_T")

Shifts = dict[str, NDArray[np.float32]]
"""By layer, what INT8 takes from the mean of each of its channels."""


class Steps:
    """How far a stage is, in runs of one sample; it never goes back."""

    def __init__(self, tell: Callable[[int], None]) -> None:
        self._tell = tell
        self._done = 0

    def add(self, count: int = 1) -> None:
        """Counts `count` runs more."""
        self._done += count
        self._tell(self._done)

    def reach(self, done: int) -> None:
        """Counts as done what was to come before the run with this number, and is not needed."""
        if done > self._done:
            self.add(done - self._done)

    def counted(self, run: ort.Run) -> ort.Run:
        """Gives `run`, each call of which counts."""

        def run_and_count(feeds: Mapping[str, NDArray[Any]]) -> Tensors:
            outputs = run(feeds)
            self.add()
            return outputs

        return run_and_count

    def passing(self, feeds: Iterable[_T]) -> Iterator[_T]:
        """Gives the samples, each of which counts once the next is asked for."""
        for one in feeds:
            yield one
            self.add()


class Stages:
    """Times the stages and tells about progress."""

    def __init__(self, ticks: clock.Clock, progress: Progress | None) -> None:
        self.seconds: dict[str, float] = {}
        self._ticks = ticks
        self._progress: Progress = progress or (lambda *_: None)
        self._ends: dict[str, int] = {}

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        """Adds the wall time inside to the stage's seconds; memory freed before and in it goes back to the system."""
        started_ns = self._ticks.tick_ns()
        self._progress(name, 0, 1)
        ort.give_back()
        yield
        ort.give_back()
        spent_s = (self._ticks.tick_ns() - started_ns) / 1e9
        self.seconds[name] = round(self.seconds.get(name, 0.0) + spent_s, 4)
        end = self._ends.pop(name, 1)
        self._progress(name, end, end)

    def counter(self, name: str, total: int | None) -> Callable[[int], None]:
        """Gives a function that is told how many samples of a stage are done."""
        self._ends[name] = max(total or 0, 1)

        def on_samples(done: int) -> None:
            self._ends[name] = max(done, total or 1)
            self._progress(name, done, done + 1 if total is None else max(done, total))

        return on_samples

    def steps(self, name: str, most: int) -> Steps:
        """Gives the steps of a stage that takes `most` runs at most."""
        return Steps(self.counter(name, most))


class Job(NamedTuple):
    """The arguments of one build.

    `shapes` are the ranges that the user gave for inputs with free axes, None where the data shall tell them;
    `shapes_of_data` those that it told to the compiler.
    """

    source: object
    keep_layout: bool
    target: Path
    calibration: datasets.DataSpec
    evaluation: datasets.DataSpec
    train: datasets.DataSpec | None
    board: str | None
    bench: worth.Bench | None
    max_drop: float | None
    metric: str
    method: str
    precision: str
    preprocess: dict[str, Preprocess]
    classes: tuple[str, ...]
    name: str
    version: str
    counter: int
    seed: int
    min_samples: int
    allowed: frozenset[str]
    ranges: tuple[Path, ...]
    save_ranges: Path | None
    is_resumed: bool
    force: bool
    check: Check
    stages: Stages
    limits: Limits = Limits()
    shapes: Mapping[str, ShapeRange] | None = None
    shapes_of_data: Mapping[str, ShapeRange] = {}


class Opened(NamedTuple):
    """Model and data, fit for each other as far as headers tell; `converted` says what the model was made from.

    `train` is what the model was trained on, where that was given.
    """

    converted: ConvertedModel
    model: models.Model
    calibration: samples.Data
    evaluation: samples.Data
    train: samples.Data | None


class Scan(NamedTuple):
    """The evaluation data after one pass over it.

    Attributes:
        digests: of each sample.
        probe: the first few samples, prepared.
        fingerprints: of each sample's picture; None where the model takes none.
        notes: what was found and not refused, a sentence each.
        shapes: smallest, first and largest shape of a sample of each input, without its batch.
    """

    digests: tuple[str, ...]
    probe: Tensors
    fingerprints: Fingerprints | None
    notes: tuple[str, ...]
    shapes: dict[str, ShapeRange]


class Graph(NamedTuple):
    """The folded model, where Q/DQ goes, and what each weighted node costs."""

    model: models.Model
    placed: placement.Placement
    costs: macs.Costs

    @property
    def macs(self) -> dict[str, int]:
        """Multiply-accumulates of each weighted node."""
        return self.costs.macs


class Ranged(NamedTuple):
    """What calibration found.

    Attributes:
        collected: histograms of the calibration data.
        choice: the ranges.
        points: of the coverage curve.
        notes: what was found of the data and not refused, a sentence each.
    """

    collected: collect.Collected
    choice: choose.Choice
    points: tuple[coverage.Point, ...]
    notes: tuple[str, ...]


class Int8(NamedTuple):
    """An INT8 model and how it came about.

    Attributes:
        base: the float model that Q/DQ was written into.
        content: the INT8 model, serialised.
        placed: what is in INT8 and what is not.
        choice: the ranges; of some tensors that are not quantised any more, too.
        collected: histograms of the calibration data.
        compiler: what NVIDIA's compiler said.
        corrections: changes to the weights that were tried before.
        shifts: what is added to the bias of each layer that is in INT8.
    """

    base: models.Model
    content: bytes
    placed: placement.Placement
    choice: choose.Choice
    collected: collect.Collected
    compiler: CompilerReport
    corrections: tuple[Correction, ...] = ()
    shifts: Shifts = {}  # noqa: RUF012 - never changed


class Half(NamedTuple):
    """An FP16 model.

    Attributes:
        content: serialised, its inputs and outputs in float.
        rounded: the same in float, which rounds what `content` holds in FP16: what is judged on a CPU.
        compiler: what NVIDIA's compiler said of `content`.
    """

    content: bytes
    rounded: bytes
    compiler: CompilerReport


class CpuForm(NamedTuple):
    """The INT8 model for ONNX Runtime's integer kernels; no content where none kept its promises."""

    content: bytes | None
    figures: report.CpuForm


class Judged(NamedTuple):
    """What goes into the bundle, and why.

    Attributes:
        precision: ``int8``, ``fp16`` or ``float``.
        int8: the INT8 model in the bundle; None for the other precisions.
        judgement: of the model in the bundle.
        refused: of the plain INT8 model, where something else is in the bundle or layers had to go back to float.
        reason: why the bundle is not plain INT8; empty where it is.
        ranking: the layers by what INT8 does to their own outputs, the noisiest first; empty where none was measured.
        golden: the arrays of golden.npz.
        cpu: the form for ONNX Runtime on a CPU; None for the other precisions.
        half: the FP16 model in the bundle; None for the other precisions.
    """

    precision: str
    int8: Int8 | None
    judgement: gate.Judgement
    refused: gate.Judgement | None
    reason: str
    ranking: tuple[sensitivity.Sensitivity, ...]
    golden: Tensors
    cpu: CpuForm | None = None
    half: Half | None = None

    @property
    def compiler(self) -> CompilerReport:
        """What NVIDIA's compiler said of the model in the bundle."""
        asked = self.int8 or self.half
        return asked.compiler if asked else compilers.ABSENT.report
