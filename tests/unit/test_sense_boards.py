"""What the sensors say of boards that nobody here has; and that what can't be read is null with its reason."""

import pytest

from edge_sdk.device.sense import board, files, machine, power, procfs, thermal, throttle, together
from edge_sdk.records import metrics
from edge_sdk.records.telemetry import Reading
from edge_sdk.testing.board import FakeBoard
from edge_sdk.testing.clock import FakeClock


@pytest.fixture
def clock():
    return FakeClock()


@pytest.fixture
def fake(tmp_path):
    return FakeBoard(tmp_path)


def collected(sensor):
    return {reading.metric: reading for reading in sensor.collect()}


def after_a_second(sensors, clock, change=lambda: None):
    for sensor in sensors:
        sensor.collect()
    clock.advance(1.0)
    change()
    return {reading.metric: reading for sensor in sensors for reading in sensor.collect()}


def values_of(fake, clock, change=lambda: None):
    sensors = board.sensors_of(fake.root, clocks=clock, state_folder=fake.root)
    return after_a_second(sensors, clock, change)


def test_the_sensors_answer_for_every_metric_of_the_catalogue_and_each_gap_has_a_reason(fake, clock):
    found = values_of(fake, clock)
    assert found.keys() == {*metrics.NAMES, "simulated"}
    for reading in found.values():
        assert (reading.value is None) == bool(reading.reason), reading


def test_a_bare_container_has_memory_and_no_board(fake, clock):
    found = values_of(fake, clock, lambda: fake.set_cpu(busy_ticks=25, idle_ticks=75))
    assert found["cpu_utilization_ratio"].value == 0.25
    assert found["memory_used_bytes"].value == 2_000_000 * 1024
    assert 0 < found["disk_used_ratio"].value <= 1
    reason = "no power sensor: no INA3221 rail, no RAPL, no hwmon power under /sys/class"
    assert found["power_w"] == Reading("power_w", None, reason)
    for metric in ("energy_j", "power_boundary"):
        assert found[metric] == Reading(metric, None, "no power_w")
    for metric in ("gpu_utilization_ratio", "temperature_max_c", "throttled", "fan_ratio", "cpu_frequency_hz"):
        assert found[metric].value is None
        assert found[metric].reason


def test_an_orin_nano_reads_its_module_power_gpu_fan_and_temperatures(fake, clock):
    fake.become_orin_nano()

    def more_power():
        fake.write("sys/class/hwmon/hwmon1/curr1_input", 1600)

    found = values_of(fake, clock, more_power)
    assert found["power_w"].value == pytest.approx(7.0)  # the mean of 6 W and 8 W
    assert found["energy_j"].value == pytest.approx(7.0)
    assert found["power_boundary"].value == "module"
    assert found["gpu_utilization_ratio"].value == pytest.approx(0.37)
    assert found["gpu_frequency_hz"].value == 624_750_000
    assert found["cpu_frequency_hz"].value == 1_510_400_000
    assert found["fan_ratio"].value == pytest.approx(0.4)
    assert [found[f"temperature_{what}_c"].value for what in ("cpu", "gpu", "max")] == [48.0, 47.5, 49.25]
    assert found["throttled"].value is False


def test_an_agx_orin_has_no_total_rail_so_power_is_null_and_nothing_is_summed(fake, clock):
    fake.become_agx_orin()
    found = values_of(fake, clock)
    for metric in ("power_w", "power_boundary", "energy_j"):
        assert found[metric].value is None
    assert "not summed" in found["power_w"].reason
    rails = {metric.partition(".")[2]: one.value for metric, one in found.items() if metric.startswith("rails_w.")}
    assert rails == pytest.approx({"VDD_GPU_SOC": 5.7, "VDD_CPU_CV": 1.9, "VIN_SYS_5V0": 3.5, "VDDQ_VDD2_1V8AO": 0.5})
    assert found["temperature_gpu_c"].value == 39.0


