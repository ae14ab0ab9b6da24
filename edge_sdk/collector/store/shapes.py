"""Packed chunks and loose Samples as series: points, or bins with mean, least and most."""

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_sdk import errors
from edge_sdk.collector.store import chunks as packing
from edge_sdk.collector.store import samples
from edge_sdk.records import answers

POINTS_MAX = 500_000
"""In one answer, of all devices together."""

_Chunk = tuple[Any, ...]  # device, start, data


def series_from_points(
    metric: tuple[str, int],
    chunks: Sequence[_Chunk],
    tail: samples.Folded,
    *,
    within: tuple[float, float],
    step_s: int,
) -> list[answers.Series]:
    """Gives the series of each device from minutes.

    Args:
        metric: its name and column.
        chunks: (device, start, data).
        tail: what is not in chunks yet.
        within: since and until.
        step_s: width of a bin; 0 for single points.

    Raises:
        UsageError: more points than are given at once.
    """
    times: dict[str, list[NDArray[np.float64]]] = defaultdict(list)
    values: dict[str, list[NDArray[np.float64]]] = defaultdict(list)
    for device, start, data in chunks:
        t, table = packing.unpacked_points(bytes(data))
        times[device].append(t.astype(np.float64) + start)
        values[device].append(table[:, metric[1]].astype(np.float64))
    for place, device in enumerate(tail.devices):
        times[device].append(tail.t[place : place + 1])
        values[device].append(tail.values[place : place + 1, metric[1]])
    out = []
    for device in sorted(times):
        t, value = np.concatenate(times[device]), np.concatenate(values[device])
        wanted = ~np.isnan(value) & (t >= within[0]) & (t < within[1])
        order = np.argsort(t[wanted], kind="stable")
        t, value = t[wanted][order], value[wanted][order]
        out.append(_series(device, metric[0], step_s, t, value))
    _check_size(out)
    return out


def series_from_hours(
    metric: tuple[str, int], chunks: Sequence[_Chunk], tail: samples.Folded, *, step_s: int
) -> list[answers.Series]:
    """Gives the series of each device from hours, in bins of `step_s` (a multiple of an hour).

    Raises:
        UsageError: more points than are given at once.
    """
    bins: dict[str, dict[int, list[float]]] = defaultdict(dict)

    def add(device: str, start: float, totals: Sequence[float]) -> None:
        count, total, least, most = totals
        if not count:
            return
        into = bins[device].setdefault(int(start // step_s) * step_s, [0.0, 0.0, np.inf, -np.inf])
        into[:] = [into[0] + count, into[1] + total, min(into[2], least), max(into[3], most)]

    for device, start, data in chunks:
        add(device, start, packing.unpacked_hours(bytes(data))[:, metric[1]].tolist())
    for device, t, value in zip(tail.devices, tail.t.tolist(), tail.values[:, metric[1]].tolist(), strict=True):
        if not np.isnan(value):
            add(device, t, (1, value, value, value))
    out = []
    for device, found in sorted(bins.items()):
        table = np.array([found[start] for start in sorted(found)])
        starts = [float(start) for start in sorted(found)]
        means = (table[:, 1] / table[:, 0]).tolist()
        out.append(
            answers.Series(
                device=device,
                metric=metric[0],
                step_s=step_s,
                t=starts,
                value=means,
                least=table[:, 2].tolist(),
                most=table[:, 3].tolist(),
            )
        )
    _check_size(out)
    return out


def _series(device: str, metric: str, step_s: int, t: NDArray[Any], value: NDArray[Any]) -> answers.Series:
    least = most = value
    if step_s and len(t):
        starts, first = np.unique(t // step_s * step_s, return_index=True)
        counts = np.diff(np.append(first, len(t)))
        least, most = np.minimum.reduceat(value, first), np.maximum.reduceat(value, first)
        t, value = starts, np.add.reduceat(value, first) / counts
    return answers.Series(
        device=device,
        metric=metric,
        step_s=step_s,
        t=t.tolist(),
        value=value.tolist(),
        least=least.tolist(),
        most=most.tolist(),
    )


def _check_size(found: Sequence[answers.Series]) -> None:
    size = sum(len(series.t) for series in found)
    if size > POINTS_MAX:
        raise errors.UsageError(
            f"an answer of {size:,} points; at most {POINTS_MAX:,} are given: choose a step, fewer devices or less time"
        )
