"""All sensors of a machine, asked together: one that fails costs its own metrics and nothing else."""

import logging
from collections.abc import Sequence

from edge_sdk.device.sense import files, happenings
from edge_sdk.device.sense.happenings import Happening
from edge_sdk.device.sense.protocol import Closing, Sensor, Ticking
from edge_sdk.records.telemetry import Reading

_LOG = logging.getLogger(__name__)


class Sensors:
    """Asks each sensor in order. One thread at a time."""

    def __init__(self, sensors: Sequence[Sensor]) -> None:
        self._sensors = tuple(sensors)
        self._ticking = [sensor for sensor in self._sensors if isinstance(sensor, Ticking)]
        self._metrics: list[tuple[str, ...]] = [() for _ in self._sensors]
        self._failing: set[int] = set()
        self._watch = happenings.Watch()

    def tick(self) -> bool:
        """Lets those sensors read that integrate; what fails there shows in the next `collect`.

        Returns:
            whether anything is integrated on this machine: without that, nobody needs to wake up in between.
        """
        found = [sensor.tick() for sensor in self._ticking]  # all of them, not up to the first
        return any(found)

    def collect(self) -> list[Reading]:
        """Gives one reading for each metric; what a failing sensor gave before is None with its error as the reason.

        The first value counts. Where nobody has one, the last reason counts: who comes later stands in for those
        before. Numbers are rounded to six digits, which is finer than any of these sensors.
        """
        readings: list[Reading] = []
        for position, sensor in enumerate(self._sensors):
            readings += self._asked(position, sensor)
        chosen: dict[str, Reading] = {}
        for reading in readings:
            if reading.metric not in chosen or chosen[reading.metric].value is None:
                chosen[reading.metric] = _rounded(reading)
        self._watch.look(chosen.values())
        return list(chosen.values())

    def close(self) -> None:
        """Gives back what sensors hold open."""
        for sensor in self._sensors:
            if isinstance(sensor, Closing):
                sensor.close()

    def take_happenings(self) -> list[Happening]:
        """Gives what began or ended since the call before, for the event topic."""
        return self._watch.take()

    def _asked(self, position: int, sensor: Sensor) -> list[Reading]:
        name = type(sensor).__name__
        try:
            answered = list(sensor.collect())
        except Exception as error:  # noqa: BLE001  # boundary: a sensor may be the user's; its metrics become null
            if position not in self._failing:
                self._failing.add(position)
                _LOG.warning("sensor %s failed, its metrics are null until it works again: %r", name, error)
            return files.absent(f"sensor {name} failed: {error!r}", *self._metrics[position])
        if position in self._failing:
            self._failing.discard(position)
            _LOG.warning("sensor %s works again", name)
        self._metrics[position] = tuple(reading.metric for reading in answered)
        return answered


def _rounded(reading: Reading) -> Reading:
    if not isinstance(reading.value, float):
        return reading
    return Reading(reading.metric, float(f"{reading.value:.6g}"))
