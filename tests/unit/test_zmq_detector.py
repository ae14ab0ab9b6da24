"""The daemon as a Frigate finds its detector: plain pyzmq asks, as Frigate's own plugin does."""

import hashlib
import json

import numpy as np
import pytest
import zmq
from host_graphs import constant, graph, node

from edge_sdk import errors
from edge_sdk.clock import SystemClock
from edge_sdk.device.deployment import Deployment
from edge_sdk.device.entrances import Entrances
from edge_sdk.device.serve import zmq_detector
from edge_sdk.device.settings import DaemonSettings
from edge_sdk.numerics import detections, suppression
from edge_sdk.records import bundle
from edge_sdk.records.tensors import TensorSpec
from edge_sdk.wire import bundles

SIDE, BOXES = 32, 40


def detector():
    """A "detector": its one sure box is where the brightness of the first pixel, 0 to 1, says."""
    rows = np.zeros((1, 6, BOXES), np.float32)
    rows[0, :, 7] = (0, 8, 8, 8, 0, 0.9)  # centre x is what the picture says
    picked = np.zeros((1, 6, BOXES), np.float32)
    picked[0, 0, 7] = SIDE
    nodes = [
        node("Slice", ["image", "start", "end"], ["pixel"], "slice"),
        node("Mul", ["pixel", "picked"], ["where"], "mul"),
        node("Reshape", ["where", "shape"], ["flat"], "reshape"),
        node("Add", ["flat", "rows"], ["boxes"], "add"),
    ]
    weights = [
        constant("start", np.array([0, 0, 0, 0])), constant("end", np.array([1, 1, 1, 1])), constant("rows", rows),
        constant("picked", picked[:, :, None, :]), constant("shape", np.array([1, 6, BOXES])),
    ]  # fmt: skip
    return graph(nodes, weights, {"image": [1, 3, SIDE, SIDE]}, {"boxes": [1, 6, BOXES]})


@pytest.fixture
def folder(tmp_path):
    score = bundle.Score(0.9, 0.8, 1.0)
    files = {bundles.FLOAT_MODEL: detector().SerializeToString(), bundles.CALIBRATION: b"{}"}
    manifest = bundle.Manifest(
        schema=1, name="detector", version="1", counter=0, sdk="0", precision="float",
        inputs=(TensorSpec("image", "float32", (1, 3, SIDE, SIDE)),),
        outputs=(TensorSpec("boxes", "float32", (1, 6, BOXES)),),
        preprocess={"image": bundle.Preprocess(scale=1 / 255)}, classes=("person", "car"),
        calibration=hashlib.sha256(b"{}").hexdigest(),
        verdict=bundle.Verdict("agreement", 10, score, score, score, 0.0, 0.5, True),
        files={name: bundles.file_entry(content) for name, content in files.items()},
    )  # fmt: skip
    return bundles.write_bundle(tmp_path / "detector.edge", manifest, files).path


@pytest.fixture
def served(folder, tmp_path):
    """The entrances of a daemon with a detector's socket, and that socket's address."""
    address = f"ipc://{tmp_path}/detector"
    settings = DaemonSettings(device="cam", bundles=(str(folder),), http_port=0, zmq_address=address, threads=1)
    deployment = Deployment(settings, clocks=SystemClock())
    entrances = Entrances(settings, deployment, clocks=SystemClock(), sample=lambda: None)
    entrances.start()
    yield deployment, entrances, address
    entrances.stop()
    deployment.models.close()


@pytest.fixture
def ask(served):
    context = zmq.Context()
    socket = context.socket(zmq.REQ)
    socket.setsockopt(zmq.RCVTIMEO, 20_000)
    socket.setsockopt(zmq.LINGER, 0)
    socket.connect(served[2])

    def asked(*frames):
        socket.send_multipart(list(frames))
        return socket.recv_multipart()

    yield asked
    socket.close()
    context.term()


def detect(ask, tensor, **header):
    said = {"shape": list(tensor.shape), "dtype": tensor.dtype.name, "model_type": "yologeneric"} | header
    (reply,) = ask(json.dumps(said).encode(), tensor.tobytes())
    assert len(reply) == 20 * 6 * 4
    return np.frombuffer(reply, np.float32).reshape(20, 6)


def picture(level):
    return np.full((1, SIDE, SIDE, 3), level, np.uint8)


