"""From folders to models that can be served: engines by `slots`, and what `serve` puts around them."""

import contextlib
from collections.abc import Callable, Iterable
from pathlib import Path

from edge_sdk import clock, errors
from edge_sdk.device.serve.gate import Scheduling
from edge_sdk.device.serve.models import Model
from edge_sdk.device.settings import DaemonSettings, ModelSettings
from edge_sdk.device.slots import loading
from edge_sdk.device.slots.loading import Slot, Watch

_DEFAULT = ModelSettings()

Prepare = Callable[[Iterable[Path]], list[Model]]
"""Loads all of some bundle folders, or none; raises as `loading.load_slots` does."""


def preparer(
    settings: DaemonSettings, *, clocks: clock.Clock, memory: Path | None, engines: Path | None, watch: Watch
) -> Prepare:
    """Gives what loads bundles as the settings have it.

    Args:
        settings: of the daemon.
        clocks: the machine's, or a test's.
        memory: folder in which it is kept which form of a bundle is the fastest here.
        engines: folder of the engines that this device built for itself.
        watch: what is done around the load of each.
    """

    def prepare(folders: Iterable[Path]) -> list[Model]:
        slots = loading.load_slots(
            folders,
            backend=settings.backend,
            threads=settings.threads,
            instances=lambda name: settings.models.get(name, _DEFAULT).instances,
            memory=memory,
            engines=engines,
            watch=watch,
        )
        with contextlib.ExitStack() as undo:
            for slot in slots:
                for engine in slot.engines:
                    undo.callback(engine.close)
            models = [_model(slot, settings.models.get(slot.bundle.manifest.name, _DEFAULT), clocks) for slot in slots]
            undo.pop_all()
        return models

    return prepare


def close_all(models: Iterable[Model]) -> None:
    """Closes models that are not to be served."""
    for model in models:
        model.close()


def _model(slot: Slot, chosen: ModelSettings, clocks: clock.Clock) -> Model:
    scheduling = Scheduling(
        queue_size=chosen.queue_size,
        timeout_us=chosen.timeout_us,
        max_batch=chosen.max_batch,
        batch_wait_us=chosen.batch_wait_us,
    )
    model = Model(slot.bundle.manifest, slot.bundle.digest, slot.engines, clocks, scheduling)
    if chosen.max_batch > 1 and not model.can_batch:
        raise errors.UsageError(
            f"[models.{model.name}] max_batch is {chosen.max_batch}, but the first axis of its inputs and outputs "
            "is not free; leave max_batch out, or build the bundle with a free batch axis"
        )
    return model
