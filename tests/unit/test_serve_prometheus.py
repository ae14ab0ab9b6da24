"""The page for Prometheus: every metric of the catalogue under our name, nothing for what was not read."""

import re

from edge_sdk.collector.export import prometheus as collected
from edge_sdk.device.serve import prometheus
from edge_sdk.records import metrics, telemetry

LINE = re.compile(r'[a-z_]+\{([a-z_]+="(?:[^"\\]|\\.)*",?)+\} -?[0-9.e+-]+')


def sample(**more):
    values = dict(v=1, device="cam-7", boot="00c0ffee", seq=0, t=0, up_s=0, interval_s=1, missing={"fan_ratio": "none"})
    return telemetry.Sample(**{**values, **more})


def page(**more):
    return prometheus.page([], "cam-7", sample(**more)).splitlines()


def test_what_was_read_is_there_under_our_names_and_tritons():
    lines = page(power_w=5.5, gpu_utilization_ratio=0.5, throttled=True, rails_w={"VDD_IN": 5.5}, power_mode="25W")
    for line in (
        'edge_power_watts{device="cam-7"} 5.5',
        'edge_gpu_utilization_ratio{device="cam-7"} 0.5',
        'edge_throttled{device="cam-7"} 1',
        'edge_rails_watts{device="cam-7",part="VDD_IN"} 5.5',
        'edge_power_mode{device="cam-7",value="25W"} 1',
        'edge_missing{device="cam-7"} 1',
        'edge_simulated{device="cam-7"} 0',
        'nv_gpu_power_usage{gpu_uuid="cam-7"} 5.5',
        'nv_gpu_utilization{gpu_uuid="cam-7"} 0.5',
    ):
        assert line in lines


def test_what_was_not_read_is_left_out_and_never_0():
    lines = page()
    assert not any("power_watts" in line or "fan_ratio" in line or "throttled" in line for line in lines)


def test_every_metric_of_the_catalogue_has_its_place():
    values = {}
    for metric in metrics.METRICS:
        kind = telemetry.Sample.__annotations__[metric.name]
        values[metric.name] = {"a": 1.0} if metric.is_map else "x" if "str" in str(kind) else 1
    lines = page(**values)
    for metric in metrics.METRICS:
        name = metrics.prometheus_name(metric.name)
        assert any(line.startswith(f"{name}{{") for line in lines), name
        assert f"# HELP {name} {metric.meaning}" in lines


def test_every_line_is_of_the_text_format_whatever_a_driver_names_its_parts():
    lines = page(rails_w={'a"b\\c\nd': 1.0}, power_mode='"\\\n', simulated=True)
    for line in lines:
        assert line.startswith("#") or LINE.fullmatch(line), line
    assert 'edge_simulated{device="cam-7"} 1' in lines


def test_the_device_and_the_collector_name_a_metric_alike():
    values = {metric.name: 1.0 for metric in metrics.METRICS if not metric.is_map and metric.unit}
    of_device = {line.split("{")[0] for line in page(**values) if line.startswith("edge_")}
    assert {metrics.prometheus_name(metric.name) for metric in collected.GAUGES} <= of_device | {"edge_throttled"}
