"""The HTTP server over real sockets: well-behaved clients, slow ones, hostile ones, and sixteen at once."""

import contextlib
import http.client
import json
import socket
import threading
import time

import numpy as np
import pytest

from edge_sdk import errors
from edge_sdk.clock import SystemClock
from edge_sdk.device.feed import readers
from edge_sdk.device.serve import answers, connection, listening, routes
from edge_sdk.device.serve import http as serving
from edge_sdk.device.serve.models import Model
from edge_sdk.device.serve.regions import Regions
from edge_sdk.device.serve.served import Models
from edge_sdk.device.slots import loading

PATH = "/v2/models/tiny/infer"
X = np.array([[1, 2, 3]], np.float32)
Y = [5.0, 9.0]


def body_of(x=X, **changes):
    tensor = {"name": "x", "shape": list(x.shape), "datatype": "FP32", "data": x.ravel().tolist(), **changes}
    return json.dumps({"inputs": [tensor]}).encode()


def request_of(body=None, path=PATH, *lines):
    body = body_of() if body is None else body
    head = [f"POST {path} HTTP/1.1", "Host: h", f"Content-Length: {len(body)}", *lines, "", ""]
    return "\r\n".join(head).encode() + body


class Served:
    """A server on a free port; `stop` is called at the end whatever happened."""

    def __init__(self, slots, **limits):
        self.models = Models(
            Model(slot.bundle.manifest, slot.bundle.digest, slot.engines, SystemClock()) for slot in slots
        )
        self.answering = routes.Routes(
            self.models, regions=Regions(is_allowed=False), repository=None, decode=readers.decode_picture
        ).answer
        listener, self.url = listening.tcp_listener("127.0.0.1", 0)
        self.server = serving.http_server(
            listener,
            lambda head, body: self.answering(head, body),
            limits=connection.HttpLimits(**limits),
            clocks=SystemClock(),
        )
        self.address = ("127.0.0.1", int(self.url.rpartition(":")[2]))
        self.server.start()

    def client(self):
        return contextlib.closing(http.client.HTTPConnection(*self.address, timeout=10))

    def raw(self):
        return socket.create_connection(self.address, timeout=10)

    def exchange(self, request):
        """Sends raw bytes, gives all that comes back until the server ends the connection."""
        with self.raw() as raw:
            raw.sendall(request)
            raw.shutdown(socket.SHUT_WR)
            return received(raw)

    def window(self):
        return self.models.find("tiny").recorder.window(1.0)

    def is_well(self):
        status, _, answer = ask(self, "POST", PATH, body_of())
        return status == 200 and json.loads(answer)["outputs"][0]["data"] == Y


def received(raw):
    chunks = []
    while chunk := raw.recv(65536):
        chunks.append(chunk)
    return b"".join(chunks)


def ask(served_, method, path, body=None, headers=()):
    with served_.client() as client:
        client.request(method, path, body, dict(headers))
        answer = client.getresponse()
        return answer.status, answer.headers, answer.read()


def status_of(answer):
    return int(answer.split(b" ", 2)[1])


@pytest.fixture
def serve(tiny_bundle):
    slots = loading.load_slots([tiny_bundle.path], backend="onnxruntime", threads=1)
    running = []

    def start(**limits):
        running.append(Served(slots, **limits))
        return running[-1]

    yield start
    for each in running:
        each.server.stop()
        each.models.close()


def test_the_fixed_routes_answer(serve):
    one = serve()
    server = json.loads(ask(one, "GET", "/v2")[2])
    assert (server["name"], "binary_tensor_data" in server["extensions"]) == ("edge_sdk", True)
    assert json.loads(ask(one, "GET", "/v2/health/live")[2]) == {"live": True}
    assert json.loads(ask(one, "GET", "/v2/health/ready")[2]) == {"ready": True}
    assert json.loads(ask(one, "GET", "/v2/models/tiny/ready")[2]) == {"name": "tiny", "ready": True}
    assert b"/v2/models/MODEL/infer" in ask(one, "GET", "/")[2]
    metadata = json.loads(ask(one, "GET", "/v2/models/tiny/versions/1.2.0")[2])
    assert metadata["inputs"] == [{"name": "x", "datatype": "FP32", "shape": [-1, 3]}]
    assert metadata["outputs"] == [{"name": "y", "datatype": "FP32", "shape": [-1, 2]}]


