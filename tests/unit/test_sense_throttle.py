"""Throttling and over-current: counted over the interval, never negative, told once; and what is lost comes to light."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_sdk.device.sense import ending, gpu, happenings, modes, throttle, together
from edge_sdk.records.telemetry import Reading
from edge_sdk.testing.board import FakeBoard

OC = "sys/class/hwmon/hwmon3/oc1_event_cnt"
ALERT = "sys/class/thermal/cooling_device0/cur_state"


@pytest.fixture
def fake(tmp_path):
    made = FakeBoard(tmp_path)
    made.become("orin_nano")
    return made


def collected(sensor):
    return {reading.metric: reading for reading in sensor.collect()}


def values(sensor):
    return {metric: reading.value for metric, reading in collected(sensor).items()}


@pytest.mark.parametrize(
    ("before", "now", "events"),
    [
        (0, 0, 0),
        (3, 5, 2),
        (2**32 - 1, 0, 1),  # wrapped
        (2**32 - 3, 4, 7),
        (100, 0, 0),  # the driver was loaded again
        (100, 4, 4),
        (2**31, 5, 5),  # too far below the end to have wrapped
    ],
)
def test_what_a_counter_saw(before, now, events):
    assert throttle.events_between(before, now) == events


@given(st.integers(0, 2**32 - 1), st.integers(0, 2**32 - 1))
def test_a_counter_never_saw_less_than_nothing(before, now):
    assert throttle.events_between(before, now) >= 0


def test_over_current_is_counted_and_raised_within_two_samples(fake):
    sensor = throttle.ThrottleSensor(fake.root)
    sensor.collect()
    fake.write(OC, 3)
    assert values(sensor) == {"throttled": True, "throttle_events": 0, "overcurrent_events": 3}
    assert values(sensor) == {"throttled": False, "throttle_events": 0, "overcurrent_events": 0}
    fake.write(OC, 0)  # the driver was loaded again
    assert values(sensor)["overcurrent_events"] == 0


def test_a_thermal_limit_that_holds_is_throttling_in_every_interval(fake):
    sensor = throttle.ThrottleSensor(fake.root)
    fake.write(ALERT, 1)
    for _ in range(3):
        assert values(sensor) == {"throttled": True, "throttle_events": 1, "overcurrent_events": 0}
    fake.write(ALERT, 0)
    assert values(sensor)["throttled"] is False


def test_a_fan_that_turns_is_no_throttling(fake):
    fans = [file for file in fake.root.glob("sys/class/thermal/cooling_device*/type") if "fan" in file.read_text()]
    (fans[0].parent / "cur_state").write_text("3\n")
    assert values(throttle.ThrottleSensor(fake.root))["throttled"] is False


@pytest.mark.parametrize("content", ["nan", "-5", "", "1e999", "garbage"])
def test_a_counter_that_says_nonsense_is_left_out(fake, content):
    sensor = throttle.ThrottleSensor(fake.root)
    sensor.collect()
    fake.write(OC, content)
    found = values(sensor)
    assert found["overcurrent_events"] == 0  # the others are there
    for file in fake.root.glob("sys/class/hwmon/*/*_event_cnt"):
        file.write_text(content)
    for file in fake.root.glob("sys/class/hwmon/*/*_crit_alarm"):
        file.unlink()
    reading = collected(sensor)["overcurrent_events"]
    assert (reading.value, bool(reading.reason)) == (None, True)


def test_a_counter_that_comes_back_after_a_gap_starts_anew(fake):
    sensor = throttle.ThrottleSensor(fake.root)
    sensor.collect()
    fake.remove(OC)
    sensor.collect()
    fake.write(OC, 1000)
    assert values(sensor)["overcurrent_events"] == 0  # nobody knows when these were


class Script:
    """A sensor that gives what the test says."""

    def __init__(self, *metrics):
        self.given = dict.fromkeys(metrics, 1.0)

    def collect(self):
        return [
            Reading(metric, None, value) if isinstance(value, str) else Reading(metric, value)
            for metric, value in self.given.items()
        ]


def kinds(sensors, count=1):
    for _ in range(count):
        sensors.collect()
    return [one.kind for one in sensors.take_happenings()]


def test_throttling_is_told_once_at_its_beginning_and_once_at_its_end():
    script = Script()
    sensors = together.Sensors([script])
    for state in (False, True, True, False, True):  # in and out of the limit
        script.given["throttled"] = state
        sensors.collect()
    assert kinds(sensors, 0) == ["throttled"]
    script.given["throttled"] = False
    assert kinds(sensors, 30) == ["throttling_ended"]
    script.given["throttled"] = True
    assert kinds(sensors) == ["throttled"]


def test_what_throttled_it_is_in_the_event():
    script = Script("power_w", "temperature_max_c")
    script.given |= {"throttled": True, "overcurrent_events": 2}
    sensors = together.Sensors([script])
    sensors.collect()
    (event,) = sensors.take_happenings()
    assert event.details == {"overcurrent_events": 2, "power_w": 1.0, "temperature_max_c": 1.0}


def test_a_sensor_that_had_a_value_is_missed_after_three_readings_and_welcomed_back():
    script = Script("power_w", "fan_ratio")
    sensors = together.Sensors([script])
    sensors.collect()
    script.given["fan_ratio"] = "/sys/fan: is not there"
    assert kinds(sensors, 2) == []  # a hiccup
    assert kinds(sensors, 5) == ["sensor_lost"]
    script.given["fan_ratio"] = 0.5
    assert kinds(sensors) == ["sensor_back"]
    assert kinds(sensors, 5) == []


def test_a_sensor_that_never_was_is_no_news():
    script = Script()
    script.given["fan_ratio"] = "no fan"
    assert kinds(together.Sensors([script]), 20) == []


def test_a_source_that_says_nothing_new_is_told_once():
    script = Script("emc_frequency_hz")
    sensors = together.Sensors([script])
    sensors.collect()
    script.given["emc_frequency_hz"] = f"{happenings.STALE}jtop: nothing for 3.0 s"
    assert kinds(sensors, 2) == ["source_stale"]
    script.given["emc_frequency_hz"] = f"{happenings.STALE}jtop: nothing for 5.0 s"
    assert kinds(sensors, 5) == ["sensor_lost"]


@pytest.mark.parametrize(
    ("words", "kind"),
    [
        ("oom-kill 9", "oom_killed"),
        ("watchdog ABRT", "watchdog_restarted"),
        ("core-dump SEGV", "crashed"),
        ("signal KILL", "crashed"),
        ("exit-code 70", "crashed"),
        ("success 0", None),
        ("", None),
        ("rm -rf /", None),
    ],
)
def test_how_the_daemon_ended_is_told_once(tmp_path, words, kind):
    (tmp_path / ending.FILE).write_text(f"{words}\n")
    told = ending.take_ending(tmp_path)
    assert (told and told.kind) == kind
    assert not (tmp_path / ending.FILE).exists()
    assert ending.take_ending(tmp_path) is None


@pytest.mark.parametrize(
    ("before", "now", "words", "kind"),
    [
        ("oom_kill 3", "oom_kill 4", "signal KILL", "oom_killed"),
        ("oom_kill 3", "oom_kill 3", "signal KILL", "crashed"),  # somebody's kill -9
        ("oom_kill 3", "oom_kill 4", "core-dump SEGV", "crashed"),  # another process ran out of memory
        ("oom_kill 3", "oom_kill 1", "signal KILL", "crashed"),  # the machine was started anew
        ("nr_free_pages 1", "oom_kill 9", "signal KILL", "crashed"),  # an old kernel does not count
        ("oom_kill 3", "oom_kill 4", "success 0", None),
    ],
)
def test_the_kernels_count_tells_an_oom_kill_where_systemd_does_not(tmp_path, before, now, words, kind):
    fake = FakeBoard(tmp_path)
    fake.write("proc/vmstat", f"nr_zone 1\n{before}\nnuma 0")
    assert ending.take_ending(tmp_path, root=tmp_path) is None
    fake.write("proc/vmstat", f"nr_zone 1\n{now}\nnuma 0")
    (tmp_path / ending.FILE).write_text(f"{words}\n")
    told = ending.take_ending(tmp_path, root=tmp_path)
    assert (told and told.kind) == kind


def test_without_a_state_folder_nothing_is_written(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert ending.take_ending(ending.Path()) is None
    assert list(tmp_path.iterdir()) == []


def test_the_mode_has_its_name_or_else_its_number(fake):
    sensor = modes.ModeSensor(fake.root)
    assert values(sensor) == {"power_mode": "25W"}
    fake.remove("etc/nvpmodel.conf")
    assert values(sensor) == {"power_mode": "1"}
    fake.write("var/lib/nvpmodel/status", "fmode:fanNull")
    assert "names no mode" in collected(sensor)["power_mode"].reason
    fake.remove("var/lib/nvpmodel/status")
    assert "is not there" in collected(sensor)["power_mode"].reason


def test_the_memory_controller_is_read_where_debugfs_lets_us(fake):
    sensor = gpu.EmcSensor(fake.root)
    assert "edge-sdk-jtop" in collected(sensor)["emc_frequency_hz"].reason
    fake.write("sys/kernel/debug/bpmp/debug/clk/emc/rate", 3_199_000_000)
    fake.write("sys/kernel/debug/cactmon/mc_all", 799_750)
    assert values(sensor) == {"emc_frequency_hz": 3_199_000_000, "emc_utilization_ratio": pytest.approx(0.25)}
    fake.write("sys/kernel/debug/cactmon/mc_all", 9_999_999_999)
    assert "cannot be true" in collected(sensor)["emc_utilization_ratio"].reason


def test_an_accelerator_that_sleeps_has_no_clock(tmp_path):
    fake = FakeBoard(tmp_path)
    fake.become("agx_orin")
    for core, state in ((0, 1), (1, 0)):
        fake.write(f"sys/kernel/debug/bpmp/debug/clk/dla{core}_core/rate", 1_600_000_000)
        fake.write(f"sys/kernel/debug/bpmp/debug/clk/dla{core}_core/state", state)
    found = collected(gpu.DlaSensor(tmp_path))
    assert found["dla_frequency_hz.dla0"].value == 1_600_000_000
    assert found["dla_frequency_hz.dla1"] == Reading("dla_frequency_hz.dla1", None, "asleep")
