"""The Engine: what callers hold. It checks the request, times the stages and translates errors."""

import threading
from collections.abc import Mapping
from types import TracebackType
from typing import Any, NamedTuple, final

import numpy as np
from numpy.typing import NDArray

from edge_sdk import clock, errors
from edge_sdk.engines.protocol import Backend, StageTimes, Tensors
from edge_sdk.records import tensors
from edge_sdk.records.timings import Timings


class Result(NamedTuple):
    """Outputs by name, and where the time went."""

    outputs: Tensors
    timings: Timings


@final
class Engine:
    """One loaded model. Safe to call from any thread: calls run one after the other.

    Use as a context manager, or call `close`.
    """

    def __init__(
        self,
        backend: Backend,
        *,
        name: str,
        outputs: tuple[tensors.TensorSpec, ...] = (),
        ticks: clock.Clock | None = None,
    ) -> None:
        self.name = name
        self.inputs = backend.inputs()
        self.outputs = outputs
        self._backend = backend
        self._lock = threading.Lock()
        self._is_open = True
        self._tick_ns = (ticks or clock.SystemClock()).tick_ns
        self._specs = {spec.name: spec for spec in self.inputs}
        self._dtypes = {spec.name: np.dtype(spec.dtype) for spec in self.inputs}
        self._shapes_seen: dict[str, tuple[int, ...]] = {}

    def infer(self, feeds: Mapping[str, NDArray[Any]]) -> Tensors:
        """Gives the outputs by name for one set of inputs; the arrays belong to the caller.

        Raises:
            InputError: a name, dtype or shape does not fit; nothing was run.
            EngineError: the engine is closed, or failed while running.
        """
        return self.run(feeds).outputs

    def run(self, feeds: Mapping[str, NDArray[Any]]) -> Result:
        """Gives outputs and timings; raises as `infer` does."""
        entered_ns = self._tick_ns()
        self._check(feeds)
        spent = StageTimes()
        waiting_ns = self._tick_ns()
        with self._lock:
            if not self._is_open:
                raise errors.EngineError(f"engine {self.name!r} is closed")
            started_ns = self._tick_ns()
            try:
                outputs = self._backend.run(feeds, spent)
            except errors.EdgeError:
                raise
            except Exception as error:  # boundary: foreign back ends raise anything; callers see one class
                raise errors.EngineError(f"{self.name} failed while running: {error}") from error
            ended_ns = self._tick_ns()
        copies_ns = spent.copy_in_ns + spent.copy_out_ns
        return Result(
            outputs,
            Timings(
                started_ns - waiting_ns,
                waiting_ns - entered_ns,
                spent.copy_in_ns,
                ended_ns - started_ns - copies_ns,
                spent.copy_out_ns,
            ),
        )

    def close(self) -> None:
        """Gives everything back; a second call does nothing."""
        with self._lock:
            if self._is_open:
                self._is_open = False
                self._backend.close()

    def __enter__(self) -> "Engine":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _check(self, feeds: Mapping[str, NDArray[Any]]) -> None:
        if feeds.keys() != self._specs.keys():
            raise errors.InputError(
                f"expected the inputs {sorted(self._specs)}, but was given {sorted(feeds)}; "
                "send each input of the model once, by its name"
            )
        for name, array in feeds.items():
            shape = array.shape
            if array.dtype == self._dtypes[name] and shape == self._shapes_seen.get(name):
                continue
            spec = self._specs[name]
            fits = len(shape) == len(spec.shape) and all(
                want is None or want == got for want, got in zip(spec.shape, shape, strict=True)
            )
            if array.dtype != self._dtypes[name] or not fits or 0 in shape:
                given = tensors.shape_text(str(array.dtype), shape)
                raise errors.InputError(f"input {name!r} takes {spec}, but was given {given}")
            self._shapes_seen[name] = shape
