"""The Open Inference Protocol over gRPC, with Triton's extensions. The only door to grpc (extra ``grpc``).

For clients that speak nothing else: Python's gRPC takes several times as long as HTTP with the binary extension.
"""

import contextlib
import logging
import os
from collections.abc import Callable, Iterator
from concurrent import futures
from pathlib import Path
from typing import Any

import grpc

from edge_sdk import errors
from edge_sdk.device.serve import describe, grpc_requests, inference, listening, pictures
from edge_sdk.device.serve import grpc_messages as messages
from edge_sdk.device.serve.admin import Repository
from edge_sdk.device.serve.models import Model
from edge_sdk.device.serve.regions import Regions
from edge_sdk.device.serve.served import Models
from edge_sdk.device.serve.v2 import Request
from edge_sdk.engines.protocol import Tensors
from edge_sdk.wire import protobuf
from edge_sdk.wire.protobuf import Fields

_LOG = logging.getLogger(__name__)

_STOP_S = 2.0
_OVERHEAD_BYTES = 64 * 1024
"""Of a message beyond its tensors."""

_Message = dict[str, Any]


class GrpcServer:
    """Begins to answer with `start`; `stop` lets running requests finish."""

    def __init__(self, server: grpc.Server, path: Path | None) -> None:
        self._server = server
        self._path = path

    def start(self) -> None:
        """Begins to answer."""
        self._server.start()

    def stop(self) -> None:
        """Takes no more, and gives running requests a moment to finish."""
        self._server.stop(_STOP_S).wait(_STOP_S)
        if self._path is not None:
            with contextlib.suppress(FileNotFoundError):
                self._path.unlink()


def open_server(
    models: Models,
    regions: Regions,
    repository: Repository,
    *,
    host: str,
    port: int | None,
    path: str | None,
    decode: pictures.Decode,
    body_bytes: int,
    workers: int,
) -> tuple[GrpcServer, tuple[str, ...]]:
    """Gives a server that is bound and not started yet, and its URLs.

    Args:
        models: that are served.
        regions: registered shared memory.
        repository: loads and unloads.
        host: for `port`.
        port: on TCP; 0 takes any free one, None none.
        path: of a unix socket; None for none.
        decode: for pictures.
        body_bytes: largest request.
        workers: threads, thus requests at once.

    Raises:
        UsageError: an address can't be bound.
    """
    options = [
        ("grpc.max_receive_message_length", body_bytes + _OVERHEAD_BYTES),
        ("grpc.max_send_message_length", -1),
        ("grpc.so_reuseport", 0),
    ]
    executor = futures.ThreadPoolExecutor(workers, thread_name_prefix="grpc client")
    server = grpc.server(executor, options=options)
    server.add_generic_rpc_handlers((_Service(models, regions, repository, decode).handlers(),))
    urls: list[str] = []
    if port is not None:
        shown = f"[{host}]" if ":" in host else host
        urls.append(f"grpc://{shown}:{_bound(server, f'{shown}:{port}')}")
    if path is not None:
        listening.clear_stale(Path(path))
        # gRPC makes the socket itself, so what it may be opened by is decided by the umask.
        before = os.umask(0o777 & ~listening.PERMISSIONS)
        try:
            _bound(server, f"unix:{path}")
        finally:
            os.umask(before)
        urls.append(f"grpc+unix:{path}")
    return GrpcServer(server, None if path is None else Path(path)), tuple(urls)


def _bound(server: grpc.Server, address: str) -> int:
    try:
        port: int = server.add_insecure_port(address)
    except RuntimeError as error:
        raise errors.UsageError(f"cannot listen on {address} for gRPC: {error}; choose another address") from error
    return port


