"""The metric catalogue: every reading of a Sample with its unit, meaning and OpenTelemetry name where one exists."""

from typing import NamedTuple


class Metric(NamedTuple):
    """One row of the catalogue.

    Attributes:
        name: in a Sample, unit included.
        unit: by UCUM; empty for what has none.
        meaning: for people.
        otel: OpenTelemetry's name, where one exists.
        is_map: one value for each of several parts; a Reading of one is named ``rails_w.VDD_IN``.
    """

    name: str
    unit: str
    meaning: str
    otel: str
    is_map: bool = False


METRICS: tuple[Metric, ...] = (
    Metric(
        "cpu_utilization_ratio",
        "1",
        "busy share of all CPU cores over the interval",
        "system.cpu.utilization",
    ),
    Metric("cpu_frequency_hz", "Hz", "mean current clock of the online cores", "system.cpu.frequency"),
    Metric("gpu_utilization_ratio", "1", "busy share of the GPU over the interval", "hw.gpu.utilization"),
    Metric("gpu_frequency_hz", "Hz", "current GPU clock", ""),
    Metric(
        "gpu_memory_used_bytes",
        "By",
        "memory that the GPU holds; on a Jetson a part of memory_used_bytes",
        "hw.gpu.memory.usage",
    ),
    Metric("emc_utilization_ratio", "1", "busy share of the external memory controller", ""),
    Metric("emc_frequency_hz", "Hz", "current clock of the external memory", ""),
    Metric("dla_frequency_hz", "Hz", "current clock of each deep learning accelerator that is awake", "", is_map=True),
    Metric(
        "memory_used_bytes",
        "By",
        "memory in use (total less available); on a Jetson CPU and GPU share it",
        "system.memory.usage",
    ),
    Metric("memory_total_bytes", "By", "memory of the machine", "system.memory.limit"),
    Metric("swap_used_bytes", "By", "swap in use", "system.paging.usage"),
    Metric("process_memory_bytes", "By", "resident memory of the daemon itself", "process.memory.usage"),
    Metric(
        "process_cpu_ratio",
        "1",
        "CPU time of the daemon over the interval, in cores",
        "process.cpu.utilization",
    ),
    Metric(
        "disk_used_ratio",
        "1",
        "used share of the file system that holds the daemon's state",
        "system.filesystem.utilization",
    ),
    Metric("power_w", "W", "mean electrical power over the interval inside power_boundary", "hw.power"),
    Metric("power_boundary", "", "what power_w covers: module, module+carrier, package (CPU), gpu, or empty", ""),
    Metric("energy_j", "J", "energy of the interval inside power_boundary", "hw.energy"),
    Metric(
        "rails_w",
        "W",
        "mean power of each rail over the interval; rails overlap on some boards, so they are never to be summed",
        "hw.power",
        is_map=True,
    ),
    Metric("power_mode", "", "nvpmodel's mode, which caps power and clocks", ""),
    Metric("temperature_cpu_c", "Cel", "hottest CPU sensor", "hw.temperature"),
    Metric("temperature_gpu_c", "Cel", "GPU sensor", "hw.temperature"),
    Metric("temperature_max_c", "Cel", "hottest sensor of the machine", "hw.temperature"),
    Metric("temperatures_c", "Cel", "each thermal zone by its name", "hw.temperature", is_map=True),
    Metric(
        "throttled",
        "",
        "true when a thermal or over-current limit slowed the machine during the interval",
        "hw.status",
    ),
    Metric("throttle_events", "1", "how often a thermal limit slowed the machine down in the interval", "hw.errors"),
    Metric(
        "overcurrent_events",
        "1",
        "over-current and under-voltage alarms in the interval, as the board counts them",
        "hw.errors",
    ),
    Metric("fan_ratio", "1", "fan speed as a share of its maximum", "hw.fan.speed_ratio"),
)
"""In the order in which a Sample carries them."""

NAMES: tuple[str, ...] = tuple(metric.name for metric in METRICS)

MAPS: tuple[str, ...] = tuple(metric.name for metric in METRICS if metric.is_map)
"""Those with one value for each of several parts."""

_SPELLED_OUT = {"_w": "_watts", "_c": "_celsius", "_j": "_joules", "_hz": "_hertz"}


def prometheus_name(name: str) -> str:
    """Gives a metric's name in Prometheus, device's and collector's pages alike: base units spelt out.

    >>> prometheus_name("power_w"), prometheus_name("fan_ratio")
    ('edge_power_watts', 'edge_fan_ratio')
    """
    for short, full in _SPELLED_OUT.items():
        if name.endswith(short):
            return f"edge_{name.removesuffix(short)}{full}"
    return f"edge_{name}"
