"""A model above protobuf's 2 GB for real: from file to gated bundle. Takes minutes, 12 GB of memory and 10 GB of disk."""

import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edge_sdk.engines import bundled, compilers
from edge_sdk.host import builder
from edge_sdk.wire import bundles

DISK_BYTES, MEMORY_BYTES = 12 * 10**9, 14 * 10**9
INPUTS, INNER, WIDE, CLASSES = 64, 8192, 36864, 10
LAYERS = {"w1": (INPUTS, INNER), "w2": (INNER, WIDE), "w3": (WIDE, INNER), "w4": (INNER, CLASSES)}


def free_memory_bytes():
    line = next(line for line in Path("/proc/meminfo").read_text().splitlines() if line.startswith("MemAvailable"))
    return int(line.split()[1]) * 1024


@pytest.fixture
def source(tmp_path):
    if shutil.disk_usage(tmp_path).free < DISK_BYTES or free_memory_bytes() < MEMORY_BYTES:
        pytest.skip(f"needs {DISK_BYTES / 1e9:.0f} GB of disk and {MEMORY_BYTES / 1e9:.0f} GB of free memory")
    rng = np.random.default_rng(0)
    tensors, weights = [], tmp_path / "net.bin"
    with weights.open("wb") as stream:
        for name, (rows, columns) in LAYERS.items():
            tensor = TensorProto(name=name, data_type=TensorProto.FLOAT, dims=[rows, columns])
            tensor.data_location = TensorProto.EXTERNAL
            places = {"location": weights.name, "offset": stream.tell(), "length": 4 * rows * columns}
            for key, value in places.items():
                tensor.external_data.add(key=key, value=str(value))
            block = (rng.standard_normal((1024, columns)) / np.sqrt(rows)).astype(np.float32)
            for start in range(0, rows, 1024):
                stream.write(block[: rows - start].tobytes())
                block = np.roll(block, 1, axis=1)
            tensors.append(tensor)
    assert weights.stat().st_size > 2**31
    nodes, last = [], "x"
    for number, name in enumerate(LAYERS, 1):
        out = "scores" if number == len(LAYERS) else f"m{number}"
        nodes.append(helper.make_node("MatMul", [last, name], [out], f"product{number}"))
        if out != "scores":
            nodes.append(helper.make_node("Relu", [out], [f"r{number}"], f"relu{number}"))
            last = f"r{number}"
    tensors.append(numpy_helper.from_array(np.zeros(1, np.float32), "unused"))
    ends = [
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", size])]
        for name, size in (("x", INPUTS), ("scores", CLASSES))
    ]
    graph = helper.make_graph(nodes, "large", *ends, tensors)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    (tmp_path / "net.onnx").write_bytes(model.SerializeToString())
    for name, count in (("calibration", 32), ("evaluation", 16)):
        np.savez(tmp_path / f"{name}.npz", x=rng.standard_normal((count, INPUTS)).astype(np.float32))
    return tmp_path


@pytest.mark.timeout(900)
def test_a_model_above_two_gigabytes_becomes_a_gated_bundle(source):
    made = builder.build_bundle(
        source / "net.onnx",
        source / "net.edge",
        calibration=source / "calibration.npz",
        evaluation=source / "evaluation.npz",
        method="max",
        max_drop=100,
        check=lambda _model: compilers.ABSENT.report,
    )
    checked = bundles.read_bundle(source / "net.edge")
    sizes = {name: entry.size_bytes for name, entry in checked.manifest.files.items()}
    print(f"{sizes}; {made.peak_rss_bytes / 1e9:.1f} GB of memory; {made.seconds}; {made.sqnr_db}")
    assert made.precision == "int8"
    assert sizes["model.float.onnx.data"] > 2**31
    assert sizes[bundles.FLOAT_MODEL] < 10_000
    assert sizes[bundles.INT8_MODEL] < sizes["model.float.onnx.data"] / 3
    assert made.sqnr_db["scores"] > 20
    for variant in ("float", "int8"):
        with bundled.open_engine(source / "net.edge", variant=variant) as engine:
            assert engine.infer({"x": np.ones((1, INPUTS), np.float32)})["scores"].shape == (1, CLASSES)
    onnx.checker.check_model(str(source / "net.edge" / bundles.FLOAT_MODEL))
