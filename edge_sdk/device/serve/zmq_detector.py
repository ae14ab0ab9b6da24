"""A detector as Frigate asks one: ZeroMQ REQ/REP, frames in, twenty boxes out. The only door to zmq (extra ``zmq``).

A request is ``[header, tensor]``: a JSON object with ``shape`` and ``dtype``, and the tensor's bytes in C order. The
answer is one frame of raw float32[20, 6], a row for each object: class, score, then top, left, bottom, right as shares
of the tensor's height and width; rows of zeros fill up. What can't be answered gets zeros too, as Frigate would take
for itself, and is counted as an error of the model. A newer Frigate asks first whether the model is there
(``model_request``); one that it wants to send (``model_data``) is refused, since models come in bundles.
"""

import contextlib
import logging
import math
import threading
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import zmq
from numpy.typing import NDArray

from edge_sdk import errors
from edge_sdk.device.serve import listening
from edge_sdk.device.serve.models import Model
from edge_sdk.device.serve.served import Models
from edge_sdk.numerics import detections, suppression

_LOG = logging.getLogger(__name__)

ROWS = 20
COLUMNS = 6
LEAST_SCORE = 0.25
_POLL_MS = 200
_STOP_S = 2.0
_DTYPES = ("uint8", "int8", "float16", "float32")
_IPC = "ipc://"


class _Header(msgspec.Struct):
    """The JSON of a request."""

    shape: tuple[int, ...] = ()
    dtype: str = "uint8"
    model_request: bool = False
    model_data: bool = False


class ZmqDetector:
    """Answers on one address, one request at a time, by one model.

    Attributes:
        url: where.
    """

    def __init__(self, models: Models, *, address: str, model: str, body_bytes: int) -> None:
        """Binds the address; nothing is answered before `start`.

        Raises:
            UsageError: it can't be bound.
        """
        self._models = models
        self._model = model
        self._stopping = threading.Event()
        self._context = zmq.Context()
        self._socket = self._context.socket(zmq.REP)
        self._socket.setsockopt(zmq.LINGER, 0)
        self._socket.setsockopt(zmq.MAXMSGSIZE, body_bytes)
        self._path: Path | None = None
        self._thread = threading.Thread(target=self._serve, name="zmq detector", daemon=True)
        try:
            self._bind(address)
        except (zmq.ZMQError, OSError) as error:
            self._close()
            raise errors.UsageError(f"cannot listen on {address}: {error.strerror}; choose another address") from error
        except errors.UsageError:
            self._close()
            raise
        self.url = f"zmq+{self._socket.getsockopt_string(zmq.LAST_ENDPOINT)}"

    def start(self) -> None:
        """Begins to answer."""
        self._thread.start()

    def stop(self) -> None:
        """Takes no more, once the running request is answered."""
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join(_STOP_S)
        if not self._thread.is_alive():
            self._close()

    def _bind(self, address: str) -> None:
        path = Path(address.removeprefix(_IPC)) if address.startswith(f"{_IPC}/") else None
        if path is not None:
            listening.clear_stale(path)
        self._socket.bind(address)
        if path is not None:
            self._path = path  # only now it is ours to remove
            path.chmod(listening.PERMISSIONS)

    def _close(self) -> None:
        self._socket.close()
        self._context.term()
        if self._path is not None:
            with contextlib.suppress(FileNotFoundError):
                self._path.unlink()

    def _serve(self) -> None:
        while not self._stopping.is_set():
            if self._socket.poll(_POLL_MS):
                with contextlib.suppress(zmq.ZMQError):  # the client has gone
                    self._socket.send(self._answer(self._socket.recv_multipart()))

    def _answer(self, frames: list[bytes]) -> bytes:
        header = _Header()
        with contextlib.suppress(msgspec.DecodeError, UnicodeDecodeError):
            header = msgspec.json.decode(frames[0], type=_Header)
        if header.model_request:
            is_there = self._models.find(self._model) is not None
            return msgspec.json.encode({"model_available": is_there, "model_loaded": is_there})
        if header.model_data:
            return msgspec.json.encode({"model_saved": False, "model_loaded": False})
        try:
            return self._detected(_tensor(header, frames)).tobytes()
        except errors.EdgeError as error:
            _LOG.debug("a request of the detector was refused: %s", error)
            return np.zeros((ROWS, COLUMNS), np.float32).tobytes()

    def _detected(self, tensor: NDArray[Any]) -> NDArray[np.float32]:
        with self._models.taken(self._model) as model:
            name, fitted = _fitted(model, tensor)
            outputs = model.infer({name: fitted})
            shape = next(spec.shape for spec in model.engine.inputs if spec.name == name)
        size = shape[2:] if shape[1] in (1, 3) else shape[1:3]
        height, width = (axis or given for axis, given in zip(size, _size(fitted), strict=True))
        return rows_from_outputs(next(iter(outputs.values())), height=height, width=width)