@pytest.mark.parametrize(("rail", "boundary"), [("POM_5V_IN", "module"), ("VIN", "module+carrier")])
def test_each_boards_total_has_its_own_boundary(fake, clock, rail, boundary):
    fake.set_rails("hwmon0", {"VDD_GPU": (5000, 100), rail: (5000, 2000)})
    found = values_of(fake, clock)
    assert (found["power_w"].value, found["power_boundary"].value) == (10.0, boundary)


def test_a_monitor_with_one_channel_is_named_by_its_chip(fake, clock):
    folder = "sys/class/hwmon/hwmon4"
    for name, value in {"name": "ina238", "label": "VIN", "in1_input": 12_000, "curr1_input": 500}.items():
        fake.write(f"{folder}/{name}", value)
    found = values_of(fake, clock)
    assert (found["power_w"].value, found["power_boundary"].value) == (6.0, "module+carrier")


def test_a_pc_takes_energy_from_rapls_counter(fake, clock):
    fake.become_pc(energy_uj=5_000_000)
    found = values_of(fake, clock, lambda: fake.set_energy(5_000_000 + 12_500_000))
    assert found["power_w"].value == pytest.approx(12.5)
    assert found["energy_j"].value == pytest.approx(12.5)
    assert found["power_boundary"].value == "package"
    assert found["temperature_cpu_c"].value == 55.0
    assert found["temperature_max_c"].value == 61.0
    assert found["temperature_gpu_c"].value is None
    assert found["throttled"].value is False


def test_rapls_counter_may_wrap(fake, clock):
    fake.become_pc(energy_uj=262_143_328_850 - 1_000_000)
    found = values_of(fake, clock, lambda: fake.set_energy(2_000_000))
    assert found["energy_j"].value == pytest.approx(3.0)


def test_two_packages_are_one_machine_and_their_cores_are_not_counted_twice(fake, clock):
    fake.become_pc(energy_uj=0)
    fake.write("sys/class/powercap/intel-rapl:1/name", "package-1")
    fake.write("sys/class/powercap/intel-rapl:1/energy_uj", 0)
    fake.write("sys/class/powercap/intel-rapl:2/name", "psys")
    fake.write("sys/class/powercap/intel-rapl:2/energy_uj", 0)

    def spend():
        for domain, energy_uj in (("0", 1_000_000), ("0:0", 900_000), ("1", 2_000_000), ("2", 50_000_000)):
            fake.write(f"sys/class/powercap/intel-rapl:{domain}/energy_uj", energy_uj)

    assert values_of(fake, clock, spend)["energy_j"].value == pytest.approx(3.0)


def test_a_hwmon_power_sensor_serves_where_there_is_nothing_better(fake, clock):
    fake.write("sys/class/hwmon/hwmon5/name", "power_meter")
    fake.write("sys/class/hwmon/hwmon5/power1_average", 85_000_000)
    found = values_of(fake, clock)
    assert (found["power_w"].value, found["power_boundary"].value) == (85.0, "system")


def test_the_first_reading_of_a_counter_is_null_and_says_so(fake, clock):
    fake.become_pc()
    for sensor, metric in (
        (procfs.CpuSensor(fake.root), "cpu_utilization_ratio"),
        (procfs.ProcessSensor(fake.root, clock), "process_cpu_ratio"),
        (power.PowerSensor(fake.root, clock), "power_w"),
        (throttle.ThrottleSensor(fake.root), "throttle_events"),
    ):
        reading = collected(sensor)[metric]
        assert reading.value is None
        assert "needs two readings" in reading.reason


