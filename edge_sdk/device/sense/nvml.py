"""NVIDIA cards of a workstation, through NVML: the only door to nvidia-ml-py (extra ``nvml``).

On a Jetson NVML starts but answers NotSupported to most questions (intelligence-per-watt#40); each of these is null
with that reason, and sysfs answers instead.
"""

import functools
from collections.abc import Callable
from typing import Any

import pynvml

from edge_sdk import clock
from edge_sdk.device.sense import files
from edge_sdk.device.sense.energy import Meter
from edge_sdk.records.telemetry import Reading

BOUNDARY = "gpu"

_SLOW = (
    "nvmlClocksThrottleReasonHwThermalSlowdown",
    "nvmlClocksThrottleReasonSwThermalSlowdown",
    "nvmlClocksThrottleReasonHwPowerBrakeSlowdown",
)
"""The reasons that are limits met; the power cap in normal work is not one of them."""


class NvmlSensor:
    """Load, clock, memory, temperature, throttling and fan of all cards together, and the power of each."""

    def __init__(self, clocks: clock.Clock) -> None:
        self._clock = clocks
        self._cards: list[Any] = []
        self._meters: list[Meter] = []

    def tick(self) -> bool:
        """Reads the cards' power, so that energy is integrated more finely; True when there is a card."""
        for meter in self._meters:
            meter.tick()
        return bool(self._meters)

    def collect(self) -> list[Reading]:
        """Gives all of it; what a card does not support is null with NVML's own words."""
        try:
            self._open()
        except pynvml.NVMLError as error:
            reason = f"NVML: {error}"
            return files.absent(reason, "gpu_utilization_ratio", "gpu_frequency_hz", "gpu_memory_used_bytes")
        return [
            self._over_cards("gpu_utilization_ratio", _mean, _load_ratio),
            self._over_cards("gpu_frequency_hz", max, _clock_hz),
            files.whole(self._over_cards("gpu_memory_used_bytes", sum, _memory_bytes)),
            self._over_cards("temperature_gpu_c", max, _celsius),
            self._over_cards("fan_ratio", max, _fan_ratio),
            self._throttled(),
            *self._power(),
        ]

    def _open(self) -> None:
        if self._cards:
            return
        pynvml.nvmlInit()
        self._cards = [pynvml.nvmlDeviceGetHandleByIndex(index) for index in range(pynvml.nvmlDeviceGetCount())]
        self._meters = [Meter(functools.partial(_watts, card), self._clock) for card in self._cards]

    def _over_cards(self, metric: str, fold: Callable[[list[float]], float], ask: Callable[[Any], float]) -> Reading:
        def measure() -> float:
            if not self._cards:
                raise ValueError("NVML sees no card")
            return fold([_asked(ask, card) for card in self._cards])

        return files.reading(metric, measure)

    def _throttled(self) -> Reading:
        bits = 0
        for name in _SLOW:
            bits |= getattr(pynvml, name, 0)
        reading = self._over_cards("throttled", max, lambda card: float(_throttle_reasons(card) & bits))
        return reading if reading.value is None else Reading("throttled", reading.value > 0)  # type: ignore[operator]  # a number

    def _power(self) -> list[Reading]:
        taken = [meter.take() for meter in self._meters]
        each = [
            Reading(f"rails_w.gpu{index}", one.power_w, "" if one.power_w is not None else one.reason)
            for index, one in enumerate(taken)
        ]
        powers = [one.power_w for one in taken if one.power_w is not None]
        energies = [one.energy_j for one in taken if one.energy_j is not None]
        if len(powers) < len(taken) or not taken:
            return files.parts("rails_w", each)
        reason = next((one.reason for one in taken if one.reason), "")
        # Cards are apart from each other, so their sum counts nothing twice.
        whole = Reading("energy_j", sum(energies)) if len(energies) == len(taken) else Reading("energy_j", None, reason)
        return [Reading("power_w", sum(powers)), Reading("power_boundary", BOUNDARY), whole, *each]


def _asked(ask: Callable[[Any], float], card: Any) -> float:
    try:
        return ask(card)
    except pynvml.NVMLError as error:
        raise ValueError(f"NVML: {error}") from error


def _watts(card: Any) -> float:
    return _asked(lambda one: pynvml.nvmlDeviceGetPowerUsage(one) / 1000, card)


def _load_ratio(card: Any) -> float:
    return float(pynvml.nvmlDeviceGetUtilizationRates(card).gpu) / 100


def _clock_hz(card: Any) -> float:
    return float(pynvml.nvmlDeviceGetClockInfo(card, pynvml.NVML_CLOCK_SM)) * 1e6


def _memory_bytes(card: Any) -> float:
    return float(pynvml.nvmlDeviceGetMemoryInfo(card).used)


def _celsius(card: Any) -> float:
    return float(pynvml.nvmlDeviceGetTemperature(card, pynvml.NVML_TEMPERATURE_GPU))


def _fan_ratio(card: Any) -> float:
    return float(pynvml.nvmlDeviceGetFanSpeed(card)) / 100


def _throttle_reasons(card: Any) -> int:
    return int(pynvml.nvmlDeviceGetCurrentClocksThrottleReasons(card))


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)
