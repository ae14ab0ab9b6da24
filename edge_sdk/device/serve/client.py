"""A small client of a daemon: one keep-alive connection, binary tensors (Open Inference Protocol v2)."""

import http.client
from collections.abc import Mapping
from types import TracebackType
from typing import Any
from urllib.parse import urlsplit

import msgspec
import numpy as np
from numpy.typing import NDArray

from edge_sdk import errors
from edge_sdk.device.serve import v2
from edge_sdk.engines.protocol import Tensors

HEADER_LENGTH = "Inference-Header-Content-Length"


class Client:
    """Asks a daemon for inferences; use one per thread.

    Args:
        url: of the daemon, as its ``ready`` line has it.
        timeout_s: for each answer.
    """

    def __init__(self, url: str, *, timeout_s: float = 30.0) -> None:
        parts = urlsplit(url)
        if parts.scheme != "http" or parts.hostname is None:
            raise errors.UsageError(f"{url!r} is not a daemon's address; expected http://HOST:PORT")
        self._url = url
        self._connection = http.client.HTTPConnection(parts.hostname, parts.port or 8000, timeout=timeout_s)

    def infer(self, model: str, feeds: Mapping[str, NDArray[Any]]) -> Tensors:
        """Gives the outputs by name.

        Raises:
            InputError: the daemon refused the request; with its words.
            EngineError: the daemon failed.
            LinkError: it did not answer.
        """
        header = msgspec.json.encode(
            {
                "inputs": [
                    {
                        "name": name,
                        "shape": array.shape,
                        "datatype": v2.datatype_of(array.dtype.name),
                        "parameters": {"binary_data_size": array.nbytes},
                    }
                    for name, array in feeds.items()
                ],
                "parameters": {"binary_data_output": True},
            }
        )
        body = b"".join((header, *(np.ascontiguousarray(array).tobytes() for array in feeds.values())))
        status, length, answer = self._post(f"/v2/models/{model}/infer", body, len(header))
        if status != http.HTTPStatus.OK:
            kind = errors.InputError if status < http.HTTPStatus.INTERNAL_SERVER_ERROR else errors.EngineError
            raise kind(f"{self._url} answered {status}: {answer[:500].decode(errors='replace')}")
        return tensors_from_answer(answer, length)

    def close(self) -> None:
        """Closes the connection."""
        self._connection.close()

    def __enter__(self) -> "Client":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _post(self, path: str, body: bytes, header_bytes: int) -> tuple[int, int | None, bytes]:
        headers = {"Content-Type": "application/octet-stream", HEADER_LENGTH: str(header_bytes)}
        try:
            self._connection.request("POST", path, body, headers)
            response = self._connection.getresponse()
            answer = response.read()
        except (OSError, http.client.HTTPException) as error:
            self._connection.close()  # the next call opens a new one
            raise errors.LinkError(f"{self._url} did not answer: {error}") from error
        length = response.getheader(HEADER_LENGTH)
        return response.status, int(length) if length else None, answer


class _Output(msgspec.Struct):
    name: str
    shape: tuple[int, ...]
    datatype: str
    parameters: dict[str, int]


class _Answer(msgspec.Struct):
    outputs: list[_Output]


def tensors_from_answer(answer: bytes, header_bytes: int | None) -> Tensors:
    """Gives the arrays of a binary answer.

    Raises:
        EngineError: it is not one.
    """
    size = len(answer) if header_bytes is None else header_bytes
    outputs: Tensors = {}
    try:
        for part in msgspec.json.decode(answer[:size], type=_Answer).outputs:
            end = size + part.parameters["binary_data_size"]
            dtype = np.dtype(v2.DTYPES[part.datatype])
            outputs[part.name] = np.frombuffer(answer[size:end], dtype).reshape(part.shape)
            size = end
    except (msgspec.DecodeError, KeyError, ValueError) as error:
        raise errors.EngineError(f"the daemon's answer is not the binary form it should be: {error}") from error
    return outputs
