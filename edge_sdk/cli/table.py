"""The live table of `edge-sdk watch` and its plain lines: Samples to text, nothing else."""

import datetime as dt
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from edge_sdk.records import telemetry

WIDTH = 80
"""Narrowest table; what a wider terminal adds goes to the names."""

_UNKNOWN = "-"
_COLUMNS = {"DEVICE": 11, "MODEL": 10, "INF/S": 7, "P50ms": 6, "P99ms": 6, "ERR": 4, "W": 5, "MEM": 4, "°C": 4}
_TAIL = {"J/INF": 6, "AGE": 7}
_NAMES = ("DEVICE", "MODEL")


class Shown(NamedTuple):
    """What is known of one device.

    Attributes:
        device: its name.
        sample: its last Sample; None when only its status is known.
        age_s: seconds since that came; None when none did.
        is_online: what its status says; a device without one counts as online.
    """

    device: str
    sample: telemetry.Sample | None
    age_s: float | None
    is_online: bool = True


def table_text(devices: Iterable[Shown], *, width: int = WIDTH, height: int = 10_000) -> str:
    """Gives the table: a line per device and model, at most `height` lines of at most `width` letters."""
    widths = {**_COLUMNS, **_TAIL}
    known = sorted(devices, key=lambda shown: shown.device)
    rows = [row for shown in known for row in _rows(shown)]
    spare = max(0, width - WIDTH)
    for position, name in enumerate(_NAMES):  # as long as they are, not as wide as the terminal is
        added = min(spare, max((len(row[position]) - widths[name] for row in rows), default=0))
        widths[name] += max(0, added)
        spare -= max(0, added)
    lines = [_line(list(widths), widths)]
    shown_max = max(1, height - 2)
    lines += [_line(row, widths) for row in rows[:shown_max]]
    if not rows:
        lines.append("(no device has spoken yet)")
    if len(rows) > shown_max:
        lines.append(f"... and {len(rows) - shown_max} more lines; --device shows one")
    elif len(lines) < height - 1 and any(one.sample is not None and one.sample.simulated for one in known):
        lines.append("* a simulated board")
    return "\n".join(lines) + "\n"


def sample_line(sample: telemetry.Sample) -> str:
    """Gives one line that says what a Sample says."""
    time = dt.datetime.fromtimestamp(sample.t, dt.timezone.utc).strftime("%H:%M:%S")
    models = [
        f"{printable(window.model)} {short(window.throughput_hz)}/s p50 {short(window.latency_p50_ms)} ms "
        f"p99 {short(window.latency_p99_ms)} ms errors {sum(window.errors.values())} "
        f"{short(window.energy_per_inference_j)} J/inference"
        for window in sample.models
    ]
    machine = f"{short(sample.power_w)} W, memory {_memory(sample)}, {short(temperature_c(sample))} °C"
    return f"{time}Z {sample.device} {sample.seq}: {', '.join([*models, machine])}"


def is_newer(sample: telemetry.Sample, before: telemetry.Sample | None) -> bool:
    """Says whether a Sample is newer than the one before: without receipts, devices send what they hold once more."""
    if before is None:
        return True
    return sample.seq > before.seq if sample.boot == before.boot else sample.t >= before.t


def temperature_c(sample: telemetry.Sample) -> float | None:
    """Gives the hottest temperature that a Sample has."""
    known = (sample.temperature_max_c, sample.temperature_gpu_c, sample.temperature_cpu_c)
    return max((value for value in known if value is not None), default=None)


def short(value: float | None, width: int = 6) -> str:
    """Gives a number in at most `width` letters with k, M, G or m, u for what is large or small.

    >>> [short(value) for value in (None, 0, 3.14159, 812.34, 0.00631, 1234567.0)]
    ['-', '0', '3.14', '812', '6.31m', '1.23M']
    """
    if value is None:
        return _UNKNOWN
    if value == 0:
        return "0"
    scaled, suffix = float(value), ""
    for bound, factor, letter in ((1e9, 1e-9, "G"), (1e6, 1e-6, "M"), (1e4, 1e-3, "k")):
        if abs(value) >= bound:
            scaled, suffix = value * factor, letter
            break
    else:
        if abs(value) < 1e-3:
            scaled, suffix = value * 1e6, "u"
        elif abs(value) < 0.1:
            scaled, suffix = value * 1e3, "m"
    decimals = 0 if abs(scaled) >= 100 else 1 if abs(scaled) >= 10 else 2
    text = f"{scaled:.{decimals}f}{suffix}"
    return text if len(text) <= width else "#" * width


def printable(text: str) -> str:
    """Gives `text` with ``?`` for what a terminal would obey instead of showing."""
    return "".join(letter if letter.isprintable() else "?" for letter in text)


def _rows(shown: Shown) -> list[list[str]]:
    age = _age(shown)
    sample = shown.sample
    if sample is None:
        return [[shown.device, *[_UNKNOWN] * 9, age]]
    name = shown.device + ("*" if sample.simulated else "")
    machine = [short(sample.power_w, 5), _memory(sample), _degrees(temperature_c(sample))]
    if not sample.models:
        return [[name, *[_UNKNOWN] * 5, *machine, _UNKNOWN, age]]
    return [
        [
            name,
            printable(window.model),
            short(window.throughput_hz),
            short(window.latency_p50_ms),
            short(window.latency_p99_ms),
            _count(sum(window.errors.values())),
            *machine,
            short(window.energy_per_inference_j),
            age,
        ]
        for window in sample.models
    ]


def _line(cells: Sequence[str], widths: dict[str, int]) -> str:
    parts = []
    for cell, (name, width) in zip(cells, widths.items(), strict=True):
        fitting = cell if len(cell) <= width else cell[: width - 1] + "~"
        parts.append(f"{fitting:<{width}}" if name in _NAMES else f"{fitting:>{width}}")
    return " ".join(parts).rstrip()


def _count(number: int) -> str:
    if number < 10_000:
        return str(number)
    scaled = float(number)
    for suffix in "kMG":
        scaled /= 1000
        if scaled < 999.5:
            return f"{scaled:.0f}{suffix}"
    return ">1T"


def _memory(sample: telemetry.Sample) -> str:
    if sample.memory_used_bytes is None or not sample.memory_total_bytes:
        return _UNKNOWN
    return f"{sample.memory_used_bytes / sample.memory_total_bytes:.0%}"


def _degrees(value: float | None) -> str:
    return _UNKNOWN if value is None else f"{value:.0f}"


def _age(shown: Shown) -> str:
    if not shown.is_online:
        return "offline"
    if shown.age_s is None:
        return _UNKNOWN
    if shown.age_s < 120:
        return f"{shown.age_s:.0f} s"
    return f"{shown.age_s / 60:.0f} min" if shown.age_s < 7200 else f"{shown.age_s / 3600:.0f} h"