def test_a_reading_that_failed_leaves_no_stale_value_behind(fake, clock):
    fake.become_pc(energy_uj=1_000_000)
    sensor = power.PowerSensor(fake.root, clock)
    sensor.collect()
    clock.advance(1.0)
    fake.remove("sys/class/powercap/intel-rapl:0/energy_uj")
    assert collected(sensor)["power_w"].reason.endswith("energy_uj: is not there")
    clock.advance(1.0)
    fake.set_energy(9_000_000)
    assert collected(sensor)["energy_j"].value is None  # the gap is not covered by what came before it
    clock.advance(2.0)
    fake.set_energy(11_000_000)
    assert collected(sensor)["power_w"].value == pytest.approx(1.0)


def test_power_after_a_failed_reading_begins_anew(fake, clock):
    fake.become_orin_nano()
    sensor = power.PowerSensor(fake.root, clock)
    sensor.collect()
    fake.write("sys/class/hwmon/hwmon1/in1_input", "garbage")
    clock.advance(1.0)
    assert "not a number" in collected(sensor)["power_w"].reason
    fake.write("sys/class/hwmon/hwmon1/in1_input", 5000)
    clock.advance(1.0)
    found = collected(sensor)
    assert (found["power_w"].value, found["energy_j"].value) == (6.0, None)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("-1", "a negative value"),
        ("nan", "not a finite number"),
        ("inf", "not a finite number"),
        ("", "not a number"),
        ("12 W", "not a number"),
    ],
)
def test_what_a_driver_should_not_say_is_null_with_its_words(fake, content, words):
    fake.write("sys/value", content)
    reading = files.reading("power_w", lambda: files.number(fake.root / "sys/value"))
    assert reading.value is None
    assert words in reading.reason


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (PermissionError(13, "denied", "/sys/x"), "/sys/x: permission denied"),
        (FileNotFoundError(2, "gone", "/sys/x"), "/sys/x: is not there"),
        (BlockingIOError(11, "again", "/sys/x"), "/sys/x: is asleep (the kernel says: try again)"),
        (OSError(5, "Input/output error", "/sys/x"), "/sys/x: Input/output error"),
    ],
)
def test_why_a_file_cannot_be_read_is_said(error, words):
    def fails():
        raise error

    assert files.reading("power_w", fails) == Reading("power_w", None, words)


def test_a_sensor_that_is_switched_off_is_not_minus_256_degrees(fake):
    fake.set_zones({"gpu-thermal": -256_000, "cpu-thermal": 40_000, "PMIC-Die": 100_000})
    found = collected(thermal.TemperatureSensor(fake.root))
    assert found["temperature_gpu_c"].value is None
    assert "-256" in found["temperature_gpu_c"].reason
    assert found["temperature_max_c"].value == 40.0  # neither the sentinel nor the constant


def test_frost_is_a_temperature(fake):
    fake.set_zones({"cpu-thermal": -20_000})
    assert collected(thermal.TemperatureSensor(fake.root))["temperature_cpu_c"].value == -20.0


@pytest.mark.parametrize(
    "file",
    ["sys/class/hwmon/hwmon3/oc1_event_cnt", "sys/class/hwmon/hwmon1/curr1_crit_alarm"],
)
def test_throttling_on_a_jetson_is_seen_once_it_happens(fake, clock, file):
    fake.become_orin_nano()
    assert values_of(fake, clock, lambda: fake.write(file, 1))["throttled"].value is True


def test_throttling_on_a_pc_is_a_counter_that_moves(fake, clock):
    fake.become_pc()
    count = "sys/devices/system/cpu/cpu0/thermal_throttle/core_throttle_count"
    sensor = throttle.ThrottleSensor(fake.root)
    assert after_a_second([sensor], clock, lambda: fake.write(count, 8))["throttled"].value is True
    assert collected(sensor)["throttled"].value is False  # it moved in the interval before, not in this one


def test_a_cooling_device_tells_the_fan_where_there_is_no_pwm(fake):
    fake.write("sys/class/thermal/cooling_device0/type", "Processor")
    fake.write("sys/class/thermal/cooling_device1/type", "pwm-fan")
    fake.write("sys/class/thermal/cooling_device1/cur_state", 1)
    fake.write("sys/class/thermal/cooling_device1/max_state", 4)
    assert collected(thermal.FanSensor(fake.root))["fan_ratio"].value == 0.25


