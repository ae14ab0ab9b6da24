"""One owner of the CUDA context, stream, events and buffers of an engine. The only door to pycuda.

The *primary* context of the device is used, the one that torch and TensorRT share; it is current only between
entering and leaving a Session, so a Session may be used from any thread, one at a time.
"""

import logging
from collections.abc import Callable
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_sdk import errors
from edge_sdk.engines import cuda_graph, modules
from edge_sdk.engines.passport import Gpu

try:
    import pycuda.driver as drv
except ModuleNotFoundError:
    raise
except ImportError as error:
    raise errors.UsageError(
        f"pycuda is installed, but the CUDA driver cannot be loaded ({error}); on a Jetson it comes with JetPack, "
        "in a container start it with --runtime nvidia"
    ) from error

_NON_BLOCKING = 1
"""CU_STREAM_NON_BLOCKING: work on the default stream of other libraries does not wait for ours, nor ours for it."""

_COHERENT = (7, 2)
"""From Xavier on the GPU sees the CPU's caches; before, mapped memory is uncached for the CPU and slow to read."""

_log = logging.getLogger(__name__)


class Buffer:
    """Page-locked host memory and the address under which the device sees it, or its copy of it.

    Attributes:
        host: all of it as bytes.
        address: on the device.
        is_mapped: host and device share the memory, so nothing is copied.
    """

    def __init__(self, size_bytes: int, *, is_mapped: bool) -> None:
        self.is_mapped = is_mapped
        self._device: Any = None
        flags = drv.host_alloc_flags.DEVICEMAP if is_mapped else 0
        self.host: NDArray[np.uint8] = drv.pagelocked_empty((size_bytes,), np.uint8, mem_flags=flags)
        self._allocation: Any = self.host.base
        self.address = 0
        try:
            self.address = self._address(size_bytes)
        except drv.Error:
            self.close()
            raise

    def _address(self, size_bytes: int) -> int:
        if self.is_mapped:
            return int(self._allocation.get_device_pointer())
        self._device = drv.mem_alloc(size_bytes)
        return int(self._device)

    def close(self) -> None:
        """Gives the memory back; views of `host` must not be used any more."""
        if self._device is not None:
            self._device.free()
            self._device = None
        if self._allocation is not None:
            self._allocation.free()
            self._allocation = None


class Session:
    """The primary context with one stream, four events and the buffers of one engine.

    Everything but `close` happens inside ``with session:``, which makes the context current for this thread and
    turns CUDA's errors into EngineError.
    """

    def __init__(self) -> None:
        self.gpu = read_gpu()
        try:
            self._context = drv.Device(0).retain_primary_context()
        except drv.Error as error:
            raise _no_device(error) from error
        self._is_open = True
        self._stream: Any = None
        self._events: list[Any] = []
        self._buffers: list[Buffer] = []
        self._graph: cuda_graph.Graph | None = None
        try:
            with self:
                self._stream = drv.Stream(_NON_BLOCKING)
                self._events = [drv.Event() for _ in range(4)]
        except errors.EngineError:
            self.close()
            raise

    def __enter__(self) -> "Session":
        self._context.push()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        drv.Context.pop()
        if isinstance(error, drv.MemoryError):
            raise errors.EngineError(
                f"the GPU's memory is used up ({error}); stop what else uses it, or serve smaller batches"
            ) from error
        if isinstance(error, drv.Error):
            raise errors.EngineError(f"CUDA failed: {error}") from error

    @property
    def stream(self) -> int:
        """Handle of the stream, as TensorRT takes it."""
        return int(self._stream.handle)

    def can_share_memory(self) -> bool:
        """True where host and device use the same memory at full speed: integrated GPUs from Xavier on."""
        capability = modules.version_parts(self.gpu.compute_capability)
        return self.gpu.is_integrated and self.gpu.can_map and capability >= _COHERENT

    def free_bytes(self) -> int:
        """Gives the memory that the device has left."""
        return int(drv.mem_get_info()[0])

    def allocate(self, size_bytes: int, *, is_mapped: bool) -> Buffer:
        """Gives a buffer; it lives until the session closes."""
        buffer = Buffer(max(size_bytes, 1), is_mapped=is_mapped)
        self._buffers.append(buffer)
        return buffer

    def copy_in(self, buffer: Buffer, size_bytes: int) -> None:
        """Submits the copy of the buffer's first bytes to the device; nothing where memory is shared."""
        if not buffer.is_mapped:
            drv.memcpy_htod_async(buffer.address, buffer.host[:size_bytes], self._stream)

    def copy_out(self, buffer: Buffer, size_bytes: int) -> None:
        """Submits the copy of the buffer's first bytes from the device; nothing where memory is shared."""
        if not buffer.is_mapped:
            drv.memcpy_dtoh_async(buffer.host[:size_bytes], buffer.address, self._stream)

    def mark(self, event: int) -> None:
        """Submits a time stamp, 0 to 3."""
        self._events[event].record(self._stream)

    def elapsed_ns(self, start: int, end: int) -> int:
        """Gives the device's time between two marks that are done."""
        return int(self._events[start].time_till(self._events[end]) * 1e6)

    def synchronize(self) -> None:
        """Waits until everything that was submitted is done."""
        self._stream.synchronize()

    def capture(self, record: Callable[[], None]) -> cuda_graph.Graph:
        """Gives a graph of what `record` submits; it lives until `drop_graph` or `close`."""
        self.drop_graph()
        self._graph = cuda_graph.Graph(record, stream=self.stream)
        return self._graph

    def drop_graph(self) -> None:
        """Gives the graph back, if there is one."""
        if self._graph is not None:
            self._graph.close()
            self._graph = None

    def close(self) -> None:
        """Gives everything back, on a lost device as well; a second call does nothing. Callable from any thread."""
        if not self._is_open:
            return
        self._is_open = False
        try:
            self._context.push()
            self._give_back()
        except drv.Error as error:
            # The device is lost: the process's end frees what could not be freed here.
            _log.warning("CUDA could not give everything back: %s", error)

    def _give_back(self) -> None:
        """Frees everything while the context is current; pycuda reports a failed free on stderr and goes on."""
        try:
            self.drop_graph()
            while self._buffers:
                self._buffers.pop().close()
        finally:
            self._events.clear()
            self._stream = None
            self._context.detach()
            cuda_graph.drop_current_context()


def read_gpu() -> Gpu:
    """Gives what the driver says of the first device; makes no context. Raises EngineError when there is none."""
    try:
        drv.init()
        return _gpu(drv.Device(0))
    except drv.Error as error:
        raise _no_device(error) from error


def _no_device(error: Exception) -> errors.EngineError:
    return errors.EngineError(f"no CUDA device can be used: {error}; `edge-sdk doctor` says more")


def _gpu(device: Any) -> Gpu:
    major, minor = device.compute_capability()
    version = drv.get_driver_version()
    attribute = drv.device_attribute
    return Gpu(
        name=device.name(),
        compute_capability=f"{major}.{minor}",
        sm_count=int(device.get_attribute(attribute.MULTIPROCESSOR_COUNT)),
        memory_bytes=int(device.total_memory()),
        cuda=f"{version // 1000}.{version % 1000 // 10}",
        is_integrated=bool(device.get_attribute(attribute.INTEGRATED)),
        can_map=bool(device.get_attribute(attribute.CAN_MAP_HOST_MEMORY)),
    )
