"""gRPC v2 with our own codec: messages arrive as they were, whatever the bytes; errors have their status codes."""

import struct

import grpc
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_serve_swap import Rig

from edge_sdk import errors
from edge_sdk.device import entrances
from edge_sdk.device.deployment import Deployment
from edge_sdk.device.serve import grpc_messages as messages
from edge_sdk.device.serve import grpc_requests
from edge_sdk.device.settings import DaemonSettings
from edge_sdk.testing.clock import FakeClock
from edge_sdk.wire import protobuf

X = np.array([[1, 2, 3]], np.float32)


def values_of(fields):
    """Strategy of messages that a table can carry; what is absent, zero or empty is left out, as on the wire."""

    def one(field):
        return {
            "int": st.integers(-(2**63), 2**63 - 1),
            "bool": st.booleans(),
            "double": st.floats(allow_nan=False),
            "float": st.floats(allow_nan=False, width=32),
            "string": st.text(max_size=20),
            "bytes": st.binary(max_size=20),
            "enum": st.sampled_from(field.names or ("",)),
            "message": values_of(field.fields or {}),
        }[field.kind]

    def value(field):
        if field.kind == "map":
            return st.dictionaries(st.text(max_size=5), values_of(field.fields), max_size=3)
        return st.lists(one(field), max_size=3) if field.is_repeated else one(field)

    return st.fixed_dictionaries({}, optional={field.name: value(field) for field in fields.values()})


def on_the_wire(message, fields):
    """Gives what arrives of a message: what is zero or empty takes no bytes, except in lists and maps."""

    def one(field, value):
        if field.kind == "message":
            return on_the_wire(value, field.fields)
        return bytes(value) if field.kind == "bytes" else value

    found = {}
    for field in fields.values():
        value = message.get(field.name)
        if not value:
            continue
        if field.kind == "map":
            found[field.name] = {key: on_the_wire(each, field.fields) for key, each in value.items()}
        else:
            found[field.name] = [one(field, each) for each in value] if field.is_repeated else one(field, value)
    return found


def plain(value):
    """Gives a decoded message with its views as bytes."""
    if isinstance(value, dict):
        return {key: plain(each) for key, each in value.items()}
    if isinstance(value, list):
        return [plain(each) for each in value]
    return bytes(value) if isinstance(value, memoryview) else value


@pytest.mark.parametrize("name", ["INFER_REQUEST", "INFER_RESPONSE", "STATISTICS", "REGIONS", "MODEL_CONFIG"])
def test_a_message_arrives_as_it_was(name):
    fields = getattr(messages, name)

    @given(values_of(fields))
    def check(message):
        payload = protobuf.encode(message, fields)
        found = protobuf.decode(memoryview(payload), fields)
        assert plain(found) == on_the_wire(message, fields)

    check()


@given(st.binary(max_size=200))
def test_any_bytes_are_a_message_or_an_input_error(payload):
    try:
        found = protobuf.decode(memoryview(payload), messages.INFER_REQUEST)
        grpc_requests.request_from_message(found, lambda place: memoryview(b""))
    except errors.InputError:
        pass


def test_unknown_fields_are_skipped_and_numbers_may_come_packed_or_not():
    shape = messages.INFER_REQUEST[5].fields
    unpacked = b"\x18\x02\x18\x03" + b"\x98\x06\x01" + b"\x18\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01"
    assert protobuf.decode(memoryview(unpacked), shape) == {"shape": [2, 3, -1]}
    assert protobuf.encode({"shape": [2, 300]}, shape) == b"\x1a\x03\x02\xac\x02"


@pytest.mark.parametrize(
    ("datatype", "field", "values"),
    [
        ("FP32", "fp32_contents", [1.5, -2.0]),
        ("FP64", "fp64_contents", [1.5, -2.0]),
        ("INT8", "int_contents", [-128, 127]),
        ("UINT8", "uint_contents", [0, 255]),
        ("INT64", "int64_contents", [-(2**63), 5]),
        ("UINT64", "uint64_contents", [2**63 - 1, 0]),
        ("BOOL", "bool_contents", [True, False]),
    ],
)
def test_typed_contents_become_tensors(datatype, field, values):
    message = {"inputs": [{"name": "x", "datatype": datatype, "shape": [2], "contents": {field: values}}]}
    payload = protobuf.encode(message, messages.INFER_REQUEST)
    found = grpc_requests.request_from_message(protobuf.decode(memoryview(payload), messages.INFER_REQUEST), None)
    assert found.feeds["x"].tolist() == values


