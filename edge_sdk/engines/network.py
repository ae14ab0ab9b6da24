"""A TensorRT engine with its buffers: loads a plan, runs it, and replays it as a CUDA graph once the shape is steady.

Written against TensorRT's name-based API, which 8.6 to 11 share. Every call that returns a bool is checked: an
enqueue that was refused leaves the answer of the call before it in the buffer.
"""

import contextlib
import logging
import math
from collections.abc import Mapping
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_sdk import clock, errors
from edge_sdk.engines import cuda, nvidia
from edge_sdk.engines.protocol import StageTimes, Tensors
from edge_sdk.records import tensors

STEADY_RUNS = 16
"""So many runs in one shape, and it is worth a graph; fixed shapes get theirs at load."""

_DTYPES = {
    "FLOAT": "float32",
    "HALF": "float16",
    "INT8": "int8",
    "UINT8": "uint8",
    "INT32": "int32",
    "INT64": "int64",
    "BOOL": "bool",
}
"""An own map: `tensorrt.nptype` of 8.x asks numpy for names that it no longer has."""

_POISON = 0xFF
"""NaN as float: what an output holds before a graph is tried, so that an empty graph cannot pass."""

_log = logging.getLogger(__name__)


class Tensor:
    """One input or output with the buffer that it keeps for life.

    Attributes:
        spec: name, dtype and shape, None for a free axis.
        low: smallest shape of the profile.
        high: largest shape of the profile; the buffer holds it.
        view: the buffer's host side in the shape that is set now.
        lent: the array of it that a caller fills in place.
    """

    __slots__ = ("buffer", "dtype", "high", "is_input", "lent", "low", "spec", "view")

    def __init__(self, spec: tensors.TensorSpec, *, is_input: bool) -> None:
        self.spec = spec
        self.dtype = np.dtype(spec.dtype)
        self.is_input = is_input
        self.low: tuple[int, ...] = ()
        self.high: tuple[int, ...] = ()
        self.buffer: Any = None
        self.view: NDArray[Any] = np.empty(0, self.dtype)
        self.lent = self.view

    def set_shape(self, shape: tuple[int, ...]) -> None:
        """Makes `view` show `shape`."""
        size_bytes = math.prod(shape) * self.dtype.itemsize
        self.view = self.buffer.host[:size_bytes].view(self.dtype).reshape(shape)
        self.lent = self.view


