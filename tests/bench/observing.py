"""What the daemon's own senses cost and how true they are: beside prometheus_client, exact integrals, exact quantiles."""

import gc
import math
import random
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import prometheus_client
from rows import Row, ratio_row

from edge_sdk import clock
from edge_sdk.device.sense import board, together
from edge_sdk.device.serve.recorder import Recorder, Spent
from edge_sdk.engines.engine import Timings
from edge_sdk.engines.protocol import StageTimes
from edge_sdk.numerics import histogram
from edge_sdk.records.timings import STAGES
from edge_sdk.testing.board import FakeBoard
from edge_sdk.testing.clock import FakeClock
from edge_sdk.testing.simulation import SimulatedBoard

CALLS, ROUNDS = 20_000, 7
PER_SECOND = 2_000
"""Inferences between two folds: what the 1 Hz thread folds is shared out among them."""
QUANTILES = (0.001, 0.01, 0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99, 0.999, 0.9999, 1.0)


def measure():
    yield from cost_per_inference()
    yield reading_of_a_board()
    yield from energy_of_a_load()
    yield quantiles()


def us(seconds: float) -> str:
    return f"{seconds * 1e6:.3f} us"


def seconds_per_call(run) -> float:
    start = time.perf_counter()
    run()
    return (time.perf_counter() - start) / CALLS


def observed_by_peer():
    registry = prometheus_client.CollectorRegistry()
    observe = (
        prometheus_client.Histogram("latency_seconds", "of one inference", ["model"], registry=registry)
        .labels("m")
        .observe
    )

    def run():
        for _ in range(CALLS):
            observe(0.001)

    return run


def all_by_peer():
    """What prometheus_client takes to know as much: the same seven stamps, and one observe for each of six stages."""
    registry, tick_ns = prometheus_client.CollectorRegistry(), clock.SystemClock().tick_ns
    stages = prometheus_client.Histogram("stage_seconds", "of one inference", ["model", "stage"], registry=registry)
    observes = [stages.labels("m", stage).observe for stage in STAGES]

    def run():
        for _ in range(CALLS):
            for _ in range(7):
                tick_ns()
            for observe in observes:
                observe(0.001)

    return run


def recorded_by_us():
    """One append per inference, and the fold of each second."""
    recorder = Recorder(model="m", digest="d", engine="e")
    spent = Spent(Timings(1, 2, 3, 4_000_000, 5), 6, 7, 8)

    def run():
        for _ in range(CALLS):
            recorder.enter()
            recorder.record(spent)
            recorder.leave()

    return run


def all_of_ours():
    """That, and everything that is there for it on the way: seven stamps and the records that hold the stages."""
    recorder, tick_ns = Recorder(model="m", digest="d", engine="e"), clock.SystemClock().tick_ns

    def run():
        for _ in range(CALLS):
            entered = tick_ns()
            recorder.enter()
            ready, handed, began, waiting, started = tick_ns(), tick_ns(), tick_ns(), tick_ns(), tick_ns()
            stages = StageTimes()
            ended = tick_ns()
            copies = stages.copy_in_ns + stages.copy_out_ns
            timings = Timings(
                started - waiting, waiting - began, stages.copy_in_ns, ended - started - copies, stages.copy_out_ns
            )
            recorder.record(Spent(timings, handed - ready, ready - entered, 0))
            recorder.leave()

    return run


def fold_s() -> float:
    """Seconds of the 1 Hz thread per inference."""
    recorder = Recorder(model="m", digest="d", engine="e")
    values = np.random.default_rng(1).lognormal(14, 0.4, PER_SECOND).astype(int).tolist()
    spent = []
    for _ in range(20):
        for value in values:
            recorder.record(Spent(Timings(1, 2, 3, value, 5), 6, 7, 8))
        start = time.perf_counter()
        recorder.window(1.0)
        spent.append(time.perf_counter() - start)
    return min(spent) / PER_SECOND


def cost_per_inference():
    runs = {"peer": observed_by_peer(), "record": recorded_by_us(), "all": all_of_ours(), "all of peer": all_by_peer()}
    best = dict.fromkeys(runs, math.inf)
    for _ in range(ROUNDS):  # in turn, so that all meet the same machine
        for name, run in runs.items():
            gc.collect()
            best[name] = min(best[name], seconds_per_call(run))
    folded = fold_s()
    what = "prometheus_client's Histogram.observe, one number"
    yield ratio_row("telemetry per inference: record", best["record"], best["peer"], unit=us, what=what, bar=0.6)
    yield ratio_row(
        "telemetry per inference: record", best["record"], 0.6e-6, unit=us, what="allowed", bar=1.0
    )._replace(figure="telemetry per inference: record, absolute")
    whole = "telemetry per inference: record, seven stamps and six stages"
    peer = "prometheus_client, the same stamps and six observes"
    yield ratio_row(whole, best["all"], best["all of peer"], unit=us, what=peer, bar=0.6)
    yield ratio_row(f"{whole}, absolute", best["all"], 0.6e-6, unit=us, what="allowed", bar=1.0)
    yield ratio_row(
        f"telemetry per inference: the 1 Hz thread's share at {PER_SECOND}/s", folded, best["peer"], unit=us,
        what=what, bar=None,
    )  # fmt: skip


