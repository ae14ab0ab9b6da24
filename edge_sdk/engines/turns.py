"""An Engine and the library's own run of the same file in turns, with what the machine said of each turn."""

import array
from collections.abc import Callable, Mapping
from typing import Any

from numpy.typing import NDArray

from edge_sdk import clock
from edge_sdk.engines import sustained
from edge_sdk.engines.engine import Engine
from edge_sdk.engines.protocol import Tensors
from edge_sdk.engines.sustained import Course, Meter

WARM_UP_NS = 100_000_000
TURN_NS = 250_000_000
"""Short against a change of clock speed, long against a change of caches."""

TICK_NS = 100_000_000
"""How often a power meter is read during a turn."""

BLIND_SOAK_S = 60.0
"""Soaks at most so long where no temperature is read: nobody can tell when it has settled."""


class Turns:
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


class Run:
    """The Engine and the bare loop in turns, and what the machine said of each turn.

    Attributes:
        ours, theirs: nanoseconds of each run in the measurement.
        ours_s: wall seconds of the Engine's turns.
    """

    def __init__(
        self,
        turns: Turns,
        *,
        engine: Engine,
        bare: Callable[[Mapping[str, NDArray[Any]]], object] | None,
        meter: Meter,
        course: Course,
        ticks: clock.Clock,
        progress: Callable[[str, int, int], None] | None,
    ) -> None:
        self._turns = turns
        self._engine = engine
        self._bare = bare
        self._meter = meter
        self._course = course
        self._clock = ticks
        self._progress = progress or (lambda *_: None)
        self._energies_j: list[float | None] = []
        self.ours = array.array("q")
        self.theirs = array.array("q")
        self.ours_s = 0.0

    def warm_up(self) -> None:
        """Runs both once for a moment, and begins to measure."""
        for run in filter(None, (self._engine.infer, self._bare)):
            self._turns.take(run, WARM_UP_NS)
        self._meter.begin()

    def soak(self, soak_s: float) -> float:
        """Runs the Engine until the heat has settled, or `soak_s` are over; gives the seconds that took."""
        if not soak_s:
            return 0.0
        begun_s = self._clock.boot_s()
        while (spent_s := self._clock.boot_s() - begun_s) < soak_s:
            settled = self._course.has_settled()
            if settled or (settled is None and spent_s >= BLIND_SOAK_S):
                break
            self._turn(sustained.SOAK, self._engine.infer)
            self._progress("soak", int(spent_s), max(1, int(soak_s)))
        self._progress("soak", max(1, int(soak_s)), max(1, int(soak_s)))
        return spent_s

    def measure(self, seconds: float) -> None:
        """Runs both in turns, each at least once, however long one run takes."""
        begun_s, total = self._clock.boot_s(), max(1, round(seconds * 10))
        while not self.ours or self._clock.boot_s() - begun_s < seconds:
            spent_ns, turn_s, energy_j = self._turn(sustained.MEASURE, self._engine.infer)
            self.ours.extend(spent_ns)
            self.ours_s += turn_s
            self._energies_j.append(energy_j)
            if self._bare is not None:
                self.theirs.extend(self._turn(sustained.MEASURE, self._bare, is_ours=False)[0])
            self._progress("bench", min(total - 1, int((self._clock.boot_s() - begun_s) * 10)), total)
        self._progress("bench", total, total)

    def energy_j(self) -> float | None:
        """Gives the energy of the Engine's turns; None when one of them was not read."""
        known = [energy for energy in self._energies_j if energy is not None]
        return sum(known) if len(known) == len(self._energies_j) else None

    def _turn(
        self, phase: str, run: Callable[[Mapping[str, NDArray[Any]]], object], *, is_ours: bool = True
    ) -> tuple[list[int], float, float | None]:
        begun_s = self._clock.boot_s()
        spent_ns = self._turns.take(run, TURN_NS, self._meter.tick)
        conditions = self._meter.take()
        turn_s = self._clock.boot_s() - begun_s
        self._course.add(phase, spent_ns if is_ours else (), turn_s, conditions)
        return spent_ns, turn_s, conditions.energy_j
