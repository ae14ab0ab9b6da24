"""What the spool holds, and how it numbers it: one integer orders all of a device's records for ever."""

import enum
from typing import NamedTuple

import msgspec

_SEQ_BITS, _BOOT_BITS = 40, 22
_SEQ_MAX = (1 << _SEQ_BITS) - 1
BOOT_NUMBER_MAX = (1 << _BOOT_BITS) - 1
"""Starts of the daemon that one file can tell apart: one a minute for eight years."""


class Kind(enum.IntEnum):
    """What a record is; each kind of each boot has a row of sequence numbers of its own."""

    SAMPLE = 0
    EVENT = 1


class Service(enum.Enum):
    """What `Spool.put` promises when it returns.

    DURABLE: the record is on disk, and outlives a power cut from here on.
    BEST_EFFORT: the record is in memory; it is on disk when the horizon has passed, unless its receipt came first. A
    kill or a power cut before that loses what no collector has.
    """

    DURABLE = "durable"
    BEST_EFFORT = "best effort"


class Record(NamedTuple):
    """One encoded Sample or Event as it is sent.

    Attributes:
        boot: the start of the daemon that made it.
        kind: what it is.
        seq: its number in that boot.
        payload: its bytes as they were put.
        key: its place in the order of all records of this device.
    """

    boot: str
    kind: Kind
    seq: int
    payload: bytes
    key: int


class SpoolState(msgspec.Struct, frozen=True):
    """The spool at one moment.

    Attributes:
        held: Samples without a receipt, those of earlier boots included.
        receipted: Samples that the collector has stored, since this start.
        dropped: Samples of this boot that gave way to newer ones without a receipt, or were damaged: lost, and counted.
        oldest_seq: of this boot's Samples that are held, or of its next one; what lies before it will not come again.
        on_disk: of the Samples held, those that outlive a power cut.
        events: events without a receipt.
        is_durable: the queue's file takes commits.
    """

    held: int
    receipted: int
    dropped: int
    oldest_seq: int
    on_disk: int = 0
    events: int = 0
    is_durable: bool = False


class News(NamedTuple):
    """Something that happened to the spool, to be told as an event."""

    kind: str
    message: str
    details: dict[str, str | int | float | bool | None]


def key_of(kind: Kind, boot_number: int, seq: int) -> int:
    """Gives the place of a record: by kind, then by boot, then by sequence number.

    >>> key_of(Kind.SAMPLE, 1, 41) < key_of(Kind.SAMPLE, 2, 0) < key_of(Kind.EVENT, 1, 0)
    True
    """
    assert 0 <= boot_number <= BOOT_NUMBER_MAX
    assert 0 <= seq <= _SEQ_MAX
    return kind << (_SEQ_BITS + _BOOT_BITS) | boot_number << _SEQ_BITS | seq


def last_key_of(kind: Kind, boot_number: int, upto: int) -> int:
    """Gives the key of sequence number `upto`, or of the highest there can be where `upto` is beyond it."""
    return key_of(kind, boot_number, min(upto, _SEQ_MAX))


def kind_of(key: int) -> Kind:
    """Gives what the record with this key is."""
    return Kind(key >> (_SEQ_BITS + _BOOT_BITS))


def boot_number_of(key: int) -> int:
    """Gives the number of the boot in a key."""
    return key >> _SEQ_BITS & BOOT_NUMBER_MAX


def seq_of(key: int) -> int:
    """Gives the sequence number in a key.

    >>> seq_of(key_of(Kind.EVENT, 7, 41)), boot_number_of(key_of(Kind.EVENT, 7, 41))
    (41, 7)
    """
    return key & _SEQ_MAX
