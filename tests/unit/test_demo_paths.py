"""The shipped demo model through each end of the gate: INT8, rescued by few layers, FP16, refused."""

from pathlib import Path

import numpy as np
import pytest

from edge_sdk import errors
from edge_sdk.cli import demonstration
from edge_sdk.host import builder
from edge_sdk.records.bundle import CompilerReport, Preprocess
from edge_sdk.wire import bundles

SHIPPED = Path(demonstration.__file__).parent / "demo"
SAMPLES, EVALUATED = 96, 300


@pytest.fixture
def build(tmp_path):
    """Builds the demo model on some of its data; `darker` divides the calibration pictures, and only these."""

    def make(*, darker=1, **options):
        with np.load(SHIPPED / "calibration.npz") as arrays:
            np.savez(tmp_path / "calibration.npz", image=arrays["image"][:SAMPLES] // darker)
        with np.load(SHIPPED / "evaluation.npz") as arrays:
            np.savez(tmp_path / "evaluation.npz", **{name: arrays[name][:EVALUATED] for name in arrays.files})
        return builder.build_bundle(
            SHIPPED / "fashion_cnn.onnx", tmp_path / "demo.edge", calibration=tmp_path / "calibration.npz",
            evaluation=tmp_path / "evaluation.npz", preprocess={"image": Preprocess(scale=1 / 255)},
            check=lambda _model: CompilerReport("", "", None, 0, 0.0, ()), **options,
        )  # fmt: skip

    return make


def test_it_passes_as_it_is_shipped(build):
    built = build(max_drop=1.0)
    assert (built.precision, built.pinned, built.reason, built.int8_compute_ratio) == ("int8", (), "", 1)


def test_a_tight_budget_gets_few_layers_back_in_float(build, tmp_path):
    plain = build(metric="signal")
    assert plain.max_drop == 1
    built = build(metric="signal", max_drop=0.8 * plain.drop, force=True)
    assert built.precision == "int8"
    assert 1 <= len(built.pinned) < 5
    assert built.drop <= built.max_drop < plain.drop
    assert {entry.node for entry in built.pinned} == {one.node for one in built.sensitivity[: len(built.pinned)]}
    assert f"{len(built.pinned)} of 10 layers back in float" in built.reason


def test_calibration_in_the_dark_is_refused_or_sent_to_fp16(build, tmp_path):
    with pytest.raises(
        errors.GateError, match=r"INT8 has top-1 \d.*%, float \d.*% on 300 samples: .* nothing was written"
    ):
        build(darker=8, precision="int8")
    assert not (tmp_path / "demo.edge").exists()
    built = build(darker=8)
    assert built.precision == "fp16"
    assert abs(built.drop) <= 0.5
    assert "INT8 has top-1" in built.reason
    assert bundles.HALF_MODEL in bundles.read_bundle(tmp_path / "demo.edge").manifest.files
