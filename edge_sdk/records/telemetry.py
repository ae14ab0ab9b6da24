"""What a device publishes: status, birth, one Sample per interval, events; and the receipt that comes back.

Bounded on every side, tolerant of unknown fields: a newer device's Sample is read by an older collector.
"""

from typing import Annotated, Literal

import msgspec

WIRE_VERSION = 2
"""Version of these records on the wire. Fields are only ever added: 1 is read in full, 3 but for what it adds.

2 added `Birth.payload` and the compact form of a Sample (wire/compact.py).
"""

# Python's `$` also matches before a final line break; `(?!\n)` says no to that, in JSON Schema as well.
DeviceId = Annotated[str, msgspec.Meta(pattern=r"^[a-z0-9-]{1,63}$(?!\n)")]
Boot = Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{8,32}$(?!\n)")]
# The same two in a Sample: wire/codec.py checks them, as remembering the names it has seen costs a tenth of a pattern.
SampleDevice = Annotated[
    str, msgspec.Meta(min_length=1, max_length=63, extra_json_schema={"pattern": r"^[a-z0-9-]{1,63}$(?!\n)"})
]
SampleBoot = Annotated[
    str, msgspec.Meta(min_length=8, max_length=32, extra_json_schema={"pattern": r"^[0-9a-f]{8,32}$(?!\n)"})
]
Seq = Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]
Count = Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]
UnixTime = Annotated[float, msgspec.Meta(ge=0, le=32503680000)]  # year 3000
ShortText = Annotated[str, msgspec.Meta(max_length=300)]
Key = Annotated[str, msgspec.Meta(max_length=64)]
Parts = Annotated[dict[Key, float], msgspec.Meta(max_length=32)]
"""One value for each of several parts: rails, thermal zones, accelerators."""


class Reading(msgspec.Struct, frozen=True):
    """One value of one sensor; None with a reason when it could not be read, never a sentinel, never 0.

    Attributes:
        metric: name from the catalogue (records/metrics.py), unit included; for one part of a metric that has several,
            a dot and the part's name follow: ``rails_w.VDD_IN``.
        value: in that unit.
        reason: why there is no value; empty when there is one.
    """

    metric: str
    value: float | str | bool | None
    reason: str = ""