def reading_of_a_board() -> Row:
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        FakeBoard(root).become("agx_orin")
        sensors = together.Sensors(board.sensors_of(root, clocks=clock.SystemClock(), state_folder=root))
        spent, floor = [], []
        files = [file for file in root.rglob("*") if file.is_file()]
        for _ in range(200):
            start = time.perf_counter()
            sensors.collect()
            spent.append(time.perf_counter() - start)
            start = time.perf_counter()
            for file in files:
                file.read_bytes()
            floor.append(time.perf_counter() - start)
        sensors.close()
    row = ratio_row(
        "one full reading of a simulated AGX Orin, p50", statistics.median(spent), 2e-3,
        unit=lambda seconds: f"{seconds * 1e3:.2f} ms", what="allowed", bar=1.0,
    )  # fmt: skip
    return row._replace(
        floor=f"{row.floor}; reading its {len(files)} files once: {statistics.median(floor) * 1e3:.2f} ms"
    )


def energy_of_a_load():
    """Error against the simulated board's exact integral, worst of several loads and seeds."""
    loads = {
        "bursts of 0.7 s": lambda t: 0.9 if t % 1.9 < 0.7 else 0.1,
        "a sine of 6 s": lambda t: 0.5 + 0.5 * math.sin(t),
        "steps of 7 s": lambda t: (int(t / 7) * 37 % 10) / 10,
    }
    for words, ticks, bar in (("ten readings a second, as the daemon takes them", 10, 1.0), ("one a second", 1, None)):
        worst = max(
            (energy_error(load, seed=seed, ticks=ticks), name) for name, load in loads.items() for seed in range(2)
        )
        yield Row(
            f"energy of a simulated load, 1 Hz Samples with jitter, {words}",
            f"{worst[0]:.3%} off ({worst[1]}, the worst)",
            "0.500% allowed against the exact integral",
            round(worst[0] / 0.005, 2),
            bar,
        )


def energy_error(load, *, seed: int, ticks: int, samples: int = 40) -> float:
    with tempfile.TemporaryDirectory() as name:
        ticking, chance = FakeClock(), random.Random(seed)
        simulated = SimulatedBoard(Path(name), load, ticking)
        sensors = together.Sensors(board.sensors_of(Path(name), clocks=ticking, state_folder=Path(name)))
        sensors.collect()
        measured_j = 0.0
        for _ in range(samples):
            for _ in range(ticks):
                ticking.advance(chance.uniform(0.5, 1.5) / ticks)
                simulated.advance()
                sensors.tick()
            measured_j += next(one.value for one in sensors.collect() if one.metric == "energy_j")
        return abs(measured_j / simulated.energy_j - 1)


def quantiles() -> Row:
    """Worst error over quantiles and shapes, of sixty merged seconds against all values in order."""
    random_numbers = np.random.default_rng(5)
    count = 60_000
    shapes = {
        "log-normal": random_numbers.lognormal(0.0, 0.5, count),
        "two modes": np.where(random_numbers.random(count) < 0.97, 1.0, 40.0) * random_numbers.normal(1, 0.05, count),
        "heavy tail": random_numbers.pareto(1.5, count) + 0.2,
        "uniform": random_numbers.uniform(0.1, 10, count),
    }
    worst = (0.0, "", 0.0)
    for name, values in shapes.items():
        merged = histogram.merge(histogram.histogram_from_values(part) for part in np.split(values, 60))
        ordered = np.sort(values)
        for q in QUANTILES:
            exact = ordered[max(1, math.ceil(q * count)) - 1]
            worst = max(worst, (abs(histogram.quantile(merged, q) / exact - 1), name, q))
    return Row(
        f"histogram quantiles, {len(QUANTILES)} of them from 0.1 % to the maximum, four shapes",
        f"{worst[0]:.3%} off ({worst[1]}, q {worst[2]:g}, the worst)",
        "0.600% allowed against exact order statistics",
        round(worst[0] / 0.006, 2),
        1.0,
    )
