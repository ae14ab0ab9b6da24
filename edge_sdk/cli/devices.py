"""What a listener has heard of each device: its newest Sample, its Birth, its status, its events, and some history."""

import collections
from typing import NamedTuple

from edge_sdk import clock, errors
from edge_sdk.cli import frame, table
from edge_sdk.link.protocol import Message
from edge_sdk.records import telemetry
from edge_sdk.wire import codec, topics

_EVENTS = 4

Name = tuple[str, str]
"""Site and device."""


class _Heard(NamedTuple):
    """Of one device."""

    powers_w: "collections.deque[float | None]"
    heats_c: "collections.deque[float | None]"
    events: "collections.deque[telemetry.Event]"
    sample: telemetry.Sample | None = None
    came_s: float = 0.0
    birth: telemetry.Birth | None = None
    is_online: bool = True


class Devices:
    """Takes messages in the order in which they come."""

    def __init__(self, ticks: clock.Clock) -> None:
        self._clock = ticks
        self._heard: dict[Name, _Heard] = {}

    def take(self, message: Message) -> bool:
        """Takes one message in; True for a Sample newer than the one before. Other payloads are ignored."""
        try:
            topic = topics.parse(message.topic)
            name = topic.site, topic.device
            if topic.leaf == "up/telemetry":
                return self.take_sample(name, codec.from_bytes(message.payload, telemetry.Sample))
            heard = self._of(name)
            if topic.leaf == "up/status":
                status = codec.from_bytes(message.payload, telemetry.Status)
                self._heard[name] = heard._replace(is_online=status.state == "online")
            elif topic.leaf == "up/birth":
                self._heard[name] = heard._replace(birth=codec.from_bytes(message.payload, telemetry.Birth))
            elif topic.leaf == "up/event":
                heard.events.append(codec.from_bytes(message.payload, telemetry.Event))
        except errors.PayloadError:
            pass
        return False

    def take_sample(self, name: Name, sample: telemetry.Sample) -> bool:
        """Takes a Sample in; False for one that was sent again, or that was held back while the device was offline."""
        heard = self._of(name)
        if not table.is_newer(sample, heard.sample):
            return False
        heard.powers_w.append(sample.power_w)
        heard.heats_c.append(table.temperature_c(sample))
        self._heard[name] = heard._replace(sample=sample, came_s=self._clock.boot_s())
        return True

    def names(self) -> list[Name]:
        """Gives those of which a Sample has come, in order."""
        return sorted(name for name, heard in self._heard.items() if heard.sample is not None)

    def interval_s(self) -> float:
        """Gives the longest interval that a device has announced; 1.0 where none has."""
        return max((heard.birth.interval_s for heard in self._heard.values() if heard.birth is not None), default=1.0)

    def seen(self, name: Name) -> frame.Seen:
        """Gives what is known of one device."""
        heard = self._of(name)
        return frame.Seen(
            site=name[0],
            device=name[1],
            sample=heard.sample,
            age_s=None if heard.sample is None else self._clock.boot_s() - heard.came_s,
            is_online=heard.is_online,
            machine=heard.birth.machine if heard.birth is not None else {},
            withdrawn=(heard.birth.withdrawn or ()) if heard.birth is not None else (),
            events=tuple(heard.events),
            powers_w=tuple(heard.powers_w),
            heats_c=tuple(heard.heats_c),
            others=tuple(other[1] for other in self.names() if other != name),
        )

    def _of(self, name: Name) -> _Heard:
        if name not in self._heard:
            self._heard[name] = _Heard(
                collections.deque(maxlen=frame.HISTORY),
                collections.deque(maxlen=frame.HISTORY),
                collections.deque(maxlen=_EVENTS),
            )
        return self._heard[name]
