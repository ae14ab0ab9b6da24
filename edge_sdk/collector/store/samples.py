"""What stored Samples say, as arrays: their numbers, their energy, and what their models did."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from edge_sdk.records import metrics

_TEXTS = ("power_boundary", "power_mode")
METRICS: tuple[str, ...] = tuple(
    name for name in metrics.NAMES if name not in metrics.MAPS and name not in _TEXTS and name != "energy_j"
)
"""Columns of a chunk, after the time. New ones are only ever appended: what is stored goes by position."""
_ENERGY = "energy_j"


class Window(msgspec.Struct, gc=False):
    """What is folded of a model's Window."""

    model: str
    digest: str
    count: int
    errors: dict[str, int]
    latency_hist: str
    energy_j: float | None


class _Windows(msgspec.Struct, gc=False):
    """A Sample's time and windows; everything else is skipped unread."""

    t: float
    models: list[Window] = []


def _numbers_type() -> type[msgspec.Struct]:
    """Gives a struct of a Sample's time, energy, windows and plain numbers; everything else is skipped unread."""
    fields: list[tuple[str, Any, Any]] = [
        (_ENERGY, float | None, None),
        ("models", list[Window], msgspec.field(default_factory=list)),
        *((name, float | bool | None, None) for name in METRICS),
    ]
    return msgspec.defstruct("_Numbers", [("t", float), ("interval_s", float), *fields], gc=False)


_DECODER = msgspec.json.Decoder(_numbers_type())
_WINDOWS_DECODER = msgspec.json.Decoder(_Windows)


class Folded(NamedTuple):
    """What a number of Samples say.

    Attributes:
        devices: of each Sample.
        t: of each Sample, seconds.
        energy_j, energy_s: of each Sample; energy and the seconds that it covers, 0 where it is not known.
        values: float64[samples, METRICS]; NaN where there is none.
        windows: (Sample, Window) of each model that did something.
    """

    devices: list[str]
    t: NDArray[np.float64]
    energy_j: NDArray[np.float64]
    energy_s: NDArray[np.float64]
    values: NDArray[np.float64]
    windows: list[tuple[int, Window]]


def read(rows: Sequence[tuple[str, str]]) -> Folded:
    """Gives what (device, payload) rows say; a payload that another version made unreadable says nothing."""
    devices: list[str] = []
    table: list[tuple[Any, ...]] = []
    windows: list[tuple[int, Window]] = []
    decode, fields = _DECODER.decode, msgspec.structs.astuple
    for device, payload in rows:
        try:
            t, interval_s, energy_j, models, *values = fields(decode(payload))
        except (msgspec.DecodeError, UnicodeError, RecursionError):
            continue
        windows += [(len(table), window) for window in models]
        table.append((t, energy_j or 0.0, 0.0 if energy_j is None else interval_s, *values))
        devices.append(device)
    numbers = np.array(table, np.float64).reshape(len(table), 3 + len(METRICS))
    return Folded(devices, numbers[:, 0], numbers[:, 1], numbers[:, 2], numbers[:, 3:], windows)


def joined(parts: Sequence[Folded]) -> Folded:
    """Gives what several lots of Samples say, one lot behind the other."""
    devices: list[str] = []
    windows: list[tuple[int, Window]] = []
    for part in parts:
        windows += [(len(devices) + place, window) for place, window in part.windows]
        devices += part.devices
    t, energy_j, energy_s, values = (
        np.concatenate(arrays) for arrays in zip(*(part[1:5] for part in parts), strict=True)
    )
    return Folded(devices, t, energy_j, energy_s, values, windows)


def read_windows(rows: Sequence[tuple[str, str]]) -> Folded:
    """Gives what the models of (device, payload) rows did, and nothing of their numbers."""
    devices: list[str] = []
    times: list[float] = []
    windows: list[tuple[int, Window]] = []
    decode = _WINDOWS_DECODER.decode
    for device, payload in rows:
        try:
            sample = decode(payload)
        except (msgspec.DecodeError, UnicodeError, RecursionError):
            continue
        windows += [(len(times), window) for window in sample.models]
        times.append(sample.t)
        devices.append(device)
    nothing = np.zeros(len(times))
    return Folded(devices, np.array(times, np.float64), nothing, nothing, nothing[:, None][:, :0], windows)
