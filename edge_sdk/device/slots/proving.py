"""Keeps the trials of versions in one file of the state folder: before a version is loaded, not after."""

import contextlib
import logging
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import msgspec

from edge_sdk.device.slots import trials
from edge_sdk.device.slots.finishing import News
from edge_sdk.device.slots.trials import Trial, Trials
from edge_sdk.wire import bundles

_LOG = logging.getLogger(__name__)

FILE = "trials.json"
"""In the state folder."""

_MAX_BYTES = 1 << 20


class Proving:
    """The trials on this device, at one start of its daemon. Any thread may ask.

    Args:
        folder: the state folder; None keeps all of it in memory, which no crash outlives.
        starts: a version with so many lost starts in a row is not loaded any more.
        machine_boot: the kernel's id of the machine's boot.
    """

    def __init__(self, folder: Path | None, *, starts: int, machine_boot: str = "") -> None:
        self._file = None if folder is None else folder / FILE
        self._starts = starts
        self._lock = threading.Lock()
        before = _read(self._file)
        self._trials = trials.settled(before, starts=starts, machine_boot=machine_boot.strip())
        if self._trials != before:
            _write(self._file, self._trials)

    def in_order(self, digests: Sequence[str]) -> list[str]:
        """Gives which of a model's versions may be loaded, the one to try first first; see `trials.in_order`."""
        return trials.in_order(self._trials, digests, starts=self._starts)

    def fault(self, digest: str) -> str:
        """Gives what is wrong with a version that is not loaded any more; empty where it may be."""
        found = trials.find(self._trials, digest)
        return "" if found is None else found.bad

    def reason(self, digest: str) -> str:
        """Gives why a version is not loaded any more, and what to do; empty where it may be."""
        fault = self.fault(digest)
        if not fault:
            return ""
        return f"{fault}; it is not tried again: install another version, or remove {self._file} to try once more"

    def is_on_trial(self, digest: str) -> bool:
        """Says whether a version was never confirmed here."""
        found = trials.find(self._trials, digest)
        return found is None or not found.is_confirmed

    @contextlib.contextmanager
    def loading(self, bundle: bundles.Bundle) -> Iterator[None]:
        """Notes that a bundle is loaded inside; an error that comes out of it is no lost start."""
        manifest = bundle.manifest
        self._change(
            lambda now: trials.loading(now, model=manifest.name, version=manifest.version, digest=bundle.digest)
        )
        try:
            yield
        except BaseException:
            self._change(lambda now: trials.refused(now, bundle.digest))
            raise

    def give_up(self) -> None:
        """Notes that what is being loaded is waited for no more, and not served if it comes."""
        self._change(lambda now: trials.refused(now, now.loading))

    def condemn(self, digest: str, reason: str) -> None:
        """Notes that a version is not to be served any more, and why."""
        self._change(lambda now: trials.condemned(now, digest, reason))

    def loaded(self) -> None:
        """Notes that all is loaded that was to be."""
        self._change(trials.loaded)

    def confirm(self) -> None:
        """Notes that what is up has been so for long enough."""
        self._change(trials.confirmed)

    def end(self) -> None:
        """Notes an orderly end."""
        self._change(trials.ended)

    def take_news(self, serving: Callable[[str], str], model: str = "") -> list[News]:
        """Gives an event for each version that was found bad and not yet told, and for a start that loads nothing.

        Args:
            serving: gives the version that is served of a model now; empty for none.
            model: of which it is asked; all by default.
        """
        untold: list[Trial] = []

        def step(now: Trials) -> Trials:
            untold.extend(trials.untold(now, model))
            return trials.told(now, model)

        self._change(step)
        found = [_news(trial, serving(trial.model)) for trial in untold]
        if trials.is_storm(self._trials, starts=self._starts):
            lost = self._trials.lost_starts
            found.append(News("safe_mode", f"{lost} starts in a row were lost: no model is loaded", {"starts": lost}))
        return found

    def _change(self, step: Callable[[Trials], Trials]) -> None:
        with self._lock:
            after = step(self._trials)
            if after != self._trials:
                self._trials = after
                _write(self._file, after)


def _news(trial: Trial, new: str) -> News:
    details = {
        "model": trial.model,
        "old": trial.version,
        "new": new or None,
        "reason": trial.bad,
        "digest": trial.digest,
    }
    what = f"{trial.model} {trial.version} is not served any more ({trial.bad})"
    if new:
        return News("rolled_back", f"{what}; version {new} is", details)
    return News("safe_mode", f"{what}, and there is no other version that may be: this device only senses", details)


def _read(file: Path | None) -> Trials:
    """Gives what is in the file; a damaged one is put aside, and all versions begin their trial anew."""
    if file is None:
        return trials.NONE
    try:
        with file.open("rb") as stream:
            return msgspec.json.decode(stream.read(_MAX_BYTES), type=Trials)
    except FileNotFoundError:
        return trials.NONE
    except (OSError, msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        _LOG.warning("%s can't be read (%s): every version is on trial again", file, error)
        with contextlib.suppress(OSError):
            file.replace(file.with_suffix(".damaged"))
        return trials.NONE


def _write(file: Path | None, now: Trials) -> None:
    """Puts the file in place so that a power cut leaves the old or the new one whole."""
    if file is None:
        return
    staging = file.with_suffix(".new")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with staging.open("wb") as stream:
            stream.write(msgspec.json.encode(now))
            stream.flush()
            os.fsync(stream.fileno())
        staging.replace(file)
        bundles.sync_folder(file.parent)
    except OSError as error:  # a full or failing disk is no reason not to serve
        _LOG.warning("%s can't be written (%s): a version that crashes the daemon now is not counted", file, error)
