"""The sensors of this machine, in the order in which they may answer for a metric."""

from collections.abc import Callable
from pathlib import Path
from typing import cast

from edge_sdk import clock, imports
from edge_sdk.device.sense import gpu, jtop, machine, modes, power, procfs, thermal, throttle
from edge_sdk.device.sense.protocol import Sensor
from edge_sdk.records.telemetry import Reading

JTOP_SOCKET = Path("run/edge-sdk-jtop/jtop.sock")
"""Below the root folder; where edge-sdk-jtop.service has its socket."""

_NVIDIA_CARD = "proc/driver/nvidia/version"
_NVML = "edge_sdk.device.sense.nvml:NvmlSensor"


def sensors_of(root: Path, *, clocks: clock.Clock, state_folder: Path) -> tuple[Sensor, ...]:
    """Gives a sensor for everything that can be read below `root`.

    Args:
        root: ``/``, or a folder that looks like it.
        clocks: for what is measured between two calls.
        state_folder: whose file system's fill level is of interest.
    """
    return (
        *_simulated(root),
        procfs.CpuSensor(root),
        gpu.GpuSensor(root),
        gpu.EmcSensor(root),
        gpu.DlaSensor(root),
        procfs.MemorySensor(root),
        procfs.ProcessSensor(root, clocks),
        procfs.DiskSensor(state_folder),
        power.FirstPower(power.PowerSensor(root, clocks), *_cards(root, clocks)),
        modes.ModeSensor(root),
        thermal.TemperatureSensor(root),
        throttle.ThrottleSensor(root),
        thermal.FanSensor(root),
        jtop.JtopSensor(root / JTOP_SOCKET, clocks),
    )


class _SimulatedSensor:
    """Marks every Sample of a board that was made up."""

    def collect(self) -> list[Reading]:
        """Gives the mark."""
        return [Reading("simulated", True)]


def _simulated(root: Path) -> tuple[Sensor, ...]:
    return (_SimulatedSensor(),) if (root / machine.SIMULATED).exists() else ()


def _cards(root: Path, clocks: clock.Clock) -> tuple[Sensor, ...]:
    """Gives the sensor of NVIDIA's cards where the driver for them is loaded; a Jetson's GPU has another driver."""
    if not (root / _NVIDIA_CARD).exists():
        return ()
    try:
        return (cast("Callable[[clock.Clock], Sensor]", imports.object_from_spec(_NVML))(clocks),)
    except ModuleNotFoundError:
        return (_NoNvmlSensor(),)


class _NoNvmlSensor:
    """Says what would read the card."""

    def collect(self) -> list[Reading]:
        """Gives the remedy as the reason."""
        reason = "an NVIDIA card is here, and nothing reads it: pip install 'edge_sdk[nvml]'"
        return [Reading(metric, None, reason) for metric in ("gpu_utilization_ratio", "gpu_frequency_hz")]
