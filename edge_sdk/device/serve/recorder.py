"""What one model did, at the price of one append per inference; the rest happens once per interval.

The hot path uses single operations on lists only, which CPython makes atomic, so it takes no lock.
"""

import threading

import msgspec
import numpy as np

from edge_sdk.numerics import histogram
from edge_sdk.records import histograms, telemetry, timings
from edge_sdk.wire import histograms as histogram_text

_FOLD_AT = 50_000
"""Timings held before they are folded ahead of time: bounds memory to some 15 MB per model."""


class _Folded(msgspec.Struct):
    """What was folded before the interval ended."""

    parts: list[histograms.Histogram]
    stage_ns: "np.ndarray[tuple[int], np.dtype[np.float64]]"


class Recorder:
    """Counts and times the requests of one model. Any thread may record; one thread calls `window`."""

    def __init__(self, *, model: str, digest: str, engine: str) -> None:
        self._model = model
        self._digest = digest
        self._engine = engine
        self._timings: list[timings.Timings] = []
        self._inside: list[None] = []
        self._depth_max = 0
        self._errors: dict[str, int] = {}
        self._lock = threading.Lock()
        self._folded = _empty()

    def enter(self) -> None:
        """Notes that a request has come in."""
        self._inside.append(None)
        self._depth_max = max(self._depth_max, len(self._inside))

    def leave(self) -> None:
        """Notes that it was answered, or refused."""
        self._inside.pop()

    def record(self, spent: timings.Timings) -> None:
        """Notes one answer and where its time went."""
        self._timings.append(spent)
        if len(self._timings) >= _FOLD_AT:
            self._fold()

    def record_error(self, kind: str) -> None:
        """Notes one request that gave no answer: ``input``, ``engine`` ..."""
        with self._lock:
            self._errors[kind] = self._errors.get(kind, 0) + 1

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
            # Two steps, each atomic: what is appended between them stays for the next fold.
            count = len(self._timings)
            taken = self._timings[:count]
            del self._timings[:count]
            if not taken:
                return
            stages_ns = np.array([msgspec.structs.astuple(spent) for spent in taken], np.float64)
            self._folded.parts.append(histogram.histogram_from_values(stages_ns.sum(axis=1) / 1e6))
            self._folded.stage_ns += stages_ns.sum(axis=0)


def _empty() -> _Folded:
    return _Folded([], np.zeros(len(timings.STAGES)))