class _Service:
    """The methods of the service: a decoded message in, a message out."""

    def __init__(self, models: Models, regions: Regions, repository: Repository, decode: pictures.Decode) -> None:
        self._models = models
        self._regions = regions
        self._decode = decode
        self._repository = repository

    def handlers(self) -> grpc.GenericRpcHandler:
        """Gives the table of methods for the server."""
        table: dict[str, tuple[Callable[[_Message], _Message], Fields, Fields]] = {
            "ServerLive": (lambda _: {"live": True}, messages.EMPTY, messages.LIVE),
            "ServerReady": (lambda _: {"ready": self._models.is_ready}, messages.EMPTY, messages.READY),
            "ModelReady": (self._model_ready, messages.MODEL, messages.READY),
            "ServerMetadata": (self._server_metadata, messages.EMPTY, messages.SERVER_METADATA),
            "ModelMetadata": (self._model_metadata, messages.MODEL, messages.MODEL_METADATA),
            "ModelInfer": (self._infer, messages.INFER_REQUEST, messages.INFER_RESPONSE),
            "ModelConfig": (self._model_config, messages.MODEL, messages.MODEL_CONFIG),
            "ModelStatistics": (self._statistics, messages.MODEL, messages.STATISTICS),
            "RepositoryIndex": (self._index, messages.INDEX_REQUEST, messages.INDEX),
            "RepositoryModelLoad": (self._load, messages.REPOSITORY_MODEL, messages.EMPTY),
            "RepositoryModelUnload": (self._unload, messages.REPOSITORY_MODEL, messages.EMPTY),
            "SystemSharedMemoryStatus": (self._region_status, messages.NAME, messages.REGIONS),
            "SystemSharedMemoryRegister": (self._register, messages.REGION, messages.EMPTY),
            "SystemSharedMemoryUnregister": (self._unregister, messages.NAME, messages.EMPTY),
            # Clients ask for these without being told to use them; a Jetson has no such memory.
            "CudaSharedMemoryStatus": (lambda _: {}, messages.NAME, messages.EMPTY),
            "CudaSharedMemoryUnregister": (lambda _: {}, messages.NAME, messages.EMPTY),
        }
        methods = {name: grpc.unary_unary_rpc_method_handler(_unary(*row)) for name, row in table.items()}
        methods["ModelStreamInfer"] = grpc.stream_stream_rpc_method_handler(self._stream)
        return grpc.method_handlers_generic_handler(messages.SERVICE, methods)

    def _stream(self, requests: Iterator[bytes], _: grpc.ServicerContext) -> Iterator[bytes]:
        for payload in requests:
            message: _Message = {}
            try:
                message = protobuf.decode(memoryview(payload), messages.INFER_REQUEST)
                answer: _Message = {"infer_response": self._infer(message)}
            except errors.EdgeError as error:
                # What went wrong with one request does not end the stream; its id tells which one it was.
                answer = {"error_message": str(error), "infer_response": {"id": message.get("id", "")}}
            yield protobuf.encode(answer, messages.STREAM_RESPONSE)

    @contextlib.contextmanager
    def _taken(self, name: str, version: str) -> Iterator[Model]:
        model = self._models.take(name, version)
        if model is None:
            which = f"'{name[:200]}' version {version[:100]}" if version else f"'{name[:200]}'"
            raise errors.UsageError(f"Request for unknown model: {which} is not found")
        try:
            yield model
        finally:
            self._models.give(model)

    def _infer(self, message: _Message) -> _Message:
        visit = self._regions.visit()
        with self._taken(message.get("model_name", ""), message.get("model_version", "")) as model:

            def parse() -> Request:
                unfold = pictures.unfolder(model, self._decode)
                return grpc_requests.request_from_message(message, visit.read, unfold)

            def respond(request: Request, outputs: Tensors) -> _Message:
                found = grpc_requests.message_from_outputs(request, model, outputs, visit.write)
                visit.check()
                return found

            return inference.answered(model, parse, respond)

    def _model_ready(self, message: _Message) -> _Message:
        is_served = self._models.find(message.get("name", ""), message.get("version")) is not None
        return {"ready": is_served and self._models.is_ready}

    def _server_metadata(self, _: _Message) -> _Message:
        return describe.server(has_shared_memory=self._regions.is_allowed)

    def _model_metadata(self, message: _Message) -> _Message:
        with self._taken(message.get("name", ""), message.get("version", "")) as model:
            return describe.metadata(model, self._models.versions(model.name))

    def _model_config(self, message: _Message) -> _Message:
        with self._taken(message.get("name", ""), message.get("version", "")) as model:
            return {"config": describe.configuration(model)}

    def _statistics(self, message: _Message) -> _Message:
        if not message.get("name"):
            return {"model_stats": [describe.statistics(model) for model in self._models]}
        with self._taken(message["name"], message.get("version", "")) as model:
            return {"model_stats": [describe.statistics(model)]}

    def _index(self, message: _Message) -> _Message:
        rows = self._repository.index()
        return {"models": [row for row in rows if row["state"] == "READY" or not message.get("ready")]}

    def _load(self, message: _Message) -> _Message:
        self._repository.load(message.get("model_name", ""))
        return {}

    def _unload(self, message: _Message) -> _Message:
        self._repository.unload(message.get("model_name", ""))
        return {}

    def _region_status(self, message: _Message) -> _Message:
        return {"regions": {row["name"]: row for row in self._regions.status(message.get("name", ""))}}

    def _register(self, message: _Message) -> _Message:
        self._regions.register(
            message.get("name", ""),
            key=message.get("key", ""),
            offset=message.get("offset", 0),
            byte_size=message.get("byte_size", 0),
        )
        return {}

    def _unregister(self, message: _Message) -> _Message:
        self._regions.unregister(message.get("name", ""))
        return {}


def _unary(
    method: Callable[[_Message], _Message], request: Fields, response: Fields
) -> Callable[[bytes, grpc.ServicerContext], bytes]:
    """Gives a method as gRPC calls it: bytes in, bytes out, errors as status codes."""

    def answer(payload: bytes, context: grpc.ServicerContext) -> bytes:
        try:
            return protobuf.encode(method(protobuf.decode(memoryview(payload), request)), response)
        except errors.EdgeError as error:
            context.set_code(_code(error))
            context.set_details(str(error))
        except Exception:  # noqa: BLE001  # boundary: a fault in one request is logged and answered, without its details
            _LOG.exception("internal fault in a gRPC request")
            context.set_code(grpc.StatusCode.INTERNAL)
            context.set_details("internal fault; the daemon's log has the details")
        return b""

    return answer


def _code(error: errors.EdgeError) -> grpc.StatusCode:
    if isinstance(error, errors.UsageError):  # a model that is not served
        return grpc.StatusCode.NOT_FOUND
    if isinstance(error, errors.BusyError):
        return grpc.StatusCode.UNAVAILABLE
    if isinstance(error, (errors.InputError, errors.BundleError)):
        return grpc.StatusCode.INVALID_ARGUMENT
    return grpc.StatusCode.INTERNAL
