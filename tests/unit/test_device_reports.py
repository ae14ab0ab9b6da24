"""What a device says of itself: every gap has a reason, and the interval's energy is shared out, never invented."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_sdk.device import reports
from edge_sdk.records import metrics, telemetry
from edge_sdk.wire import codec

WHO = reports.Identity("plant", "cam-7", "0123456789abcdef")
MOMENT = reports.Moment(seq=3, wall_s=1.75e9, boot_s=50.0, interval_s=1.0, oldest_seq=1, dropped=1)


def window(model, count, compute_ms):
    return telemetry.Window(
        model=model, digest="d", count=count, errors={}, throughput_hz=0.0, queue_depth_max=0, latency_p50_ms=None,
        latency_p99_ms=None, latency_hist="", stage_ms={"compute": compute_ms} if count else {}, energy_j=None,
        energy_per_inference_j=None,
    )  # fmt: skip


def sample(*readings, windows=()):
    return reports.sample(WHO, MOMENT, readings, windows)


def test_a_metric_that_nobody_answers_for_is_null_and_says_so():
    taken = sample()
    assert taken.missing == dict.fromkeys(metrics.NAMES, "no sensor")


def test_of_several_readings_the_first_with_a_value_counts():
    readings = [
        telemetry.Reading("power_w", None, "no rail"),
        telemetry.Reading("power_w", 7.5),
        telemetry.Reading("power_w", 9.0),
        telemetry.Reading("fan_ratio", None, "first reason"),
        telemetry.Reading("fan_ratio", None, "second reason"),
    ]
    taken = sample(*readings)
    assert taken.power_w == 7.5
    assert "power_w" not in taken.missing
    assert taken.missing["fan_ratio"] == "first reason"


def test_false_and_zero_are_values():
    taken = sample(telemetry.Reading("throttled", False), telemetry.Reading("gpu_utilization_ratio", 0.0))
    assert (taken.throttled, taken.gpu_utilization_ratio) == (False, 0.0)
    assert taken.missing.keys().isdisjoint({"throttled", "gpu_utilization_ratio"})


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_what_json_cannot_carry_is_null_with_a_reason(value):
    taken = sample(telemetry.Reading("power_w", value))
    assert taken.power_w is None
    assert "not a finite number" in taken.missing["power_w"]


def test_a_metric_outside_the_catalogue_is_left_out_and_a_long_reason_is_cut():
    taken = sample(telemetry.Reading("mood", 1.0), telemetry.Reading("power_w", None, "x" * 1000))
    assert "mood" not in taken.missing
    assert len(taken.missing["power_w"]) == 300


def test_a_sample_survives_the_wire():
    taken = sample(telemetry.Reading("power_w", 7.5), windows=[window("m", 2, 1.0)])
    assert codec.from_bytes(codec.to_bytes(taken), telemetry.Sample) == taken


def test_a_sample_carries_the_digits_that_its_sensors_mean_and_no_more():
    third = 1 / 3
    running = msgspec.structs.replace(
        window("m", 3, 2 + third), throughput_hz=59 + third, latency_p50_ms=7 + third, latency_p99_ms=12 + third
    )
    readings = [
        telemetry.Reading("cpu_frequency_hz", 1.51e9 + third),
        telemetry.Reading("gpu_utilization_ratio", third),
        telemetry.Reading("power_w", 5 + third),
        telemetry.Reading("energy_j", 5 + third),
        telemetry.Reading("temperature_gpu_c", 41.0),
        telemetry.Reading("rails_w.VDD_IN", 5 + third),
        telemetry.Reading("dla_frequency_hz.dla0", 3e8),
    ]
    text = codec.to_bytes(reports.sample(WHO, MOMENT._replace(interval_s=1.000213), readings, [running])).decode()
    for said in (
        '"interval_s":1.0002,', '"cpu_frequency_hz":1510000000,', '"gpu_utilization_ratio":0.3333,',
        '"power_w":5.333,', '"energy_j":5.3333,', '"temperature_gpu_c":41.0,', '"rails_w":{"VDD_IN":5.333},',
        '"dla_frequency_hz":{"dla0":300000000},', '"throughput_hz":59.333,', '"latency_p50_ms":7.333,',
        '"latency_p99_ms":12.33,', '"stage_ms":{"compute":2.333}', '"energy_per_inference_j":1.778,',
    ):  # fmt: skip
        assert said in text


def test_an_interval_longer_than_a_day_stays_within_the_bounds_of_the_wire():
    taken = reports.sample(WHO, MOMENT._replace(interval_s=1e6), [], [])
    assert codec.from_bytes(codec.to_bytes(taken), telemetry.Sample).interval_s == 86400.0


def test_energy_goes_to_models_by_compute_time():
    first, second, idle = reports.with_energy([window("a", 10, 3.0), window("b", 5, 2.0), window("c", 0, 0.0)], 8.0)
    assert (first.energy_j, second.energy_j) == (6.0, 2.0)
    assert first.energy_per_inference_j == pytest.approx(0.6)
    assert (idle.energy_j, idle.energy_per_inference_j) == (None, None)


@pytest.mark.parametrize("energy_j", [None, 5.0])
def test_without_energy_or_work_there_is_nothing_to_share_out(energy_j):
    windows = (window("a", 0, 0.0),) if energy_j else (window("a", 3, 1.0),)
    assert reports.with_energy(windows, energy_j) == windows


@given(
    st.lists(st.tuples(st.integers(0, 1000), st.floats(0.001, 1000)), min_size=1, max_size=6),
    st.floats(0.001, 1e6),
)
def test_shares_add_up_to_the_whole(models, energy_j):
    shared = reports.with_energy([window("m", count, ms) for count, ms in models], energy_j)
    if any(count for count, _ in models):
        assert sum(one.energy_j or 0.0 for one in shared) == pytest.approx(energy_j)


@given(st.floats(0, 32503680000), st.integers(0, 2**64))
def test_a_boot_id_always_fits_the_wire(started_s, bits):
    boot = reports.boot_id(started_s=started_s, random_bits=bits)
    status = reports.status(WHO._replace(boot=boot), "online", wall_s=started_s)
    assert codec.from_bytes(codec.to_bytes(status), telemetry.Status) == status


def test_birth_survives_the_wire():
    machine = {"board": "Fake", "cores": 2, "l4t": None}
    born = reports.birth(WHO, wall_s=1.0, machine=machine, models=[], interval_s=1.0)
    assert codec.from_bytes(codec.to_bytes(born), telemetry.Birth) == born