@pytest.mark.parametrize(
    ("words", "change"),
    [
        ("expecting 12", {"raw_input_contents": [b"12345678"]}),
        ("has no data", {"raw_input_contents": []}),
        ("came for 1 inputs", {"raw_input_contents": [X.tobytes()] * 2}),
        ("datatype 'BYTES'", {"inputs": [{"name": "x", "datatype": "BYTES", "shape": [1, 3]}]}),
        ("negative", {"inputs": [{"name": "x", "datatype": "FP32", "shape": [-1, -3]}]}),
        (
            "int_contents",
            {"inputs": [{"name": "x", "datatype": "FP32", "shape": [1], "contents": {"int_contents": [1]}}]},
        ),
        (
            "does not hold",
            {
                "inputs": [{"name": "x", "datatype": "INT8", "shape": [1], "contents": {"int_contents": [300]}}],
                "raw_input_contents": [],
            },
        ),
        ("given twice", {"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 3]}] * 2}),
        ("timeout is -5", {"parameters": {"timeout": {"int64_param": -5}}}),
    ],
)
def test_a_request_that_does_not_fit_itself_is_refused(words, change):
    message = {
        "model_name": "tiny",
        "inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 3]}],
        "raw_input_contents": [X.tobytes()],
    } | change
    payload = protobuf.encode(message, messages.INFER_REQUEST)
    with pytest.raises(errors.InputError, match=words):
        grpc_requests.request_from_message(protobuf.decode(memoryview(payload), messages.INFER_REQUEST), None)


@pytest.fixture
def rig(tmp_path, write_bundle, tiny_onnx):
    write_bundle(tmp_path / "tiny.edge", tiny_onnx, name="tiny")
    one = Rig(tmp_path, grpc_port=0, grpc_socket=str(tmp_path / "grpc.sock"), http_body_bytes=1 << 20)
    yield one
    one.close()
    assert not (tmp_path / "grpc.sock").exists()


def call(rig, method, message, request, response, *, unix=False):
    urls = rig.entrances.urls[1:]
    address = urls[1].removeprefix("grpc+") if unix else urls[0].removeprefix("grpc://")
    with grpc.insecure_channel(address) as channel:
        ask = channel.unary_unary(f"/{messages.SERVICE}/{method}")
        return protobuf.decode(memoryview(ask(protobuf.encode(message, request), timeout=10)), response)


def infer_message(**changes):
    tensor = {"name": "x", "datatype": "FP32", "shape": [1, 3]}
    return {"model_name": "tiny", "id": "q", "inputs": [tensor], "raw_input_contents": [X.tobytes()]} | changes


@pytest.mark.parametrize("unix", [False, True])
def test_an_inference(rig, unix):
    found = call(rig, "ModelInfer", infer_message(), messages.INFER_REQUEST, messages.INFER_RESPONSE, unix=unix)
    assert struct.unpack("<2f", found["raw_output_contents"][0]) == (5.0, 9.0)
    assert (found["id"], found["model_version"]) == ("q", "1.2.0")
    assert rig.models.find("tiny").recorder.window(1.0).count == 1


@pytest.mark.parametrize(
    ("code", "change"),
    [
        (grpc.StatusCode.NOT_FOUND, {"model_name": "zzz"}),
        (grpc.StatusCode.NOT_FOUND, {"model_version": "9"}),
        (grpc.StatusCode.INVALID_ARGUMENT, {"raw_input_contents": [b"1"]}),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, {"raw_input_contents": [bytes(2 << 20)]}),
    ],
)
def test_errors_have_their_codes(rig, code, change):
    with pytest.raises(grpc.RpcError) as refusal:
        call(rig, "ModelInfer", infer_message(**change), messages.INFER_REQUEST, messages.INFER_RESPONSE)
    assert refusal.value.code() == code


def test_a_busy_model_is_unavailable_and_a_fault_of_ours_internal(rig, monkeypatch, caplog):
    model = rig.models.find("tiny")
    engine = model._gate.take()
    busy = infer_message(parameters={"timeout": {"int64_param": 1000}})
    for code in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.INTERNAL):
        with pytest.raises(grpc.RpcError) as refusal:
            call(rig, "ModelInfer", busy, messages.INFER_REQUEST, messages.INFER_RESPONSE)
        assert refusal.value.code() == code
        monkeypatch.setattr(model, "run", lambda *_: 1 / 0)
    assert "ZeroDivision" not in refusal.value.details()
    assert "ZeroDivisionError" in caplog.text
    model._gate.give(engine)


def test_without_the_package_the_daemon_says_what_to_install(tmp_path, monkeypatch):
    def missing(spec):
        raise ModuleNotFoundError("No module named 'grpc'", name="grpc")

    monkeypatch.setattr(entrances.imports, "object_from_spec", missing)
    settings = DaemonSettings(http_port=0, grpc_port=0)
    deployment = Deployment(settings, clocks=FakeClock())
    with pytest.raises(errors.UsageError, match=r"pip install 'edge_sdk\[grpc\]'"):
        entrances.Entrances(settings, deployment, clocks=FakeClock(), sample=lambda: None)


def test_a_taken_port_is_a_usage_error(rig):
    port = int(rig.entrances.urls[1].rpartition(":")[2])
    settings = DaemonSettings(http_port=0, grpc_port=port)
    with pytest.raises(errors.UsageError, match="for gRPC"):
        entrances.Entrances(settings, rig.deployment, clocks=FakeClock(), sample=lambda: None)