def test_the_process_is_measured_in_cores_and_its_name_does_not_matter(fake, clock):
    sensor = procfs.ProcessSensor(fake.root, clock)
    found = after_a_second([sensor], clock, lambda: fake.set_process(resident_pages=10, cpu_ticks=150))
    assert found["process_cpu_ratio"].value == pytest.approx(150 / sensor._ticks_hz)
    assert found["process_memory_bytes"].value == 10 * sensor._page_bytes
    assert isinstance(found["process_memory_bytes"].value, int)


def test_counters_that_go_back_are_no_utilisation(fake, clock):
    fake.set_cpu(busy_ticks=50, idle_ticks=50)
    found = values_of(fake, clock, lambda: fake.set_cpu(busy_ticks=40, idle_ticks=70))
    assert "did not advance" in found["cpu_utilization_ratio"].reason


@pytest.mark.parametrize("stat", ["", "cpu 1 2 3", "intr 1 2 3 4 5 6 7 8 9", "cpu a b c d e f g h"])
def test_another_proc_stat_is_null_with_a_reason(fake, stat):
    fake.write("proc/stat", stat)
    assert collected(procfs.CpuSensor(fake.root))["cpu_utilization_ratio"].value is None


def test_meminfo_without_an_entry_costs_only_what_needs_it(fake):
    fake.write("proc/meminfo", "MemTotal: 100 kB")
    found = collected(procfs.MemorySensor(fake.root))
    assert found["memory_total_bytes"].value == 102_400
    assert found["memory_used_bytes"] == Reading("memory_used_bytes", None, "/proc/meminfo has no MemAvailable")
    fake.remove("proc/meminfo")
    assert all("is not there" in reading.reason for reading in collected(procfs.MemorySensor(fake.root)).values())


def test_a_clock_may_stand_in_cpuinfo(fake):
    fake.write("proc/cpuinfo", "cpu MHz\t: 2000.5\ncpu MHz\t: 3000.5\n")
    assert collected(procfs.CpuSensor(fake.root))["cpu_frequency_hz"].value == pytest.approx(2_500_500_000)


def test_a_state_folder_that_is_not_there_is_a_reason(tmp_path):
    reading = collected(procfs.DiskSensor(tmp_path / "gone"))["disk_used_ratio"]
    assert reading.reason.endswith("gone: is not there")


def test_who_the_machine_is(fake):
    fake.become_orin_nano()
    found = machine.read_machine(fake.root)
    assert found["board"] == "NVIDIA Jetson Orin Nano Developer Kit"
    assert (found["l4t"], found["cpu"], found["kernel"]) == ("36.4.3", "Fake CPU", "6.1.0-fake")


def test_who_an_unknown_machine_is(tmp_path):
    found = machine.read_machine(tmp_path)
    assert found["board"] is found["l4t"] is found["cpu"] is found["kernel"] is None


class Moody:
    """A sensor of the user's that fails on demand."""

    error: Exception | None = None

    def collect(self):
        if self.error:
            raise self.error
        return [Reading("fan_ratio", 0.5)]


def test_a_failing_sensor_costs_its_own_metrics_only_and_comes_back(fake, caplog):
    moody = Moody()
    sensors = together.Sensors([moody, procfs.MemorySensor(fake.root)])
    sensors.collect()
    moody.error = RuntimeError("bus error")
    for _ in range(3):
        found = {reading.metric: reading for reading in sensors.collect()}
    assert found["fan_ratio"].reason == "sensor Moody failed: RuntimeError('bus error')"
    assert found["memory_total_bytes"].value == 8_000_000 * 1024
    assert caplog.text.count("bus error") == 1
    moody.error = None
    assert sensors.collect()[0].value == 0.5
    assert "works again" in caplog.text
