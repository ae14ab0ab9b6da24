"""The sensors of this machine, in the order in which they may answer for a metric."""

from pathlib import Path

from edge_sdk import clock
from edge_sdk.device.sense import gpu, power, procfs, thermal
from edge_sdk.device.sense.protocol import Sensor


def sensors_of(root: Path, *, clocks: clock.Clock, state_folder: Path) -> tuple[Sensor, ...]:
    """Gives a sensor for everything that can be read below `root` without further software.

    Args:
        root: ``/``, or a folder that looks like it.
        clocks: for what is measured between two calls.
        state_folder: whose file system's fill level is of interest.
    """
    return (
        procfs.CpuSensor(root),
        gpu.GpuSensor(root),
        procfs.MemorySensor(root),
        procfs.ProcessSensor(root, clocks),
        procfs.DiskSensor(state_folder),
        power.PowerSensor(root, clocks),
        thermal.TemperatureSensor(root),
        thermal.ThrottleSensor(root),
        thermal.FanSensor(root),
    )
