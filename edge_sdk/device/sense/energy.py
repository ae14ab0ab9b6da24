"""Energy from power: the trapezoid over the true times of the readings, however uneven they are."""

from collections.abc import Callable
from typing import NamedTuple

from edge_sdk import clock
from edge_sdk.device.sense import files

HIGH_W = 100_000.0
"""More than any machine with this SDK takes; a driver's sentinels lie above."""

_FIRST = "needs two power readings; this was the first"


class Taken(NamedTuple):
    """What a meter saw since it was taken before.

    Attributes:
        power_w: mean over the time that was seen; the last reading where no time was; None when nothing was read.
        energy_j: of the whole time; None when a part of it was not seen.
        reason: why there is no energy, or no power at all; empty when there is both.
    """

    power_w: float | None
    energy_j: float | None
    reason: str


class Meter:
    """Integrates one power reading. One thread at a time.

    A reading that fails leaves a gap: the time around it has a power but no energy, since nobody saw all of it.
    """

    def __init__(self, measure: Callable[[], float], clocks: clock.Clock) -> None:
        self._measure = measure
        self._clock = clocks
        self._last: tuple[float, float] | None = None
        self._latest_w: float | None = None
        self._energy_j = self._seen_s = 0.0
        self._problem = ""

    def tick(self) -> None:
        """Takes one reading; the more of them in an interval, the truer its energy."""
        before_s = self._clock.boot_s()
        reading = files.reading("power_w", self._measure, high=HIGH_W)
        # The bus takes its time: the conversion lies between the two ends of the call.
        now_s = (before_s + self._clock.boot_s()) / 2
        last, self._last = self._last, None
        if not isinstance(reading.value, float):
            self._problem = reading.reason
            return
        self._last = reading.value, now_s
        self._latest_w = reading.value
        if last is None:
            self._problem = self._problem or _FIRST
        elif now_s > last[1]:
            self._seen_s += now_s - last[1]
            self._energy_j += (last[0] + reading.value) / 2 * (now_s - last[1])

    def take(self) -> Taken:
        """Reads once more, and gives what was seen since the call before."""
        self.tick()
        energy_j, seen_s = self._energy_j, self._seen_s
        latest_w, problem = self._latest_w, self._problem
        self._latest_w = None
        self._energy_j = self._seen_s = 0.0
        self._problem = ""
        if latest_w is None:
            return Taken(None, None, problem)
        power_w = energy_j / seen_s if seen_s > 0 else latest_w
        if problem or not seen_s:
            return Taken(power_w, None, problem or "no time has passed since the reading before")
        return Taken(power_w, energy_j, "")
