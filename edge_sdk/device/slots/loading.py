"""Folders to running engines: all of them, or none."""

import contextlib
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from edge_sdk import errors
from edge_sdk.engines import bundled
from edge_sdk.engines.engine import Engine
from edge_sdk.wire import bundles


class Slot(NamedTuple):
    """One bundle in use."""

    bundle: bundles.Bundle
    engine: Engine


def load_slots(folders: Iterable[Path], *, backend: str, threads: int) -> tuple[Slot, ...]:
    """Gives a running engine for each bundle folder; every file of every bundle is hashed before any is loaded.

    Args:
        folders: bundles, each of another model.
        backend: a row of `engines.registry.BACKENDS`, or ``module:Class``.
        threads: CPU threads per engine; 0 leaves the choice to the back end.

    Raises:
        BundleError: one is damaged, incomplete, or has files that it does not list; the message names the file.
        UsageError: two bundles hold a model of the same name, or there is no such back end.
        EngineError: the back end could not load one. Whatever was loaded before it is closed again.
    """
    checked: dict[str, bundles.Bundle] = {}
    for folder in folders:
        found = bundles.read_bundle(folder)
        name = found.manifest.name
        if name in checked:
            raise errors.UsageError(
                f"{folder} and {checked[name].path} both hold the model {name!r}; serve one of them, or rename one"
            )
        checked[name] = found
    with contextlib.ExitStack() as opened:
        slots = tuple(
            Slot(found, opened.enter_context(bundled.engine_from_bundle(found, backend=backend, threads=threads)))
            for found in checked.values()
        )
        opened.pop_all()  # all are up: they stay open
    return slots