def test_json_in_json_out_with_the_id_echoed(serve):
    body = {**json.loads(body_of()), "id": "q-1"}
    status, headers, answer = ask(serve(), "POST", PATH, json.dumps(body))
    assert (status, headers["Content-Type"]) == (200, "application/json")
    assert json.loads(answer) == {
        "model_name": "tiny",
        "model_version": "1.2.0",
        "outputs": [{"name": "y", "datatype": "FP32", "shape": [1, 2], "data": Y}],
        "id": "q-1",
    }


@pytest.mark.parametrize("rows", [1, 1000, 60_000])
def test_binary_in_binary_out(serve, rows):
    x = np.random.default_rng(1).normal(size=(rows, 3)).astype(np.float32)
    tensor = {"name": "x", "shape": x.shape, "datatype": "FP32", "parameters": {"binary_data_size": x.nbytes}}
    header = json.dumps({"inputs": [tensor], "parameters": {"binary_data_output": True}}).encode()
    headers = {"Inference-Header-Content-Length": str(len(header))}
    status, given, answer = ask(serve(), "POST", PATH, header + x.tobytes(), headers)
    assert status == 200
    length = int(given["Inference-Header-Content-Length"])
    (output,) = json.loads(answer[:length])["outputs"]
    y = np.frombuffer(answer[length:], np.float32).reshape(output["shape"])
    np.testing.assert_allclose(y, x @ np.array([[1, -1], [2, 0.5], [0, 3]], np.float32), rtol=1e-4, atol=1e-5)


def test_raw_pixels_are_preprocessed(serve):
    body = body_of(np.array([[255, 0, 0]], np.uint8), datatype="UINT8")
    assert json.loads(ask(serve(), "POST", PATH, body)[2])["outputs"][0]["data"] == [1.0, -1.0]


@pytest.mark.parametrize(
    ("status", "words", "path", "body"),
    [
        (404, "Request for unknown model: 'zzz' is not found", "/v2/models/zzz/infer", body_of()),
        (
            404,
            "Request for unknown model: 'tiny' version 9 is not found",
            "/v2/models/tiny/versions/9/infer",
            body_of(),
        ),
        (400, "but was given ['z']", PATH, body_of(name="z")),
        (400, "takes float32[N, 3], but was given float32[1, 4]", PATH, body_of(np.zeros((1, 4), np.float32))),
        (400, "takes float32[N, 3], but was given float32[3]", PATH, body_of(np.zeros(3, np.float32))),
        (400, "BYTES", PATH, body_of(datatype="BYTES")),
        (400, "but was given bool[1, 3]", PATH, body_of(datatype="BOOL", data=[True, True, False])),
        (400, "failed to parse the request JSON", PATH, b"\x00\xff"),
        (400, "at most 65536", PATH, body_of(np.zeros((30_000, 3), np.float32))),
        (404, "GET / names them", "/v3", b""),
    ],
)
def test_what_is_wrong_with_a_request_is_said_and_the_connection_goes_on(serve, status, words, path, body):
    one = serve()
    with one.client() as client:
        client.request("POST", path, body)
        answer = client.getresponse()
        assert answer.status == status
        assert words in json.loads(answer.read())["error"]
        first = client.sock
        client.request("POST", PATH, body_of())
        assert json.loads(client.getresponse().read())["outputs"][0]["data"] == Y
        assert client.sock is first


def test_refused_requests_are_counted_and_not_run(serve):
    one = serve()
    ask(one, "POST", PATH, body_of(name="z"))
    ask(one, "POST", PATH, b"{")
    window = one.window()
    assert (window.count, window.errors) == (0, {"input": 2})
    assert one.is_well()
    window = one.window()
    assert (window.count, window.errors, window.queue_depth_max) == (1, {}, 1)
    assert window.stage_ms["post"] > 0


@pytest.mark.parametrize(
    ("method", "path", "allowed"), [("GET", PATH, "POST"), ("POST", "/v2", "GET"), ("PUT", "/v2/models/tiny", "GET")]
)
def test_another_method_is_told_the_right_one(serve, method, path, allowed):
    status, headers, _ = ask(serve(), method, path, b"" if method != "GET" else None)
    assert (status, headers["Allow"]) == (405, allowed)


