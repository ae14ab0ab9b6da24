"""What an HTTP route gives back, before it is put on the wire."""

from typing import Any, NamedTuple

import msgspec

from edge_sdk.device.serve.heads import Head


class Answer(NamedTuple):
    """One answer.

    Attributes:
        status: of HTTP.
        parts: the body, in pieces that need not be joined.
        content_type: of the body.
        header_bytes: length of the JSON before raw tensors; None when the body is one piece.
        allow: the method that this route takes, when another one came.
        retry_after_s: when it is worth asking again; 0 says nothing about it.
    """

    status: int
    parts: list[Any]
    content_type: str = "application/json"
    header_bytes: int | None = None
    allow: str = ""
    retry_after_s: int = 0


def document(status: int, body: Any) -> Answer:
    """Gives an answer of JSON."""
    return Answer(status, [msgspec.json.encode(body)])


def failure(status: int, message: str) -> Answer:
    """Gives the answer that says what is wrong, in the protocol's form."""
    return document(status, {"error": message})


def wrong_method(head: Head, allowed: str) -> Answer:
    """Gives the answer to a request with another method than its route takes."""
    return failure(405, f"{head.method} is not answered here; use {allowed}")._replace(allow=allowed)
