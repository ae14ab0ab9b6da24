"""``edge-sdk run`` with a real broker: results as events of the device."""

import hashlib
import json

import msgspec
import numpy as np
import pytest
from onnx import TensorProto, helper

from edge_sdk.cli import main
from edge_sdk.records import bundle, telemetry
from edge_sdk.records.tensors import TensorSpec
from edge_sdk.wire import bundles

pytestmark = pytest.mark.live


@pytest.fixture
def net(tmp_path):
    """A "classifier" of the brightest colour."""
    nodes = [
        helper.make_node("GlobalAveragePool", ["image"], ["mean"]),
        helper.make_node("Flatten", ["mean"], ["colours"]),
    ]
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, 3, 8, 8])],
        [helper.make_tensor_value_info("colours", TensorProto.FLOAT, [1, 3])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9).SerializeToString()
    score = bundle.Score(0.9, 0.8, 1.0)
    files = {bundles.FLOAT_MODEL: model, bundles.CALIBRATION: b"{}"}
    manifest = bundle.Manifest(
        schema=1, name="colours", version="1", counter=0, sdk="0", precision="float",
        inputs=(TensorSpec("image", "float32", (1, 3, 8, 8)),), outputs=(TensorSpec("colours", "float32", (1, 3)),),
        preprocess={"image": bundle.Preprocess(scale=1 / 255)}, classes=("red", "green", "blue"),
        calibration=hashlib.sha256(b"{}").hexdigest(),
        verdict=bundle.Verdict("top-1", 10, score, score, score, 0.0, 0.5, True),
        files={name: bundles.file_entry(content) for name, content in files.items()},
    )  # fmt: skip
    return bundles.write_bundle(tmp_path / "colours.edge", manifest, files).path


def test_results_reach_whoever_listens_to_the_device(net, broker, new_link, until, tmp_path, capsys):
    (tmp_path / "frames").mkdir()
    for number in range(3):
        frame = np.zeros((20, 30, 3), np.uint8)
        frame[..., number] = 200
        np.save(tmp_path / "frames" / f"{number}.npy", frame)
    listener, got = new_link(), []
    listener.subscribe("edge/v1/lab/cam-1/up/event", got.append)
    listener.open()
    assert listener.wait_for_connected(10)

    arguments = ["--source", str(tmp_path / "frames"), "--sink", broker.url, "--sink", "-"]
    assert main.run(["run", str(net), *arguments, "--site", "lab", "--device", "cam-1"]) == 0

    until(lambda: len(got) == 3, "three events")
    events = [msgspec.json.decode(message.payload, type=telemetry.Event) for message in got]
    printed = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [json.loads(event.details["result"]) for event in events] == printed
    assert [one["top"][0]["name"] for one in printed] == ["red", "green", "blue"]
    assert {(event.kind, event.device) for event in events} == {("result", "cam-1")}
