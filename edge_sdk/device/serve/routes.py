"""What is answered to which HTTP request: the Open Inference Protocol's routes over the served models."""

import functools
import logging
import re
from collections.abc import Callable
from typing import Any
from urllib.parse import unquote

from numpy.typing import NDArray

from edge_sdk import errors
from edge_sdk.device.serve import admin, describe, inference, oip, pictures, prometheus
from edge_sdk.device.serve.answers import Answer, document, failure, wrong_method
from edge_sdk.device.serve.heads import Head
from edge_sdk.device.serve.models import Model
from edge_sdk.device.serve.regions import Regions
from edge_sdk.device.serve.served import Models
from edge_sdk.device.serve.v2 import Request
from edge_sdk.engines.protocol import Tensors
from edge_sdk.records import telemetry
from edge_sdk.wire import codec

_LOG = logging.getLogger(__name__)

_MODEL_PATH = re.compile(
    r"/v2/models/(?P<model>[^/]+)(?:/versions/(?P<version>[^/]+))?(?:/(?P<leaf>ready|infer|config|stats))?"
)
_BINARY_TYPE = "application/octet-stream"
_COPIED_BYTES = 4096
"""To copy so little takes less time than to look at it as bytes."""
_RETRY_S = 1
"""Retry-After counts whole seconds; a queue is empty again long before that."""

_OVERVIEW = """\
edge_sdk daemon, Open Inference Protocol v2 with the binary extension

GET  /v2                               who answers, and which extensions
GET  /v2/health/live                   the process runs
GET  /v2/health/ready                  every model can be asked
GET  /v2/models/MODEL                  what it takes and gives
GET  /v2/models/MODEL/ready
GET  /v2/models/MODEL/config           how it is served
GET  /v2/models/MODEL/stats            what it did; /v2/models/stats for all
POST /v2/models/MODEL/infer
     /versions/VERSION may follow MODEL; a body of image/jpeg or image/png is taken as it is
POST /v2/repository/index              what could be served
POST /v2/repository/models/MODEL/load  and /unload
GET  /v2/systemsharedmemory/status     and POST .../region/NAME/register, /unregister
GET  /metrics                          for Prometheus
GET  /telemetry                        the last Sample, as it was published

models: {models}
"""


