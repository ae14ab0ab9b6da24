"""Bundles that come without an engine for this board get one, built here, while what was served before is served on."""

import threading
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

from edge_sdk import errors
from edge_sdk.engines import building, compilers, own_engines, registry
from edge_sdk.wire import bundles


class News(NamedTuple):
    """One event, as `sense` has it: kind, words for people, and numbers."""

    kind: str
    message: str
    details: Mapping[str, str | int | float | bool | None]


class Finisher:
    """Builds missing engines and says how far it is. Any thread may ask; one build runs at a time.

    Args:
        backend: that is to run them.
        root: the device's folder of own engines; None builds nothing.
        builder: a test's; None takes the compiler of that name in a process of its own.
        limit_s: seconds that it may take for one engine.
    """

    def __init__(
        self, *, backend: str, root: Path | None, builder: building.Builder | None = None, limit_s: float
    ) -> None:
        self._backend = backend
        self.root = root
        if builder is None and root is not None and backend in compilers.COMPILERS and backend in registry.BACKENDS:
            builder = building.Builder(root, compiler=backend, limit_s=limit_s)
        self._builder = builder
        self._building = threading.Lock()
        self._lock = threading.Lock()
        self._news: list[News] = []
        self._step: News | None = None
        self._is_stopped = False

    def is_wanting(self, folder: Path) -> bool:
        """Tells whether a bundle has no engine for this machine, and one can be built."""
        if self._builder is None:
            return False
        try:
            bundles.read_manifest(folder)
        except errors.BundleError:
            return False  # whoever loads it says what is wrong
        try:
            own_engines.find(folder, backend=self._backend, root=self.root)
        except errors.BundleError:
            return True
        return False

    def finish(self, folder: Path) -> None:
        """Builds the engine of a bundle that wants one, after those that others have asked for before.

        Raises:
            BundleError: the bundle does not hold.
            EngineError: the compiler refused, or crashed.
        """
        if self._builder is None or not self.is_wanting(folder):
            return
        with self._building:
            if self.is_wanting(folder):  # whoever was before may have built it
                self._build(self._builder, folder)

    def _build(self, builder: building.Builder, folder: Path) -> None:
        self._say(News("engine_building", f"building an engine of {folder.name} for this machine", _about(folder)))
        try:
            builder.build(folder, lambda *step: self._note(folder, *step))
        except errors.EdgeError as error:
            if not self._is_stopped:  # an orderly end is no refusal; the next start builds it
                self._say(News("engine_refused", f"{folder.name}: {error}"[:2000], _about(folder)))
            raise
        self._say(News("engine_built", f"built an engine of {folder.name} for this machine", _about(folder)))

    def forget_all_but(self, folders: Iterable[Path]) -> None:
        """Removes the engines that were built for other bundles than these."""
        if self.root is not None and self.root.is_dir():
            own_engines.forget_all_but(self.root, folders)

    def take_news(self) -> list[News]:
        """Gives what happened since the call before; of the steps of a build, the last one."""
        with self._lock:
            found, self._news = self._news, []
            if self._step is not None:
                found.append(self._step)
                self._step = None
        return found

    def stop(self) -> None:
        """Ends a build that runs."""
        self._is_stopped = True
        if self._builder is not None:
            self._builder.stop()

    def _note(self, folder: Path, stage: str, done: int, total: int) -> None:
        details = {**_about(folder), "stage": stage, "done": done, "total": total}
        with self._lock:
            self._step = News("engine_progress", f"{folder.name}: {stage} {done} of {total}", details)

    def _say(self, news: News) -> None:
        with self._lock:
            self._step = None
            self._news.append(news)


def _about(folder: Path) -> dict[str, str | int | float | bool | None]:
    return {"bundle": folder.name}
