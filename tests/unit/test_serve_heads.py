"""Heads of HTTP requests: one reading only, and everything that two parsers could read differently is refused."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_sdk.device.serve import heads


def parsed(*lines, start="POST /v2/models/m/infer HTTP/1.1", host="Host: h"):
    return heads.parse("\r\n".join(filter(None, (start, host, *lines))).encode("latin-1"))


def test_a_request_says_what_to_read():
    head = parsed("Content-Length: 12", "Inference-Header-Content-Length: 7", "Expect: 100-continue")
    assert head == heads.Head("POST", "/v2/models/m/infer", 12, 7, keeps_alive=True, awaits_continue=True)


def test_types_come_without_parameters():
    head = parsed("Content-Length: 1", "Content-Type: Image/JPEG; q=1", "Accept: application/octet-stream")
    assert (head.content_type, head.accept) == ("image/jpeg", "application/octet-stream")


def test_the_query_is_not_part_of_the_path():
    assert parsed(start="GET /v2?x=1 HTTP/1.1").path == "/v2"


@pytest.mark.parametrize("name", ["content-length", "CONTENT-LENGTH", "Content-length"])
def test_field_names_have_no_case_and_values_no_outer_blanks(name):
    assert parsed(f"{name}:\t 5 \t").body_bytes == 5


@pytest.mark.parametrize("options", ["close", "Close", "keep-alive, close", "TE,close"])
def test_the_client_may_end_the_connection(options):
    assert not parsed(f"Connection: {options}", start="GET / HTTP/1.1").keeps_alive


def test_http_1_0_gets_an_answer_without_host_and_no_second_one():
    head = parsed("Connection: keep-alive", start="GET / HTTP/1.0", host="")
    assert isinstance(head, heads.Head)
    assert not head.keeps_alive


@pytest.mark.parametrize(
    ("status", "lines"),
    [
        (400, ["Content-Length: 5", "Content-Length: 5"]),
        (400, ["Content-Length: 5", "content-length: 6"]),
        (400, ["Content-Length: 5, 5"]),
        (400, ["Content-Length: +5"]),
        (400, ["Content-Length: 5_0"]),
        (400, ["Content-Length: 0x5"]),
        (400, ["Content-Length: -1"]),
        (400, ["Content-Length:"]),
        (400, ["Content-Length: \u00b2"]),
        (400, ["Content-Length: 9999999999999999999999"]),
        (400, ["Content-Length : 5"]),
        (400, ["Content-Length\t: 5"]),
        (400, [" Content-Length: 5"]),
        (400, ["Content-Length: 5", " folded"]),
        (400, ["Content-Length: 5", "Transfer-Encoding: chunked"]),
        (400, ["Transfer-Encoding: chunked", "Transfer-Encoding: identity"]),
        (411, ["Transfer-Encoding: chunked"]),
        (411, []),
        (400, ["Content-Length: 5", "Inference-Header-Content-Length: x"]),
        (400, ["Content-Length: 5", "Inference-Header-Content-Length: 1", "Inference-Header-Content-Length: 2"]),
        (400, ["Content-Length: 5", "no colon"]),
        (400, ["Content-Length: 5", ": no name"]),
        (400, ["Content-Length: 5", "a\nContent-Length: 6"]),
        (400, ["Content-Length: 5\nX: y"]),
        (400, ["Content-Length: 5\rX: y"]),
        (400, ["X: \0", "Content-Length: 5"]),
        (400, ["Content-Length: 5", "Host: other"]),
        (417, ["Content-Length: 5", "Expect: 200-ok"]),
    ],
)
def test_what_could_be_read_two_ways_is_refused(status, lines):
    refusal = parsed(*lines)
    assert isinstance(refusal, heads.Refusal)
    assert refusal.status == status


@pytest.mark.parametrize(
    ("status", "start"),
    [
        (400, "GET /"),
        (400, "GET / HTTP/1.1 "),
        (400, "GET  / HTTP/1.1"),
        (400, "GET\t/ HTTP/1.1"),
        (400, "GET / http/1.1"),
        (400, "G(T / HTTP/1.1"),
        (400, "GET /\x7f HTTP/1.1"),
        (400, "GET /ü HTTP/1.1"),
        (400, "\x16\x03\x01"),
        (505, "GET / HTTP/2.0"),
        (505, "GET / HTTP/0.9"),
    ],
)
def test_another_request_line_is_refused(status, start):
    refusal = parsed(start=start)
    assert isinstance(refusal, heads.Refusal)
    assert refusal.status == status


def test_http_1_1_needs_a_host():
    assert parsed(start="GET / HTTP/1.1", host="").status == 400


@given(st.binary(max_size=200))
def test_no_bytes_make_it_raise(raw):
    assert isinstance(heads.parse(raw), heads.Head | heads.Refusal)


@given(st.text(st.characters(max_codepoint=255), max_size=60))
def test_no_field_makes_it_raise_or_changes_the_length(text):
    found = parsed("Content-Length: 5", text)
    assert isinstance(found, heads.Refusal) or found.body_bytes == 5


def test_every_status_that_is_refused_has_its_reason():
    assert {400, 404, 405, 408, 411, 413, 417, 431, 500, 503, 505} <= heads.REASONS.keys()


def test_the_head_of_an_answer_ends_with_an_empty_line():
    head = heads.answer_head(
        405, content_type="text/plain", body_bytes=3, header_bytes=2, allow="GET", keeps_alive=False
    )
    assert head == (
        b"HTTP/1.1 405 Method Not Allowed\r\nContent-Type: text/plain\r\nContent-Length: 3\r\n"
        b"Inference-Header-Content-Length: 2\r\nAllow: GET\r\nConnection: close\r\n\r\n"
    )
