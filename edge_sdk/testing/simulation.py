"""A board that lives: power, heat, clocks and throttling follow a load over time, in the files that sensors read.

The numbers are a model, fitted to no board; every Sample of it says that it is simulated. Its energy is known exactly,
which no real board's is. As a command it lives until it is told to end::

    python -m edge_sdk.testing.simulation /tmp/board --board orin_nano --load waves &
    edge-sdk daemon --root /tmp/board --device sim-1
"""

import argparse
import math
import re
import signal
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from edge_sdk import clock
from edge_sdk.testing.board import BOARDS, FakeBoard, tree_of

_STEP_S = 0.02
"""Of the integration; every time constant of the model is far longer."""
_CALM_C = 5.0
"""Throttling ends so far below the limit."""
_OFF = -256_000
"""What a zone says while its block is switched off."""


class Body(NamedTuple):
    """How a board takes power and warms up.

    Attributes:
        idle_w, busy_w: of the whole, with load 0 and 1, cool and unthrottled.
        leak_w_per_k: more for each kelvin above the ambient temperature.
        ambient_c: around it.
        rise_k_per_w: how much warmer it ends up for each watt.
        settle_s: time constant of that.
        limit_c: throttles from here on.
        slow_ratio: clocks while it throttles, as a share of the usual ones.
    """

    idle_w: float = 5.0
    busy_w: float = 15.0
    leak_w_per_k: float = 0.02
    ambient_c: float = 25.0
    rise_k_per_w: float = 3.0
    settle_s: float = 60.0
    limit_c: float = 85.0
    slow_ratio: float = 0.6


class SimulatedBoard:
    """One of `edge_sdk.testing.board.BOARDS` under a load.

    Args:
        root: an empty folder; hand it to the daemon instead of ``/``.
        load: gives the GPU's load from 0 to 1 at so many seconds after the start.
        clocks: whose time it lives in.
        name: of the board.
        body: how it takes power and warms up.
    """

    def __init__(
        self,
        root: Path,
        load: Callable[[float], float],
        clocks: clock.Clock,
        *,
        name: str = "orin_nano",
        body: Body | None = None,
    ) -> None:
        self._files = FakeBoard(root)
        self._files.become(name)
        self._parts = _parts_of(tree_of(name).files)
        self._written: dict[str, int | str] = {}
        self._load = load
        self._clock = clocks
        self._body = body or Body()
        self._start_s = self._now_s = clocks.boot_s()
        self.temperature_c = self._body.ambient_c
        self.energy_j = 0.0
        self.is_throttled = False
        self._throttlings = 0
        self._ticks = self._busy_ticks = 0.0
        self._write()

    @property
    def power_w(self) -> float:
        """What all of it takes at this moment."""
        body = self._body
        leak_w = body.leak_w_per_k * (self.temperature_c - body.ambient_c)
        speed = body.slow_ratio if self.is_throttled else 1.0
        return body.idle_w + (body.busy_w - body.idle_w) * self._load_now() * speed + leak_w

    def advance(self) -> None:
        """Lives until the clock's time, and writes the files."""
        end_s = self._clock.boot_s()
        while self._now_s < end_s:
            self._live(min(_STEP_S, end_s - self._now_s))
        self._write()

    def run(self, wait: Callable[[float], bool], *, period_s: float = 0.05) -> None:
        """Lives on, for a thread of a demo.

        Args:
            wait: waits for so many seconds; True when it is to end.
            period_s: between two writes.
        """
        while not wait(period_s):
            self.advance()

    def _live(self, step_s: float) -> None:
        body, before_w = self._body, self.power_w
        goal_c = body.ambient_c + body.rise_k_per_w * before_w
        self.temperature_c = goal_c + (self.temperature_c - goal_c) * math.exp(-step_s / body.settle_s)
        self._now_s += step_s
        self.energy_j += (before_w + self.power_w) / 2 * step_s
        self._ticks += step_s * 100
        self._busy_ticks += step_s * 100 * self._load_now()
        if not self.is_throttled and self.temperature_c >= body.limit_c:
            self.is_throttled = True
            self._throttlings += 1
        elif self.is_throttled and self.temperature_c < body.limit_c - _CALM_C:
            self.is_throttled = False

    def _load_now(self) -> float:
        return min(1.0, max(0.0, self._load(self._now_s - self._start_s)))

    def _write(self) -> None:
        for name, value in self._values():
            if self._written.get(name) == value:
                continue
            self._written[name] = value
            # A reader on another thread finds the old number or the new one, never half of one.
            file = self._files.root / name
            fresh = file.with_name(f".{file.name}")
            fresh.write_text(f"{value}\n")
            fresh.replace(file)

    def _values(self) -> Iterator[tuple[str, int | str]]:
        parts, load = self._parts, self._load_now()
        speed = self._body.slow_ratio if self.is_throttled else 1.0
        for names, factor in ((parts.rails, self.power_w / parts.whole_w), (parts.clocks, speed)):
            yield from ((name, round(value * factor)) for name, value in names.items())
        # Zones differ a little from each other, as in the tree.
        yield from ((name, round(self.temperature_c * 1000 + beside)) for name, beside in parts.zones.items())
        fan = round(255 * min(1.0, max(0.0, (self.temperature_c - 35) / 45)))
        changing = (
            (parts.alerts, int(self.is_throttled)),
            (parts.counters, self._throttlings),
            (parts.loads, round(load * 1000)),
            (parts.fans, fan),
        )
        yield from ((name, value) for names, value in changing for name in names)
        yield "proc/stat", f"cpu  {round(self._busy_ticks)} 0 0 {round(self._ticks - self._busy_ticks)} 0 0 0 0 0 0"


