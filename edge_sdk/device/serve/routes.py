"""What is answered to which request: the Open Inference Protocol's routes over the served models."""

import logging
import re
from typing import Any, NamedTuple
from urllib.parse import unquote

import msgspec

from edge_sdk import __version__, errors
from edge_sdk.device.serve import models as served
from edge_sdk.device.serve import oip
from edge_sdk.device.serve.heads import Head
from edge_sdk.records.timings import Timings

_LOG = logging.getLogger(__name__)

_MODEL_PATH = re.compile(r"/v2/models/(?P<model>[^/]+)(?:/versions/(?P<version>[^/]+))?(?:/(?P<leaf>ready|infer))?")

_OVERVIEW = """\
edge_sdk daemon, Open Inference Protocol v2 with the binary extension

GET  /v2                               who answers, and which extensions
GET  /v2/health/live                   the process runs
GET  /v2/health/ready                  every model can be asked
GET  /v2/models/MODEL                  what it takes and gives
GET  /v2/models/MODEL/ready
POST /v2/models/MODEL/infer
     /versions/VERSION may follow MODEL

models: {models}
"""


class Answer(NamedTuple):
    """One answer, before it is put on the wire.

    Attributes:
        status: of HTTP.
        parts: the body, in pieces that need not be joined.
        content_type: of the body.
        header_bytes: length of the JSON before raw tensors; None when the body is one piece.
        allow: the method that this route takes, when another one came.
    """

    status: int
    parts: list[Any]
    content_type: str = "application/json"
    header_bytes: int | None = None
    allow: str = ""


class Routes:
    """Answers requests from the models of one daemon. Any number of threads may ask."""

    def __init__(self, models: served.Models) -> None:
        self._models = models

    def answer(self, head: Head, body: memoryview) -> Answer:
        """Gives the answer; never raises."""
        try:
            return self._answer(head, body)
        except (errors.InputError, errors.UsageError) as error:
            return failure(400, str(error))
        except errors.EdgeError as error:
            _LOG.warning("%s %s: %s", head.method, head.path, error)
            return failure(500, str(error))
        except Exception:  # noqa: BLE001  # boundary: a fault in one request must not end the server; it is logged and answered
            _LOG.exception("internal fault in %s %s", head.method, head.path)
            return failure(500, "internal fault; the daemon's log has the details")

    def _answer(self, head: Head, body: memoryview) -> Answer:
        path = unquote(head.path).rstrip("/")
        if match := _MODEL_PATH.fullmatch(path):
            return self._about_model(head, body, match)
        fixed = self._fixed(path)
        if fixed is None:
            return failure(404, f"no route {path[:200]!r}; GET / names them")
        return fixed if head.method == "GET" else _wrong_method(head, "GET")

    def _fixed(self, path: str) -> Answer | None:
        if path == "/v2/health/live":
            return _json(200, {"live": True})
        if path == "/v2/health/ready":
            is_ready = self._models.is_ready
            return _json(200 if is_ready else 503, {"ready": is_ready})
        if path == "/v2":
            return _json(200, {"name": "edge_sdk", "version": __version__, "extensions": ["binary_tensor_data"]})
        if path == "":
            names = ", ".join(model.name for model in self._models) or "none"
            return Answer(200, [_OVERVIEW.format(models=names).encode()], "text/plain; charset=utf-8")
        return None

    def _about_model(self, head: Head, body: memoryview, match: re.Match[str]) -> Answer:
        name, version, leaf = match["model"], match["version"], match["leaf"]
        model = self._models.find(name)
        if model is None or version not in (None, model.version):
            which = f"'{name[:200]}'" if version is None else f"'{name[:200]}' version {version[:100]}"
            return failure(404, f"Request for unknown model: {which} is not found")
        if leaf == "infer":
            return _infer(model, head, body) if head.method == "POST" else _wrong_method(head, "POST")
        if head.method != "GET":
            return _wrong_method(head, "GET")
        return _json(200, {"name": name, "ready": self._models.is_ready} if leaf else _metadata(model))


def failure(status: int, message: str) -> Answer:
    """Gives the answer that says what is wrong, in the protocol's form."""
    return _json(status, {"error": message})


def _infer(model: served.Model, head: Head, body: memoryview) -> Answer:
    entered_ns = model.tick_ns()
    model.recorder.enter()
    try:
        request = oip.parse_request(body, head.header_bytes)
        outputs, spent = model.run(request.feeds, entered_ns)
        ran_ns = model.tick_ns()
        response = oip.response_from_outputs(request, model=model.name, version=model.version, outputs=outputs)
        model.recorder.record(_with_post(spent, model.tick_ns() - ran_ns))
    except errors.EdgeError as error:
        model.recorder.record_error(served.error_kind(error))
        raise
    finally:
        model.recorder.leave()
    if not response.raw:
        return Answer(200, [response.header])
    parts = [response.header, *(array.reshape(-1).data.cast("B") for array in response.raw if array.size)]
    return Answer(200, parts, "application/octet-stream", len(response.header))


def _with_post(spent: Timings, post_ns: int) -> Timings:
    return Timings(
        spent.queue_ns, spent.pre_ns, spent.copy_in_ns, spent.compute_ns, spent.copy_out_ns, spent.post_ns + post_ns
    )


def _metadata(model: served.Model) -> dict[str, Any]:
    return {
        "name": model.name,
        "versions": [model.version],
        "platform": model.engine.name,
        "inputs": [oip.tensor_metadata(spec) for spec in model.engine.inputs],
        "outputs": [oip.tensor_metadata(spec) for spec in model.engine.outputs],
    }


def _wrong_method(head: Head, allowed: str) -> Answer:
    return failure(405, f"{head.method} is not answered here; use {allowed}")._replace(allow=allowed)


def _json(status: int, body: dict[str, Any]) -> Answer:
    return Answer(status, [msgspec.json.encode(body)])
