"""A client of the local fast path: fill the input in place, ask, read the output in place."""

import contextlib
import fcntl
import mmap
import os
import socket
import struct
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from edge_sdk import clock, errors
from edge_sdk.device.serve import frame_wire
from edge_sdk.device.serve.frame_wire import ASK, LENGTH, REPLY, Hello, Layout, Outcome, Tensor
from edge_sdk.device.serve.waiting import CLIENT_AWAKE_NS, Company, Wait

_F_ADD_SEALS = 1033
_F_SEAL_SEAL, _F_SEAL_SHRINK, _F_SEAL_GROW = 1, 2, 4
"""Values of Linux; the fcntl module has no names for them before Python 3.12 everywhere."""


def open_frames(
    path: str | Path,
    model: str,
    inputs: Mapping[str, tuple[str, tuple[int, ...]]],
    *,
    version: str = "",
    timeout_s: float = 30.0,
) -> "Frames":
    """Gives a session with a daemon on this machine that shares memory with it; use one per thread.

    Args:
        path: the daemon's ``frames_socket``.
        model: to ask.
        inputs: dtype and shape by input name, for example ``{"image": ("uint8", (1, 3, 224, 224))}``. Integers where
            the network takes floats go through the bundle's preprocessing.
        version: of the model; empty takes the newest at each inference.
        timeout_s: for each answer.

    Raises:
        LinkError: no daemon listens there.
        UsageError: it does not serve that model.
        InputError: the model does not take such inputs.

    Example::

        image = {"image": ("uint8", (1, 1, 28, 28))}
        with edge_sdk.open_frames("/run/edge-sdk/frames.sock", "fashion", image) as frames:
            frames.inputs["image"][:] = pixels
            logits = frames.infer()["logits"]
    """
    return Frames(path, model, inputs, version=version, timeout_s=timeout_s)


class Frames:
    """One session; made by `open_frames`. Use as a context manager, or call `close`.

    Attributes:
        inputs: arrays to fill, by input name; they lie in the shared memory.
        outputs: arrays by output name; each inference writes them anew.
    """

    def __init__(
        self,
        path: str | Path,
        model: str,
        inputs: Mapping[str, tuple[str, tuple[int, ...]]],
        *,
        version: str = "",
        timeout_s: float = 30.0,
    ) -> None:
        self._path = path
        self._sequence = 0
        self.inputs: dict[str, NDArray[Any]] = {}
        self.outputs: dict[str, NDArray[Any]] = {}
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._buffer = bytearray(4096)
        self._wait = Wait(self._socket, clock.SystemClock().tick_ns, Company(), CLIENT_AWAKE_NS)
        with contextlib.ExitStack() as undo:
            undo.callback(self._socket.close)
            try:
                self._socket.settimeout(timeout_s)
                self._socket.connect(str(path))
                tensors = [Tensor(name, np.dtype(dtype).name, tuple(shape)) for name, (dtype, shape) in inputs.items()]
                hello = msgspec.json.encode(Hello(model, tensors, version))
                self._socket.sendall(LENGTH.pack(len(hello)) + hello)
                layout = self._layout()
                self._share(layout)
                # From here on the kernel keeps the time: a timeout of Python's costs a system call for each receive.
                self._socket.settimeout(None)
                limit = struct.pack("ll", int(timeout_s), int(timeout_s % 1 * 1e6))
                self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, limit)
                self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, limit)
            except OSError as error:
                raise errors.LinkError(f"no daemon answers at {path}: {error}") from error
            undo.pop_all()

    def infer(self, *, priority: int = 0, timeout_us: int = 0) -> dict[str, NDArray[Any]]:
        """Runs the model on what `inputs` hold now; gives `outputs`, which the next call overwrites.

        Args:
            priority: 1 is the most urgent, 9 the least; 0 takes the middle.
            timeout_us: microseconds to wait for a free engine; 0 leaves that to the daemon.

        Raises:
            InputError: the daemon refused the request; with its words.
            BusyError: no engine became free in time.
            EngineError: the daemon failed.
            UsageError: the model is served no more.
            LinkError: it did not answer.
        """
        self._sequence = (self._sequence + 1) & 0xFFFFFFFF
        try:
            self._socket.sendall(ASK.pack(self._sequence, priority, timeout_us))
            head = self._receive(REPLY.size)
            sequence, length = REPLY.unpack_from(head)
            said = head[REPLY.size :] + self._receive(REPLY.size + length - len(head))
        except (OSError, errors.LinkError) as error:
            self.close()
            raise errors.LinkError(f"the daemon at {self._path} did not answer: {error}") from error
        if sequence != self._sequence:
            self.close()
            raise errors.LinkError(f"the daemon at {self._path} answered another question")
        if said != frame_wire.OK:
            outcome: Outcome = frame_wire.decoded(said, Outcome)
            raise frame_wire.KINDS.get(outcome.kind, errors.EngineError)(outcome.error)
        return self.outputs

    def close(self) -> None:
        """Ends the session; arrays that are still held stay readable."""
        self._socket.close()

    def __enter__(self) -> "Frames":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _share(self, layout: Layout) -> None:
        descriptor = os.memfd_create("edge_sdk frames", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        try:
            os.ftruncate(descriptor, layout.byte_size)
            fcntl.fcntl(descriptor, _F_ADD_SEALS, _F_SEAL_SHRINK | _F_SEAL_GROW | _F_SEAL_SEAL)
            memory = mmap.mmap(descriptor, layout.byte_size)
            socket.send_fds(self._socket, [b"\0"], [descriptor])
        finally:
            os.close(descriptor)
        self._layout()
        self.inputs = {tensor.name: _array(memory, tensor) for tensor in layout.inputs}
        self.outputs = {tensor.name: _array(memory, tensor) for tensor in layout.outputs}

    def _layout(self) -> Layout:
        (length,) = LENGTH.unpack(self._receive_exactly(LENGTH.size))
        layout: Layout = frame_wire.decoded(self._receive_exactly(length), Layout)
        if layout.error:
            raise frame_wire.KINDS.get(layout.kind, errors.EngineError)(layout.error)
        return layout

    def _receive(self, size: int) -> bytes:
        """Gives at least `size` bytes; a whole answer is short enough to come at once."""
        found = b""
        while len(found) < size:
            count = self._wait.receive_into(self._buffer)
            if not count:
                raise errors.LinkError(f"the daemon at {self._path} has closed its end")
            found += self._buffer[:count]
        return found

    def _receive_exactly(self, size: int) -> bytes:
        found = b""
        while len(found) < size:
            chunk = self._socket.recv(size - len(found))
            if not chunk:
                raise errors.LinkError(f"the daemon at {self._path} has closed its end")
            found += chunk
        return found


def _array(memory: mmap.mmap, tensor: Tensor) -> NDArray[Any]:
    dtype = np.dtype(tensor.dtype)
    flat = np.frombuffer(memory, dtype, count=tensor.byte_size // dtype.itemsize, offset=tensor.offset)
    return flat.reshape(tensor.shape)
