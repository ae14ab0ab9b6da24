"""What a long run shows: latency, power, heat and limits over time, and when the heat has settled."""

import collections
from collections.abc import Mapping, Sequence
from typing import NamedTuple, Protocol

import msgspec
import numpy as np

SOAK, MEASURE = "soak", "measure"
"""Phases of a run: warming up under load, and what counts."""

SETTLED_S = 60.0
"""Heat counts as settled when the hottest sensor has stayed within SETTLED_K for so long: a Jetson's heat sink has a
time constant of one to three minutes."""
SETTLED_K = 1.0
POINTS = 600
"""Of the course over time, at most."""


class Conditions(NamedTuple):
    """What the machine said of the time since it was asked before; None for what it does not tell.

    Attributes:
        energy_j: of that time.
        power_w: mean of it.
        temperature_c: of the hottest sensor, at its end.
        clock_hz: of the GPU where there is one, else the mean of the cores.
        throttled: whether a limit slowed the machine down in it.
    """

    energy_j: float | None
    power_w: float | None
    temperature_c: float | None
    clock_hz: float | None
    throttled: bool | None


class Meter(Protocol):
    """The machine's senses."""

    def begin(self) -> None:
        """Begins to measure."""
        ...

    def tick(self) -> None:
        """Reads in between; called every 0.1 s."""
        ...

    def take(self) -> Conditions:
        """Gives what was measured since the call before, or since `begin`."""
        ...

    def reasons(self) -> Mapping[str, str]:
        """Gives why each field of Conditions that is None is so, by the field's name."""
        ...


class Point(msgspec.Struct, frozen=True):
    """Some seconds of the run.

    Attributes:
        t_s: of their beginning, since the run's.
        seconds: how many.
        phase: SOAK or MEASURE.
        inferences, p50_ms, p99_ms: of the Engine in them.
        power_w, temperature_c, clock_hz, throttled: as in Conditions.
    """

    t_s: float
    seconds: float
    phase: str
    inferences: int
    p50_ms: float
    p99_ms: float
    power_w: float | None
    temperature_c: float | None
    clock_hz: float | None
    throttled: bool | None


class _Turn(NamedTuple):
    spent_ns: Sequence[int]
    seconds: float
    conditions: Conditions


class Course:
    """Gathers turns into points.

    Args:
        total_s: how long the run may take; sets how many seconds a point has.
    """

    def __init__(self, total_s: float) -> None:
        self._point_s = max(1.0, total_s / POINTS)
        self._now_s = 0.0
        self._turns: list[_Turn] = []
        self._phase = SOAK
        self._points: list[Point] = []
        self._heat: collections.deque[tuple[float, float]] = collections.deque()
        self._throttled_s = 0.0
        self._is_limit_known = True

    def add(self, phase: str, spent_ns: Sequence[int], seconds: float, conditions: Conditions) -> None:
        """Takes one turn in; one of the bare loop has no runs of ours."""
        if phase != self._phase:
            self._close()
        self._phase = phase
        self._turns.append(_Turn(spent_ns, seconds, conditions))
        self._now_s += seconds
        if phase == MEASURE:
            self._is_limit_known &= conditions.throttled is not None
            self._throttled_s += seconds if conditions.throttled else 0.0
        if conditions.temperature_c is not None:
            self._heat.append((self._now_s, conditions.temperature_c))
            while len(self._heat) > 1 and self._heat[1][0] <= self._now_s - SETTLED_S:
                self._heat.popleft()
        if sum(turn.seconds for turn in self._turns) >= self._point_s:
            self._close()

    def has_settled(self) -> bool | None:
        """Says whether the heat stays where it is; None where no temperature is known."""
        if not self._heat:
            return None
        values = [value for _, value in self._heat]
        return self._heat[-1][0] - self._heat[0][0] >= SETTLED_S and max(values) - min(values) <= SETTLED_K

    def throttled_s(self) -> float | None:
        """Gives the seconds of MEASURE in which a limit was met; None where that was not told all the time."""
        return self._throttled_s if self._is_limit_known else None

    def points(self) -> tuple[Point, ...]:
        """Gives the course so far."""
        self._close()
        return tuple(self._points)

    def _close(self) -> None:
        turns, self._turns = self._turns, []
        spent_ns = np.concatenate([np.asarray(turn.spent_ns, np.int64) for turn in turns]) if turns else np.zeros(0)
        if not spent_ns.size:
            self._turns = turns
            return
        seconds = sum(turn.seconds for turn in turns)
        p50, p99 = np.percentile(spent_ns, (50, 99)) / 1e6
        limits = [turn.conditions.throttled for turn in turns]
        self._points.append(
            Point(
                t_s=round(self._now_s - seconds, 3),
                seconds=round(seconds, 3),
                phase=self._phase,
                inferences=int(spent_ns.size),
                p50_ms=float(p50),
                p99_ms=float(p99),
                power_w=_mean([turn.conditions.power_w for turn in turns]),
                temperature_c=_mean([turn.conditions.temperature_c for turn in turns]),
                clock_hz=_mean([turn.conditions.clock_hz for turn in turns]),
                throttled=True if True in limits else None if None in limits else False,
            )
        )


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None
