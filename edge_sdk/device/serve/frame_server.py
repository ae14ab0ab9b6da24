"""The local fast path: tensors in memory that client and daemon share, short messages over a unix socket.

The memory is the client's: a memfd that is sealed against shrinking, so that nothing the client does afterwards can
take a page away under the daemon. It has no name, so it is gone with its processes, however they end.
"""

import contextlib
import fcntl
import logging
import mmap
import os
import socket
import struct
import threading
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from edge_sdk import clock, errors
from edge_sdk.device.serve import frame_wire, inference, listening
from edge_sdk.device.serve.connection import HttpLimits
from edge_sdk.device.serve.frame_wire import ASK, LENGTH, REPLY, Hello, Layout, Outcome, Tensor
from edge_sdk.device.serve.served import Models
from edge_sdk.device.serve.v2 import Request
from edge_sdk.device.serve.waiting import Company, Wait
from edge_sdk.engines.protocol import Tensors

_LOG = logging.getLogger(__name__)

_F_GET_SEALS = 1034
_F_SEAL_SHRINK = 2
"""Not in the fcntl module before Python 3.12 everywhere; values of Linux."""


def frame_server(
    listener: socket.socket, models: Models, *, limits: HttpLimits, clocks: clock.Clock
) -> listening.Acceptor:
    """Gives a server that takes over the listening socket; it begins to answer with `start`."""
    stopping, company = threading.Event(), Company()

    def connect(peer: socket.socket) -> _Session:
        return _Session(peer, models, limits, clocks, company)

    return listening.Acceptor(
        listener,
        connect,
        name="frames",
        connections=limits.connections,
        stop_s=limits.stop_s,
        stopping=stopping,
        clocks=clocks,
    )


class _Session:
    """One client: what it sends is agreed upon once, then it asks again and again."""

    is_idle = True
    """Its receiving end can be closed at any time: a request that was read is still answered."""

    def __init__(
        self, peer: socket.socket, models: Models, limits: HttpLimits, clocks: clock.Clock, company: Company
    ) -> None:
        self._peer = peer
        self._models = models
        self._limits = limits
        self._wait = Wait(peer, clocks.tick_ns, company)

    def run(self) -> None:
        """Serves until the client goes; one that vanishes is no fault of ours."""
        with self._peer:
            try:
                self._peer.settimeout(self._limits.request_s)
                hello, layout = self._greeted()
                memory = self._mapped(layout)
            except errors.EdgeError as error:
                with contextlib.suppress(OSError):
                    self._say(Layout(error=str(error), kind=frame_wire.kind_of(error)))
                return
            except OSError as error:
                _LOG.debug("a client of the frames socket went away: %s", error)
                return
            try:
                self._serve(hello, layout, memory)
            except OSError as error:
                _LOG.debug("a client of the frames socket went away: %s", error)

    def shut(self, how: int) -> None:
        """Ends one or both directions from another thread."""
        with contextlib.suppress(OSError):
            self._peer.shutdown(how)

    def turn_away(self, limit: int) -> None:
        """Ends the connection; the protocol has no word for it before the greeting."""
        _LOG.warning("%d clients of the frames socket are connected; one more was turned away", limit)
        self._peer.close()

    def _greeted(self) -> tuple[Hello, Layout]:
        """Agrees with the client on what goes where; runs the model once on zeros to learn what it gives."""
        (length,) = LENGTH.unpack(_received(self._peer, LENGTH.size))
        if length > frame_wire.MAX_JSON_BYTES:
            raise errors.InputError(f"a greeting of {length} bytes; at most {frame_wire.MAX_JSON_BYTES} are read")
        hello = frame_wire.decoded(_received(self._peer, length), Hello)
        inputs = frame_wire.checked_inputs(hello)
        frame_wire.placed(inputs, [], max_bytes=self._limits.body_bytes)  # before memory is taken for them
        feeds = {tensor.name: np.zeros(tensor.shape, tensor.dtype) for tensor in inputs}
        with self._models.taken(hello.model, hello.version) as model:
            found, _ = model.run(feeds, model.tick_ns())
        outputs = [Tensor(name, array.dtype.name, array.shape) for name, array in found.items()]
        layout = frame_wire.placed(inputs, outputs, max_bytes=self._limits.body_bytes)
        self._say(layout)
        return hello, layout

    def _mapped(self, layout: Layout) -> mmap.mmap:
        """Takes over the client's memory; a seal can't be taken off again, so its size is looked at this once.

        Raises:
            InputError: it is too small, or not sealed against shrinking.
        """
        descriptors = _received_descriptors(self._peer)
        with contextlib.ExitStack() as closing:
            for each in descriptors:
                closing.callback(os.close, each)  # a mapping lasts without it
            if len(descriptors) != 1:
                raise errors.InputError(f"{len(descriptors)} descriptors came; expected the one of the memory")
            _check_memory(descriptors[0], layout.byte_size)
            try:
                memory = mmap.mmap(descriptors[0], layout.byte_size)
            except OSError as error:
                raise errors.InputError(f"the memory can't be mapped: {error}") from error
            self._say(Layout())
        return memory

    def _serve(self, hello: Hello, layout: Layout, memory: mmap.mmap) -> None:
        feeds, areas = _arrays(memory, layout.inputs), _arrays(memory, layout.outputs)
        # A session may wait for its next frame as long as it likes: a camera can be switched off.
        self._peer.settimeout(None)
        ask = bytearray(ASK.size)
        while self._receive(ask):
            sequence, priority, timeout_us = ASK.unpack(ask)
            try:
                self._infer(hello, Request("", feeds, {}, True, {}, priority, timeout_us), areas)
                outcome = frame_wire.OK
            except errors.EdgeError as error:
                outcome = msgspec.json.encode(Outcome(str(error), frame_wire.kind_of(error)))
            except Exception:  # noqa: BLE001  # boundary: a fault in one request must not end the session; it is logged and answered
                _LOG.exception("internal fault in a request for %s", hello.model)
                outcome = msgspec.json.encode(Outcome("internal fault; the daemon's log has the details", "engine"))
            self._peer.sendall(REPLY.pack(sequence, len(outcome)) + outcome)

    def _receive(self, ask: bytearray) -> bool:
        """Waits for the next message; False at the end of the connection."""
        have = self._wait.receive_into(ask)
        if 0 < have < ASK.size:
            have += self._peer.recv_into(memoryview(ask)[have:], 0, socket.MSG_WAITALL)
        return have == ASK.size

    def _infer(self, hello: Hello, request: Request, areas: Tensors) -> None:
        def parse() -> Request:
            return request._replace(feeds=_own(request.feeds))

        def respond(_: Request, outputs: Tensors) -> None:
            for name, area in areas.items():
                found = outputs.get(name)
                if found is None or found.shape != area.shape or found.dtype != area.dtype:
                    got = "nothing" if found is None else f"{found.dtype}{list(found.shape)}"
                    raise errors.EngineError(
                        f"output {name!r} is {got} now, and was {area.dtype}{list(area.shape)} when the session began; "
                        "outputs that change their shape are served over HTTP"
                    )
                np.copyto(area, found)

        model = self._models.take(hello.model, hello.version) or self._models.missing(hello.model)
        try:
            inference.answered(model, parse, respond)
        finally:
            self._models.give(model)

    def _say(self, record: Layout) -> None:
        payload = msgspec.json.encode(record)
        self._peer.sendall(LENGTH.pack(len(payload)) + payload)


