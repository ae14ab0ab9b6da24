"""A simulated board under load: its energy is measured to 0.5 %, it throttles and is told, and it says what it is."""

import math
import random
import subprocess
import sys
import time

import pytest

from edge_sdk.device import reports
from edge_sdk.device.sense import board, boards, together
from edge_sdk.records import telemetry
from edge_sdk.testing import simulation
from edge_sdk.testing.board import BOARDS
from edge_sdk.testing.clock import FakeClock
from edge_sdk.testing.simulation import Body, SimulatedBoard
from edge_sdk.wire import codec

WHO = reports.Identity("plant", "sim-1", "0123456789abcdef")


class Life:
    """A simulated board and what a daemon reads of it, ten times a second with jitter."""

    def __init__(self, root, load, *, seed=1, **options):
        self.clock, self.chance = FakeClock(), random.Random(seed)
        self.board = SimulatedBoard(root, load, self.clock, **options)
        self.sensors = together.Sensors(board.sensors_of(root, clocks=self.clock, state_folder=root))
        self.sensors.collect()
        self.last_s = self.clock.boot_s()

    def samples(self, count, *, ticks=10):
        for seq in range(count):
            for _ in range(ticks):
                self.clock.advance(self.chance.uniform(0.5, 1.5) / ticks)
                self.board.advance()
                self.sensors.tick()
            now_s = self.clock.boot_s()
            moment = reports.Moment(
                seq=seq, wall_s=1.75e9, boot_s=now_s, interval_s=now_s - self.last_s, oldest_seq=0, dropped=0
            )
            self.last_s = now_s
            yield reports.sample(WHO, moment, self.sensors.collect(), [])


def bursts(t):
    return 0.9 if t % 1.9 < 0.7 else 0.1


def swell(t):
    return 0.5 + 0.5 * math.sin(t)


@pytest.mark.parametrize("load", [bursts, swell])
@pytest.mark.parametrize("name", [name for name in BOARDS if name != "agx_orin"])
def test_the_energy_of_its_samples_is_its_own_within_half_a_percent(tmp_path, name, load):
    life = Life(tmp_path, load, name=name)
    measured_j = sum(sample.energy_j for sample in life.samples(20))
    assert measured_j == pytest.approx(life.board.energy_j, rel=0.005)


def test_a_board_without_a_total_has_its_rails_and_no_power(tmp_path):
    life = Life(tmp_path, swell, name="agx_orin")
    for sample in life.samples(3):
        assert sample.power_w is None
        assert sum(sample.rails_w.values()) == pytest.approx(life.board.power_w, rel=0.2)


@pytest.mark.parametrize("name", BOARDS)
def test_every_sample_of_it_says_that_it_is_simulated(tmp_path, name):
    for sample in Life(tmp_path, swell, name=name).samples(2):
        assert sample.simulated
        assert codec.from_bytes(codec.to_bytes(sample), telemetry.Sample) == sample
    assert boards.read_board(tmp_path) is not None


def test_under_full_load_it_warms_up_throttles_slows_down_and_that_is_told_once(tmp_path):
    hot = Body(limit_c=60.0, settle_s=5.0)
    life = Life(tmp_path, lambda _: 1.0, body=hot)
    samples = list(life.samples(30, ticks=2))
    cool, warm = samples[0], samples[-1]
    assert cool.temperature_max_c < 40 < warm.temperature_max_c
    assert cool.throttled is False
    slow = [sample for sample in samples if sample.throttled]
    assert slow
    assert slow[0].overcurrent_events == 1
    assert min(sample.gpu_frequency_hz for sample in slow) == pytest.approx(cool.gpu_frequency_hz * hot.slow_ratio)
    assert [one.kind for one in life.sensors.take_happenings()].count("throttled") == 1
    assert warm.fan_ratio > cool.fan_ratio


def test_at_rest_it_stays_cool_and_takes_what_it_takes_idle(tmp_path):
    samples = list(Life(tmp_path, lambda _: 0.0).samples(20, ticks=2))
    assert all(sample.throttled is False and sample.gpu_utilization_ratio == 0.0 for sample in samples)
    assert samples[-1].power_w == pytest.approx(5.0, rel=0.05)


def test_it_lives_until_it_is_told_to_end(tmp_path):
    clock, waits = FakeClock(), []
    made = SimulatedBoard(tmp_path, swell, clock)

    def wait(seconds):
        clock.advance(seconds)
        waits.append(seconds)
        return len(waits) > 20

    made.run(wait, period_s=0.1)
    assert made.energy_j == pytest.approx(2.0 * 10, rel=0.5)


@pytest.mark.parametrize("load", simulation.LOADS)
def test_every_named_load_is_a_share(load):
    assert all(0 <= simulation.LOADS[load](t / 7) <= 1 for t in range(1000))


def test_as_a_command_it_lives_in_a_folder_until_it_is_told_to_end(tmp_path):
    root = tmp_path / "board"
    process = subprocess.Popen(
        [sys.executable, "-m", "edge_sdk.testing.simulation", str(root), "--board", "nano", "--load", "full"]
    )
    try:
        deadline_s = time.monotonic() + 60
        heats = set()
        while len(heats) < 3:  # it warms up
            assert process.poll() is None
            assert time.monotonic() < deadline_s, heats
            zones = together.Sensors(board.sensors_of(root, clocks=FakeClock(), state_folder=tmp_path)).collect()
            heats |= {one.value for one in zones if one.metric == "temperature_max_c" and one.value is not None}
            time.sleep(0.05)
        assert boards.read_board(root).part == "p3448"
    finally:
        process.terminate()
    assert process.wait(30) == 0
