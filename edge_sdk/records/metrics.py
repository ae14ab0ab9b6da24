"""The metric catalogue: every reading of a Sample with its unit, meaning and OpenTelemetry name where one exists."""

from typing import NamedTuple


class Metric(NamedTuple):
    """One row of the catalogue."""

    name: str
    unit: str
    meaning: str
    otel: str


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
    Metric("power_boundary", "", "what power_w covers: module, module+carrier, package (CPU), or empty", ""),
    Metric("energy_j", "J", "energy of the interval inside power_boundary", "hw.energy"),
    Metric("temperature_cpu_c", "Cel", "hottest CPU sensor", "hw.temperature"),
    Metric("temperature_gpu_c", "Cel", "GPU sensor", "hw.temperature"),
    Metric("temperature_max_c", "Cel", "hottest sensor of the machine", "hw.temperature"),
    Metric(
        "throttled",
        "",
        "true when a thermal or over-current limit slowed the machine during the interval",
        "hw.status",
    ),
    Metric("fan_ratio", "1", "fan speed as a share of its maximum", "hw.fan.speed_ratio"),
)
"""In the order in which a Sample carries them."""

NAMES: tuple[str, ...] = tuple(metric.name for metric in METRICS)
