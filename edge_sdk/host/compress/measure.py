"""What a network costs and how well it does: parameters, MACs, file size, top-1, latency on this machine's CPU."""

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from edge_sdk import clock
from edge_sdk.engines import ort, registry
from edge_sdk.engines.engine import Engine
from edge_sdk.host.compress.examples import Examples
from edge_sdk.host.compress.pytorch import Module, Tensor, torch

_Z95 = 1.959963984540054
_WARM_UP, _ROUNDS_LEAST, _ROUNDS_MOST, _BUDGET_S = 5, 20, 400, 4.0


class Latencies(NamedTuple):
    """Best of `rounds` interleaved runs of one sample on one thread, in milliseconds."""

    before_ms: float
    after_ms: float
    rounds: int

    @property
    def speedup_ratio(self) -> float:
        """How many times as fast the second one is."""
        return self.before_ms / self.after_ms


class Difference(NamedTuple):
    """Second minus first, in points of top-1, with the half width of its 95 % interval."""

    points: float
    margin_points: float

    @property
    def is_clear(self) -> bool:
        """Whether it is beyond what chance gives."""
        return abs(self.points) > self.margin_points


def parameter_counts(net: Module) -> tuple[int, int]:
    """Gives the number of parameters, and of those that are not zero."""
    weights = list(net.parameters())
    return sum(weight.numel() for weight in weights), sum(int(torch.count_nonzero(weight)) for weight in weights)


def macs(net: Module, probe: Tensor) -> int:
    """Gives the multiply-accumulates of convolutions and matrix products for one sample, by torch's own counter."""
    with torch.no_grad(), torch.utils.flop_counter.FlopCounterMode(display=False) as counter:
        net.eval()(probe[:1])
    return int(counter.get_total_flops()) // 2


def right_answers(
    content: bytes, name: str, examples: Examples, *, threads: int, on_samples: Callable[[int], None] | None = None
) -> NDArray[np.bool_]:
    """Gives for each sample whether the ONNX model's highest score is its label.

    Args:
        content: serialised ONNX; the batch is free and the first output is class scores.
        name: of the input.
        examples: to answer.
        threads: for ONNX Runtime; 0 leaves it to it.
        on_samples: told the number of samples done so far.
    """
    run = ort.runner_from_model(content, threads=threads)
    found = []
    for start in range(0, examples.count, 64):
        scores = next(iter(run({name: examples.inputs(slice(start, start + 64))}).values()))
        labels = examples.labels[start : start + 64]
        found.append(scores.reshape(len(labels), -1).argmax(1) == labels)
        if on_samples:
            on_samples(start + len(labels))
    return np.concatenate(found)


def paired_difference(first: NDArray[np.bool_], second: NDArray[np.bool_]) -> Difference:
    """Gives how much more often `second` is right than `first` on the same samples.

    Samples that both get right or wrong say nothing, so the interval is narrower than that of two separate figures
    (the difference of paired proportions, as in McNemar's test).

    >>> gained = paired_difference(np.array([True, False, False, True]), np.array([True, True, False, True]))
    >>> (gained.points, gained.is_clear)
    (25.0, False)
    """
    change = second.astype(np.float64) - first.astype(np.float64)
    margin = _Z95 * float(change.std()) / np.sqrt(len(change))
    return Difference(100 * float(change.mean()), 100 * float(margin))


def latencies(before: bytes, after: bytes, name: str, sample: NDArray[np.float32], ticks: clock.Clock) -> Latencies:
    """Gives the latency of two ONNX models on this CPU, one thread, their runs taking turns.

    What else the machine does slows single runs, never speeds one up: so the best of many is the figure, and taking
    turns gives both the same chances.
    """
    with tempfile.TemporaryDirectory(prefix="edge-sdk-compress-") as folder:
        engines = [_engine(Path(folder) / f"{index}.onnx", content) for index, content in enumerate((before, after))]
        try:
            for _ in range(_WARM_UP):
                once_ns = sum(_run_ns(engine, name, sample, ticks) for engine in engines)
            rounds = max(_ROUNDS_LEAST, min(_ROUNDS_MOST, int(_BUDGET_S * 1e9 / max(once_ns, 1))))
            spent = [[_run_ns(engine, name, sample, ticks) for engine in engines] for _ in range(rounds)]
        finally:
            for engine in engines:
                engine.close()
    best = np.min(spent, axis=0) / 1e6
    return Latencies(float(best[0]), float(best[1]), rounds)


def _engine(file: Path, content: bytes) -> Engine:
    file.write_bytes(content)
    return registry.open_backend("onnxruntime", file, options={"threads": 1})


def _run_ns(engine: Engine, name: str, sample: NDArray[np.float32], ticks: clock.Clock) -> int:
    started_ns = ticks.tick_ns()
    engine.infer({name: sample})
    return ticks.tick_ns() - started_ns
