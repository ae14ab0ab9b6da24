"""A fleet that does not exist: simulated boards, the real wire format, real links, receipts awaited as devices do.

Every Sample says that it is simulated. A few boards live (power, heat, clocks; `simulation.SimulatedBoard`), read by
the device's own sensors; each device takes the readings of one of them, and its latencies from one of 256 kinds. What
has no receipt is sent again, so that the collector's figures can be held against what the fleet made.
"""

import math
import random
import threading
from collections import Counter, OrderedDict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple, Protocol

import msgspec
import numpy as np

from edge_sdk import clock, errors
from edge_sdk.device import reports
from edge_sdk.device.sense import board, together
from edge_sdk.link.protocol import Handler, LinkState, Message
from edge_sdk.numerics import histogram
from edge_sdk.records import telemetry
from edge_sdk.testing.board import BOARDS
from edge_sdk.testing.simulation import SimulatedBoard
from edge_sdk.wire import codec, histograms, topics

FAULTS = ("reboot", "silence", "poison", "replay", "sensor", "clock")
"""What can be asked for: a new boot, half a minute offline, a payload that is none, an old payload once more, a power
sensor without a value, a wall clock an hour behind."""

_WINDOWS = 16  # prepared for each device, taken in turn
_RESEND_S, _RESEND_MAX_S = 15.0, 240.0  # as a device does, unless its settings say otherwise: twice as long each time
_SILENCE_S = 30.0
_HELD_MAX = 10_000
_INFERENCES = 60  # of a device in one interval
_KINDS = 256  # of devices, by their latencies
_GRAIN_S = 0.002  # a shorter wait than this costs more than it is worth
_TURN = 50  # devices that may live without the links being looked after


class Counts(msgspec.Struct, frozen=True, kw_only=True):
    """What a fleet has done.

    Attributes:
        devices: in it.
        made: Samples made.
        receipted: of these, Samples that a collector has committed.
        held: of these, Samples that wait for their receipt.
        dropped: of these, Samples that gave way to newer ones.
        sent: publishes, repeated ones included.
        late: Samples made more than an interval late, as this machine did not keep up.
        faults: injected, by kind.
    """

    devices: int
    made: int
    receipted: int
    held: int
    dropped: int
    sent: int
    late: int
    faults: dict[str, int]


class Plan(NamedTuple):
    """What fleet is wanted.

    Attributes:
        devices: how many.
        sites: over which they are spread.
        interval_s: between two Samples of a device.
        faults: of FAULTS, those that happen.
        fault_rate_hz: how often one of them happens to each device.
        seed: of everything random.
        prefix: of the devices' names.
    """

    devices: int
    sites: int = 4
    interval_s: float = 1.0
    faults: tuple[str, ...] = ()
    fault_rate_hz: float = 0.01
    seed: int = 0
    prefix: str = "sim"


class Line(Protocol):
    """What a fleet needs of a link; `edge_sdk.link` and `swarm.SwarmLink` have it."""

    def open(self) -> None:
        """Starts connecting."""
        ...

    def subscribe(self, topic_filter: str, handler: Handler) -> None:
        """Has `handler` called for messages on a topic."""
        ...

    def publish(self, topic: str, payload: bytes, *, retain: bool = False) -> None:
        """Hands one message to the broker; raises LinkError where it can't."""
        ...

    def wait_for_connected(self, timeout_s: float) -> bool:
        """Tells whether a connection stood within `timeout_s`."""
        ...

    def snapshot(self) -> LinkState:
        """Gives the state at this moment."""
        ...

    def close(self, timeout_s: float = 2.0) -> None:
        """Says goodbye and stops."""
        ...


class _Resend(NamedTuple):
    due_s: float
    wait_s: float


_UNSENT = _Resend(-math.inf, 0.0)


class _Device:
    """One device: its name, its boot, and the Samples that have no receipt yet."""

    def __init__(
        self, identity: reports.Identity, link: Line, windows: Sequence[telemetry.Window], phase: float
    ) -> None:
        self.identity = identity
        self.link = link
        self.windows = windows
        self.phase = phase
        self.topic = topics.up(identity.site, identity.device, "telemetry")
        self.seq = 0
        self.dropped = 0
        self.held: OrderedDict[tuple[str, int], bytes] = OrderedDict()
        self.resends: dict[tuple[str, int], _Resend] = {}
        self.silent_until_s = 0.0
        self.last = b""


