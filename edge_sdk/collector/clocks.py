"""How far each device's clock is off ours, from when its Samples say they were taken and when they arrive. No I/O.

A message is never here before it was sent, and sometimes at once: the least of (arrival - its own time) over a while is
the clock's offset, to within the fastest journey. What comes from a spool is old, so only a Sample that is newer than
all before it counts. A clock that is set while the device runs shows at once: `t` moves against `up_s`.
"""

from typing import NamedTuple

from edge_sdk.records import telemetry

FLAGGED_S = 2.0
"""An offset beyond this is reported; the journey of a Sample, and its wait in a queue, stay well below."""

WINDOW_S = 10.0
"""Ten Samples at the usual interval: one that came at once is among them."""

_DEVICES_MAX = 100_000


class ClockNews(NamedTuple):
    """Something to tell of a device's clock.

    Attributes:
        kind: ``clock_skewed``, ``clock_right`` (again), ``clock_set``, ``clock_unsynced`` or ``clock_synced``.
        message: in words.
        offset_s: seconds by which the device's clock is behind ours; how far it was moved, for ``clock_set``.
    """

    kind: str
    message: str
    offset_s: float


class _Seen:
    __slots__ = ("base_s", "boot", "ends_s", "is_skewed", "is_unsynced", "least_s", "newest_seq", "offset_s")

    def __init__(self, sample: telemetry.Sample, received_t: float) -> None:
        self.is_skewed = False
        self.is_unsynced = sample.synced is False
        self.offset_s: float | None = None
        self.begin(sample, received_t)

    def begin(self, sample: telemetry.Sample, received_t: float) -> None:
        self.boot, self.newest_seq = sample.boot, sample.seq
        self.base_s = sample.t - sample.up_s
        self.begin_window(sample, received_t)

    def begin_window(self, sample: telemetry.Sample, received_t: float) -> None:
        self.least_s = received_t - sample.t
        self.ends_s = received_t + WINDOW_S


class DeviceClocks:
    """The clocks of all devices, as far as their Samples show them. Used by one thread."""

    def __init__(self) -> None:
        self._seen: dict[str, _Seen] = {}

    def note(self, sample: telemetry.Sample, received_t: float) -> ClockNews | None:
        """Takes in one Sample; gives what there is to tell, if anything."""
        seen = self._seen.get(sample.device)
        if seen is None:
            if len(self._seen) >= _DEVICES_MAX:
                del self._seen[next(iter(self._seen))]
            seen = self._seen[sample.device] = _Seen(sample, received_t)
            return _synced(sample, received_t) if seen.is_unsynced else None
        if sample.boot != seen.boot:
            if sample.boot > seen.boot or received_t > seen.ends_s:  # an older boot's rest says nothing of now
                seen.begin(sample, received_t)
            return None
        if sample.seq <= seen.newest_seq:
            return None
        seen.newest_seq = sample.seq
        if seen.is_unsynced != (sample.synced is False):
            seen.begin(sample, received_t)
            seen.is_unsynced = not seen.is_unsynced
            return _synced(sample, received_t)
        moved_s = sample.t - sample.up_s - seen.base_s
        if not -FLAGGED_S <= moved_s <= FLAGGED_S:
            seen.begin(sample, received_t)
            return _set(sample, moved_s)
        if received_t - sample.t < seen.least_s:  # noqa: PLR1730  # a call of min() costs more than the rest of this
            seen.least_s = received_t - sample.t
        if received_t < seen.ends_s:
            return None
        return self._judge(seen, sample, received_t)

    def offsets(self) -> dict[str, float]:
        """Gives by device the seconds by which its clock is behind ours, where a window has passed."""
        return {device: seen.offset_s for device, seen in self._seen.items() if seen.offset_s is not None}

    def skewed(self) -> int:
        """Gives how many devices' clocks are off by more than FLAGGED_S."""
        return sum(seen.is_skewed for seen in self._seen.values())

    def _judge(self, seen: _Seen, sample: telemetry.Sample, received_t: float) -> ClockNews | None:
        seen.offset_s = seen.least_s
        # A device that says itself that nobody keeps its clock has been told of once; its offset is no news.
        was_skewed, seen.is_skewed = seen.is_skewed, abs(seen.least_s) > FLAGGED_S and not seen.is_unsynced
        seen.begin_window(sample, received_t)
        if seen.is_skewed == was_skewed:
            return None
        if not seen.is_skewed:
            return ClockNews("clock_right", f"the clock of {sample.device} is right again", seen.offset_s)
        side = "behind" if seen.offset_s > 0 else "ahead of"
        message = (
            f"the clock of {sample.device} is {abs(seen.offset_s):.1f} s {side} the collector's; its Samples are kept "
            "in their order, but their times are off: check its time server"
        )
        return ClockNews("clock_skewed", message, seen.offset_s)


def _set(sample: telemetry.Sample, moved_s: float) -> ClockNews:
    side = "forward" if moved_s > 0 else "back"
    message = f"the clock of {sample.device} was set {abs(moved_s):.1f} s {side} at seq {sample.seq}"
    return ClockNews("clock_set", message, moved_s)


def _synced(sample: telemetry.Sample, received_t: float) -> ClockNews:
    offset_s = received_t - sample.t
    if sample.synced is False:
        message = f"no time server keeps the clock of {sample.device} right, as it says itself; its times may be off"
        return ClockNews("clock_unsynced", message, offset_s)
    return ClockNews("clock_synced", f"a time server keeps the clock of {sample.device} right", offset_s)