class _Parts(NamedTuple):
    """Which files of a tree live, with the numbers that they stand at in it.

    Attributes:
        rails: currents and powers, together at `whole_w`.
        whole_w: power of the largest rail, or of all where none of them is the total.
        clocks: of GPU, memory and cores.
        zones: thousandths of a degree above or below the mean zone.
        alerts, counters, loads, fans: of throttling, of over-current, of the GPU, of fans.
    """

    rails: dict[str, float]
    whole_w: float
    clocks: dict[str, float]
    zones: dict[str, float]
    alerts: list[str]
    counters: list[str]
    loads: list[str]
    fans: list[str]


def _parts_of(tree: dict[str, str]) -> _Parts:
    currents = _numbers(tree, r"/(curr\d|in_current\d)_input$")
    watts = [value * float(tree[_voltage_of(name)]) * 1e-6 for name, value in currents.items()]
    whole_w = max(watts) if max(watts) > sum(watts) / 2 else sum(watts)
    zones = {
        name: value
        for name, value in _numbers(tree, r"thermal_zone\d+/temp$").items()
        if value > _OFF and tree[name.replace("/temp", "/type")].lower() != "pmic-die"
    }
    mean = sum(zones.values()) / len(zones)
    states = _numbers(tree, "/cur_state$")
    return _Parts(
        rails=currents | _numbers(tree, r"/in_power\d_input$"),
        whole_w=whole_w,
        clocks=_numbers(tree, r"/(cur_freq|scaling_cur_freq)$"),
        zones={name: value - mean for name, value in zones.items()},
        alerts=[name for name in states if "throttle" in tree[name.replace("/cur_state", "/type")]],
        counters=list(_numbers(tree, "/oc1_event_cnt$")),
        loads=list(_numbers(tree, "/load$")),
        fans=list(_numbers(tree, r"/(pwm1|target_pwm)$")),
    )


def _numbers(tree: dict[str, str], pattern: str) -> dict[str, float]:
    return {name: float(value) for name, value in tree.items() if re.search(pattern, name)}


def _voltage_of(current: str) -> str:
    """Gives the file of the voltage beside a current's: both layouts of sysfs."""
    return re.sub(r"/curr(\d)_input$", r"/in\1_input", current).replace("/in_current", "/in_voltage")


LOADS: Mapping[str, Callable[[float], float]] = {
    "idle": lambda _: 0.0,
    "steady": lambda _: 0.7,
    "full": lambda _: 1.0,
    "waves": lambda seconds: 0.55 + 0.45 * math.sin(seconds / 4),
    "bursts": lambda seconds: 0.95 if seconds % 3 < 1 else 0.05,
}
"""GPU load over time, by name."""


def main(arguments: Sequence[str]) -> int:
    """Lives in a folder until SIGTERM or SIGINT; gives 0."""
    parser = argparse.ArgumentParser(prog="python -m edge_sdk.testing.simulation", description="A simulated board.")
    parser.add_argument("folder", type=Path, help="becomes the board's root folder")
    parser.add_argument("--board", choices=BOARDS, default="orin_nano", help="(default %(default)s)")
    parser.add_argument("--load", choices=sorted(LOADS), default="waves", help="of the GPU (default %(default)s)")
    parser.add_argument("--limit", type=float, default=85.0, metavar="C", help="throttles from here on (default 85 °C)")
    chosen = parser.parse_args(arguments)
    # Waited for, not handled: a handler that sets an event waits for ever when it interrupts the wait for that event.
    ends = (signal.SIGTERM, signal.SIGINT)
    signal.pthread_sigmask(signal.SIG_BLOCK, ends)
    chosen.folder.mkdir(parents=True, exist_ok=True)
    body = Body(limit_c=chosen.limit)
    SimulatedBoard(chosen.folder, LOADS[chosen.load], clock.SystemClock(), name=chosen.board, body=body).run(
        lambda seconds: signal.sigtimedwait(ends, seconds) is not None
    )
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