def test_head_gets_no_body(serve):
    assert ask(serve(), "HEAD", "/v2")[2] == b""


def test_a_short_tensor_is_a_400(serve):
    tensor = {"name": "x", "shape": [1, 3], "datatype": "FP32", "parameters": {"binary_data_size": 12}}
    header = json.dumps({"inputs": [tensor]}).encode()
    for body in (header + b"\0" * 8, header):
        status, _, answer = ask(serve(), "POST", PATH, body, {"Inference-Header-Content-Length": str(len(header))})
        assert status == 400
        assert "more" in json.loads(answer)["error"]


def test_an_engine_that_fails_is_a_500_with_its_words(serve):
    one = serve()
    one.models.find("tiny").engine.close()
    status, _, answer = ask(one, "POST", PATH, body_of())
    assert (status, json.loads(answer)) == (500, {"error": "engine 'onnxruntime' is closed"})
    assert one.window().errors == {"engine": 1}


def test_a_fault_of_ours_is_a_500_without_details_and_the_server_lives(serve, monkeypatch, caplog):
    one = serve()
    monkeypatch.setattr(one.models.find("tiny"), "run", lambda *_: 1 / 0)
    status, _, answer = ask(one, "POST", PATH, body_of())
    assert status == 500
    assert b"ZeroDivision" not in answer
    assert "ZeroDivisionError" in caplog.text
    monkeypatch.undo()
    assert one.is_well()


def test_pipelined_requests_are_answered_in_order(serve):
    bodies = [body_of(np.array([[number, 0, 0]], np.float32)) for number in range(20)]
    answers = serve().exchange(b"".join(map(request_of, bodies)))
    found = [
        json.loads(part.partition(b"\r\n\r\n")[2])["outputs"][0]["data"][0] for part in answers.split(b"HTTP/1.1")[1:]
    ]
    assert found == list(range(20))


def test_a_request_may_come_byte_by_byte(serve):
    request = request_of()
    with serve().raw() as raw:
        raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for position in range(len(request)):
            raw.sendall(request[position : position + 1])
        assert b" 200 OK" in raw.recv(65536)


def test_empty_lines_before_a_request_are_ignored(serve):
    assert status_of(serve().exchange(b"\r\n\r\n" + request_of())) == 200


def test_expect_100_continue_is_met_before_the_body(serve):
    body = body_of()
    with serve().raw() as raw:
        raw.sendall(
            request_of(b"", PATH).replace(
                b"Content-Length: 0", b"Content-Length: %d\r\nExpect: 100-continue" % len(body)
            )
        )
        assert raw.recv(100) == b"HTTP/1.1 100 Continue\r\n\r\n"
        raw.sendall(body)
        assert b" 200 OK" in raw.recv(65536)


