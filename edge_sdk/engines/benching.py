"""How fast a bundle runs here: its Engine and the library's own run in turns, so that both meet the same machine."""

from collections.abc import Callable, Mapping
from typing import Any, Protocol

import msgspec
import numpy as np
from numpy.typing import NDArray

from edge_sdk import clock
from edge_sdk.engines import bundled, golden, registry
from edge_sdk.engines.engine import Engine
from edge_sdk.engines.protocol import Tensors
from edge_sdk.engines.remembered import Choice
from edge_sdk.wire import bundles

WARM_UP_NS = 100_000_000
TURN_NS = 250_000_000
"""Short against a change of clock speed, long against a change of caches."""

TICK_NS = 100_000_000
"""How often a power meter is read during a turn."""


class Meter(Protocol):
    """Electrical energy, where the machine tells."""

    def begin(self) -> None:
        """Begins to measure."""
        ...

    def tick(self) -> None:
        """Reads in between; called every 0.1 s."""
        ...

    def energy_j(self) -> float | None:
        """Gives the energy since `begin`; None when it could not be read."""
        ...

    def reason(self) -> str:
        """Gives why there is no energy; an empty text where there is."""
        ...


class Loop(msgspec.Struct, frozen=True):
    """One loop's figures; latency in milliseconds, throughput in inferences per second of its own time."""

    inferences: int
    p50_ms: float
    p90_ms: float
    p99_ms: float
    best_ms: float
    throughput_hz: float


class Bench(msgspec.Struct, frozen=True, kw_only=True):
    """What was measured.

    Attributes:
        engine: back end and form, for example ``onnxruntime:lowered``.
        threads: that were asked for; 0 leaves it to the back end.
        forms_ms: shortest run of each form when they were compared; empty where there is nothing to choose.
        refused: why a form does not run here.
        loop: of `Engine.infer`.
        bare: of the library's own run of the same file; None for a back end without one.
        p50_ratio: of the two medians; None likewise.
        energy_per_inference_j: idle power included; None where it can't be read.
        energy_reason: why it can't.
        seconds: wall time of the measurement.
    """

    engine: str
    threads: int
    forms_ms: dict[str, float]
    refused: dict[str, str]
    loop: Loop
    bare: Loop | None
    p50_ratio: float | None
    energy_per_inference_j: float | None
    energy_reason: str
    seconds: float


def bench(
    checked: bundles.Bundle,
    choice: Choice | None,
    *,
    seconds: float,
    meter: Meter,
    backend: str = "onnxruntime",
    threads: int = 0,
    ticks: clock.Clock | None = None,
    progress: Callable[[str, int, int], None] | None = None,
) -> Bench:
    """Gives the figures of a bundle on this machine.

    Args:
        checked: the bundle.
        choice: from `bundled.chosen`.
        seconds: how long to measure, both loops together.
        meter: of electrical energy.
        backend: as for `bundled.open_engine`.
        threads: likewise.
        ticks: the clock.
        progress: called as (stage, done, total).

    Raises:
        EngineError: the engine failed.
    """
    ticks = ticks or clock.SystemClock()
    make_bare = registry.find_bare_loop(backend)
    threads = threads or (choice.threads if choice else 0)
    bare = make_bare(bundled.model_of_choice(checked, choice, backend=backend), threads) if make_bare else None
    with bundled.engine_of_choice(checked, choice, backend=backend, threads=threads) as engine:
        turns = _Turns(_feeds(checked, engine), ticks)
        for run in filter(None, (engine.infer, bare)):
            turns.take(run, WARM_UP_NS)
        ours, theirs, energies_j = _measured(turns, engine, bare, meter, seconds=seconds, progress=progress)
    loop, floor = _loop(ours), _loop(theirs) if theirs else None
    measured_j = [energy for energy in energies_j if energy is not None]
    is_known = len(measured_j) == len(energies_j)
    return Bench(
        engine=engine.name,
        threads=threads,
        forms_ms={name: spent_ns / 1e6 for name, spent_ns in choice.best_ns.items()} if choice else {},
        refused=choice.refused if choice else {},
        loop=loop,
        bare=floor,
        p50_ratio=loop.p50_ms / floor.p50_ms if floor else None,
        energy_per_inference_j=sum(measured_j) / loop.inferences if is_known else None,
        energy_reason="" if is_known else meter.reason(),
        seconds=(sum(ours) + sum(theirs)) / 1e9,
    )


class _Turns:
    """Runs functions for a while on the golden inputs, one after the other."""

    def __init__(self, feeds: tuple[Tensors, ...], ticks: clock.Clock) -> None:
        self._feeds = feeds
        self._clock = ticks

    def take(
        self,
        run: Callable[[Mapping[str, NDArray[Any]]], object],
        for_ns: int,
        tick: Callable[[], None] | None = None,
    ) -> list[int]:
        """Gives the nanoseconds of each run."""
        tick_ns = self._clock.tick_ns
        spent_ns: list[int] = []
        begun_ns = before_ns = ticked_ns = tick_ns()
        index = 0
        while before_ns - begun_ns < for_ns or not spent_ns:
            run(self._feeds[index % len(self._feeds)])
            after_ns = tick_ns()
            spent_ns.append(after_ns - before_ns)
            index += 1
            if tick is not None and after_ns - ticked_ns > TICK_NS:
                tick()
                ticked_ns = after_ns = tick_ns()
            before_ns = after_ns
        return spent_ns


def _measured(
    turns: _Turns,
    engine: Engine,
    bare: Callable[[Mapping[str, NDArray[Any]]], object] | None,
    meter: Meter,
    *,
    seconds: float,
    progress: Callable[[str, int, int], None] | None,
) -> tuple[list[int], list[int], list[float | None]]:
    """Gives the runs of the Engine, those of the bare loop, and the energy of each of the Engine's turns."""
    ours: list[int] = []
    theirs: list[int] = []
    energies_j: list[float | None] = []
    rounds = max(1, round(seconds * 1e9 / TURN_NS / (2 if bare else 1)))
    for done in range(rounds):
        meter.begin()
        ours += turns.take(engine.infer, TURN_NS, meter.tick)
        energies_j.append(meter.energy_j())
        if bare is not None:
            theirs += turns.take(bare, TURN_NS)
        if progress is not None:
            progress("bench", done + 1, rounds)
    return ours, theirs, energies_j


def _feeds(checked: bundles.Bundle, engine: Engine) -> tuple[Tensors, ...]:
    """Gives the golden inputs, or zeros where the bundle has none."""
    if bundles.GOLDEN in checked.manifest.files:
        return golden.read_golden(checked.file(bundles.GOLDEN)).feeds
    shapes = {spec.name: ([1 if axis is None else axis for axis in spec.shape], spec.dtype) for spec in engine.inputs}
    return ({name: np.zeros(*shape) for name, shape in shapes.items()},)


def _loop(spent_ns: list[int]) -> Loop:
    p50, p90, p99 = np.percentile(spent_ns, (50, 90, 99)) / 1e6
    return Loop(
        len(spent_ns), float(p50), float(p90), float(p99), min(spent_ns) / 1e6, len(spent_ns) / (sum(spent_ns) / 1e9)
    )