def _arrays(memory: mmap.mmap, tensors: list[Tensor]) -> dict[str, NDArray[Any]]:
    return {
        tensor.name: np.frombuffer(
            memory, tensor.dtype, count=tensor.byte_size // np.dtype(tensor.dtype).itemsize, offset=tensor.offset
        ).reshape(tensor.shape)
        for tensor in tensors
    }


def _check_memory(descriptor: int, byte_size: int) -> None:
    """Raises InputError unless the memory is large enough and stays so."""
    try:
        seals = fcntl.fcntl(descriptor, _F_GET_SEALS)
    except OSError:
        seals = 0  # no memfd at all
    if not seals & _F_SEAL_SHRINK:
        raise errors.InputError(
            "the memory is no memfd sealed with F_SEAL_SHRINK, so it could be taken away while it is read"
        )
    size = os.fstat(descriptor).st_size
    if size < byte_size:
        raise errors.InputError(f"the memory has {size} bytes; this session needs {byte_size}")


def _own(feeds: Tensors) -> Tensors:
    """Gives inputs that the client can't change any more where that matters.

    Floats are numbers whatever it writes meanwhile; an operator may use whole numbers as indices after it has checked
    them, so those are copied.

    Raises:
        InputError: a bool has bytes other than 0 and 1.
    """
    owned = {name: array if array.dtype.kind == "f" else array.copy() for name, array in feeds.items()}
    for name, array in owned.items():
        if array.dtype == np.bool_ and np.any(array.view(np.uint8) > 1):
            raise errors.InputError(f"input {name!r} is bool, but has bytes other than 0 and 1")
    return owned


def _received(peer: socket.socket, size: int) -> bytes:
    chunks = bytearray()
    while len(chunks) < size:
        chunk = peer.recv(size - len(chunks))
        if not chunk:
            raise errors.LinkError("the client has closed its end")
        chunks += chunk
    return bytes(chunks)


def _received_descriptors(peer: socket.socket) -> list[int]:
    """Gives the descriptors that came with one byte; those of a malformed message are closed, not leaked."""
    size = struct.calcsize("i")
    got, ancillary, _, _ = peer.recvmsg(1, socket.CMSG_SPACE(8 * size), socket.MSG_CMSG_CLOEXEC)
    found: list[int] = []
    for level, kind, data in ancillary:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
            found += struct.unpack(f"{len(data) // size}i", data[: len(data) // size * size])
    if not got and not found:
        raise errors.LinkError("the client has closed its end")
    return found