def rows_from_outputs(output: NDArray[Any], *, height: int, width: int) -> NDArray[np.float32]:
    """Gives what Frigate takes, from what a detector gives.

    Args:
        output: float[20, 6] (with or without a batch axis) goes through as it is; else the rows of a detector as
            `numerics.detections` knows them, boxes as centre and size in pixels of the network's input.
        height: of that input.
        width: of that input.

    Raises:
        InputError: it is neither.
    """
    if output.size == ROWS * COLUMNS and output.shape[-1] == COLUMNS:
        return output.reshape(ROWS, COLUMNS).astype(np.float32)
    if not (output.ndim == 3 and output.shape[0] == 1 and detections.is_layout(output.shape)):
        raise errors.InputError(f"the model gives {list(output.shape)}, which is no detector's output")
    found = suppression.best_boxes(
        detections.rows_from_output(output[0].astype(np.float32)), most=ROWS, least_score=LEAST_SCORE
    )
    rows = np.zeros((ROWS, COLUMNS), np.float32)
    count = len(found.scores)
    rows[:count, 0] = found.classes
    rows[:count, 1] = found.scores
    rows[:count, 2:] = np.clip(found.corners[:, [1, 0, 3, 2]] / (height, width, height, width), 0, 1)
    return rows


def open_detector(
    models: Models, *, address: str, model: str | None, body_bytes: int
) -> tuple[ZmqDetector, tuple[str, ...]]:
    """Gives a detector that is bound and not started yet, and its URL.

    Raises:
        UsageError: the address can't be bound, or it does not say which of several models answers.
    """
    names = sorted({one.name for one in models})
    if model is None and len(names) != 1:
        raise errors.UsageError(
            f"zmq_address needs zmq_model: {', '.join(names) or 'no model'} is served; name the detector"
        )
    detector = ZmqDetector(models, address=address, model=model or names[0], body_bytes=body_bytes)
    return detector, (detector.url,)


def _tensor(header: _Header, frames: list[bytes]) -> NDArray[Any]:
    if len(frames) != 2 or header.dtype not in _DTYPES or not header.shape or min(header.shape) < 1:
        raise errors.InputError(f"expected [header, tensor] with shape and dtype, one of {', '.join(_DTYPES)}")
    wanted = math.prod(header.shape) * np.dtype(header.dtype).itemsize
    if len(frames[1]) != wanted:
        raise errors.InputError(f"the tensor has {len(frames[1])} bytes, its header says {wanted}")
    return np.frombuffer(frames[1], header.dtype).reshape(header.shape)


def _fitted(model: Model, tensor: NDArray[Any]) -> tuple[str, NDArray[Any]]:
    """Gives the model's input and the tensor in its layout: Frigate's frames have the channels last."""
    spec = model.engine.inputs[0]
    if len(model.engine.inputs) != 1 or len(spec.shape) != 4:
        raise errors.InputError(f"{model.name} does not take one picture, so it is no detector")
    batched = tensor[None] if tensor.ndim == len(spec.shape) - 1 else tensor
    if batched.ndim == 4 and spec.shape[1] in (1, 3) and batched.shape[1] != spec.shape[1]:
        batched = np.ascontiguousarray(batched.transpose(0, 3, 1, 2))
    return spec.name, batched


def _size(tensor: NDArray[Any]) -> tuple[int, ...]:
    """Gives height and width of a batch of pictures in either layout."""
    return tuple(tensor.shape[2:] if tensor.shape[1] in (1, 3) else tensor.shape[1:3])