class Window(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """What one model did during one interval: one per interval and model, never one per inference.

    Attributes:
        model: name of the model.
        digest: of the bundle (first 12 hex digits or all 64).
        count: inferences that gave an answer.
        errors: refused or failed requests by kind.
        throughput_hz: answers per second of the interval.
        queue_depth_max: most requests seen waiting or running at once.
        latency_p50_ms, latency_p99_ms: of the whole path inside the daemon; None when count is 0.
        latency_hist: base64 of the mergeable histogram (wire/histograms.py), milliseconds.
        stage_ms: mean milliseconds per inference by stage.
        energy_j: energy of the interval in proportion to this model's share; None when power is not known.
        energy_per_inference_j: the same per answer.
        engine: back end that ran it.
    """

    model: Key
    digest: Annotated[str, msgspec.Meta(max_length=64)]
    count: Count
    errors: Annotated[dict[Key, Count], msgspec.Meta(max_length=32)]
    throughput_hz: Annotated[float, msgspec.Meta(ge=0)]
    queue_depth_max: Count
    latency_p50_ms: float | None
    latency_p99_ms: float | None
    latency_hist: Annotated[str, msgspec.Meta(max_length=8192)]
    stage_ms: Annotated[dict[Key, float], msgspec.Meta(max_length=16)]
    energy_j: float | None
    energy_per_inference_j: float | None
    engine: Key = ""


class Sample(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """One interval of one device: flat JSON, so that any MQTT tool can use it as it is.

    (device, boot, seq) is unique, so gaps and duplicates can be counted. A sensor that could not be read is null
    and its reason stands in `missing`; so does a part that could not be read, under ``rails_w.VDD_IN``, while the map
    holds the others. `simulated` says that some board was made up, not measured. `oldest_seq` is the lowest sequence
    number of this boot that the device still holds or has had receipted: what lies before it and never arrived is
    lost, and counted as lost. `synced` says whether a time server kept the clock of `t` right; it is left out where the
    device can't tell.
    """

    v: Annotated[int, msgspec.Meta(ge=1, le=1000)]
    device: SampleDevice
    boot: SampleBoot
    seq: Seq
    t: UnixTime
    up_s: Annotated[float, msgspec.Meta(ge=0)]
    interval_s: Annotated[float, msgspec.Meta(gt=0, le=86400)]
    oldest_seq: Seq = 0
    dropped: Count = 0
    simulated: bool = False
    cpu_utilization_ratio: float | None = None
    cpu_frequency_hz: float | None = None
    gpu_utilization_ratio: float | None = None
    gpu_frequency_hz: float | None = None
    gpu_memory_used_bytes: int | None = None
    emc_utilization_ratio: float | None = None
    emc_frequency_hz: float | None = None
    dla_frequency_hz: Parts | None = None
    memory_used_bytes: int | None = None
    memory_total_bytes: int | None = None
    swap_used_bytes: int | None = None
    process_memory_bytes: int | None = None
    process_cpu_ratio: float | None = None
    disk_used_ratio: float | None = None
    power_w: float | None = None
    power_boundary: Annotated[str, msgspec.Meta(max_length=64)] | None = None
    energy_j: float | None = None
    rails_w: Parts | None = None
    power_mode: Annotated[str, msgspec.Meta(max_length=64)] | None = None
    temperature_cpu_c: float | None = None
    temperature_gpu_c: float | None = None
    temperature_max_c: float | None = None
    temperatures_c: Parts | None = None
    throttled: bool | None = None
    throttle_events: Count | None = None
    overcurrent_events: Count | None = None
    fan_ratio: float | None = None
    missing: Annotated[dict[Key, ShortText], msgspec.Meta(max_length=64)] = {}
    models: Annotated[tuple[Window, ...], msgspec.Meta(max_length=64)] = ()
    synced: bool | msgspec.UnsetType = msgspec.UNSET


class Status(msgspec.Struct, frozen=True):
    """Retained: ``online`` after every connect, ``offline`` by the broker's last will."""

    state: Annotated[str, msgspec.Meta(pattern=r"^(online|offline)$(?!\n)")]
    boot: Boot
    t: UnixTime


class MetricInfo(msgspec.Struct, frozen=True):
    """One row of the metric table in Birth."""

    name: Key
    unit: Annotated[str, msgspec.Meta(max_length=16)]


class ModelInfo(msgspec.Struct, frozen=True):
    """One model that the device serves."""

    name: Key
    version: Key
    digest: Annotated[str, msgspec.Meta(max_length=64)]
    engine: Key


class Withdrawn(msgspec.Struct, frozen=True):
    """A version of a model that lies on the device and is not served any more, since it proved bad there."""

    name: Key
    version: Key
    reason: Annotated[str, msgspec.Meta(max_length=256)]


class Birth(msgspec.Struct, frozen=True, kw_only=True):
    """Retained: who the device is and what its numbers mean.

    `payload` is the form of its Samples, so that whoever listens knows before the first one: ``json``, or ``compact``
    (MessagePack, wire/compact.py). Both can be told apart by their first byte. `payloads` are the forms
    that it would send if a collector asked for them; it is left out where there is no choice. `synced` as in a Sample.
    `withdrawn` is left out where no version is.
    """

    v: Annotated[int, msgspec.Meta(ge=1, le=1000)]
    device: DeviceId
    boot: Boot
    t: UnixTime
    sdk: Key
    machine: Annotated[dict[Key, str | int | float | None], msgspec.Meta(max_length=64)]
    models: Annotated[tuple[ModelInfo, ...], msgspec.Meta(max_length=64)]
    metrics: Annotated[tuple[MetricInfo, ...], msgspec.Meta(max_length=256)]
    interval_s: float
    payload: Literal["json", "compact"] = "json"
    payloads: Annotated[tuple[Key, ...], msgspec.Meta(max_length=8)] | msgspec.UnsetType = msgspec.UNSET
    synced: bool | msgspec.UnsetType = msgspec.UNSET
    withdrawn: Annotated[tuple[Withdrawn, ...], msgspec.Meta(max_length=64)] | msgspec.UnsetType = msgspec.UNSET


class Event(msgspec.Struct, frozen=True, kw_only=True):
    """Something that happened once: throttled, rolled back, records dropped, alert raised.

    `seq` numbers the events of a boot; one with a number is sent again until its receipt.
    """

    v: Annotated[int, msgspec.Meta(ge=1, le=1000)]
    device: DeviceId
    boot: Boot
    t: UnixTime
    kind: Key
    message: Annotated[str, msgspec.Meta(max_length=2000)]
    details: Annotated[dict[Key, str | int | float | bool | None], msgspec.Meta(max_length=64)] = {}
    seq: Seq | msgspec.UnsetType = msgspec.UNSET


BOOT_CLOSED = "boot_closed"
"""Kind of the event that says that nothing more comes of an earlier boot: details of_boot, newest_seq, dropped."""
EVENTS_PER_RECEIPT = 1024


class Receipt(msgspec.Struct, frozen=True):
    """From the collector after its commit: every Sample of this boot up to and including `upto` is stored.

    `events` are the numbers of the events of this boot that were stored with it; where there are none it is left out.
    `payload` is the form in which the collector asks for Samples, of those that the birth names; left out, it asks for
    none, and gets JSON.
    """

    boot: Boot
    upto: Annotated[int, msgspec.Meta(ge=-1, le=2**63 - 1)]
    events: Annotated[tuple[Seq, ...], msgspec.Meta(max_length=EVENTS_PER_RECEIPT)] | msgspec.UnsetType = msgspec.UNSET
    payload: Key | msgspec.UnsetType = msgspec.UNSET
