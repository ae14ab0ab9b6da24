"""From bundles at hand to models that are served: at the start, and while requests run.

A new version is verified, loaded and ready before the old one is taken away, and the old one is closed when its last
request has left, so an exchange fails no request. While an engine is built for one model, the others come and go. A
version that crashes or hangs the daemon, or is slower than its limit, is not tried for ever: see
`edge_sdk.device.slots.trials`.
"""

import contextlib
import logging
from collections.abc import Callable
from pathlib import Path

from edge_sdk import clock, errors
from edge_sdk.device import preparing
from edge_sdk.device.serve.models import Model
from edge_sdk.device.serve.served import Models
from edge_sdk.device.settings import DaemonSettings
from edge_sdk.device.slots import exchanging
from edge_sdk.device.slots.catalogue import Catalogue
from edge_sdk.device.slots.exchanging import Exchanges
from edge_sdk.device.slots.finishing import Finisher, News
from edge_sdk.device.slots.loading import Watch
from edge_sdk.device.slots.proving import Proving
from edge_sdk.engines import building
from edge_sdk.records import telemetry

_LOG = logging.getLogger(__name__)


class Deployment:
    """The models of one daemon.

    Attributes:
        models: what is served now.
        refused: bundles of the repository that were passed over at the start, with the reason: of those models an older
            version is served.
    """

    def __init__(
        self,
        settings: DaemonSettings,
        *,
        clocks: clock.Clock,
        memory: Path | None = None,
        builder: building.Builder | None = None,
        machine_boot: str = "",
    ) -> None:
        """Loads every bundle that the settings name, or none; of a model in the repository, the newest that can be.

        What crashed the daemon too often is passed over; where nothing is left of a model, it is not served.

        What has no engine for this machine yet is left to `finish`.

        Args:
            settings: of the daemon.
            clocks: the machine's, or a test's.
            memory: where it is kept which form of a bundle is the fastest here, if the settings have no state folder.
            builder: of engines for this machine; None takes the back end's own compiler, where it has one.
            machine_boot: the kernel's id of the machine's boot.

        Raises:
            BundleError: a bundle was refused, and there is no older one; the message names the file.
            UsageError: two bundles of one name and version, no such back end, or no such repository folder.
            EngineError: a back end could not load a bundle.
        """
        self._settings = settings
        self._clock = clocks
        repository = None if settings.model_repository is None else Path(settings.model_repository)
        self._catalogue = Catalogue(map(Path, settings.bundles), repository)
        self._exchanges = Exchanges(limit_s=settings.load_limit_s)
        self._news: list[News] = []
        self._on_change: Callable[[], None] = lambda: None
        self.refused: dict[Path, str] = {}
        state = None if settings.state_folder is None else Path(settings.state_folder)
        self._finisher = Finisher(
            backend=settings.backend,
            root=None if state is None else state / "engines",
            builder=builder,
            limit_s=settings.build_limit_s,
        )
        self._unfinished: list[str] = []
        self._proving = Proving(state, starts=settings.trial_starts, machine_boot=machine_boot)
        self._prepare = preparing.preparer(
            settings,
            clocks=clocks,
            memory=memory if state is None else state / "variants",
            engines=self._finisher.root,
            watch=Watch(self._proving.loading, self._proving.is_on_trial),
        )
        with contextlib.ExitStack() as undo:
            undo.callback(self._proving.end)
            self.models = Models(self._first())
            undo.pop_all()
        self._begin_trial()

    def on_change(self, callback: Callable[[], None]) -> None:
        """Sets what is called after models were exchanged."""
        self._on_change = callback

    def index(self) -> list[dict[str, str]]:
        """Gives what is served, and what is at hand beside it."""
        rows = [{"name": model.name, "version": model.version, "state": "READY", "reason": ""} for model in self.models]
        served = {(row["name"], row["version"]) for row in rows}
        at_hand = {
            (entry.name, entry.version): self._proving.reason(entry.digest)
            for entry in self._catalogue.entries()
            if (entry.name, entry.version) not in served
        }
        return rows + [
            {"name": name, "version": version, "state": "UNAVAILABLE", "reason": reason or "not loaded"}
            for (name, version), reason in sorted(at_hand.items())
        ]

    def withdrawn(self) -> list[telemetry.Withdrawn]:
        """Gives what is at hand and not served any more, since it crashed, hung or was too slow."""
        found = ((entry, self._proving.fault(entry.digest)) for entry in self._catalogue.entries())
        return [telemetry.Withdrawn(entry.name, entry.version, fault) for entry, fault in found if fault]

    def load(self, name: str) -> None:
        """Serves what is at hand under a name now: what is served already stays, the rest of that name goes.

        Raises:
            InputError: not allowed here, or there is no such bundle. Nothing was changed, here and below.
            BusyError: it is being loaded already.
            BundleError: a bundle was refused.
            EngineError: a back end could not load it, or not in time.
        """
        self._check_allowed()
        self._load(name)

    def _load(self, name: str) -> None:
        with self._exchanges.alone(name):
            folders = self._catalogue.wanted_of(name, self._allowed)
            if not folders:
                self._check_good(name)
                raise errors.InputError(
                    f"failed to load '{name[:200]}', failed to poll from model repository: no bundle of that name is "
                    "named in bundles or lies in model_repository"
                )
            for folder in folders:
                self._finisher.finish(folder)
            with self._exchanges.turn():
                fresh = self._loaded_in_time(name, folders)
                kept = {model.digest: model for model in self.models.versions(name)}
                preparing.close_all(model for model in fresh if model.digest in kept)
                self.models.put(name, [kept.get(model.digest, model) for model in fresh])
                self._begin_trial()
            self._finisher.forget_all_but(entry.folder for entry in self._catalogue.entries())
        _LOG.info("serving %s in version %s", name, ", ".join(model.version for model in self.models.versions(name)))
        self._on_change()

    def _loaded_in_time(self, name: str, folders: list[Path]) -> list[Model]:
        limit_s = self._exchanges.limit_s
        try:
            return exchanging.within(limit_s, lambda: self._prepare(folders), preparing.close_all)
        except TimeoutError:
            self._proving.give_up()
            refusal: errors.EdgeError = errors.EngineError(
                f"{name} was not loaded within {limit_s:g} s and is given up; what was served stays. "
                "If it needs longer, raise load_limit_s in device.toml"
            )
        except errors.EdgeError as error:
            refusal = error
        details = {"bundle": folders[0].name}
        self._news.append(News("bundle_refused", f"{name} is not exchanged: {refusal}"[:2000], details))
        raise refusal

    def unload(self, name: str) -> None:
        """Serves nothing under a name any more; requests inside run to their end.

        Raises:
            InputError: not allowed here, or nothing of that name is served.
            BusyError: it is being loaded.
        """
        self._check_allowed()
        with self._exchanges.alone(name):
            if not self.models.versions(name):
                raise errors.InputError(f"failed to unload '{name[:200]}', it is not served")
            self.models.put(name, ())
        _LOG.info("serving no %s any more", name)
        self._on_change()

    def finish(self) -> None:
        """Builds the engines that were missing at the start, and serves each as soon as it is there; takes minutes.

        What can't be built is told as news, and what is served stays.
        """
        while True:
            try:
                name = self._unfinished.pop(0)
            except IndexError:  # no more, or `stop` has emptied it this moment
                return
            try:
                self._load(name)
            except errors.EdgeError as error:
                _LOG.warning("%s is not served in its newest version: %s", name, error)

    def take_news(self) -> list[News]:
        """Gives what there is to tell of builds and exchanges since the call before."""
        found = self._news[:]
        del self._news[: len(found)]  # each atomic: what other threads put in between stays for the next time
        return [*self._finisher.take_news(), *found]

    def take_failures(self, name: str = "") -> list[News]:
        """Gives which versions, of one model or all, were found to be bad, each once on this device."""

        def serving(name: str) -> str:
            return next((model.version for model in self.models.versions(name)), "")

        return self._proving.take_news(serving, name)

    def prove(self) -> None:
        """Confirms what is served when it has been up for long enough; call it as long as there is progress."""
        if self._clock.boot_s() >= self._proven_s:
            self._proving.confirm()

    def on_trial(self) -> list[Model]:
        """Gives what is served and has not been up for long enough to count as good."""
        return [model for model in self.models if self._proving.is_on_trial(model.digest)]

    def condemn(self, model: Model, reason: str) -> bool:
        """Notes that a version is not to be served any more; tells whether another one may be in its place.

        Where there is none, nothing is noted: a poor model is better than no model.
        """
        entries = [entry for entry in self._catalogue.entries() if entry.name == model.name]
        others = self._allowed([entry.folder for entry in entries if entry.digest != model.digest])
        if others:
            self._proving.condemn(model.digest, reason)
        return bool(others)

    def replace(self, name: str) -> None:
        """Serves what may be served of a model now, and has it told; raises as `load` does."""
        self._load(name)
        self._news += self.take_failures(name)

    def stop(self) -> None:
        """Ends a build that runs, and begins no other; from here on the end is orderly."""
        self._proving.end()
        self._unfinished.clear()
        self._finisher.stop()

    def _check_allowed(self) -> None:
        if not self._settings.model_control:
            raise errors.InputError(
                "clients may not load or unload models here; set model_control = true in device.toml to allow it"
            )

    def _first(self) -> list[Model]:
        """Loads what is served from the start: an engine that rotted on the disk is no reason to serve nothing."""
        with contextlib.ExitStack() as undo:
            named = self._allowed(self._catalogue.named())
            found = self._kept(undo, self._prepare(filter(self._is_finished, named)))
            for folders in self._catalogue.choices():
                found += self._kept(undo, self._newest_that_loads(folders))
            served: set[tuple[str, str]] = set()
            for model in found:
                if (model.name, model.version) in served:
                    raise errors.UsageError(
                        f"bundles and model_repository both hold the model {model.name!r} in version {model.version}; "
                        "serve one of them, or rename one"
                    )
                served.add((model.name, model.version))
            undo.pop_all()
        return found

    def _newest_that_loads(self, folders: list[Path]) -> list[Model]:
        """Gives the newest version that is whole and has its engine; none where all that may be tried want one."""
        failed: errors.EdgeError | None = None
        allowed = self._allowed(folders)
        for folder in filter(self._is_finished, allowed):
            try:
                return self._prepare([folder])
            except (errors.BundleError, errors.EngineError) as error:
                _LOG.warning("%s is not served, an older version is if there is one: %s", folder, error)
                self.refused[folder] = str(error)
                failed = failed or error
        if failed is not None and len(allowed) == len(folders):
            raise failed
        return []  # where a version crashes and the others are refused, a restart would end in the same place

    def _allowed(self, folders: list[Path]) -> list[Path]:
        """Gives those that may be loaded, the one to prefer first."""
        digests = [self._catalogue.digest_of(folder) or str(folder) for folder in folders]
        order = self._proving.in_order(list(dict.fromkeys(digests)))
        return [folder for wanted in order for folder, digest in zip(folders, digests, strict=True) if digest == wanted]

    def _check_good(self, name: str) -> None:
        """Raises BundleError where there are versions of a model, and every one of them is bad."""
        entries = [entry for entry in self._catalogue.entries() if entry.name == name]
        for entry in sorted(entries, key=lambda entry: -entry.counter):
            reason = self._proving.reason(entry.digest) or "too many starts in a row were lost; try again later"
            raise errors.BundleError(f"{name} {entry.version} is not loaded: {reason}")

    def _begin_trial(self) -> None:
        self._proven_s = self._clock.boot_s() + self._settings.trial_window_s
        self._proving.loaded()  # from here on it can be confirmed

    def _is_finished(self, folder: Path) -> bool:
        """Tells whether a bundle can be loaded as it is; one that wants an engine is noted for `finish`."""
        if not self._finisher.is_wanting(folder):
            return True
        self._unfinished.append(self._catalogue.name_of(folder))
        return False

    @staticmethod
    def _kept(undo: contextlib.ExitStack, models: list[Model]) -> list[Model]:
        for model in models:
            undo.callback(model.close)
        return models
