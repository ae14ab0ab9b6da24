"""Which versions of models have proved themselves on this device, and which are not tried again: records in and out.

A version is on trial from its first load until it has been up for a while (`confirmed`). What is being loaded, and what
is up, is written down before it happens: a process that dies in native code can't say anything afterwards, so the next
start reads from it what the one before died of (`settled`). A version with too many such starts is bad, and stays it:
its digest is not tried again.
"""

from collections.abc import Sequence
from typing import Annotated

import msgspec

SCHEMA = 1
MAX_VERSIONS = 256
"""Those that were loaded last are kept."""

_IN_A_ROW = 3
"""Times the starts of one trial: so many lost starts in a row, whatever they were charged to, and nothing is loaded."""

_Text = Annotated[str, msgspec.Meta(max_length=256)]
_Digest = Annotated[str, msgspec.Meta(max_length=64)]
_Count = Annotated[int, msgspec.Meta(ge=0, le=1000)]


class Trial(msgspec.Struct, frozen=True, kw_only=True):
    """One version of a model on this device.

    Attributes:
        model, version, digest: of the bundle.
        lost_starts: starts since it was last confirmed that ended in a crash, a hang or for want of memory, and are
            charged to it.
        is_confirmed: it has been up for long enough once.
        bad: why it is not loaded any more; empty while it may be.
        is_told: that it is bad has been told.
    """

    model: _Text
    version: _Text
    digest: _Digest
    lost_starts: _Count = 0
    is_confirmed: bool = False
    bad: _Text = ""
    is_told: bool = False


class Trials(msgspec.Struct, frozen=True, kw_only=True):
    """All that is kept, in one file.

    Attributes:
        schema: of this record.
        machine_boot: the kernel's id of the boot of the machine in which it was written.
        loading: digest of what is being loaded; empty when nothing is.
        at_stake: digests of what this start has loaded and not yet confirmed.
        lost_starts: starts in a row that ended badly with something at stake.
        versions: by when they were loaded, the last one last.
    """

    schema: Annotated[int, msgspec.Meta(ge=1, le=SCHEMA)] = SCHEMA
    machine_boot: _Text = ""
    loading: _Digest = ""
    at_stake: Annotated[tuple[_Digest, ...], msgspec.Meta(max_length=MAX_VERSIONS)] = ()
    lost_starts: _Count = 0
    versions: Annotated[tuple[Trial, ...], msgspec.Meta(max_length=MAX_VERSIONS)] = ()


NONE = Trials()


def find(trials: Trials, digest: str) -> Trial | None:
    """Gives what is known of a version."""
    return next((trial for trial in trials.versions if trial.digest == digest), None)


def settled(trials: Trials, *, starts: int, machine_boot: str) -> Trials:
    """Gives the record at the begin of a start: if the one before did not end well, what it died of is charged.

    While something was being loaded, that is charged alone; else what was up and not yet confirmed, those on their
    first trial before others. When the machine itself went down in between (a power cut, as a rule), nothing is charged
    to a version that was confirmed once.

    Args:
        trials: as the start before left it.
        starts: a version with so many lost starts in a row is bad.
        machine_boot: the kernel's id of the machine's boot.
    """
    begun = msgspec.structs.replace(trials, machine_boot=machine_boot, loading="", at_stake=())
    charged = _charged(trials, has_rebooted=machine_boot != trials.machine_boot)
    if not charged:
        return begun
    when = "while it was being loaded" if trials.loading else "while it was up"
    versions = tuple(_lost(trial, starts, when) if trial.digest in charged else trial for trial in trials.versions)
    return msgspec.structs.replace(begun, versions=versions, lost_starts=min(trials.lost_starts + 1, 1000))


def loading(trials: Trials, *, model: str, version: str, digest: str) -> Trials:
    """Gives the record before a version is loaded."""
    known = find(trials, digest) or Trial(model=model[:256], version=version[:256], digest=digest)
    others = tuple(trial for trial in trials.versions if trial.digest != digest)
    at_stake = (*(other for other in trials.at_stake if other != digest), digest)
    return msgspec.structs.replace(
        trials,
        loading=digest,
        at_stake=at_stake[-MAX_VERSIONS:],
        versions=(*others, known)[-MAX_VERSIONS:],
    )


