"""All sensors of a machine, asked together: one that fails costs its own metrics and nothing else."""

import logging
from collections.abc import Sequence

from edge_sdk.device.sense import files
from edge_sdk.device.sense.protocol import Sensor
from edge_sdk.records.telemetry import Reading

_LOG = logging.getLogger(__name__)


class Sensors:
    """Asks each sensor in order. One thread at a time."""

    def __init__(self, sensors: Sequence[Sensor]) -> None:
        self._sensors = tuple(sensors)
        self._metrics: list[tuple[str, ...]] = [() for _ in self._sensors]
        self._failing: set[int] = set()

    def collect(self) -> list[Reading]:
        """Gives every sensor's readings; what a failing one gave before is None with its error as the reason."""
        readings: list[Reading] = []
        for position, sensor in enumerate(self._sensors):
            readings += self._asked(position, sensor)
        return readings

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
