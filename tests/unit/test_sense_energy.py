"""Energy of loads whose integral is known, however uneven the readings are; and what a gap in them means."""

import math
import random

import pytest

from edge_sdk.device import reports
from edge_sdk.device.sense import board, power, together
from edge_sdk.device.sense.energy import Meter
from edge_sdk.testing.board import FakeBoard
from edge_sdk.testing.clock import FakeClock

SECONDS = 300


class Load:
    """A load of which the power at a time and the energy up to it are known exactly."""

    def power_w(self, t):
        raise NotImplementedError

    def energy_j(self, t):
        raise NotImplementedError


class Swell(Load):
    """10 W that swell by 4 W once in 20 s, as a scene gets busier and calmer."""

    def power_w(self, t):
        return 10 + 4 * math.sin(t * math.tau / 20)

    def energy_j(self, t):
        return 10 * t + 4 * (1 - math.cos(t * math.tau / 20)) * 20 / math.tau


class Warming(Load):
    """From 6 W to 15 W, as leakage rises with the temperature."""

    def power_w(self, t):
        return 15 - 9 * math.exp(-t / 40)

    def energy_j(self, t):
        return 15 * t - 9 * 40 * (1 - math.exp(-t / 40))


class Bursts(Load):
    """5 W, and 14 W in 0.7 of each 1.9 s: a model that is asked in bursts."""

    period_s, share = 1.9, 0.7 / 1.9

    def power_w(self, t):
        return 14.0 if t % self.period_s < self.share * self.period_s else 5.0

    def energy_j(self, t):
        whole, rest_s = divmod(t, self.period_s)
        burst_s = whole * self.share * self.period_s + min(rest_s, self.share * self.period_s)
        return 5 * t + 9 * burst_s


def measured_and_true(load, *, tick_s, jitter, seed=1):
    """The energies of Samples at 1 Hz, added up, and the exact integral over the same time."""
    clock, chance = FakeClock(), random.Random(seed)
    start_s = clock.boot_s()
    meter = Meter(lambda: load.power_w(clock.boot_s() - start_s), clock)
    meter.take()
    sum_j, next_s = 0.0, 1.0
    for _ in range(round(SECONDS / tick_s)):
        clock.advance(tick_s * (1 + chance.uniform(-jitter, jitter)))
        if clock.boot_s() - start_s >= next_s:
            sum_j += meter.take().energy_j
            next_s += 1.0
        else:
            meter.tick()
    sum_j += meter.take().energy_j or 0.0
    return sum_j, load.energy_j(clock.boot_s() - start_s)


@pytest.mark.parametrize("jitter", [0.0, 0.5])
@pytest.mark.parametrize("load", [Swell(), Warming()], ids=lambda load: type(load).__name__)
def test_one_reading_a_second_is_enough_for_a_load_that_moves_slowly(load, jitter):
    measured_j, true_j = measured_and_true(load, tick_s=1.0, jitter=jitter)
    assert measured_j == pytest.approx(true_j, rel=0.005)


@pytest.mark.parametrize("jitter", [0.0, 0.5])
@pytest.mark.parametrize("load", [Swell(), Warming(), Bursts()], ids=lambda load: type(load).__name__)
def test_ten_readings_a_second_are_enough_for_bursts(load, jitter):
    measured_j, true_j = measured_and_true(load, tick_s=0.1, jitter=jitter)
    assert measured_j == pytest.approx(true_j, rel=0.005)


def test_this_bar_can_be_missed():
    """The usual way: each reading times the interval that was asked for, while beats come late."""
    load, chance = Warming(), random.Random(1)
    t = sum_j = 0.0
    while t < SECONDS:
        sum_j += load.power_w(t) * 1.0
        t += 1.0 + chance.uniform(0.0, 0.1)
    assert sum_j != pytest.approx(load.energy_j(t), rel=0.005)


def test_true_times_count_and_not_the_nominal_ones():
    clock, watts = FakeClock(), [10.0]
    meter = Meter(lambda: watts[0], clock)
    meter.take()
    clock.advance(3.7)  # a beat that came late
    taken = meter.take()
    assert (taken.power_w, taken.energy_j) == (pytest.approx(10.0), pytest.approx(37.0))


