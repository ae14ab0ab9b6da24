"""Heads of HTTP/1.1 requests and answers: pure, strict, so that two parsers never read one request differently.

Source: RFC 9112. What that leaves to the server's choice (bare line feeds, folded lines, repeated lengths, chunks)
is refused: each is a known way to smuggle a request past a proxy.
"""

import functools
import re
from typing import NamedTuple

MAX_HEAD_BYTES = 16 * 1024
"""Request line and fields together; browsers and proxies send at most half of it."""

REASONS = {
    200: "OK",
    400: "Bad Request",
    404: "Not Found",
    405: "Method Not Allowed",
    408: "Request Timeout",
    411: "Length Required",
    413: "Content Too Large",
    417: "Expectation Failed",
    431: "Request Header Fields Too Large",
    500: "Internal Server Error",
    503: "Service Unavailable",
    505: "HTTP Version Not Supported",
}

_REQUEST_LINE = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]{1,32}) ([!-~]{1,8192}) HTTP/([0-9])\.([0-9])")
_FIELD = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+):[ \t]*([\t -~\x80-\xff]*?)[ \t]*")
_NUMBER = re.compile(rb"[0-9]{1,15}")
_SINGLE = (b"content-length", b"host", b"inference-header-content-length", b"transfer-encoding", b"expect")


class Head(NamedTuple):
    """What the head of one request says.

    Attributes:
        method: as sent.
        path: without the query, still percent-encoded.
        body_bytes: Content-Length; 0 without one.
        header_bytes: Inference-Header-Content-Length, if any.
        keeps_alive: the client wants to send more on this connection.
        awaits_continue: the client waits for ``100 Continue`` before it sends the body.
        content_type: in lower case, without parameters; empty without one.
        accept: as sent; empty without one.
    """

    method: str
    path: str
    body_bytes: int
    header_bytes: int | None
    keeps_alive: bool
    awaits_continue: bool
    content_type: str = ""
    accept: str = ""


class Refusal(NamedTuple):
    """Why a head is not acceptable; the connection ends after it, since its framing can't be trusted."""

    status: int
    message: str


def parse(raw: bytes) -> Head | Refusal:
    """Gives what the head `raw` says, the empty line at its end not included."""
    request_line, *lines = raw.split(b"\r\n")
    match = _REQUEST_LINE.fullmatch(request_line)
    if match is None:
        return Refusal(400, "not an HTTP request line; expected METHOD PATH HTTP/1.1")
    if match[3] != b"1":
        return Refusal(505, f"HTTP/{match[3].decode()}.{match[4].decode()} is not spoken here; use HTTP/1.1")
    fields: dict[bytes, bytes] = {}
    for line in lines:
        field = _FIELD.fullmatch(line)
        if field is None:
            return Refusal(400, f"not an HTTP header field: {line[:80]!r}")
        name = field[1].lower()
        if name in fields and name in _SINGLE:
            return Refusal(400, f"the header field {name.decode()} is given twice")
        fields[name] = field[2]
    return _head(match, fields)


@functools.lru_cache(maxsize=256)
def answer_head(
    status: int,
    *,
    content_type: str,
    body_bytes: int,
    header_bytes: int | None = None,
    allow: str = "",
    retry_after_s: int = 0,
    keeps_alive: bool = True,
) -> bytes:
    """Gives the head of an answer, the empty line at its end included; remembered, since most answers are alike."""
    lines = [
        f"HTTP/1.1 {status} {REASONS[status]}",
        f"Content-Type: {content_type}",
        f"Content-Length: {body_bytes}",
    ]
    if header_bytes is not None:
        lines.append(f"Inference-Header-Content-Length: {header_bytes}")
    if allow:
        lines.append(f"Allow: {allow}")
    if retry_after_s:
        lines.append(f"Retry-After: {retry_after_s}")
    if not keeps_alive:
        lines.append("Connection: close")
    return "\r\n".join((*lines, "\r\n")).encode("ascii")


def _head(request: re.Match[bytes], fields: dict[bytes, bytes]) -> Head | Refusal:
    is_current = request[4] != b"0"
    if refusal := _refusal(request[1], fields, is_current=is_current):
        return refusal
    options = fields.get(b"connection", b"").lower().replace(b" ", b"").split(b",")
    header_length = fields.get(b"inference-header-content-length")
    return Head(
        method=request[1].decode("ascii"),
        path=request[2].partition(b"?")[0].decode("ascii"),
        body_bytes=int(fields.get(b"content-length", b"0")),
        header_bytes=None if header_length is None else int(header_length),
        keeps_alive=is_current and b"close" not in options,
        awaits_continue=is_current and b"expect" in fields,
        content_type=fields.get(b"content-type", b"").partition(b";")[0].strip().lower().decode("latin-1"),
        accept=fields.get(b"accept", b"").decode("latin-1"),
    )


def _refusal(method: bytes, fields: dict[bytes, bytes], *, is_current: bool) -> Refusal | None:
    if b"transfer-encoding" in fields:
        if b"content-length" in fields:
            return Refusal(400, "both Transfer-Encoding and Content-Length; send Content-Length only")
        return Refusal(411, "chunked bodies are not taken; send Content-Length")
    if is_current and b"host" not in fields:
        return Refusal(400, "HTTP/1.1 requests need a Host field")
    for name in (b"content-length", b"inference-header-content-length"):
        if name in fields and _NUMBER.fullmatch(fields[name]) is None:
            return Refusal(400, f"{name.decode()} is not a number")
    if method in (b"POST", b"PUT") and b"content-length" not in fields:
        return Refusal(411, "a request with a body needs Content-Length")
    if fields.get(b"expect", b"100-continue").lower() != b"100-continue":
        return Refusal(417, "the only expectation that can be met is 100-continue")
    return None
