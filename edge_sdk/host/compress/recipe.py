"""The order of the steps: new head, prune, 2:4, train, export, measure; and the plain controls beside it."""

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from edge_sdk import clock, errors
from edge_sdk.host.compress import export, layers, measure, pruning, sparsity, training
from edge_sdk.host.compress.examples import Examples, check_apart, check_labels
from edge_sdk.host.compress.pytorch import Module, Tensor, check_installed, torch
from edge_sdk.host.compress.report import UNCOMPRESSED, UNDISTILLED, Control, Report, Side, judged
from edge_sdk.host.compress.settings import CompressSettings, check_settings
from edge_sdk.numerics import scores
from edge_sdk.records.bundle import Score
from edge_sdk.records.tensors import TensorSpec

_PROBES = 3
"""Samples that the network is traced and the export is checked with."""


class Compressed(NamedTuple):
    """The smaller network as ONNX, as torch, and what is known of it."""

    content: bytes
    net: Module
    report: Report


class _Cut(NamedTuple):
    """A network after everything that takes weights away or replaces them, before training."""

    net: Module
    pruned: dict[str, tuple[int, int]]
    sparse: sparsity.Sparse
    new_head: str | None


def compressed(
    net: Module,
    train: Examples,
    evaluate: Examples,
    settings: CompressSettings,
    *,
    spec: TensorSpec,
    teacher: Module | None = None,
    ticks: clock.Clock | None = None,
    progress: training.Progress | None = None,
) -> Compressed:
    """Gives a compressed copy of a trained classifier, with its report.

    Args:
        net: a torch.nn.Module with one input that gives class scores; it is left as it is.
        train: to fine-tune on.
        evaluate: to measure on; none of it in `train`.
        settings: what to do.
        spec: of the input.
        teacher: to distil from; the network itself, uncompressed, by default.
        ticks: for latencies.
        progress: told (stage, done, total).

    Raises:
        UsageError: torch is not installed, or the settings don't fit.
        DataError: labels outside the classes, or samples in both data sets.
        ModelError: the network can't be traced, trained or exported; with the library's words.
    """
    check_installed(with_pruning=bool(settings.prune))
    check_settings(settings, has_teacher=teacher is not None)
    _check_device(settings)
    check_apart(train, evaluate)
    job = _Job(train, evaluate, settings, spec=spec, ticks=ticks or clock.SystemClock(), progress=progress or _silent)
    with _threads(settings.threads):
        return job.done(net, teacher)