class Fleet:
    """Runs devices over links. Order of use: `open`, `step` again and again, `close`."""

    def __init__(
        self,
        plan: Plan,
        folder: Path,
        new_link: Callable[[int], Line],
        clocks: clock.Clock,
        *,
        links: int,
        rest: Callable[[float], None] | None = None,
    ) -> None:
        """Prepares a fleet; nothing is sent before `open`.

        Args:
            plan: which one.
            folder: an empty one, for the boards' files.
            new_link: gives an unopened link by its number.
            clocks: whose time it lives in.
            links: connections to share among the devices; as many as devices for one each.
            rest: passes so many seconds, for links that live on this thread; the clock's sleep unless said.
        """
        self._plan = plan
        self._clock = clocks
        self._rest = rest or clocks.sleep
        self._rng = random.Random(plan.seed)  # noqa: S311  # a simulation, repeatable on purpose
        self._lock = threading.Lock()
        self._counts: Counter[str] = Counter()
        self._faults: Counter[str] = Counter()
        self._boards = [_Board(folder / name, name, clocks, phase) for phase, name in enumerate(BOARDS)]
        self._links = [new_link(number) for number in range(min(links, plan.devices))]
        rng = np.random.default_rng(plan.seed)
        self._kinds = [
            _windows(rng, 2.0 + 10.0 * rng.random(), plan.interval_s) for _ in range(min(_KINDS, plan.devices))
        ]
        self._devices = [self._new_device(number) for number in range(plan.devices)]
        self._bases: list[telemetry.Sample] = []
        self._round = 0
        self._started_s = 0.0

    def open(self, timeout_s: float = 30.0) -> None:
        """Connects every link and says who is there.

        Raises:
            LinkError: a link was not connected in time.
        """
        for device in self._devices:
            device.link.subscribe(
                topics.receipt(device.identity.site, device.identity.device), self._receipt_taker(device)
            )
        for link in self._links:
            link.open()
        deadline_s = self._clock.boot_s() + timeout_s
        for link in self._links:
            if not link.wait_for_connected(max(0.1, deadline_s - self._clock.boot_s())):
                raise errors.LinkError(link.snapshot().last_error or f"no connection within {timeout_s:g} s")
        for device in self._devices:
            self._say_who(device)
        self._started_s = self._clock.boot_s()

    def step(self) -> None:
        """Lives for one interval: every device makes its Sample at its own moment and sends what is due."""
        start_s = self._started_s + self._round * self._plan.interval_s
        self._round += 1
        self._bases = [one.base(self._plan.interval_s, self._clock) for one in self._boards]
        for number, device in enumerate(self._devices):
            due_s = start_s + device.phase * self._plan.interval_s
            wait_s = due_s - self._clock.boot_s()
            if wait_s > _GRAIN_S or number % _TURN == 0:
                self._rest(max(0.0, wait_s))
            if -wait_s > self._plan.interval_s:
                self._counts["late"] += 1
            self._live(device, self._bases[number % len(self._bases)])

    def drain(self, timeout_s: float) -> bool:
        """Sends again what has no receipt, for at most `timeout_s`; tells whether everything has one."""
        deadline_s = self._clock.boot_s() + timeout_s
        while (waiting := any(device.held for device in self._devices)) and self._clock.boot_s() < deadline_s:
            for device in self._devices:
                device.silent_until_s = 0.0
                self._send_due(device)
            self._rest(0.05)
        return not waiting

    def snapshot(self) -> Counts:
        """Gives what has been done so far."""
        with self._lock:
            counts = self._counts
            return Counts(
                devices=len(self._devices),
                made=counts["made"],
                receipted=counts["receipted"],
                held=sum(len(device.held) for device in self._devices),
                dropped=counts["dropped"],
                sent=counts["sent"],
                late=counts["late"],
                faults=dict(self._faults),
            )

    def close(self) -> None:
        """Says goodbye and ends the links."""
        for device in self._devices:
            status = reports.status(device.identity, "offline", wall_s=self._clock.wall_s())
            self._publish(device, topics.up(*device.identity[:2], "status"), codec.to_bytes(status), retain=True)
        for link in self._links:
            link.close(1.0)

    def _new_device(self, number: int) -> _Device:
        plan = self._plan
        site, name = f"site-{number % plan.sites}", f"{plan.prefix}-{number:05d}"
        return _Device(
            reports.Identity(site, name, self._new_boot()),
            self._links[number % len(self._links)],
            self._kinds[number % len(self._kinds)],
            number / plan.devices,
        )

    def _new_boot(self) -> str:
        return reports.boot_id(started_s=self._clock.wall_s(), random_bits=self._rng.getrandbits(32))

    def _say_who(self, device: _Device) -> None:
        wall_s = self._clock.wall_s()
        status = reports.status(device.identity, "online", wall_s=wall_s)
        birth = reports.birth(
            device.identity,
            wall_s=wall_s,
            machine={"simulated": "edge-sdk simulate"},
            models=[telemetry.ModelInfo("simulated", "1", "0" * 12, "simulated")],
            interval_s=self._plan.interval_s,
        )
        for what, record in (("status", status), ("birth", birth)):
            self._publish(device, topics.up(*device.identity[:2], what), codec.to_bytes(record), retain=True)

    def _live(self, device: _Device, base: telemetry.Sample) -> None:
        fault = self._next_fault()
        if fault == "reboot":
            device.identity = device.identity._replace(boot=self._new_boot())
            device.seq = device.dropped = 0
            self._say_who(device)
        elif fault == "silence":
            device.silent_until_s = self._clock.boot_s() + _SILENCE_S
        elif fault == "poison":
            self._publish(device, device.topic, b'{"v": 1, "device": ')
        elif fault == "replay" and device.last:
            self._publish(device, device.topic, device.last)
        self._make(device, base, fault)
        self._send_due(device)

    def _next_fault(self) -> str:
        plan = self._plan
        if not plan.faults or self._rng.random() >= plan.fault_rate_hz * plan.interval_s:
            return ""
        fault = self._rng.choice(plan.faults)
        self._faults[fault] += 1
        return fault

    def _make(self, device: _Device, base: telemetry.Sample, fault: str) -> None:
        _, name, boot = device.identity
        window = device.windows[device.seq % len(device.windows)]
        if base.energy_j is not None:
            window = msgspec.structs.replace(
                window, energy_j=base.energy_j, energy_per_inference_j=base.energy_j / window.count
            )
        with self._lock:
            if len(device.held) >= _HELD_MAX:
                key, _ = device.held.popitem(last=False)
                device.resends.pop(key, None)
                device.dropped += key[0] == boot
                self._counts["dropped"] += 1
            oldest_seq = next((seq for of_boot, seq in device.held if of_boot == boot), device.seq)
        sample = msgspec.structs.replace(
            base,
            device=name,
            boot=boot,
            seq=device.seq,
            t=self._clock.wall_s() - (3600 if fault == "clock" else 0),
            oldest_seq=oldest_seq,
            dropped=device.dropped,
            power_w=None if fault == "sensor" else base.power_w,
            missing={**base.missing, "power_w": "simulated fault"} if fault == "sensor" else base.missing,
            models=(window,),
        )
        payload = codec.to_bytes(sample)
        with self._lock:
            device.held[boot, device.seq] = payload
            self._counts["made"] += 1
        device.last = payload
        device.seq += 1

    def _send_due(self, device: _Device) -> None:
        now_s = self._clock.boot_s()
        if now_s < device.silent_until_s:
            return
        with self._lock:
            due = [
                (key, payload)
                for key, payload in device.held.items()
                if now_s >= device.resends.get(key, _UNSENT).due_s
            ]
        for key, payload in due:
            if not self._publish(device, device.topic, payload):
                return
            with self._lock:
                if key in device.held:
                    wait_s = min(2 * device.resends.get(key, _UNSENT).wait_s, _RESEND_MAX_S) or _RESEND_S
                    device.resends[key] = _Resend(now_s + wait_s, wait_s)

    def _publish(self, device: _Device, topic: str, payload: bytes, *, retain: bool = False) -> bool:
        try:
            device.link.publish(topic, payload, retain=retain)
        except errors.LinkError:
            return False
        self._counts["sent"] += 1
        return True

    def _receipt_taker(self, device: _Device) -> Callable[[Message], None]:
        def take(message: Message) -> None:
            receipt = codec.from_bytes(message.payload, telemetry.Receipt)
            with self._lock:
                stored = [key for key in device.held if key[0] == receipt.boot and key[1] <= receipt.upto]
                for key in stored:
                    del device.held[key]
                    device.resends.pop(key, None)
                self._counts["receipted"] += len(stored)

        return take


