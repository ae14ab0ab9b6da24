"""JPEG and PNG in requests: as the network would have been given them; damaged, lying and huge ones."""

import hashlib
import http.client
import io
import json
import re
import struct
import threading
import tracemalloc
import zlib

import numpy as np
import pytest
from onnx import TensorProto, helper
from PIL import Image
from test_serve_swap import Rig

from edge_sdk import errors
from edge_sdk.device.feed import pillow, readers
from edge_sdk.device.serve import grpc_requests, pictures
from edge_sdk.numerics import pictures as geometry
from edge_sdk.numerics import preprocess
from edge_sdk.records import bundle
from edge_sdk.records.tensors import TensorSpec
from edge_sdk.wire import bundles

RULE = bundle.Preprocess(scale=1 / 255, mean=(0.1, 0.2, 0.3), std=(1.0, 1.0, 1.0), resize="letterbox")
SHAPE = ("N", 3, 8, 8)


def write(folder, name, shape=SHAPE, rules=None):
    """Writes a bundle whose output is its prepared input."""
    graph = helper.make_graph(
        [helper.make_node("Identity", ["x"], ["y"])],
        name,
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, shape)],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9).SerializeToString()
    free = tuple(None if isinstance(axis, str) else axis for axis in shape)
    score = bundle.Score(0.9, 0.8, 1.0)
    files = {bundles.FLOAT_MODEL: model, bundles.CALIBRATION: b"{}"}
    manifest = bundle.Manifest(
        schema=bundle.SCHEMA, name=name, version="1", counter=1, sdk="0", precision="float",
        inputs=(TensorSpec("x", "float32", free),), outputs=(TensorSpec("y", "float32", free),),
        preprocess={"x": RULE} if rules is None else rules, classes=(),
        calibration=hashlib.sha256(files[bundles.CALIBRATION]).hexdigest(),
        verdict=bundle.Verdict("top-1", 10, score, score, score, 0.0, 0.5, True),
        files={file: bundles.file_entry(content) for file, content in files.items()},
    )  # fmt: skip
    bundles.write_bundle(folder / f"{name}.edge", manifest, files)


@pytest.fixture(scope="module")
def rig(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bundles")
    write(folder, "camera")
    write(folder, "unprepared", rules={})
    write(folder, "vector", shape=("N", 8))
    one = Rig(folder, shared_memory=True)
    yield one
    one.close()


def encoded(kind="JPEG", size=(20, 10), seed=0):
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, kind)
    return file.getvalue()


def wanted(content):
    pixels = pillow.picture_from_bytes(content, 10**6)
    layout = geometry.layout_from_shape((None, 3, 8, 8), RULE)
    return preprocess.prepared(geometry.raw_from_picture(pixels, layout, RULE), RULE)


def elements(*contents):
    return b"".join(struct.pack("<I", len(content)) + content for content in contents)


def ask(rig, body, model="camera", **headers):
    """Gives status, JSON and raw tensors."""

    client = http.client.HTTPConnection(rig.host, timeout=10)
    client.request("POST", f"/v2/models/{model}/infer", body, {k.replace("_", "-"): v for k, v in headers.items()})
    answer = client.getresponse()
    size = int(answer.getheader("Inference-Header-Content-Length") or 0)
    found = answer.read()
    client.close()
    return answer.status, json.loads(found[:size] if size else found), found[size:] if size else b""


def ask_with_tensor(rig, raw, shape, model="camera"):
    tensor = {"name": "x", "shape": shape, "datatype": "BYTES", "parameters": {"binary_data_size": len(raw)}}
    header = json.dumps({"inputs": [tensor], "parameters": {"binary_data_output": True}}).encode()
    return ask(rig, header + raw, model, Inference_Header_Content_Length=str(len(header)))


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_a_picture_is_what_the_bundle_declares_of_it(rig, kind):
    content = encoded(kind)
    status, answer, raw = ask(rig, content, Content_Type=f"image/{kind.lower()}", Accept="application/octet-stream")
    assert (status, answer["outputs"][0]["shape"]) == (200, [1, 3, 8, 8])
    np.testing.assert_array_equal(np.frombuffer(raw, np.float32).reshape(1, 3, 8, 8), wanted(content))
    _, answer, _ = ask(rig, content, Content_Type=f"image/{kind.lower()}")
    np.testing.assert_allclose(answer["outputs"][0]["data"], wanted(content).reshape(-1), rtol=1e-6)


def test_pictures_in_a_tensor_of_bytes_are_the_rows_of_a_batch(rig):
    contents = [encoded(size=(20, 10)), encoded("PNG", size=(5, 30), seed=1)]
    status, answer, raw = ask_with_tensor(rig, elements(*contents), [2])
    assert (status, answer["outputs"][0]["shape"]) == (200, [2, 3, 8, 8])
    rows = np.frombuffer(raw, np.float32).reshape(2, 3, 8, 8)
    np.testing.assert_array_equal(rows, np.concatenate([wanted(content) for content in contents]))


