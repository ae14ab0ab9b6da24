"""Which models are served: by name and version, exchanged while requests run, and none closed under a request."""

import contextlib
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NoReturn

from numpy.typing import NDArray

from edge_sdk import errors, imports
from edge_sdk.device.serve.models import Model
from edge_sdk.engines.protocol import Tensors
from edge_sdk.records import telemetry

MAX_WINDOWS = 64
"""What one Sample holds."""


class Models:
    """All models of a daemon. Any thread may look up, take, exchange.

    Who runs a model takes it and gives it back; a model that is served no more is closed by whoever gives it back
    last.
    """

    def __init__(self, models: Iterable[Model] = ()) -> None:
        self._lock = threading.Lock()
        self._by_name: dict[str, tuple[Model, ...]] = {}
        self._users: dict[Model, int] = {}
        self._retired: list[Model] = []
        self.is_ready = True
        for model in models:
            self.put(model.name, (*self._by_name.get(model.name, ()), model))

    def __iter__(self) -> Iterator[Model]:
        with self._lock:
            found = [model for versions in self._by_name.values() for model in versions]
        return iter(found)

    def find(self, name: str, version: str | None = None) -> Model | None:
        """Gives the model of that name, of that version or else the newest, if it is served."""
        versions = self._by_name.get(name, ())
        if not version:
            return versions[0] if versions else None
        return next((model for model in versions if model.version == version), None)

    def versions(self, name: str) -> tuple[Model, ...]:
        """Gives all that is served under a name, the newest first."""
        return self._by_name.get(name, ())

    def take(self, name: str, version: str | None = None) -> Model | None:
        """Gives a model for one request; it stays open until `give` is called for it."""
        with self._lock:
            model = self.find(name, version)
            if model is not None:
                self._users[model] = self._users.get(model, 0) + 1
            return model

    def give(self, model: Model) -> None:
        """Takes back what `take` gave; the last one out of a retired model closes it."""
        with self._lock:
            users = self._users.pop(model) - 1
            if users:
                self._users[model] = users
            is_over = not users and model in self._retired
        if is_over:
            model.close()

    @contextlib.contextmanager
    def taken(self, name: str, version: str | None = None) -> Iterator[Model]:
        """Holds a model for one request.

        Raises:
            UsageError: no such model.
        """
        model = self.take(name, version) or self.missing(name)
        try:
            yield model
        finally:
            self.give(model)

    def put(self, name: str, models: Sequence[Model]) -> None:
        """Serves exactly these under a name from now on; requests inside the others run to their end."""
        ordered = tuple(sorted(models, key=lambda model: model.counter, reverse=True))
        with self._lock:
            old = [model for model in self._by_name.pop(name, ()) if model not in ordered]
            if ordered:
                self._by_name[name] = ordered
            self._retired += old
            idle = [model for model in old if model not in self._users]
        for model in idle:
            model.close()

    def infer(self, name: str, feeds: Mapping[str, NDArray[Any]]) -> Tensors:
        """Gives the outputs of a model; raises as `Model.infer` does.

        Raises:
            UsageError: no such model.
        """
        model = self.take(name) or self.missing(name)
        try:
            return model.infer(feeds)
        finally:
            self.give(model)

    def windows(self, interval_s: float) -> list[telemetry.Window]:
        """Gives what every model did since the call before; one that is closed by now is told of a last time."""
        with self._lock:
            over = [model for model in self._retired if model not in self._users]
            busy = [model for model in self._retired if model in self._users]
            self._retired = busy
        windows = [model.recorder.window(interval_s) for model in (*self, *busy)]
        last = [model.recorder.window(interval_s) for model in over]
        return [*windows, *(window for window in last if window.count or window.errors)][:MAX_WINDOWS]

    def close(self) -> None:
        """Says that this daemon takes no more, and closes the engines; a request inside one is let through first."""
        self.is_ready = False
        for model in self:
            model.close()

    def missing(self, name: str) -> NoReturn:
        """Raises the UsageError that says which models there are."""
        names = list(self._by_name)
        raise errors.UsageError(
            f"no model {name!r}{imports.nearest(name, names)}; served here: {', '.join(names) or 'none'}"
        )