class _Board:
    """One simulated board and the device's sensors on it."""

    def __init__(self, root: Path, name: str, clocks: clock.Clock, phase: int) -> None:
        root.mkdir(parents=True)
        self._board = SimulatedBoard(root, lambda t: 0.5 + 0.4 * math.sin(t / 20 + phase), clocks, name=name)
        self._sensors = together.Sensors(board.sensors_of(root, clocks=clocks, state_folder=root))
        self._sensors.collect()

    def base(self, interval_s: float, clocks: clock.Clock) -> telemetry.Sample:
        """Gives what the board's sensors say now, under a name that each device replaces."""
        self._board.advance()
        self._sensors.tick()
        moment = reports.Moment(
            seq=0, wall_s=clocks.wall_s(), boot_s=clocks.boot_s(), interval_s=interval_s, oldest_seq=0, dropped=0
        )
        who = reports.Identity("sim", "sim", "00000000")
        sample = reports.sample(who, moment, self._sensors.collect(), ())
        assert sample.simulated
        return sample


def _windows(rng: np.random.Generator, median_ms: float, interval_s: float) -> list[telemetry.Window]:
    """Gives windows of one device, with a tail of slow answers."""
    out = []
    for _ in range(_WINDOWS):
        values = rng.lognormal(math.log(median_ms), 0.15, _INFERENCES)
        values[rng.random(_INFERENCES) < 0.01] *= 6
        out.append(
            telemetry.Window(
                model="simulated",
                digest="0" * 12,
                count=_INFERENCES,
                errors={},
                throughput_hz=_INFERENCES / interval_s,
                queue_depth_max=1,
                latency_p50_ms=round(float(np.quantile(values, 0.5)), 3),
                latency_p99_ms=round(float(np.quantile(values, 0.99)), 3),
                latency_hist=histograms.to_text(histogram.histogram_from_values(values)),
                stage_ms={"compute": round(median_ms * 0.8, 3)},
                energy_j=None,
                energy_per_inference_j=None,
                engine="simulated",
            )
        )
    return out
