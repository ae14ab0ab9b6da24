"""How fast a bundle runs here: its Engine and the library's own run in turns, so that both meet the same machine."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import msgspec
import numpy as np

from edge_sdk import clock
from edge_sdk.engines import bundled, golden, registry, turns
from edge_sdk.engines.engine import Engine
from edge_sdk.engines.protocol import Tensors
from edge_sdk.engines.remembered import Choice
from edge_sdk.engines.sustained import Course, Meter, Point
from edge_sdk.engines.turns import Run, Turns
from edge_sdk.wire import bundles


class Plan(NamedTuple):
    """How long to run.

    Attributes:
        seconds: of measurement, both loops together.
        soak_s: under load before it, until the heat has settled, at most so long; 0 begins at once.
        idle_s: at rest before all that, for the idle power; 0 leaves it out.
    """

    seconds: float
    soak_s: float = 0.0
    idle_s: float = 0.0


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
        idle_power_w: at rest before; None where it was not asked for, or can't be read.
        extra_energy_per_inference_j: beyond the idle power; None likewise.
        power_w: mean while the Engine ran; None where it can't be read.
        soaked_s: under load before the measurement.
        has_settled: whether the heat stayed where it is at its end; None where it is not known.
        temperature_first_c, temperature_last_c, temperature_max_c: of the hottest sensor, over soak and measurement.
        throttled_s: seconds of the measurement in which a limit slowed the machine down; None where it is not told.
        missing: why each of energy_j, power_w, temperature_c, clock_hz and throttled that is None is so.
        course: the run over time, soak included.
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
    idle_power_w: float | None
    extra_energy_per_inference_j: float | None
    power_w: float | None
    soaked_s: float
    has_settled: bool | None
    temperature_first_c: float | None
    temperature_last_c: float | None
    temperature_max_c: float | None
    throttled_s: float | None
    missing: dict[str, str]
    course: tuple[Point, ...]
    seconds: float


def bench(
    checked: bundles.Bundle,
    choice: Choice | None,
    *,
    plan: Plan,
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
        plan: how long to run.
        meter: of power, heat and limits.
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
    idle_power_w = _idle_power_w(meter, ticks, plan.idle_s)
    course = Course(plan.soak_s + plan.seconds)
    with bundled.engine_of_choice(checked, choice, backend=backend, threads=threads) as engine:
        run = Run(
            Turns(_feeds(checked, engine), ticks),
            engine=engine,
            bare=bare,
            meter=meter,
            course=course,
            ticks=ticks,
            progress=progress,
        )
        run.warm_up()
        soaked_s = run.soak(plan.soak_s)
        has_settled = course.has_settled()
        run.measure(plan.seconds)
    loop, floor = _loop(run.ours), _loop(run.theirs) if run.theirs else None
    reasons = dict(meter.reasons())
    energy_j = run.energy_j()
    points = course.points()
    heat_c = [point.temperature_c for point in points if point.temperature_c is not None]
    own_s = sum(run.ours) / 1e9
    return Bench(
        engine=engine.name,
        threads=threads,
        forms_ms={name: spent_ns / 1e6 for name, spent_ns in choice.best_ns.items()} if choice else {},
        refused=choice.refused if choice else {},
        loop=loop,
        bare=floor,
        p50_ratio=loop.p50_ms / floor.p50_ms if floor else None,
        energy_per_inference_j=None if energy_j is None else energy_j / loop.inferences,
        energy_reason="" if energy_j is not None else reasons.get("energy_j", "a part of the time was not read"),
        idle_power_w=idle_power_w,
        extra_energy_per_inference_j=(
            None
            if energy_j is None or idle_power_w is None
            else max(0.0, energy_j - idle_power_w * run.ours_s) / loop.inferences
        ),
        power_w=None if energy_j is None else energy_j / run.ours_s,
        soaked_s=soaked_s,
        has_settled=has_settled,
        temperature_first_c=heat_c[0] if heat_c else None,
        temperature_last_c=heat_c[-1] if heat_c else None,
        temperature_max_c=max(heat_c, default=None),
        throttled_s=course.throttled_s(),
        missing=reasons,
        course=points,
        seconds=own_s + sum(run.theirs) / 1e9,
    )


def _idle_power_w(meter: Meter, ticks: clock.Clock, idle_s: float) -> float | None:
    if not idle_s:
        return None
    meter.begin()
    ends_s = ticks.boot_s() + idle_s
    while (left_s := ends_s - ticks.boot_s()) > 0:
        ticks.sleep(min(left_s, turns.TICK_NS / 1e9))
        meter.tick()
    return meter.take().power_w


def _feeds(checked: bundles.Bundle, engine: Engine) -> tuple[Tensors, ...]:
    """Gives the golden inputs, or zeros where the bundle has none."""
    if bundles.GOLDEN in checked.manifest.files:
        return golden.read_golden(checked.file(bundles.GOLDEN)).feeds
    shapes = {spec.name: ([1 if axis is None else axis for axis in spec.shape], spec.dtype) for spec in engine.inputs}
    return ({name: np.zeros(*shape) for name, shape in shapes.items()},)


def _loop(spent_ns: Sequence[int]) -> Loop:
    p50, p90, p99 = np.percentile(spent_ns, (50, 90, 99)) / 1e6
    return Loop(
        len(spent_ns), float(p50), float(p90), float(p99), min(spent_ns) / 1e6, len(spent_ns) / (sum(spent_ns) / 1e9)
    )