def loaded(trials: Trials) -> Trials:
    """Gives the record when all is loaded that was to be."""
    return msgspec.structs.replace(trials, loading="")


def refused(trials: Trials, digest: str) -> Trials:
    """Gives the record when a version could not be loaded and said so: that is no lost start."""
    at_stake = tuple(other for other in trials.at_stake if other != digest)
    return msgspec.structs.replace(
        trials, loading="" if trials.loading == digest else trials.loading, at_stake=at_stake
    )


def condemned(trials: Trials, digest: str, reason: str) -> Trials:
    """Gives the record when a version is up and found wanting: it is bad from now on."""
    versions = tuple(
        msgspec.structs.replace(trial, bad=reason[:256]) if trial.digest == digest else trial
        for trial in trials.versions
    )
    at_stake = tuple(other for other in trials.at_stake if other != digest)
    return msgspec.structs.replace(trials, at_stake=at_stake, versions=versions)


def confirmed(trials: Trials) -> Trials:
    """Gives the record when what is up has been so for long enough; the same while something is being loaded."""
    if trials.loading:
        return trials
    versions = tuple(
        msgspec.structs.replace(trial, lost_starts=0, is_confirmed=True) if trial.digest in trials.at_stake else trial
        for trial in trials.versions
    )
    return msgspec.structs.replace(trials, at_stake=(), lost_starts=0, versions=versions)


def ended(trials: Trials) -> Trials:
    """Gives the record at an orderly end."""
    return msgspec.structs.replace(trials, loading="", at_stake=(), lost_starts=0)


def untold(trials: Trials, model: str = "") -> list[Trial]:
    """Gives the bad versions, of one model or all, that have not been told."""
    return [trial for trial in trials.versions if trial.bad and not trial.is_told and model in ("", trial.model)]


def told(trials: Trials, model: str = "") -> Trials:
    """Gives the record when those have been told."""
    now = {trial.digest for trial in untold(trials, model)}
    versions = tuple(
        msgspec.structs.replace(trial, is_told=True) if trial.digest in now else trial for trial in trials.versions
    )
    return msgspec.structs.replace(trials, versions=versions)


def is_storm(trials: Trials, *, starts: int) -> bool:
    """Says whether so many starts in a row were lost that this one is to load nothing."""
    return trials.lost_starts >= _IN_A_ROW * starts


def in_order(trials: Trials, digests: Sequence[str], *, starts: int) -> list[str]:
    """Gives which of a model's versions may be loaded, the one to try first first.

    That is the newest; where it is bad, the newest one that was confirmed here.

    Args:
        trials: what is known.
        digests: of the versions at hand, the newest first.
        starts: as in `settled`.
    """
    if is_storm(trials, starts=starts):
        return []
    known = {trial.digest: trial for trial in trials.versions}
    good = [digest for digest in digests if digest not in known or not known[digest].bad]
    if good[:1] == list(digests[:1]):
        return good
    return sorted(good, key=lambda digest: digest not in known or not known[digest].is_confirmed)


def _charged(trials: Trials, *, has_rebooted: bool) -> set[str]:
    suspects = [trials.loading] if trials.loading else list(trials.at_stake)
    on_trial = [digest for digest in suspects if (trial := find(trials, digest)) and not trial.is_confirmed]
    if on_trial:
        return set(on_trial)
    return set() if has_rebooted else set(suspects)


def _lost(trial: Trial, starts: int, when: str) -> Trial:
    lost = min(trial.lost_starts + 1, 1000)
    words = f"{lost} starts ended with it, the last {when}" if lost > 1 else f"a start ended {when}"
    return msgspec.structs.replace(trial, lost_starts=lost, bad=trial.bad or (words if lost >= starts else ""))
