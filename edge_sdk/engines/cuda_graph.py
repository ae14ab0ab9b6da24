"""CUDA graphs, which pycuda does not wrap: seven functions of the driver, with the context already current."""

import ctypes
from collections.abc import Callable

from edge_sdk import errors

_THREAD_LOCAL = 1
"""CU_STREAM_CAPTURE_MODE_THREAD_LOCAL: other threads may go on allocating while this one captures."""


class Graph:
    """Work that was captured from a stream and is launched again with one call."""

    def __init__(self, record: Callable[[], None], *, stream: int) -> None:
        """Captures what `record` submits to `stream`; nothing of it runs yet.

        Raises:
            EngineError: the driver cannot capture it; the stream is usable again.
        """
        self._driver = ctypes.CDLL("libcuda.so.1")
        self._stream = ctypes.c_void_p(stream)
        self._exec = ctypes.c_void_p()
        captured = ctypes.c_void_p()
        self._call("cuStreamBeginCapture_v2", self._stream, _THREAD_LOCAL)
        try:
            record()
            self._call("cuStreamEndCapture", self._stream, ctypes.byref(captured))
            self._call("cuGraphInstantiateWithFlags", ctypes.byref(self._exec), captured, ctypes.c_ulonglong(0))
        finally:
            if not captured:  # `record` failed: the stream must stop capturing all the same
                self._driver.cuStreamEndCapture(self._stream, ctypes.byref(captured))
            self._destroy("cuGraphDestroy", captured)

    def launch(self) -> None:
        """Submits the captured work; raises EngineError when the driver refuses."""
        self._call("cuGraphLaunch", self._exec, self._stream)

    def close(self) -> None:
        """Gives the graph back; the result is not looked at, since there is nothing left to do about it."""
        self._destroy("cuGraphExecDestroy", self._exec)
        self._exec = ctypes.c_void_p()

    def _destroy(self, name: str, handle: ctypes.c_void_p) -> None:
        if handle:
            getattr(self._driver, name)(handle)

    def _call(self, name: str, *arguments: object) -> None:
        code = getattr(self._driver, name)(*arguments)
        if code:
            text = ctypes.c_char_p()
            self._driver.cuGetErrorString(code, ctypes.byref(text))
            raise errors.EngineError(f"{name} failed: {(text.value or b'unknown').decode()} ({code})")


def drop_current_context() -> None:
    """Takes the current context off this thread's stack in the driver.

    pycuda takes a primary context off its own stack when it gives it back, but leaves it on the driver's.
    """
    ctypes.CDLL("libcuda.so.1").cuCtxPopCurrent_v2(None)
