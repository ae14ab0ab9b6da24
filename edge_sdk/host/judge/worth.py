"""Is INT8 worth it: an answer from what is known, which says what it rests on and never invents a device's figure."""

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import NamedTuple

import msgspec

from edge_sdk import errors
from edge_sdk.host.judge import gate
from edge_sdk.host.judge.targets import Target
from edge_sdk.records.bundle import WorthIt

YES, NO, OPEN = "yes", "no", "not measured"

LEAST_BOUND = 1.1
"""A speed-up that can't exceed a tenth is not worth a model that is only nearly the same."""

LEAST_GAIN = 1.05
"""Measured: less than a twentieth is within what two builds of one engine differ (ultralytics#26223: 4 %)."""


class Figures(msgspec.Struct, frozen=True):
    """What was measured on a device in one precision.

    Attributes:
        latency_p50_ms: median of one inference.
        energy_per_inference_j: None where it was not measured.
    """

    latency_p50_ms: float
    energy_per_inference_j: float | None = None


class Bench(msgspec.Struct, frozen=True):
    """The file behind ``--bench``: what was measured on a device, by precision.

    Attributes:
        device: for people.
        int8: of the INT8 engine.
        fp16: of the FP16 engine.
    """

    device: str
    int8: Figures
    fp16: Figures


class Known(NamedTuple):
    """What an answer can rest on.

    Attributes:
        precision: that the gate decided on.
        reason: why it is not plain INT8; empty where it is.
        drop: points lost by the model in the bundle.
        compute_ratio: share of multiply-accumulates in INT8.
        bound: INT8 can be at most this much faster than FP16; see `speed_bound`.
        target: name and row of the module it is meant for, if it was named.
        bench: what was measured on a device, if anything.
    """

    precision: str
    reason: str
    drop: float
    compute_ratio: float
    bound: float
    target: tuple[str, Target] | None
    bench: Bench | None


def read_bench(file: Path) -> Bench:
    """Gives the measured figures in a JSON file.

    Raises:
        SettingsError: no such file, or not of that form.
    """
    try:
        found = msgspec.json.decode(file.read_bytes(), type=Bench)
    except OSError as error:
        raise errors.SettingsError(f"cannot read the measured figures {file}: {error.strerror}") from error
    except msgspec.DecodeError as error:
        raise errors.SettingsError(
            f"{file} does not hold measured figures: {error}; expected "
            '{"device": "...", "int8": {"latency_p50_ms": 1.0}, "fp16": {"latency_p50_ms": 2.0}}'
        ) from error
    if min(found.int8.latency_p50_ms, found.fp16.latency_p50_ms) <= 0:
        raise errors.SettingsError(f"{file} has a latency that is not above 0; expected milliseconds")
    return found


def speed_bound(
    macs: Mapping[str, int], elements: Mapping[str, int], int8_nodes: Collection[str], target: Target | None
) -> float:
    """Gives by what factor INT8 can be faster than FP16 at most: layers that multiply only, everything else free.

    In INT8 a layer does twice the operations a second and moves half the bytes. Layers in float weigh by their
    roofline time in FP16 (operations over peak, or bytes over bandwidth, whichever is longer); where the target's
    figures are not known, by their operations.

    Args:
        macs: multiply-accumulates of each of them.
        elements: what each of them reads and writes.
        int8_nodes: those in INT8.
        target: where it shall run.

    >>> speed_bound({"a": 100, "b": 100}, {"a": 1, "b": 1}, {"a"}, None)
    1.3333333333333333
    """
    seconds = {node: _fp16_time(count, elements[node], target) for node, count in macs.items()}
    total = sum(seconds.values())
    int8 = sum(spent for node, spent in seconds.items() if node in int8_nodes)
    return total / (total - int8 / 2) if total else 1.0


def asked_text(precision: str) -> str:
    """Gives the reason for a bundle without INT8 where the user named its precision."""
    return f"{precision} was asked for"


def worth_it(known: Known) -> WorthIt:
    """Gives the answer and the sentence behind it."""
    if known.precision != "int8" and known.reason == asked_text(known.precision):
        return WorthIt(OPEN, f"INT8 was not tried: {known.reason}.", ())
    if known.precision == "int8" and known.bench is None:
        return _from_bound(known)
    if known.bench is not None:
        return _from_bench(known, known.bench)
    reason = known.reason or "INT8 was not asked for"
    return WorthIt(NO, f"{_other(known)}: {reason}.", ("accuracy",) if known.reason else ())


def _from_bench(known: Known, bench: Bench) -> WorthIt:
    basis = ("accuracy", "measured on a device")
    if known.precision != "int8":
        return WorthIt(NO, f"{_other(known)}: {known.reason or 'INT8 was not asked for'}.", basis)
    gain = bench.fp16.latency_p50_ms / bench.int8.latency_p50_ms
    energy = _energy_text(bench)
    figures = f"{bench.int8.latency_p50_ms:g} ms in INT8 against {bench.fp16.latency_p50_ms:g} ms in FP16{energy}"
    if gain >= LEAST_GAIN:
        return WorthIt(YES, f"On {bench.device} INT8 is {gain:.2f} times as fast as FP16: {figures}.", basis)
    if _saves_energy(bench):
        return WorthIt(YES, f"On {bench.device} INT8 is no faster than FP16, but saves energy: {figures}.", basis)
    return WorthIt(NO, f"On {bench.device} INT8 is not faster than FP16, so take FP16: {figures}.", basis)


def _from_bound(known: Known) -> WorthIt:
    where = known.target[0] if known.target else ""
    by_roofline = known.target is not None and known.target[1].fp16_tflops and known.target[1].bandwidth_gb_s
    basis = ("accuracy", "compute ratio", *(("roofline",) if by_roofline else ()))
    share = f"{known.compute_ratio:.0%} of the arithmetic is in INT8, which can make it at most {known.bound:.2f} times"
    peaks = f" on {where}, by published peaks" if by_roofline else ""
    if known.bound < LEAST_BOUND:
        return WorthIt(NO, f"Only {share} as fast as FP16{peaks}: take FP16.", basis)
    return WorthIt(
        OPEN,
        f"INT8 keeps the accuracy ({gate.drop_text(known.drop)}); {share} as fast as FP16{peaks}. Whether it is has "
        "not been measured: measure both on the device and build again with --bench FILE.",
        basis,
    )


def _other(known: Known) -> str:
    return {"fp16": "FP16 is the better choice", "float": "The model stays in float"}[known.precision]


def _saves_energy(bench: Bench) -> bool:
    int8, fp16 = bench.int8.energy_per_inference_j, bench.fp16.energy_per_inference_j
    return bool(int8 and fp16 and fp16 / int8 >= LEAST_GAIN)


def _energy_text(bench: Bench) -> str:
    int8, fp16 = bench.int8.energy_per_inference_j, bench.fp16.energy_per_inference_j
    return f", {int8:g} J against {fp16:g} J" if int8 and fp16 else ""


def _fp16_time(macs: int, elements: int, target: Target | None) -> float:
    """Gives the roofline time of a layer in FP16, in seconds; in operations where the figures are not known."""
    if target is None or target.fp16_tflops is None or target.bandwidth_gb_s is None:
        return 2.0 * macs
    return max(2 * macs / (target.fp16_tflops * 1e12), 2 * elements / (target.bandwidth_gb_s * 1e9))