def test_a_frame_gives_class_score_and_box_as_shares(ask):
    rows = detect(ask, picture(255 // 2))

    kind, score, top, left, bottom, right = rows[0].tolist()
    assert (kind, score) == (1.0, pytest.approx(0.9))
    assert (top, bottom) == pytest.approx((4 / SIDE, 12 / SIDE))
    assert (left, right) == pytest.approx((127 / 255 - 4 / SIDE, 127 / 255 + 4 / SIDE), abs=1e-6)
    assert not rows[1:].any()


def test_prepared_floats_with_the_channels_first_are_taken_as_they_are(ask):
    given = np.full((1, 3, SIDE, SIDE), 127 / 255, np.float32)

    assert np.allclose(detect(ask, given), detect(ask, picture(127)), atol=1e-6)


def test_it_counts_in_the_models_telemetry(ask, served):
    detect(ask, picture(10))
    detect(ask, np.zeros((1, 5, 5, 3), np.uint8))

    (window,) = served[0].models.windows(1.0)
    assert (window.count, window.errors) == (1, {"input": 1})


@pytest.mark.parametrize(
    "frames",
    [
        [b"{", b""],
        [b"[]"],
        [b'{"shape": [1, 32, 32, 3], "dtype": "uint8"}'],
        [b'{"shape": [1, 32, 32, 3], "dtype": "uint8"}', b"short"],
        [b'{"shape": [4294967296, 4294967296], "dtype": "uint8"}', b""],
        [b'{"shape": [-1], "dtype": "uint8"}', b"x"],
        [b'{"shape": [1], "dtype": "object"}', b"x"],
        [b'{"shape": [8], "dtype": "uint8"}', b"12345678"],
        [b'{"shape": [1, 9, 9, 7], "dtype": "uint8"}', bytes(567)],
    ],
)
def test_what_does_not_fit_gives_zeros_and_the_next_is_answered(ask, frames):
    (reply,) = ask(*frames)

    assert reply == bytes(480)
    assert detect(ask, picture(100))[0, 1] > 0.8


def test_a_newer_frigate_is_told_that_the_model_is_there(ask, served):
    def said(header, *more):
        (reply,) = ask(json.dumps(header).encode(), *more)
        return json.loads(reply)

    assert said({"model_request": True, "model_name": "x.onnx"}) == {"model_available": True, "model_loaded": True}
    sent = said({"model_data": True, "model_name": "x.onnx"}, b"bytes of a model")
    assert sent == {"model_saved": False, "model_loaded": False}
    served[0].models.put("detector", ())
    assert said({"model_request": True}) == {"model_available": False, "model_loaded": False}


def test_the_socket_is_gone_after_the_end_and_a_stale_one_gives_way(folder, tmp_path):
    address = f"ipc://{tmp_path}/detector"
    settings = DaemonSettings(device="cam", bundles=(str(folder),), http_port=0, zmq_address=address)
    deployment = Deployment(settings, clocks=SystemClock())
    for _ in range(2):
        entrances = Entrances(settings, deployment, clocks=SystemClock(), sample=lambda: None)
        assert f"zmq+{address}" in entrances.urls
        entrances.start()
        assert (tmp_path / "detector").stat().st_mode & 0o777 == 0o660
        entrances.stop()
        assert not (tmp_path / "detector").exists()
    deployment.models.close()


def test_a_path_that_is_no_socket_is_left_alone(folder, tmp_path):
    (tmp_path / "detector").write_text("mine")
    settings = DaemonSettings(
        device="cam", bundles=(str(folder),), http_port=0, zmq_address=f"ipc://{tmp_path}/detector"
    )
    deployment = Deployment(settings, clocks=SystemClock())

    with pytest.raises(errors.UsageError, match="is there and is not a socket"):
        Entrances(settings, deployment, clocks=SystemClock(), sample=lambda: None)

    assert (tmp_path / "detector").read_text() == "mine"
    deployment.models.close()


def test_without_a_name_there_must_be_one_model_only(served, tmp_path):
    served[0].models.put("detector", ())

    with pytest.raises(errors.UsageError, match="zmq_address needs zmq_model: no model is served"):
        zmq_detector.open_detector(served[0].models, address=f"ipc://{tmp_path}/x", model=None, body_bytes=1000)


def test_rows_of_twenty_go_through_as_they_are():
    rows = np.random.default_rng(0).random((1, 20, 6)).astype(np.float32)

    assert np.array_equal(zmq_detector.rows_from_outputs(rows, height=1, width=1), rows[0])


def test_a_classifier_is_no_detector():
    with pytest.raises(errors.InputError, match=r"gives \[1, 10\], which is no detector's output"):
        zmq_detector.rows_from_outputs(np.zeros((1, 10)), height=1, width=1)


def test_of_boxes_that_overlap_the_best_of_each_class_stays():
    boxes = np.array([[10.0, 10, 8, 8], [11, 10, 8, 8], [11, 10, 8, 8], [30, 10, 8, 8]])
    scores = np.array([[0.8, 0.0], [0.9, 0.0], [0.0, 0.7], [0.1, 0.1]])

    found = suppression.best_boxes(detections.Rows(boxes, scores))

    assert found.scores.tolist() == [0.9, 0.7]
    assert found.classes.tolist() == [0, 1]
    assert found.corners[0].tolist() == [7.0, 6.0, 15.0, 14.0]
    assert len(suppression.best_boxes(detections.Rows(boxes, scores), most=1).scores) == 1
