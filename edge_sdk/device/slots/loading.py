"""Folders to running engines: all of them, or none."""

import contextlib
import logging
import os
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import NamedTuple

import numpy as np

from edge_sdk import errors
from edge_sdk.engines import bundled, golden
from edge_sdk.engines.engine import Engine
from edge_sdk.wire import bundles

_LOG = logging.getLogger(__name__)

_TINY_NS = 30_000
"""A model under this is faster in one thread than in two: what the threads cost each other is more than it takes."""


_FACTOR = 2.0
"""Times INT8's tolerance that another compiler's engine may be off the golden answers: it may round twice as often."""


class Watch(NamedTuple):
    """What is done around the load of each bundle.

    Attributes:
        loading: entered before a back end sees the bundle, left when its engines are up.
        is_on_trial: says of a bundle, by its digest, whether it has to answer its golden samples first.
    """

    loading: Callable[[bundles.Bundle], AbstractContextManager[None]] = lambda _: contextlib.nullcontext()
    is_on_trial: Callable[[str], bool] = lambda _: False


UNWATCHED = Watch()


class Slot(NamedTuple):
    """One bundle in use; its engines are all alike. `is_checked`: they have answered the golden samples."""

    bundle: bundles.Bundle
    engines: tuple[Engine, ...]
    is_checked: bool = False


def load_slots(
    folders: Iterable[Path],
    *,
    backend: str,
    threads: int,
    instances: Callable[[str], int] = lambda _: 1,
    memory: Path | None = None,
    engines: Path | None = None,
    watch: Watch = UNWATCHED,
) -> tuple[Slot, ...]:
    """Gives running engines for each bundle folder; every file of every bundle is hashed before any is loaded.

    Before that, the passports of finished engines are compared with this machine: where none fits, not a byte of an
    engine is read.

    Args:
        folders: bundles, each of another model, or another version.
        backend: a row of `engines.registry.BACKENDS`, or ``module:Class``.
        threads: CPU threads per engine; 0 leaves the choice to the back end.
        instances: gives how many engines a model gets, by its name; 0 is as many as are of use.
        memory: folder in which it is kept which form of a bundle is the fastest here; None measures at each start.
        engines: folder of the engines that this device built for itself; None has none.
        watch: what is done around the load of each.

    Raises:
        BundleError: one is damaged, incomplete, for another machine, or has files that it does not list; the message
            names the file or the difference.
        UsageError: two bundles hold the same version of a model, or there is no such back end.
        EngineError: the back end could not load one, or one on trial gives wrong answers. Whatever
            was loaded before it is closed again.
    """
    checked: dict[tuple[str, str], bundles.Bundle] = {}
    for folder in folders:
        bundled.check_machine(folder, backend=backend, engines=engines)
        found = bundles.read_bundle(folder)
        name, version = found.manifest.name, found.manifest.version
        if (name, version) in checked:
            raise errors.UsageError(
                f"{folder} and {checked[name, version].path} both hold the model {name!r} in version {version}; "
                "serve one of them, or rename one"
            )
        checked[name, version] = found
    with contextlib.ExitStack() as opened:
        slots = []
        for found in checked.values():
            with watch.loading(found):
                slot = _slot(
                    found,
                    opened,
                    backend=backend,
                    threads=threads,
                    count=instances(found.manifest.name),
                    memory=memory,
                    kept=engines,
                )
                if watch.is_on_trial(found.digest):
                    _check_answers(slot)
            slots.append(slot)
        opened.pop_all()  # all are up: they stay open
    return tuple(slots)


def _check_answers(slot: Slot) -> None:
    """Has an engine answer its bundle's golden samples; where a form was chosen, that has been done."""
    bundle, engine = slot.bundle, slot.engines[0]
    if slot.is_checked or bundles.GOLDEN not in bundle.manifest.files:
        return
    known = golden.read_golden(bundle.file(bundles.GOLDEN))
    for index, feeds in enumerate(known.feeds):
        given = engine.infer(feeds)
        if bundle.manifest.precision != "int8" or "int8" not in known.answers:
            continue  # how far another compiler may be off in FP16 is not known: that it answers counts
        if words := golden.excess(known, given, index, precision="int8", factor=_FACTOR):
            raise errors.EngineError(
                f"{bundle.path} gives other answers here than its golden samples say: sample {index}: {words}; "
                "build the bundle again, or its engine"
            )


def _slot(
    bundle: bundles.Bundle,
    opened: contextlib.ExitStack,
    *,
    backend: str,
    threads: int,
    count: int,
    memory: Path | None,
    kept: Path | None,
) -> Slot:
    choice = bundled.chosen(bundle, backend=backend, threads=threads, memory=memory)
    if choice is not None and choice.best_ns:
        timed = ", ".join(f"{name} {spent_ns / 1e6:.3f} ms" for name, spent_ns in choice.best_ns.items())
        earlier = " (measured earlier)" if choice.is_remembered else ""
        _LOG.info("%s runs as %s: %s%s", bundle.manifest.name, choice.variant, timed, earlier)

    def another() -> Engine:
        engine = bundled.engine_of_choice(bundle, choice, backend=backend, threads=threads, engines=kept)
        return opened.enter_context(engine)

    first = another()
    # Without a limit on its threads, one engine takes every core by itself; and one GPU is one GPU.
    if not count:
        count = len(os.sched_getaffinity(0)) // threads if threads and backend == "onnxruntime" else 1
        count = 1 if count > 1 and _is_tiny(first) else max(count, 1)
    return Slot(bundle, (first, *(another() for _ in range(count - 1))), is_checked=choice is not None)


def _is_tiny(engine: Engine) -> bool:
    feeds = {
        spec.name: np.zeros([1 if axis is None else axis for axis in spec.shape], spec.dtype) for spec in engine.inputs
    }
    try:
        return min(engine.run(feeds).timings.compute_ns for _ in range(3)) < _TINY_NS
    except errors.EngineError:  # zeros are no input for this model; it will say so to whoever sends some
        return False
