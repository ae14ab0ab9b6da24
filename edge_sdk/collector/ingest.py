"""One message to a checked record or a refusal, and how far a device's records have arrived. No I/O."""

import functools
from collections.abc import Iterable
from typing import NamedTuple

from edge_sdk import errors
from edge_sdk.link.protocol import Message
from edge_sdk.records import telemetry
from edge_sdk.wire import codec, histograms, topics

Record = telemetry.Sample | telemetry.Birth | telemetry.Status | telemetry.Event

KEPT_BYTES = 4096
"""How much of a refused payload is kept: enough to see what it was."""

_SEQ_MAX = 2**63 - 1


class Arrival(NamedTuple):
    """One message that is what it should be.

    Attributes:
        topic: where it came in.
        record: what it says.
        text: the payload as it came, or for a compact Sample its JSON.
        received_t: Unix time of arrival here.
    """

    topic: topics.Topic
    record: Record
    text: str
    received_t: float


class Refusal(NamedTuple):
    """One message that is not.

    Attributes:
        topic: where it came in, at most 300 letters.
        kind: ``topic``, ``size``, ``schema`` or ``device``.
        reason: in words.
        size_bytes: of the whole payload.
        payload: its first KEPT_BYTES.
        received_t: Unix time of arrival here.
    """

    topic: str
    kind: str
    reason: str
    size_bytes: int
    payload: bytes
    received_t: float


class Mark(NamedTuple):
    """How far the records of one boot have arrived.

    Attributes:
        upto: everything up to and including it has arrived or is lost.
        lost: how many of these never arrived.
    """

    upto: int = -1
    lost: int = 0


_arrival = functools.partial(tuple.__new__, Arrival)  # half the time of the named tuple's own way


def parse_message(message: Message, received_t: float) -> Arrival | Refusal:
    """Gives the record in `message`, or why it is refused."""
    name, payload, _ = message
    topic, kind, problem = _place(name)
    if kind is None or topic is None:
        return _refusal(message, received_t, "topic", problem)
    if len(payload) > codec.MAX_PAYLOAD_BYTES:
        reason = f"payload of {len(payload)} bytes; at most {codec.MAX_PAYLOAD_BYTES} are read"
        return _refusal(message, received_t, "size", reason)
    try:
        record: Record
        if kind is telemetry.Sample:
            record, payload = codec.sample_and_json(payload)
            _check_sample(record)
        else:
            record = codec.from_bytes(payload, kind)
        text = _text(payload)
    except errors.PayloadError as error:
        return _refusal(message, received_t, "schema", str(error))
    if not isinstance(record, telemetry.Status) and record.device != topic.device:
        reason = f"the payload says device {record.device!r}, its topic {topic.device!r}"
        return _refusal(message, received_t, "device", reason)
    return _arrival((topic, record, text, received_t))


class Gap(NamedTuple):
    """Sequence numbers that are passed over, `first` to `last`."""

    first: int
    last: int


class Advance(NamedTuple):
    """How far the records of one boot got with a batch.

    Attributes:
        mark: after the batch.
        gaps: what was passed over in this step because it will not come; at most GAPS_TOLD of them.
        missing: how many records that are, in all gaps.
        unseen: how many of these the device did not drop: they were receipted, but are not in this database. It is
            a new one, or an old copy was put back.
        has_more: records are stored above the mark, behind a gap that is waited for.
    """

    mark: Mark
    gaps: tuple[Gap, ...] = ()
    missing: int = 0
    unseen: int = 0
    has_more: bool = False


GAPS_TOLD = 64


def advance(mark: Mark | None, *, oldest_seq: int, dropped: int, late: int, above: Iterable[int]) -> Advance:
    """Gives how far the records of one boot have arrived after a batch.

    A gap is waited for, as the device sends again what has no receipt; only what lies before the device's
    `oldest_seq` and never arrived is lost. When nothing was known of this boot, at most `dropped` of these are: the
    rest was receipted by an earlier collector with another database. Either way every gap is told.

    Args:
        mark: before the batch; None if nothing was known of this boot.
        oldest_seq: the highest that the batch says.
        dropped: the highest that the batch says.
        late: records of the batch that were new but not above `mark`: they were counted as lost, and are not.
        above: the stored sequence numbers above `mark`, ascending, those of the batch included.

    >>> advance(None, oldest_seq=0, dropped=0, late=0, above=[0, 1, 3])
    Advance(mark=Mark(upto=1, lost=0), gaps=(), missing=0, unseen=0, has_more=True)
    >>> advance(Mark(1), oldest_seq=3, dropped=1, late=0, above=[3])
    Advance(mark=Mark(upto=3, lost=1), gaps=(Gap(first=2, last=2),), missing=1, unseen=0, has_more=False)
    """
    before = mark or Mark()
    upto = max(before.upto, oldest_seq - 1)
    missing = upto - before.upto
    gaps: list[Gap] = []
    awaited = before.upto + 1
    has_more = False
    for seq in above:
        if seq < oldest_seq:
            missing -= 1
            if seq > awaited and len(gaps) < GAPS_TOLD:
                gaps.append(Gap(awaited, seq - 1))
            awaited = seq + 1
        elif seq == upto + 1:
            upto = seq
        else:
            has_more = True
            break
    if awaited < oldest_seq and len(gaps) < GAPS_TOLD:
        gaps.append(Gap(awaited, oldest_seq - 1))
    lost = missing if mark else min(missing, dropped)
    unseen = max(0, missing - max(0, dropped - before.lost))
    after = Mark(upto, min(_SEQ_MAX, max(0, before.lost - late) + lost))
    return Advance(after, tuple(gaps), missing, unseen, has_more)


class _Place(NamedTuple):
    """What a topic is: its parts and what is said there, or why it is none of ours."""

    topic: topics.Topic | None
    kind: type | None
    problem: str = ""


@functools.lru_cache(maxsize=65536)
def _place(name: str) -> _Place:
    """Gives what a topic is, remembered: a device says the same one each second."""
    try:
        topic = topics.parse(name)
    except errors.PayloadError as error:
        return _Place(None, None, str(error))
    kind = codec.UP_RECORDS.get(topic.leaf)
    return _Place(topic, kind, "" if kind else f"no device speaks on {topic.leaf}")


def _text(payload: bytes) -> str:
    """Gives the payload as text; what the decoder skipped (unknown fields) is checked only here."""
    try:
        text = payload.decode()
    except UnicodeDecodeError as error:
        raise errors.PayloadError(f"not UTF-8: {error}") from error
    if "\0" in text:
        raise errors.PayloadError("a NUL byte in the payload")
    return text


def _check_sample(sample: telemetry.Sample) -> None:
    """Raises PayloadError for what the types of a Sample can't say."""
    if sample.oldest_seq > sample.seq:
        raise errors.PayloadError(f"oldest_seq {sample.oldest_seq} is above the Sample's own seq {sample.seq}")
    for window in sample.models:
        if window.latency_hist:
            histograms.check_text(window.latency_hist)


def _refusal(message: Message, received_t: float, kind: str, reason: str) -> Refusal:
    return Refusal(
        _sound(message.topic, 300),
        kind,
        _sound(reason, 500),
        len(message.payload),
        message.payload[:KEPT_BYTES],
        received_t,
    )


def _sound(text: str, letters: int) -> str:
    """Gives the beginning of `text` without what no database can hold (lone surrogates)."""
    return text[:letters].encode(errors="replace").decode()
