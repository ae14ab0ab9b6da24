"""What a device says of itself, from what the rooms measured: pure, records in and records out."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import msgspec

from edge_sdk import __version__
from edge_sdk.records import metrics, telemetry
from edge_sdk.wire import codec, compact

_NO_SENSOR = "no sensor"
_REASON_CHARS = 300
_KEY_CHARS, _PARTS, _GAPS = 64, 32, 64
"""Bounds of a Sample."""
_DAY_S = 86400.0
_DECIMALS = {"1": 4, "Cel": 2, "W": 3, "J": 4, "Hz": 0, "By": 0}
"""By unit: what is beyond them no sensor of a board means, and every Sample would carry it."""
_MODEL_DIGITS = 4
"""Of a latency, whose histogram is right to 0.5 %, and of what is derived from one."""
_PACE_DIGITS = 5
"""Of rates and of the interval that they rest on."""


class Identity(NamedTuple):
    """Who speaks: the device, and this start of its daemon."""

    site: str
    device: str
    boot: str


def boot_id(*, started_s: float, random_bits: int, last: str | None = None) -> str:
    """Gives the name of one start of the daemon: 8 hex digits of Unix time, 8 of chance.

    The time makes boots sort, also where the clock starts in 1970: it is at least one above that of the boot before.
    The chance keeps them apart where nothing is known of that one.

    >>> boot_id(started_s=1_750_000_000.9, random_bits=0xC0FFEE)
    '684ee18000c0ffee'
    >>> boot_id(started_s=12.0, random_bits=0xC0FFEE, last="684ee18000000007")
    '684ee18100c0ffee'
    """
    above = 0 if last is None else int(last[:8], 16) + 1
    return f"{min(max(int(started_s), above, 0), 0xFFFFFFFF):08x}{random_bits & 0xFFFFFFFF:08x}"


def status(identity: Identity, state: str, *, wall_s: float) -> telemetry.Status:
    """Gives ``online`` or ``offline`` as of `wall_s`."""
    return telemetry.Status(state, identity.boot, wall_s)


def birth(
    identity: Identity,
    *,
    wall_s: float,
    machine: Mapping[str, str | int | float | None],
    models: Sequence[telemetry.ModelInfo],
    interval_s: float,
    payload: Literal["json", "compact"] = "json",
    payloads: tuple[str, ...] | None = None,
    synced: bool | None = None,
    withdrawn: Sequence[telemetry.Withdrawn] = (),
) -> telemetry.Birth:
    """Gives who the device is, what it serves, and what its numbers mean."""
    return telemetry.Birth(
        v=telemetry.WIRE_VERSION,
        device=identity.device,
        boot=identity.boot,
        t=wall_s,
        sdk=__version__,
        machine=dict(machine),
        models=tuple(models),
        metrics=tuple(telemetry.MetricInfo(metric.name, metric.unit) for metric in metrics.METRICS),
        interval_s=interval_s,
        payload=payload,
        payloads=msgspec.UNSET if payloads is None else payloads,
        synced=msgspec.UNSET if synced is None else synced,
        withdrawn=tuple(withdrawn[:64]) or msgspec.UNSET,
    )


def event(
    identity: Identity,
    kind: str,
    message: str,
    *,
    wall_s: float,
    details: Mapping[str, str | int | float | bool | None],
    seq: int,
) -> telemetry.Event:
    """Gives something that happened once, the `seq`-th of this boot."""
    return telemetry.Event(
        v=telemetry.WIRE_VERSION,
        device=identity.device,
        boot=identity.boot,
        t=wall_s,
        kind=kind,
        message=message,
        details=dict(details),
        seq=seq,
    )


class Moment(NamedTuple):
    """When a Sample was taken, and its place in the row.

    Attributes:
        seq: its number within this boot.
        wall_s, boot_s: the end of the interval on both clocks.
        interval_s: how long the interval really was.
        oldest_seq, dropped: of the spool.
        synced: whether a time server keeps the wall clock right; None where that is not known.
    """

    seq: int
    wall_s: float
    boot_s: float
    interval_s: float
    oldest_seq: int
    dropped: int
    synced: bool | None = None


def sample(
    identity: Identity,
    moment: Moment,
    readings: Iterable[telemetry.Reading],
    windows: Sequence[telemetry.Window],
    *,
    idle_power_w: float = 0.0,
) -> telemetry.Sample:
    """Gives the Sample of one interval.

    Of several readings of a metric the first with a value counts; a metric without any is None, and `missing` says
    why. Parts of a metric (``rails_w.VDD_IN``) are gathered in its map. A reading ``simulated`` marks the Sample. The
    energy beyond `idle_power_w` goes to the models.
    """
    values: dict[str, float | str | bool] = {}
    reasons = dict.fromkeys(metrics.NAMES, _NO_SENSOR)
    for reading in reversed(list(readings)):
        if reading.value is None:
            reasons[reading.metric] = reading.reason[:_REASON_CHARS]
        elif isinstance(reading.value, float) and not math.isfinite(reading.value):
            reasons[reading.metric] = f"the sensor gave {reading.value}, not a finite number"
        else:
            values[reading.metric] = reading.value
    known: dict[str, Any] = {name: values[name] for name in metrics.NAMES if name in values}
    known |= {name: parts for name in metrics.MAPS if (parts := _parts(name, values))}
    energy_j = known.get("energy_j")
    if isinstance(energy_j, float):
        energy_j = max(0.0, energy_j - idle_power_w * moment.interval_s)
    taken = telemetry.Sample(
        v=telemetry.WIRE_VERSION,
        device=identity.device,
        boot=identity.boot,
        seq=moment.seq,
        t=round(moment.wall_s, 3),
        up_s=round(moment.boot_s, 3),
        interval_s=_digits(min(moment.interval_s, _DAY_S), _PACE_DIGITS),
        oldest_seq=moment.oldest_seq,
        dropped=moment.dropped,
        simulated=values.get("simulated") is True,
        synced=msgspec.UNSET if moment.synced is None else moment.synced,
        missing=_missing(reasons, known, values),
        models=tuple(map(_short_window, with_energy(windows, energy_j if isinstance(energy_j, float) else None))),
    )
    return msgspec.structs.replace(taken, **{name: _short(value, _UNITS[name]) for name, value in known.items()})


def renewed(payload: bytes, oldest_seq: int, dropped: int) -> bytes:
    """Gives a Sample with what is true of the spool now, in the form that it has."""
    sample = codec.from_bytes(payload, telemetry.Sample)
    if (sample.oldest_seq, sample.dropped) == (oldest_seq, dropped):
        return payload
    sample = msgspec.structs.replace(sample, oldest_seq=min(oldest_seq, sample.seq), dropped=dropped)
    return codec.sample_to_bytes(sample, payload="compact" if compact.is_compact(payload) else "json")


_UNITS = {metric.name: metric.unit for metric in metrics.METRICS}


def _short(value: Any, unit: str) -> Any:
    """Gives a number with the digits that a sensor can mean, and none after the point where none can be."""
    if isinstance(value, dict):
        return {name: _short(part, unit) for name, part in value.items()}
    if not isinstance(value, float):
        return value
    decimals = _DECIMALS.get(unit, 6)
    return round(value, decimals) if decimals else round(value)


def _digits(value: float, count: int) -> float:
    return float(f"{value:.{count}g}")


def _short_window(window: telemetry.Window) -> telemetry.Window:
    """Gives a window with the digits that its numbers can mean."""
    names = ("latency_p50_ms", "latency_p99_ms", "energy_j", "energy_per_inference_j")
    known = {name: value for name in names if (value := getattr(window, name)) is not None}
    return msgspec.structs.replace(
        window,
        throughput_hz=_digits(window.throughput_hz, _PACE_DIGITS),
        stage_ms={stage: _digits(spent_ms, _MODEL_DIGITS) for stage, spent_ms in window.stage_ms.items()},
        **{name: _digits(value, _MODEL_DIGITS) for name, value in known.items()},
    )


def _parts(name: str, values: Mapping[str, float | str | bool]) -> dict[str, float]:
    """Gives the parts of one metric by their names, at most as many as a Sample takes."""
    found = {
        metric.partition(".")[2][:_KEY_CHARS]: float(value)
        for metric, value in sorted(values.items())
        if metric.startswith(f"{name}.") and not isinstance(value, str)
    }
    return dict(list(found.items())[:_PARTS])


def _missing(reasons: Mapping[str, str], known: Mapping[str, object], values: Mapping[str, object]) -> dict[str, str]:
    """Gives why each metric, and each part of one, has no value; as many as a Sample takes."""
    gaps = {name: reasons[name] for name in metrics.NAMES if name not in known}
    for metric in sorted(set(reasons) - set(metrics.NAMES) - set(values)):
        if metric.partition(".")[0] in metrics.MAPS and len(metric) <= _KEY_CHARS:
            gaps[metric] = reasons[metric]
    return dict(list(gaps.items())[:_GAPS])


def with_energy(windows: Sequence[telemetry.Window], energy_j: float | None) -> tuple[telemetry.Window, ...]:
    """Gives the windows with the interval's energy shared out by compute time.

    All of `energy_j` goes to the models that ran; with the idle power of the board in it, a model that runs seldom
    looks expensive per inference. A model that did not run gets None.
    """
    compute_ms = [window.stage_ms.get("compute", 0.0) * window.count for window in windows]
    total_ms = sum(compute_ms)
    if energy_j is None or total_ms == 0:
        return tuple(windows)
    return tuple(
        msgspec.structs.replace(
            window, energy_j=energy_j * ms / total_ms, energy_per_inference_j=energy_j * ms / total_ms / window.count
        )
        if window.count
        else window
        for window, ms in zip(windows, compute_ms, strict=True)
    )


def has_progress(windows: Iterable[telemetry.Window]) -> bool:
    """Says whether every model either answered (or refused) something in the interval, or had nothing to do.

    A model with requests inside and not one answer may be at a long one, or hang: then the watchdog is not fed, and
    the service manager's patience (WatchdogSec) decides which it was.
    """
    return all(window.count or window.errors or not window.queue_depth_max for window in windows)
