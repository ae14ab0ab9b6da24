"""The Engine: what callers hold. It checks the request, times the stages and translates errors."""

import contextlib
import threading
from collections.abc import Iterator, Mapping
from types import TracebackType
from typing import Any, NamedTuple, final

import numpy as np
from numpy.typing import NDArray

from edge_sdk import clock, errors
from edge_sdk.engines.protocol import Backend, Lender, StageTimes, Tensors
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
        self._lock = threading.RLock()
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

    @contextlib.contextmanager
    def input_buffers(self, shapes: Mapping[str, tuple[int, ...]] | None = None) -> Iterator[Tensors]:
        """Lends the engine's own input memory, to be filled in place: page-locked with TensorRT, so nothing is copied.

        Other threads wait for the engine until the block ends; after it the arrays must not be used any more.

        Args:
            shapes: by input name; an input that is not named has 1 for each free axis.

        Raises:
            InputError: no such input, or the shape does not fit.
            EngineError: the engine is closed.

        Example::

            with engine.input_buffers() as buffers:
                while camera.read(buffers["image"][0]):
                    logits = engine.infer(buffers)["logits"]
        """
        wanted = self._buffer_shapes(shapes or {})
        with self._lock:
            if not self._is_open:
                raise errors.EngineError(f"engine {self.name!r} is closed")
            if isinstance(self._backend, Lender):
                lent = self._backend.buffers(wanted)
            else:
                lent = {name: np.zeros(shape, self._dtypes[name]) for name, shape in wanted.items()}
            try:
                yield lent
            finally:
                for array in lent.values():
                    array.setflags(write=False)  # a late write is an error, not another request's input

    def _buffer_shapes(self, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
        wanted = {spec.name: tuple(1 if axis is None else axis for axis in spec.shape) for spec in self.inputs}
        for name, shape in shapes.items():
            if name not in wanted:
                raise errors.InputError(f"no input {name!r}; the model takes {sorted(wanted)}")
            wanted[name] = tuple(shape)
            self._check_shape(name, self._dtypes[name], wanted[name])
        return wanted

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
            self._check_shape(name, array.dtype, shape)
            self._shapes_seen[name] = shape

    def _check_shape(self, name: str, dtype: np.dtype[Any], shape: tuple[int, ...]) -> None:
        spec = self._specs[name]
        fits = len(shape) == len(spec.shape) and all(
            want is None or want == got for want, got in zip(spec.shape, shape, strict=True)
        )
        if dtype != self._dtypes[name] or not fits or 0 in shape:
            given = tensors.shape_text(str(dtype), shape)
            raise errors.InputError(f"input {name!r} takes {spec}, but was given {given}")
