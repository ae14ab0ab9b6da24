"""A region that is cut short between the check of its length and the last byte that is read or written."""

import signal
import subprocess
import sys
import uuid
from pathlib import Path

import pytest

SCRIPT = """
import os, sys
import numpy as np
from edge_sdk import errors
from edge_sdk.device.serve import bus_guard
from edge_sdk.device.serve.regions import Regions
from edge_sdk.device.serve.v2 import Place

key, how, is_guarded = sys.argv[1], sys.argv[2], sys.argv[3] == "guarded"
size = 3 * 224 * 224 * 4
place = Place("r", 0, size)
regions = Regions(is_allowed=True)
regions.register("r", key=key, offset=0, byte_size=size)
visit = regions.visit()
array = np.frombuffer(visit.read(place), np.float32).reshape(1, 3, 224, 224)
if how == "onnxruntime":
    import onnxruntime as ort
    from onnx import TensorProto, helper
    graph = helper.make_graph(
        [helper.make_node("GlobalAveragePool", ["x"], ["y"])], "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, 224, 224])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 3, 1, 1])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    options = ort.SessionOptions()
    options.intra_op_num_threads = 2
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    assert session.run(None, {"x": array})[0].max() == 1
if not is_guarded:
    bus_guard.installed().forget(regions.at(place).mapping)
visit.check()
os.truncate(f"/dev/shm{key}", 0)
if how == "onnxruntime":
    assert session.run(None, {"x": array})[0].max() == 0
elif how == "numpy":
    assert array.sum() == 0
elif how == "one value, with the GIL held":
    assert array[0, 0, 0, 0] == 0
else:
    array[...] = 2
try:
    visit.check()
except errors.InputError as error:
    print(error)
try:
    regions.visit().read(place)
except errors.InputError as error:
    print(error)
del array, visit
regions.unregister()
print("alive")
"""


@pytest.fixture
def key():
    path = Path("/dev/shm") / f"edge_sdk_test_{uuid.uuid4().hex}"
    path.write_bytes(b"\0\0\x80\x3f" * (3 * 224 * 224))
    yield f"/{path.name}"
    path.unlink()


def ended(key, how, mode):
    command = [sys.executable, "-c", SCRIPT, key, how, mode]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.parametrize("how", ["numpy", "onnxruntime", "one value, with the GIL held", "written"])
def test_the_request_is_refused_and_the_process_lives(key, how):
    done = ended(key, how, "guarded")
    assert done.returncode == 0, done.stderr
    first, second, last = done.stdout.splitlines()
    assert "has shrunk while a request used it" in first
    assert "has shrunk: 0 of 602112 bytes" in second
    assert last == "alive"


@pytest.mark.parametrize("how", ["numpy", "onnxruntime"])
def test_without_the_guard_it_is_the_end_of_the_process(key, how):
    assert ended(key, how, "unguarded").returncode == -signal.SIGBUS