class _Job:
    """One run: the data and settings that every step needs."""

    def __init__(
        self,
        train: Examples,
        evaluate: Examples,
        settings: CompressSettings,
        *,
        spec: TensorSpec,
        ticks: clock.Clock,
        progress: training.Progress,
    ) -> None:
        self._train, self._evaluate, self._settings, self._spec = train, evaluate, settings, spec
        self._ticks, self._progress = ticks, progress
        self._samples = evaluate.inputs(slice(0, _PROBES))
        self._probe: Tensor = torch.from_numpy(self._samples)
        has_cuda = settings.device != "cpu" and torch.cuda.is_available()
        self._device = "cuda" if has_cuda else "cpu"

    def done(self, net: Module, teacher: Module | None) -> Compressed:
        """Does all of it."""
        settings = self._settings
        original = copy.deepcopy(net).cpu().eval()
        wise = original if teacher is None else copy.deepcopy(teacher).cpu().eval()
        own_classes = layers.class_count(original, self._probe)
        classes = settings.new_head or own_classes
        self._check_classes(classes, None if teacher is None else wise)
        exported = self._exported(original)
        before_right = None if settings.new_head else self._right(exported.content, "before")
        cut = self._cut(original, prune=settings.prune, sparse=settings.sparsity is not None)
        is_smaller = bool(cut.pruned or cut.sparse.masks)
        untuned = self._torch_score(cut.net) if is_smaller and settings.new_head is None else None
        student, trained = self._trained(cut, "train", wise)
        result = self._exported(student)
        right = self._right(result.content, "after")
        speed = measure.latencies(exported.content, result.content, self._spec.name, self._samples[:1], self._ticks)
        change = None if before_right is None else measure.paired_difference(before_right, right)
        report = Report(
            settings=settings,
            samples=self._evaluate.count,
            before=self._side(original, exported.content, before_right, speed.before_ms),
            after=self._side(student, result.content, right, speed.after_ms),
            difference_points=change and change.points,
            margin_points=change and change.margin_points,
            untuned_top1=untuned,
            majority_ratio=float(np.bincount(self._evaluate.labels).max() / self._evaluate.count),
            speedup_ratio=speed.speedup_ratio,
            latency_rounds=speed.rounds,
            pruned=cut.pruned,
            sparse=tuple(cut.sparse.masks),
            dense=cut.sparse.skipped,
            new_head=cut.new_head,
            steps=trained.steps,
            first_loss=trained.first_loss,
            last_loss=trained.last_loss,
            cpu_s=trained.cpu_s,
            exporter=result.exporter,
            export_difference=result.difference,
            controls=tuple(self._controls(original, cut, right)) if settings.compare else (),
            helped={},
            verdict=(),
        )
        return Compressed(result.content, student, judged(report))

    def _check_classes(self, classes: int, teacher: Module | None) -> None:
        for examples in (self._train, self._evaluate):
            check_labels(examples, classes)
        if teacher is not None:
            known = layers.class_count(teacher, self._probe)
            if known != classes:
                raise errors.UsageError(f"the teacher gives {known} classes, the network {classes}; give one alike")

    def _cut(self, original: Module, *, prune: float, sparse: bool) -> _Cut:
        """Gives a changed copy."""
        settings, net = self._settings, copy.deepcopy(original)
        head = None
        if settings.new_head:
            head = layers.replace_head(
                net, self._probe, classes=settings.new_head, freeze=settings.freeze, seed=settings.seed
            )
        pruned = {}
        if prune:
            pruned = pruning.prune(net, self._probe, amount=prune, round_to=settings.round_to)
        masks = sparsity.sparse_from_net(net) if sparse else sparsity.Sparse({}, {})
        masks.apply(net)
        return _Cut(net, pruned, masks, head)

    def _trained(self, cut: _Cut, stage: str, teacher: Module | None) -> tuple[Module, training.Training]:
        """Gives a trained copy, on the CPU; distilled from `teacher` if that is asked for and there is one."""
        settings = self._settings
        net = copy.deepcopy(cut.net).to(self._device)
        if self._probe.ndim == 4:
            net = net.to(memory_format=torch.channels_last)
        if not settings.steps:
            return net.cpu(), training.Training(0, None, None, 0.0)
        masks = sparsity.Sparse({name: mask.to(self._device) for name, mask in cut.sparse.masks.items()}, {})
        loss = None
        if settings.distill and teacher is not None:
            wise = copy.deepcopy(teacher).to(self._device)
            loss = training.distillation(wise, temperature=settings.temperature, weight=settings.teacher_weight)
        done = training.train(
            net,
            self._train,
            settings,
            loss=loss,
            after_step=lambda: masks.apply(net),
            stage=stage,
            progress=self._progress,
        )
        return net.cpu().to(memory_format=torch.contiguous_format), done

    def _controls(self, original: Module, cut: _Cut, right: NDArray[np.bool_]) -> Iterator[Control]:
        """Gives the plain alternatives, each trained with the same steps, batches and seed."""
        settings = self._settings
        if settings.distill:
            yield self._control(UNDISTILLED, cut, right)
        if settings.steps and (settings.prune or settings.sparsity):
            yield self._control(UNCOMPRESSED, self._cut(original, prune=0.0, sparse=False), right)

    def _control(self, name: str, cut: _Cut, right: NDArray[np.bool_]) -> Control:
        net, done = self._trained(cut, "control", None)
        answers = training.right_answers(net, self._evaluate)
        change = measure.paired_difference(answers, right)
        return Control(
            name=name,
            top1=_score(answers),
            difference_points=change.points,
            margin_points=change.margin_points,
            cpu_s=done.cpu_s,
        )

    def _exported(self, net: Module) -> export.Exported:
        self._progress("export", 0, 1)
        made = export.onnx_from_net(net, self._spec, self._samples, self._settings.exporter)
        self._progress("export", 1, 1)
        return made

    def _right(self, content: bytes, stage: str) -> NDArray[np.bool_]:
        return measure.right_answers(
            content,
            self._spec.name,
            self._evaluate,
            threads=self._settings.threads,
            on_samples=lambda count: self._progress(stage, count, self._evaluate.count),
        )

    def _torch_score(self, net: Module) -> Score:
        return _score(training.right_answers(net, self._evaluate))

    def _side(self, net: Module, content: bytes, right: NDArray[np.bool_] | None, latency_ms: float) -> Side:
        parameters, nonzero = measure.parameter_counts(net)
        return Side(
            top1=None if right is None else _score(right),
            parameters=parameters,
            nonzero_parameters=nonzero,
            macs=measure.macs(net, self._probe),
            onnx_bytes=len(content),
            latency_ms=latency_ms,
        )


def _score(right: NDArray[np.bool_]) -> Score:
    return scores.wilson_score(int(right.sum()), len(right))


def _check_device(settings: CompressSettings) -> None:
    if settings.device == "cuda" and not torch.cuda.is_available():
        raise errors.UsageError("torch finds no CUDA device here; use device cpu, or install a CUDA build of torch")


def _silent(_stage: str, _done: int, _total: int) -> None:
    """Shows nothing."""


@contextmanager
def _threads(count: int) -> Iterator[None]:
    """Lets torch use `count` threads inside the block; 0 leaves it as it is."""
    before = torch.get_num_threads()
    torch.set_num_threads(count or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)
