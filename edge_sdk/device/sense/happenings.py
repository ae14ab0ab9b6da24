"""What began or ended on the board, from one collection of readings to the next: once each, not once per Sample."""

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from edge_sdk.records.telemetry import Reading

PERIODS = 3
"""So many collections without a value and a source counts as lost: one that hiccups is no news."""

_CALM = 10
"""So many collections without throttling and it counts as over: a machine at its limit goes in and out of it."""

STALE = "no news from "
"""How the reason of a source begins that is there but says nothing new; see `edge_sdk.device.sense.jtop`."""


class Happening(NamedTuple):
    """One event.

    Attributes:
        kind: for machines: ``throttled``, ``throttling_ended``, ``sensor_lost``, ``sensor_back``, ``source_stale``.
        message: for people.
        details: numbers that belong to it.
    """

    kind: str
    message: str
    details: Mapping[str, str | int | float | bool | None]


class Watch:
    """Compares collections. One thread at a time."""

    def __init__(self) -> None:
        self._gone: dict[str, int] = {}
        self._had: set[str] = set()
        self._stale: set[str] = set()
        self._calm = _CALM
        self._news: list[Happening] = []

    def look(self, readings: Iterable[Reading]) -> None:
        """Takes the next collection."""
        listed = list(readings)
        has_value = {reading.metric for reading in listed if reading.value is not None}
        reasons = {reading.metric: reading.reason for reading in listed if reading.metric not in has_value}
        self._look_for_throttling(listed)
        self._look_for_stale(reasons)
        self._look_for_lost(reasons)
        self._look_for_back(has_value)

    def take(self) -> list[Happening]:
        """Gives what happened since the call before, and forgets it."""
        news, self._news = self._news, []
        return news

    def _look_for_throttling(self, readings: Iterable[Reading]) -> None:
        values = {reading.metric: reading.value for reading in readings if reading.value is not None}
        if "throttled" not in values:
            return
        if values["throttled"]:
            if self._calm >= _CALM:
                keys = ("throttle_events", "overcurrent_events", "temperature_max_c", "power_w", "power_mode")
                details = {key: values[key] for key in keys if key in values}
                self._tell("throttled", "a thermal or over-current limit slows the machine down", details)
            self._calm = 0
            return
        self._calm += 1
        if self._calm == _CALM:
            self._tell("throttling_ended", f"no limit was met in the last {_CALM} readings", {})

    def _look_for_stale(self, reasons: dict[str, str]) -> None:
        stale = {reason.partition(":")[0].removeprefix(STALE): reason for reason in reasons.values() if STALE in reason}
        for source in sorted(stale.keys() - self._stale):
            self._tell("source_stale", stale[source], {"source": source})
        self._stale = set(stale)

    def _look_for_lost(self, reasons: dict[str, str]) -> None:
        for metric in sorted(self._had & reasons.keys()):
            self._gone[metric] = self._gone.get(metric, 0) + 1
            if self._gone[metric] == PERIODS:
                message = f"{metric} has had no value for {PERIODS} readings: {reasons[metric]}"
                self._tell("sensor_lost", message, {"metric": metric})

    def _look_for_back(self, has_value: set[str]) -> None:
        for metric in sorted(has_value & self._gone.keys()):
            if self._gone.pop(metric) >= PERIODS:
                self._tell("sensor_back", f"{metric} has a value again", {"metric": metric})
        self._had |= has_value

    def _tell(self, kind: str, message: str, details: Mapping[str, str | int | float | bool | None]) -> None:
        self._news.append(Happening(kind, message[:2000], details))
