"""Models of other frameworks through the whole build: gated like any, with their origin in the report."""

import json

import host_graphs as hg
import numpy as np
import pytest

from edge_sdk.engines import compilers
from edge_sdk.host import builder
from edge_sdk.records.bundle import Preprocess

NETS = """
import torch

def tiny():
    torch.manual_seed(0)
    layers = [torch.nn.Conv2d(3, 16, 3, padding=1), torch.nn.ReLU(), torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten()]
    return torch.nn.Sequential(*layers, torch.nn.Linear(16, 10)).eval(), (torch.zeros(2, 3, 16, 16),)
"""


def built(work, model, name, **options):
    for data, seed in (("calibration", 1), ("evaluation", 2)):
        np.savez(work / f"{data}.npz", **{name: hg.pixels(48, seed, shape=(3, 16, 16))})
    return builder.build_bundle(
        model,
        work / "net.edge",
        calibration=work / "calibration.npz",
        evaluation=work / "evaluation.npz",
        preprocess={name: Preprocess(scale=1 / 255)},
        max_drop=100.0,
        check=lambda _model: compilers.ABSENT.report,
        **options,
    )


def test_a_torch_module_from_a_file_s_function(tmp_path):
    pytest.importorskip("torch", reason="torch is not installed (pip install 'edge_sdk[torch]')")
    pytest.importorskip("onnxscript", reason="onnxscript is not installed (pip install 'edge_sdk[torch]')")
    (tmp_path / "nets.py").write_text(NETS)
    made = built(tmp_path, f"{tmp_path}/nets.py:tiny", "input")
    assert made.precision == "int8"
    assert made.origin.startswith("PyTorch")
    assert made.origin.endswith("module nets.py:tiny")
    assert json.loads((tmp_path / "net.edge" / "manifest.json").read_bytes())["name"] == "tiny"
    assert str(tmp_path) not in (tmp_path / "net.edge" / "report.json").read_text()


def test_a_keras_model(tmp_path):
    keras = pytest.importorskip("keras", reason="Keras is not installed (pip install 'edge_sdk[tensorflow]')")
    pytest.importorskip("tf2onnx", reason="tf2onnx is not installed (pip install 'edge_sdk[tensorflow]')")
    layers = keras.layers
    keras.utils.set_random_seed(0)
    keras.Sequential(
        [
            layers.Input((16, 16, 3), name="images"),
            layers.Conv2D(16, 3, padding="same", activation="relu"),
            layers.GlobalAveragePooling2D(),
            layers.Dense(10),
        ]
    ).save(tmp_path / "net.keras")
    made = built(tmp_path, tmp_path / "net.keras", "images")
    assert made.precision == "int8"
    assert made.origin.startswith("Keras")
    assert any("takes [N, C, H, W] now" in note for note in made.notes)