class Network:
    """A deserialised engine, ready to run. Not safe for threads: its owner holds a lock or is one thread."""

    def __init__(
        self, trt: ModuleType, session: cuda.Session, plan: bytes, *, name: str, use_graph: bool = True
    ) -> None:
        """Deserialises `plan` and allocates every buffer; `session` is current.

        Raises:
            EngineError: TensorRT refuses the plan, in its own words, or something in it cannot be served.
        """
        self._cuda = session
        self._name = name
        self._use_graph = use_graph
        self._graph: Any = None
        self._shapes: tuple[tuple[int, ...], ...] = ()
        self._steady = 0
        self._logger = nvidia.logger_class(trt)()
        self._context: Any = None
        self._engine: Any = None
        self._runtime: Any = trt.Runtime(self._logger)
        self.tensors: tuple[Tensor, ...] = ()
        with contextlib.ExitStack() as undo:
            undo.callback(self.close)
            self._open(trt, plan)
            undo.pop_all()

    def _open(self, trt: ModuleType, plan: bytes) -> None:
        self._runtime.engine_host_code_allowed = False
        self._engine = self._runtime.deserialize_cuda_engine(plan)
        if self._engine is None:
            raise self._refusal("could not deserialise the engine")
        self._context = self._engine.create_execution_context()
        if self._context is None:
            raise self._refusal("could not create an execution context")
        self.tensors = tuple(self._tensor(trt, index) for index in range(self._engine.num_io_tensors))
        self._inputs = [tensor for tensor in self.tensors if tensor.is_input]
        self._outputs = [tensor for tensor in self.tensors if not tensor.is_input]
        for tensor in self._inputs:
            low, _, high = self._engine.get_tensor_profile_shape(tensor.spec.name, 0)
            tensor.low, tensor.high = tuple(low), tuple(high)
        self._allocate()
        if all(None not in tensor.spec.shape for tensor in self._inputs):
            self._warm_up()

    def _tensor(self, trt: ModuleType, index: int) -> Tensor:
        """Never holds the engine in a local: a traceback would keep it alive beyond the context."""
        name = self._engine.get_tensor_name(index)
        dtype = self._engine.get_tensor_dtype(name).name
        if dtype not in _DTYPES:
            raise errors.EngineError(f"tensor {name!r} is {dtype}; inputs and outputs must be one of {sorted(_DTYPES)}")
        if self._engine.get_tensor_location(name) != trt.TensorLocation.DEVICE:
            raise errors.EngineError(f"tensor {name!r} is a shape tensor on the host; give the network plain inputs")
        if self._engine.get_tensor_format(name) != trt.TensorFormat.LINEAR:
            raise errors.EngineError(
                f"tensor {name!r} is not in the linear format; build the engine with edge-sdk compile"
            )
        shape = tuple(None if axis < 0 else int(axis) for axis in self._engine.get_tensor_shape(name))
        is_input = self._engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT
        return Tensor(tensors.TensorSpec(name, _DTYPES[dtype], shape), is_input=is_input)

    def inputs(self) -> tuple[tensors.TensorSpec, ...]:
        """Gives what the engine takes."""
        return tuple(tensor.spec for tensor in self._inputs)

    def run(self, feeds: Mapping[str, NDArray[Any]], spent: StageTimes) -> Tensors:
        """Runs once; `session` is current. The outputs are copies, the caller's own.

        Raises:
            InputError: a shape is outside the profile that the engine was built with; nothing was run.
            EngineError: TensorRT or CUDA refused.
        """
        self._set_shapes(tuple(feeds[tensor.spec.name].shape for tensor in self._inputs))
        started_ns = _tick_ns()
        for tensor in self._inputs:
            if feeds[tensor.spec.name] is not tensor.lent:
                np.copyto(tensor.view, feeds[tensor.spec.name])
        spent.copy_in_ns = _tick_ns() - started_ns
        self._submit()
        self._cuda.synchronize()
        started_ns = _tick_ns()
        outputs = {tensor.spec.name: tensor.view.copy() for tensor in self._outputs}
        spent.copy_out_ns = _tick_ns() - started_ns
        spent.copy_in_ns += self._cuda.elapsed_ns(0, 1)
        spent.copy_out_ns += self._cuda.elapsed_ns(2, 3)
        self._count_towards_a_graph()
        return outputs

    def buffers(self, shapes: Mapping[str, tuple[int, ...]]) -> Tensors:
        """Gives the host side of each input in these shapes, for the caller to fill; raises as `run` does."""
        self._set_shapes(tuple(shapes[tensor.spec.name] for tensor in self._inputs))
        for tensor in self._inputs:
            tensor.lent = tensor.view[...]
        return {tensor.spec.name: tensor.lent for tensor in self._inputs}

    def close(self) -> None:
        """Drops TensorRT's objects, in the order that it asks for; `session` is current."""
        self._cuda.drop_graph()
        self._graph = None
        self._context = None
        self._engine = None
        self._runtime = None

    def _submit(self) -> None:
        """Submits copies and compute with the time stamps between them."""
        session = self._cuda
        session.mark(0)
        for tensor in self._inputs:
            session.copy_in(tensor.buffer, tensor.view.nbytes)
        session.mark(1)
        if self._graph is None:
            self._enqueue()
        else:
            self._graph.launch()
        session.mark(2)
        for tensor in self._outputs:
            session.copy_out(tensor.buffer, tensor.view.nbytes)
        session.mark(3)

    def _enqueue(self) -> None:
        if not self._context.execute_async_v3(self._cuda.stream):
            self._cuda.synchronize()  # the copies that were submitted still use the buffers
            raise self._refusal("refused to enqueue the engine")

    def _set_shapes(self, shapes: tuple[tuple[int, ...], ...]) -> None:
        """Tells TensorRT the shapes of the inputs, if they are others than last time, and shows the outputs' views."""
        if shapes == self._shapes:
            return
        for tensor, shape in zip(self._inputs, shapes, strict=True):
            _check_profile(tensor, shape)
        self._cuda.drop_graph()
        self._graph = None
        self._shapes, self._steady = (), 0
        for tensor, shape in zip(self._inputs, shapes, strict=True):
            if None in tensor.spec.shape and not self._context.set_input_shape(tensor.spec.name, shape):
                raise self._refusal(f"refused the shape {list(shape)} for input {tensor.spec.name!r}")
            tensor.set_shape(shape)
        for tensor in self._outputs:
            shape = tuple(self._context.get_tensor_shape(tensor.spec.name))
            if any(axis < 0 for axis in shape) or math.prod(shape) > math.prod(tensor.high):
                raise self._refusal(f"gave the shape {list(shape)} for output {tensor.spec.name!r}")
            tensor.set_shape(shape)
        self._shapes = shapes

    def _allocate(self) -> None:
        """Makes one buffer per tensor, as large as the profile goes, and sets its address once."""
        for tensor in self._inputs:
            if None in tensor.spec.shape and not self._context.set_input_shape(tensor.spec.name, tensor.high):
                raise self._refusal(f"refused the largest shape of its own profile for {tensor.spec.name!r}")
        for tensor in self._outputs:
            tensor.high = tuple(self._context.get_tensor_shape(tensor.spec.name))
            if any(axis < 0 for axis in tensor.high):
                raise errors.EngineError(
                    f"{self._name}: the shape of output {tensor.spec.name!r} depends on the data "
                    f"({list(tensor.high)}); end the network before that operator, or bound its output"
                )
        is_mapped = self._cuda.can_share_memory()
        for tensor in self.tensors:
            size_bytes = math.prod(tensor.high) * tensor.dtype.itemsize
            tensor.buffer = self._cuda.allocate(size_bytes, is_mapped=is_mapped)
            if not self._context.set_tensor_address(tensor.spec.name, tensor.buffer.address):
                raise self._refusal(f"refused the address of {tensor.spec.name!r}")

    def _warm_up(self) -> None:
        """Runs once, so that the first request finds everything loaded, and makes the graph."""
        self._set_shapes(tuple(tensor.high for tensor in self._inputs))
        for tensor in self._inputs:
            ramp = np.arange(tensor.view.size) % 7
            tensor.view[...] = ramp.reshape(tensor.view.shape).astype(tensor.dtype)
        self._submit()
        self._cuda.synchronize()
        self._make_graph()

    def _count_towards_a_graph(self) -> None:
        self._steady += 1
        if self._graph is None and self._steady == STEADY_RUNS:
            self._make_graph()

    def _make_graph(self) -> None:
        """Captures the compute, and keeps the graph if it gives what the run before it gave."""
        if not self._use_graph:
            return
        eager = [tensor.view.copy() for tensor in self._outputs]
        try:
            self._graph = self._cuda.capture(self._enqueue_for_capture)
        except errors.EngineError as error:
            _log.warning("%s runs without a CUDA graph: %s", self._name, error)
            return
        for tensor in self._outputs:
            tensor.buffer.host.fill(_POISON)
            self._cuda.copy_in(tensor.buffer, tensor.view.nbytes)
        self._submit()
        self._cuda.synchronize()
        if not all(_is_same(want, tensor.view) for want, tensor in zip(eager, self._outputs, strict=True)):
            _log.warning("%s runs without a CUDA graph: it gave another answer than the run before it", self._name)
            self._cuda.drop_graph()
            self._graph = None

    def _enqueue_for_capture(self) -> None:
        """As `_enqueue`, but a stream that captures cannot be waited for."""
        if not self._context.execute_async_v3(self._cuda.stream):
            raise self._refusal("refused to enqueue the engine for capture")

    def _refusal(self, what: str) -> errors.EngineError:
        words = "\n  ".join(dict.fromkeys(self._logger.messages)) or "(it gave no reason)"
        self._logger.messages.clear()
        return errors.EngineError(f"{self._name}: TensorRT {what}:\n  {words}")


_tick_ns = clock.SystemClock.tick_ns


def _check_profile(tensor: Tensor, shape: tuple[int, ...]) -> None:
    if not all(low <= axis <= high for low, axis, high in zip(tensor.low, shape, tensor.high, strict=True)):
        raise errors.InputError(
            f"input {tensor.spec.name!r} was built for shapes from {list(tensor.low)} to {list(tensor.high)}, "
            f"but was given {list(shape)}; send smaller batches, or compile the bundle with --shape"
        )


def _is_same(want: NDArray[Any], got: NDArray[Any]) -> bool:
    """Kernels may add in another order from run to run, so floats are held to 1e-3 of the largest value."""
    if want.dtype.kind != "f":
        return bool(np.array_equal(want, got))
    finite = np.abs(want[np.isfinite(want)].astype(np.float64))
    slack = 1e-3 * float(finite.max()) if finite.size else 0.0
    return bool(np.allclose(want.astype(np.float64), got.astype(np.float64), rtol=0, atol=slack, equal_nan=True))