class Routes:
    """Answers requests from the models of one daemon. Any number of threads may ask.

    Args:
        models: that are served.
        regions: registered shared memory.
        repository: loads and unloads.
        decode: for pictures.
        device: name of the board.
        sample: gives the board's last readings.
    """

    def __init__(
        self,
        models: Models,
        *,
        regions: Regions,
        repository: admin.Repository,
        decode: pictures.Decode,
        device: str = "",
        sample: Callable[[], telemetry.Sample | None] = lambda: None,
    ) -> None:
        self._models = models
        self._regions = regions
        self._repository = repository
        self._decode = decode
        self._device = device
        self._sample = sample

    def answer(self, head: Head, body: memoryview) -> Answer:
        """Gives the answer; never raises."""
        try:
            return self._answer(head, body)
        except errors.BusyError as error:
            return failure(503, str(error))._replace(retry_after_s=_RETRY_S)
        except (errors.InputError, errors.UsageError, errors.BundleError) as error:
            return failure(400, str(error))
        except errors.EdgeError as error:
            _LOG.warning("%s %s: %s", head.method, head.path, error)
            return failure(500, str(error))
        except Exception:  # noqa: BLE001  # boundary: a fault in one request must not end the server; it is logged and answered
            _LOG.exception("internal fault in %s %s", head.method, head.path)
            return failure(500, "internal fault; the daemon's log has the details")

    def _answer(self, head: Head, body: memoryview) -> Answer:
        path, match = _parsed(head.path)
        if match:
            return self._about_model(head, body, match)
        fixed = self._fixed(path)
        if fixed is None:
            found = admin.answer(head, path, body, regions=self._regions, repository=self._repository)
            return found or failure(404, f"no route {path[:200]!r}; GET / names them")
        return fixed if head.method in ("GET", "HEAD") else wrong_method(head, "GET")

    def _fixed(self, path: str) -> Answer | None:
        if path == "/v2/health/live":
            return document(200, {"live": True})
        if path == "/v2/health/ready":
            is_ready = self._models.is_ready
            return document(200 if is_ready else 503, {"ready": is_ready})
        if path == "/v2":
            return document(200, describe.server(has_shared_memory=self._regions.is_allowed))
        if path == "/v2/models/stats":
            return document(200, {"model_stats": [describe.statistics(model) for model in self._models]})
        if path == "/metrics":
            text = prometheus.page(self._models, self._device, self._sample())
            return Answer(200, [text.encode()], prometheus.CONTENT_TYPE)
        if path == "/telemetry":
            sample = self._sample()
            if sample is None:
                return failure(503, "no Sample was taken yet; the first is due after one interval")
            return Answer(200, [codec.to_bytes(sample)])
        if path == "":
            names = ", ".join(dict.fromkeys(model.name for model in self._models)) or "none"
            return Answer(200, [_OVERVIEW.format(models=names).encode()], "text/plain; charset=utf-8")
        return None

    def _about_model(self, head: Head, body: memoryview, match: re.Match[str]) -> Answer:
        name, version, leaf = match.groups()
        model = self._models.take(name, version)
        if model is None:
            which = f"'{name[:200]}'" if version is None else f"'{name[:200]}' version {version[:100]}"
            return failure(404, f"Request for unknown model: {which} is not found")
        try:
            if leaf == "infer":
                return self._infer(model, head, body) if head.method == "POST" else wrong_method(head, "POST")
            return self._told(model, leaf) if head.method in ("GET", "HEAD") else wrong_method(head, "GET")
        finally:
            self._models.give(model)

    def _told(self, model: Model, leaf: str | None) -> Answer:
        if leaf == "ready":
            return document(200, {"name": model.name, "ready": self._models.is_ready})
        if leaf == "config":
            return document(200, describe.configuration(model))
        if leaf == "stats":
            return document(200, {"model_stats": [describe.statistics(model)]})
        return document(200, describe.metadata(model, self._models.versions(model.name)))

    def _infer(self, model: Model, head: Head, body: memoryview) -> Answer:
        visit = self._regions.visit()

        def parse() -> Request:
            if head.content_type in pictures.CONTENT_TYPES:
                name = pictures.only_input(model)
                feeds = {name: pictures.tensor_from_pictures(model, name, [body], self._decode)}
                return Request("", feeds, {}, is_binary=head.accept == _BINARY_TYPE)
            unfold = pictures.unfolder(model, self._decode)
            return oip.parse_request(body, head.header_bytes, read=visit.read, unfold=unfold)

        def respond(request: Request, outputs: Tensors) -> oip.Response:
            found = oip.response_from_outputs(
                request, model=model.name, version=model.version, outputs=outputs, write=visit.write
            )
            visit.check()
            return found

        response = inference.answered(model, parse, respond)
        if not response.raw:
            return Answer(200, [response.header])
        parts = [response.header, *(_bytes(array) for array in response.raw if array.size)]
        return Answer(200, parts, _BINARY_TYPE, len(response.header))


def _bytes(array: NDArray[Any]) -> bytes | memoryview:
    return array.tobytes() if array.nbytes <= _COPIED_BYTES else array.reshape(-1).data.cast("B")


@functools.lru_cache(maxsize=256)
def _parsed(path: str) -> tuple[str, re.Match[str] | None]:
    """Gives a path without its escapes, and what it says of a model; most clients ask for few of them."""
    plain = unquote(path).rstrip("/")
    return plain, None if plain == "/v2/models/stats" else _MODEL_PATH.fullmatch(plain)
