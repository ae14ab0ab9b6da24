"""The routes that change what is served: model repository and shared memory. Both are off unless the settings allow."""

import re
from typing import Annotated, Any, Protocol

import msgspec

from edge_sdk import errors
from edge_sdk.device.serve.answers import Answer, document, wrong_method
from edge_sdk.device.serve.heads import Head
from edge_sdk.device.serve.regions import Regions

_REPOSITORY = re.compile(r"/v2/repository/(?:(?P<index>index)|models/(?P<model>[^/]+)/(?P<action>load|unload))")
_REGION = re.compile(
    r"/v2/(?P<kind>system|cuda)sharedmemory(?:/region/(?P<name>[^/]+))?/(?P<action>status|register|unregister)"
)


class Repository(Protocol):
    """The models that could be served, as `edge_sdk.device.deployment` knows them."""

    def index(self) -> list[dict[str, str]]:
        """Gives name, version, state and reason of each."""
        ...

    def load(self, name: str) -> None:
        """Serves the newest of that name."""
        ...

    def unload(self, name: str) -> None:
        """Serves none of that name any more."""
        ...


class _Register(msgspec.Struct):
    key: str
    byte_size: Annotated[int, msgspec.Meta(ge=1, le=2**40)]
    offset: Annotated[int, msgspec.Meta(ge=0, le=2**40)] = 0


class _Index(msgspec.Struct):
    ready: bool = False


def answer(head: Head, path: str, body: memoryview, *, regions: Regions, repository: Repository) -> Answer | None:
    """Gives the answer of one of these routes; None when the path is none of them.

    Raises:
        InputError: the request can't be done; nothing was changed.
        EdgeError: a model could not be loaded.
    """
    if match := _REPOSITORY.fullmatch(path):
        if head.method != "POST":
            return wrong_method(head, "POST")
        return _repository(match, body, repository)
    if match := _REGION.fullmatch(path):
        allowed = "GET" if match["action"] == "status" else "POST"
        return wrong_method(head, allowed) if head.method != allowed else _region(match, body, regions)
    return None


def _repository(match: re.Match[str], body: memoryview, repository: Repository) -> Answer:
    if match["index"]:
        only_ready = bool(body) and _decoded(body, _Index).ready
        return document(200, [row for row in repository.index() if row["state"] == "READY" or not only_ready])
    if match["action"] == "load":
        repository.load(match["model"])
    else:
        repository.unload(match["model"])
    return Answer(200, [])


def _region(match: re.Match[str], body: memoryview, regions: Regions) -> Answer:
    name, action = match["name"] or "", match["action"]
    if match["kind"] == "cuda":
        return _cuda(action)
    if action == "status":
        return document(200, regions.status(name))
    if action == "unregister":
        regions.unregister(name)
    else:
        if not name:
            raise errors.InputError(
                "registering shared memory needs a name: /v2/systemsharedmemory/region/NAME/register"
            )
        wanted = _decoded(body, _Register)
        regions.register(name, key=wanted.key, offset=wanted.offset, byte_size=wanted.byte_size)
    return Answer(200, [])


def _cuda(action: str) -> Answer:
    """Clients ask for its state and forget all of it without being asked to use it; a Jetson has none."""
    if action == "register":
        raise errors.InputError("CUDA shared memory is not served; a Jetson has none, so use system shared memory")
    return document(200, []) if action == "status" else Answer(200, [])


def _decoded(body: memoryview, kind: Any) -> Any:
    try:
        return msgspec.json.decode(body, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise errors.InputError(f"failed to parse the request JSON: {error}") from error
