"""Which bundles are at hand, by what their manifests say; nothing is hashed or loaded here."""

import hashlib
import logging
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple

from edge_sdk import errors
from edge_sdk.wire import bundles

_LOG = logging.getLogger(__name__)


class Entry(NamedTuple):
    """A bundle at hand."""

    folder: Path
    name: str
    version: str
    counter: int
    digest: str


class Catalogue:
    """The bundles that were named, and those in the repository folder, read anew with each question.

    Args:
        named: folders of bundles; every one counts.
        repository: folder of bundles; of each model the one with the highest counter counts.
    """

    def __init__(self, named: Iterable[Path], repository: Path | None = None) -> None:
        self._named = tuple(named)
        self._repository = repository

    def entries(self) -> list[Entry]:
        """Gives every bundle at hand; a folder without a readable manifest is left out, and logged."""
        found = (_entry(folder) for folder in (*self._named, *self._inside()))
        return [entry for entry in found if entry is not None]

    def named(self) -> list[Path]:
        """Gives the folders that were named."""
        return list(self._named)

    def choices(self) -> list[list[Path]]:
        """Gives for each model of the repository its folders, the one with the highest counter first.

        Raises:
            UsageError: the repository is not a folder.
        """
        if self._repository is not None and not self._repository.is_dir():
            raise errors.UsageError(f"model_repository {self._repository} is not a folder; make it first")
        found: dict[str, list[Entry]] = {}
        for entry in filter(None, map(_entry, self._inside())):
            found.setdefault(entry.name, []).append(entry)
        return [
            [entry.folder for entry in sorted(entries, key=lambda entry: -entry.counter)] for entries in found.values()
        ]

    def wanted_of(self, name: str, allowed: Callable[[list[Path]], list[Path]] = list) -> list[Path]:
        """Gives the folders to serve under one model's name.

        Args:
            name: of the model.
            allowed: gives which of some folders may be served, the one to prefer first.
        """
        choices = map(allowed, self.choices())
        folders = [*allowed(self.named()), *(choice[0] for choice in choices if choice)]
        return [folder for folder in folders if (entry := _entry(folder)) is not None and entry.name == name]

    def digest_of(self, folder: Path) -> str:
        """Gives the digest that a bundle's manifest has; empty where there is no readable one."""
        entry = _entry(folder)
        return "" if entry is None else entry.digest

    def name_of(self, folder: Path) -> str:
        """Gives the model's name that a bundle holds; empty where it has no readable manifest."""
        entry = _entry(folder)
        return "" if entry is None else entry.name

    def _inside(self) -> list[Path]:
        if self._repository is None or not self._repository.is_dir():
            return []
        # A name with a leading dot is a bundle that is being written.
        inside = (path for path in self._repository.iterdir() if not path.name.startswith("."))
        return sorted(path for path in inside if (path / bundles.MANIFEST).is_file() and path not in self._named)


def _entry(folder: Path) -> Entry | None:
    try:
        file = folder / bundles.MANIFEST
        with file.open("rb") as stream:
            payload = stream.read(bundles.MAX_MANIFEST_BYTES)
        manifest = bundles.manifest_from_bytes(payload, source=str(file))
    except (OSError, errors.BundleError) as error:
        _LOG.warning("left out: %s", error)
        return None
    return Entry(folder, manifest.name, manifest.version, manifest.counter, hashlib.sha256(payload).hexdigest())