def test_a_gap_costs_the_energy_of_its_interval_and_says_why():
    clock, watts = FakeClock(), [8.0]

    def measure():
        if watts[0] is None:
            raise OSError(5, "Input/output error", "/sys/curr1_input")
        return watts[0]

    meter = Meter(measure, clock)
    meter.take()
    for value in (8.0, None, 8.0):
        clock.advance(0.25)
        watts[0] = value
        meter.tick()
    clock.advance(0.25)
    taken = meter.take()
    assert (taken.power_w, taken.energy_j) == (8.0, None)
    assert taken.reason == "/sys/curr1_input: Input/output error"
    clock.advance(1.0)
    assert meter.take().energy_j == pytest.approx(8.0)


@pytest.mark.parametrize("value", [-1.0, math.nan, math.inf, 1e9])
def test_what_no_rail_can_be_is_no_power(value):
    taken = Meter(lambda: value, FakeClock()).take()
    assert (taken.power_w, taken.energy_j) == (None, None)
    assert "the driver gave" in taken.reason


def test_no_time_no_energy():
    meter = Meter(lambda: 5.0, FakeClock())
    meter.take()
    assert meter.take() == (5.0, None, "no time has passed since the reading before")


def test_ticks_see_what_happens_between_two_samples(tmp_path):
    fake, clock = FakeBoard(tmp_path), FakeClock()
    fake.become("orin_nano")
    sensor = power.PowerSensor(tmp_path, clock)
    assert not sensor.tick()  # nothing was looked for yet
    sensor.collect()
    for milliamperes in (1200, 3000, 3000, 1200):  # a burst that is over before the next Sample
        clock.advance(0.25)
        fake.write("sys/class/hwmon/hwmon1/curr1_input", milliamperes)
        assert sensor.tick()
    found = {reading.metric: reading.value for reading in sensor.collect()}
    # 6 W, 6 W, 15 W, 15 W and 6 W, a quarter of a second apart
    assert found["energy_j"] == pytest.approx(0.25 * (6 + 10.5 + 15 + 10.5))
    assert found["rails_w.VDD_SOC"] == pytest.approx(1.5)


def test_on_a_board_without_a_total_every_rail_is_integrated(tmp_path):
    fake, clock = FakeBoard(tmp_path), FakeClock()
    fake.become("agx_orin")
    sensor = power.PowerSensor(tmp_path, clock)
    sensor.collect()
    clock.advance(0.5)
    fake.write("sys/class/hwmon/hwmon2/curr1_input", 900)
    sensor.tick()
    clock.advance(0.5)
    found = {reading.metric: reading.value for reading in sensor.collect()}
    assert found["rails_w.VDD_GPU_SOC"] == pytest.approx((11.4 + 17.1) / 2)
    assert found["power_w"] is None


def test_nobody_is_woken_for_a_machine_that_measures_no_power(tmp_path):
    clock = FakeClock()
    FakeBoard(tmp_path)
    sensors = together.Sensors(board.sensors_of(tmp_path, clocks=clock, state_folder=tmp_path))
    sensors.collect()
    assert not sensors.tick()
    FakeBoard(tmp_path).become_pc()
    sensors = together.Sensors(board.sensors_of(tmp_path, clocks=clock, state_folder=tmp_path))
    sensors.collect()
    assert not sensors.tick()  # RAPL counts by itself


def test_the_idle_power_is_not_charged_to_the_models():
    moment = reports.Moment(seq=0, wall_s=1.75e9, boot_s=9.0, interval_s=2.0, oldest_seq=0, dropped=0)
    who = reports.Identity("plant", "cam-7", "0123456789abcdef")
    window = reports.telemetry.Window(
        model="m", digest="d", count=4, errors={}, throughput_hz=2.0, queue_depth_max=1, latency_p50_ms=1.0,
        latency_p99_ms=1.0, latency_hist="", stage_ms={"compute": 1.0}, energy_j=None, energy_per_inference_j=None,
    )  # fmt: skip
    readings = [reports.telemetry.Reading("energy_j", 16.0)]
    for idle_power_w, per_inference_j in ((0.0, 4.0), (5.0, 1.5), (50.0, 0.0)):
        sample = reports.sample(who, moment, readings, [window], idle_power_w=idle_power_w)
        assert sample.energy_j == 16.0  # the board's own energy stays what it is
        assert sample.models[0].energy_per_inference_j == pytest.approx(per_inference_j)