def test_a_body_above_the_limit_is_refused_before_it_is_read_also_when_the_client_keeps_sending(serve):
    one = serve(body_bytes=1024)
    with one.client() as client:
        client.request("POST", PATH, b"x" * 3_000_000)
        answer = client.getresponse()
        assert answer.status == 413
        assert "at most 1024" in json.loads(answer.read())["error"]
    with one.raw() as raw:
        raw.sendall(b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 1025\r\nExpect: 100-continue\r\n\r\n")
        assert status_of(raw.recv(1000)) == 413
    assert one.is_well()


@pytest.mark.parametrize(
    ("status", "request_"),
    [
        (400, b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\nContent-Length: 30\r\n\r\nabc"),
        (400, b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length : 3\r\n\r\nabc"),
        (400, b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
        (411, b"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
        (400, b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n"),
        (400, b"hello\r\n\r\n"),
        (431, b"GET / HTTP/1.1\r\nHost: h\r\nX: " + b"a" * 20_000),
    ],
)
def test_a_head_that_cannot_be_trusted_ends_the_connection_and_nothing_behind_it_is_read(serve, status, request_):
    one = serve()
    answer = one.exchange(request_ + request_of())
    assert status_of(answer) == status
    assert answer.count(b"HTTP/1.1 ") == 1
    assert b"Connection: close" in answer
    assert one.window().count == 0
    assert one.is_well()


@pytest.mark.parametrize("request_", [b"", b"GET / HT", request_of()[:-5]])
def test_a_client_that_goes_away_in_the_middle_leaves_nothing_behind(serve, request_):
    one = serve()
    assert one.exchange(request_) == b""
    assert one.window().count == 0
    assert one.is_well()


def test_sixteen_connections_at_once(serve):
    one, each = serve(), 25
    wrong = []

    def work(number):
        x = np.full((1, 3), number, np.float32)
        with one.client() as client:
            for _ in range(each):
                client.request("POST", PATH, body_of(x))
                data = json.loads(client.getresponse().read())["outputs"][0]["data"]
                if data != [3.0 * number, 2.5 * number]:
                    wrong.append(data)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    window = one.window()
    assert (window.count, window.errors) == (16 * each, {})


def test_one_client_too_many_is_told_so_and_a_place_becomes_free_again(serve):
    one = serve(connections=2)
    with one.client() as first, one.client() as second:
        for client in (first, second):
            client.request("GET", "/v2")
            client.getresponse().read()
        with one.raw() as third:
            answer = received(third)
        assert status_of(answer) == 503
    deadline = time.monotonic() + 10
    while True:  # the server notices the end of a connection by itself
        assert time.monotonic() < deadline
        with contextlib.suppress(OSError, http.client.HTTPException):  # turned away in the middle of its request
            if one.is_well():
                break


def test_a_client_for_whom_there_is_no_thread_is_told_so_and_the_next_one_is_served(serve, monkeypatch):
    one, start = serve(), threading.Thread.start
    refused = []

    def start_or_not(thread):
        if thread.name == "http client" and not refused:
            refused.append(thread)
            raise RuntimeError("can't start new thread")
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", start_or_not)
    with one.raw() as first:
        assert status_of(received(first)) == 503
    assert refused
    assert one.is_well()


def test_a_silent_client_is_let_go_and_a_slow_head_is_told(serve):
    one = serve(idle_s=0.2, request_s=0.2)
    with one.raw() as silent, one.raw() as slow, one.raw() as slow_body:
        slow.sendall(b"GET / HTTP/1.1\r\n")
        slow_body.sendall(request_of()[:-5])
        assert received(silent) == b""
        assert status_of(received(slow)) == 408
        assert status_of(received(slow_body)) == 408
    assert one.window().count == 0


def test_stopping_lets_a_running_request_finish_and_takes_no_other(serve):
    one = serve()
    entered, leave, answering = threading.Event(), threading.Event(), one.answering

    def slow(head, body):
        entered.set()
        leave.wait(10)
        return answering(head, body)

    one.answering = slow
    with one.raw() as busy, one.raw() as idle:
        busy.sendall(request_of())
        assert entered.wait(10)
        stopping = threading.Thread(target=one.server.stop)
        stopping.start()
        assert received(idle) == b""  # the idle connection ends at once
        leave.set()
        answer = received(busy)
        stopping.join()
    assert status_of(answer) == 200
    assert b"Connection: close" in answer
    with pytest.raises(ConnectionRefusedError):
        one.raw()


def test_stopping_does_not_wait_for_ever(serve):
    one = serve(stop_s=0.3)
    never, entered = threading.Event(), threading.Event()
    one.answering = lambda head, body: (entered.set(), never.wait(30), answers.failure(500, ""))[2]
    with one.raw() as busy:
        busy.sendall(request_of())
        assert entered.wait(10)
        one.server.stop()
        assert received(busy) == b""
    never.set()


def test_a_taken_port_is_a_usage_error_that_says_what_to_do(serve):
    one = serve()
    with pytest.raises(errors.UsageError, match=r"cannot listen on 127\.0\.0\.1 port \d+: .*choose another"):
        listening.tcp_listener(*one.address)


def test_a_model_that_is_being_taken_down_is_not_ready(serve):
    one = serve()
    one.models.is_ready = False
    status, _, answer = ask(one, "GET", "/v2/health/ready")
    assert (status, json.loads(answer)) == (503, {"ready": False})
