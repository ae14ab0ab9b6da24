"""What one model did, at the price of one append per inference; the rest happens once per interval.

The hot path uses single operations on lists only, which CPython makes atomic, so it takes no lock.
"""

import threading
from typing import TypeVar

import msgspec
import numpy as np

from edge_sdk import clock
from edge_sdk.numerics import histogram
from edge_sdk.records import histograms, telemetry, timings
from edge_sdk.wire import histograms as histogram_text

_Value = TypeVar("_Value")

_FOLD_AT = 50_000
"""Timings held before they are folded ahead of time: bounds memory to some 15 MB per model."""


class Spent(msgspec.Struct, frozen=True, gc=False):
    """Where the time of one request went: in the engine, and around it.

    A struct without the collector's book-keeping: a tuple takes four times as long, and 50,000 of them make each
    collection of garbage slow.
    """

    engine: timings.Timings
    queue_ns: int
    pre_ns: int
    post_ns: int


class _Folded(msgspec.Struct):
    """What was folded before the interval ended."""

    parts: list[histograms.Histogram]
    stage_ns: "np.ndarray[tuple[int], np.dtype[np.float64]]"


class Totals(msgspec.Struct, frozen=True):
    """What a model did since it was loaded.

    Attributes:
        requests: that were answered.
        inferences: rows of them; one each where nothing is batched.
        executions: runs of the engine.
        failed: requests that were not answered.
        failed_ns: time spent on those.
        stage_ns: time by stage, of those that were answered.
        last_ms: Unix time of the last fold that had an answer in it, in milliseconds; 0 for none.
    """

    requests: int = 0
    inferences: int = 0
    executions: int = 0
    failed: int = 0
    failed_ns: int = 0
    stage_ns: dict[str, int] = {}
    last_ms: int = 0


class Recorder:
    """Counts and times the requests of one model. Any thread may record; one thread calls `window`."""

    def __init__(self, *, model: str, digest: str, engine: str, clocks: clock.Clock | None = None) -> None:
        self._clock = clocks or clock.SystemClock()
        self._model = model
        self._digest = digest
        self._engine = engine
        self._timings: list[Spent] = []
        self._inside: list[None] = []
        self._depth_max = 0
        self._errors: dict[str, int] = {}
        self._lock = threading.Lock()
        self._folded = _empty()
        self._more_rows: list[int] = []
        self._guests: list[None] = []
        self._totals = Totals(stage_ns=dict.fromkeys(timings.STAGES, 0))

    def enter(self) -> None:
        """Notes that a request has come in."""
        self._inside.append(None)
        if len(self._inside) > self._depth_max:  # noqa: PLR1730 - max() takes twice as long, on the hot path
            self._depth_max = len(self._inside)

    def leave(self) -> None:
        """Notes that it was answered, or refused."""
        self._inside.pop()

    def record(self, spent: Spent) -> None:
        """Notes one answer and where its time went."""
        self._timings.append(spent)
        if len(self._timings) >= _FOLD_AT:
            self._fold()

    def record_error(self, kind: str, spent_ns: int = 0) -> None:
        """Notes one request that gave no answer: ``input``, ``busy``, ``engine``."""
        with self._lock:
            self._errors[kind] = self._errors.get(kind, 0) + 1
            self._totals = msgspec.structs.replace(
                self._totals, failed=self._totals.failed + 1, failed_ns=self._totals.failed_ns + spent_ns
            )

    def note_rows(self, rows: int, *, is_guest: bool) -> None:
        """Notes that a request had several rows, or that it rode along in the run of another one."""
        if rows > 1:
            self._more_rows.append(rows - 1)
        if is_guest:
            self._guests.append(None)

    def totals(self) -> Totals:
        """Gives what happened since the beginning; the intervals go on undisturbed."""
        self._fold()
        return self._totals

    def window(self, interval_s: float) -> telemetry.Window:
        """Gives what happened since the call before, and begins anew. Energy is for the daemon to share out.

        Args:
            interval_s: how long that was.
        """
        self._fold()
        with self._lock:
            folded, self._folded = self._folded, _empty()
            failed, self._errors = self._errors, {}
            depth_max, self._depth_max = max(self._depth_max, len(self._inside)), len(self._inside)
        latency = histogram.merge(folded.parts)
        count = latency.count
        means_ms = folded.stage_ns / (max(count, 1) * 1e6)
        return telemetry.Window(
            model=self._model,
            digest=self._digest,
            count=count,
            errors=failed,
            throughput_hz=count / interval_s,
            queue_depth_max=depth_max,
            latency_p50_ms=histogram.quantile(latency, 0.5),
            latency_p99_ms=histogram.quantile(latency, 0.99),
            latency_hist=histogram_text.to_text(latency),
            stage_ms=dict(zip(timings.STAGES, means_ms.tolist(), strict=True)) if count else {},
            energy_j=None,
            energy_per_inference_j=None,
            engine=self._engine,
        )

    def _fold(self) -> None:
        with self._lock:
            taken, more_rows, guests = _taken(self._timings), _taken(self._more_rows), _taken(self._guests)
            count = len(taken)
            if not count:
                self._more_rows[:0], self._guests[:0] = more_rows, guests  # of runs that are recorded in a moment
                return
            stages_ns = np.array([_stages_ns(spent) for spent in taken], np.float64)
            self._folded.parts.append(histogram.histogram_from_values(stages_ns.sum(axis=1) / 1e6))
            sums_ns = stages_ns.sum(axis=0)
            self._folded.stage_ns += sums_ns
            self._totals = msgspec.structs.replace(
                self._totals,
                requests=self._totals.requests + count,
                inferences=self._totals.inferences + count + sum(more_rows),
                executions=self._totals.executions + count - len(guests),
                stage_ns={
                    stage: self._totals.stage_ns[stage] + int(spent)
                    for stage, spent in zip(timings.STAGES, sums_ns.tolist(), strict=True)
                },
                last_ms=int(self._clock.wall_s() * 1000),
            )


def _stages_ns(spent: Spent) -> tuple[int, ...]:
    """Gives the stages of one request in the order of STAGES."""
    engine = spent.engine
    return (
        engine.queue_ns + spent.queue_ns,
        engine.pre_ns + spent.pre_ns,
        engine.copy_in_ns,
        engine.compute_ns,
        engine.copy_out_ns,
        engine.post_ns + spent.post_ns,
    )


def _taken(values: list[_Value]) -> list[_Value]:
    """Empties a list in two steps, each atomic: what is appended between them stays for the next time."""
    found = values[:]
    del values[: len(found)]
    return found


def _empty() -> _Folded:
    return _Folded([], np.zeros(len(timings.STAGES)))
