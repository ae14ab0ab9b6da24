"""What a sensor is: one method. A new one is one file; it may come from the user as well."""

from collections.abc import Iterable
from typing import Protocol, runtime_checkable

from edge_sdk.records.telemetry import Reading


class Sensor(Protocol):
    """A source of readings, asked once per interval and always by the same thread."""

    def collect(self) -> Iterable[Reading]:
        """Gives a Reading for each metric that this sensor answers for.

        What is measured over time covers the time since the call before. What cannot be read is None with the
        reason, never 0 and never the value of the call before.
        """
        ...


@runtime_checkable
class Ticking(Protocol):
    """A sensor that integrates, and so wants to be asked more often than once per interval."""

    def tick(self) -> bool:
        """Takes a reading in between; True when there is something to integrate. Never raises."""
        ...


@runtime_checkable
class Closing(Protocol):
    """A sensor that holds something open."""

    def close(self) -> None:
        """Gives it back; never raises."""
        ...