def test_over_grpc_too(rig):
    model, content = rig.models.find("camera"), encoded()
    unfold = pictures.unfolder(model, readers.decode_picture)
    message = {
        "inputs": [{"name": "x", "shape": [1], "datatype": "BYTES"}],
        "raw_input_contents": [memoryview(elements(content))],
    }
    feeds = grpc_requests.request_from_message(message, read=None, unfold=unfold).feeds
    np.testing.assert_array_equal(model.infer(feeds)["y"], wanted(content))


def test_opencv_where_there_is_no_pillow_gives_nearly_the_same():
    pytest.importorskip("cv2", reason="OpenCV is not installed (pip install 'edge_sdk[camera]')")
    camera = pytest.importorskip("edge_sdk.device.feed.camera")
    content = encoded("PNG")
    np.testing.assert_array_equal(camera.picture_from_bytes(content, 10**6), pillow.picture_from_bytes(content, 10**6))
    for decode in (camera.picture_from_bytes, pillow.picture_from_bytes):
        with pytest.raises(errors.DataError, match="20 x 10 pixels, at most 199"):
            decode(content, 199)
        with pytest.raises(errors.DataError):
            decode(b"", 199)


def bomb_png(width, height):
    """A PNG of black pixels: a thousandth of what it unfolds to."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    lines = zlib.compress(bytes((width // 8 + 1) * height), 9)
    head = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", lines) + chunk(b"IEND", b"")


def lying_jpeg(width, height):
    """A small JPEG whose head says that it is huge."""
    content = bytearray(encoded())
    at = content.index(b"\xff\xc0")
    content[at + 5 : at + 9] = struct.pack(">HH", height, width)
    return bytes(content)


def two_heads():
    """A JPEG that says it is small first, and huge in a second frame header."""
    content = encoded()
    at = content.index(b"\xff\xc0")
    length = 2 + int.from_bytes(content[at + 2 : at + 4], "big")
    second = bytearray(content[at : at + length])
    second[5:9] = struct.pack(">HH", 60000, 60000)
    return content[: at + length] + bytes(second) + content[at + length :]


@pytest.mark.parametrize(
    ("words", "content"),
    [
        ("neither", b""),
        ("neither", b"GIF89a" + bytes(100)),
        ("ends before", b"\xff\xd8\xff"),
        ("ends before", b"\xff\xd8" + b"\xff" * 50),
        ("truncated|refused", encoded()[:300]),
        ("refused", encoded("PNG")[:60]),
        ("refused", encoded("PNG")[:200] + bytes(300)),
        ("0 x 0", encoded("PNG")[:16] + bytes(200)),
        ("unfolds to 30000 x 30000", bomb_png(30000, 30000)),
        ("unfolds to 65500 x 65500", lying_jpeg(65500, 65500)),
        ("refused", two_heads()),
    ],
)
def test_what_is_no_picture_or_too_large_is_a_400_that_says_why(rig, words, content):
    for status, answer, _ in (
        ask(rig, content, Content_Type="image/jpeg"),
        ask_with_tensor(rig, elements(content), [1]),
    ):
        assert status == 400
        assert re.search(words, answer["error"]), answer


def test_a_bomb_is_refused_before_memory_is_taken_for_it(rig):

    content = bomb_png(30000, 30000)
    assert len(content) < 200_000
    tracemalloc.start()
    try:
        status, _, _ = ask(rig, content, Content_Type="image/png")
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert status == 400
    assert peak < 5_000_000
    assert ask(rig, encoded(), Content_Type="image/png")[0] == 200  # a JPEG whatever its type says


def test_many_small_pictures_are_no_way_around_the_limit(rig, monkeypatch):
    monkeypatch.setattr(pictures, "MAX_PIXELS", 500)
    assert ask_with_tensor(rig, elements(encoded(), encoded()), [2])[0] == 200
    status, answer, _ = ask_with_tensor(rig, elements(*[encoded()] * 3), [3])
    assert (status, "picture 2" in answer["error"]) == (400, True)


@pytest.mark.parametrize(
    ("words", "raw", "shape"),
    [
        ("are not 2 elements", elements(encoded()), [2]),
        ("are not 1 elements", elements(encoded(), encoded()), [1]),
        ("are not 0 elements", b"", [0]),
        ("has 4294967295 bytes", b"\xff\xff\xff\xff" + b"abc", [1]),
        ("are not 1 elements", b"abc", [1]),
    ],
)
def test_elements_that_are_not_as_said_are_refused(rig, words, raw, shape):
    status, answer, _ = ask_with_tensor(rig, raw, shape)
    assert (status, words in answer["error"]) == (400, True), answer


@pytest.mark.parametrize(("model", "words"), [("unprepared", "declares no preprocessing"), ("vector", "no pictures")])
def test_a_model_that_takes_none_says_so(rig, model, words):
    status, answer, _ = ask(rig, encoded(), model, Content_Type="image/jpeg")
    assert (status, words in answer["error"]) == (400, True), answer


def test_threads_may_send_pictures_at_once(rig):
    contents = [encoded(seed=seed) for seed in range(8)]
    found = {}

    def send(number):
        found[number] = ask(rig, contents[number], Content_Type="image/jpeg", Accept="application/octet-stream")[2]

    threads = [threading.Thread(target=send, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    for number, content in enumerate(contents):
        assert found[number] == wanted(content).tobytes()
