"""What the collector answers when it is asked about the fleet; the OpenAPI document is made from these structs."""

import msgspec


class Latest(msgspec.Struct, frozen=True, kw_only=True):
    """The newest Sample of one device.

    Attributes:
        device, site: whose it is.
        t: Unix time of the Sample.
        received_t: Unix time of its arrival at the collector.
        sample: as the device published it.
    """

    device: str
    site: str
    t: float
    received_t: float
    sample: msgspec.Raw


class Series(msgspec.Struct, frozen=True, kw_only=True):
    """One metric of one device over time.

    Attributes:
        device, metric: what it is of.
        step_s: width of a bin; 0 for single points.
        t: Unix time of each point, or of the start of each bin.
        value: of each point (float32 precision), or the mean of each bin.
        least, most: of each bin; the same as `value` for single points.
    """

    device: str
    metric: str
    step_s: int
    t: list[float]
    value: list[float]
    least: list[float]
    most: list[float]


class Quantiles(msgspec.Struct, frozen=True, kw_only=True):
    """Latency of one group, from histograms added up exactly: within 0.54 % of the true value.

    Attributes:
        group: what the group has in common, by the words of ``by``; empty for all that was asked for.
        since_t, until_t: the window that was really used: whole minutes, or whole hours beyond two days.
        answers: inferences that gave an answer.
        errors: requests that were refused or failed.
        latency_ms: by share ("0.99"); None where nothing was answered.
    """

    group: dict[str, str]
    since_t: float
    until_t: float
    answers: int
    errors: int
    latency_ms: dict[str, float | None]


class Gap(msgspec.Struct, frozen=True, kw_only=True):
    """Samples of one boot that are not there (yet).

    Attributes:
        device, boot: whose.
        after_seq, before_seq: the Samples around them that are there; -1 before the first.
        missing: how many.
        is_lost: the device has given them up; else they may still come.
    """

    device: str
    boot: str
    after_seq: int
    before_seq: int
    missing: int
    is_lost: bool


class Energy(msgspec.Struct, frozen=True, kw_only=True):
    """Energy of one group.

    Attributes:
        group: what the group has in common; empty for all that was asked for.
        since_t, until_t: the window that was really used.
        energy_j: joules; of models it is their share, without what the board took while idle.
        covered_s: device-seconds for which power was known; 0 for models.
        answers: inferences in it; 0 unless asked by model.
    """

    group: dict[str, str]
    since_t: float
    until_t: float
    energy_j: float
    covered_s: float
    answers: int
