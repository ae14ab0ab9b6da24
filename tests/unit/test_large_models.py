"""Models above protobuf's 2 GB, from file to bundle to engine; here "large" begins at nothing. The real size: tests/large."""

import importlib.util
import shutil

import host_graphs as hg
import numpy as np
import onnx
import pytest

from edge_sdk.cli import main
from edge_sdk.engines import bundled, compilers, finish
from edge_sdk.host import builder, evaluation
from edge_sdk.host.convert.limits import Limits
from edge_sdk.records.bundle import Preprocess
from edge_sdk.wire import bundles

WEIGHTS = "model.float.onnx.data"
IMAGE = np.random.default_rng(9).random((2, 1, 8, 8), np.float32)


def built(folder, name, **options):
    return builder.build_bundle(
        folder / "net.onnx",
        folder / f"{name}.edge",
        calibration=folder / "calibration.npz",
        evaluation=folder / "evaluation.npz",
        preprocess={"image": Preprocess(scale=1 / 255)},
        name="net",
        max_drop=100,
        check=lambda _model: compilers.ABSENT.report,
        **options,
    )


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A bundle of a model whose weights lie beside it all the way, and the same one built as usual."""
    folder = tmp_path_factory.mktemp("large")
    model = hg.residual()
    onnx.save_model(model, folder / "net.onnx", save_as_external_data=True, location="net.bin", size_threshold=0)
    np.savez(folder / "calibration.npz", image=hg.pixels(80, 1))
    np.savez(folder / "evaluation.npz", image=hg.pixels(60, 2))
    large = built(folder, "large", limits=Limits(inline_bytes=0))
    usual = built(folder, "usual")
    return folder, large, usual


def test_the_float_weights_lie_beside_the_model_in_the_bundle(made):
    folder, large, _ = made
    checked = bundles.read_bundle(folder / "large.edge")
    assert {WEIGHTS, bundles.FLOAT_MODEL, bundles.INT8_MODEL} <= set(checked.manifest.files)
    assert checked.digest == large.digest
    assert WEIGHTS not in bundles.read_bundle(folder / "usual.edge").manifest.files
    shell = onnx.load(checked.file(bundles.FLOAT_MODEL), load_external_data=False)
    located = {entry.value for t in shell.graph.initializer for entry in t.external_data if entry.key == "location"}
    assert located == {WEIGHTS}


def test_every_form_answers_as_that_of_the_usual_build(made):
    folder, large, usual = made
    assert large.precision == usual.precision == "int8"
    for variant in ("float", "int8"):
        answers = []
        for name in ("large", "usual"):
            with bundled.open_engine(folder / f"{name}.edge", variant=variant) as engine:
                answers.append(engine.infer({"image": IMAGE})["logits"])
        np.testing.assert_allclose(*answers, atol=0.05 * np.abs(answers[1]).max() if variant == "int8" else 1e-4)


def test_the_same_build_gives_the_same_digest(made):
    folder, large, _ = made
    assert built(folder, "again", limits=Limits(inline_bytes=0)).digest == large.digest


def test_it_can_be_evaluated(made):
    folder, large, _ = made
    found = evaluation.evaluated(folder / "large.edge", folder / "evaluation.npz")
    assert found.samples == 60


def test_damage_in_the_weights_is_found(made, tmp_path, capsys):
    path = tmp_path / "damaged.edge"
    shutil.copytree(made[0] / "large.edge", path)
    content = bytearray((path / WEIGHTS).read_bytes())
    content[100] ^= 1
    (path / WEIGHTS).write_bytes(content)
    assert main.run(["verify", str(path)]) == 3
    assert WEIGHTS in capsys.readouterr().err


@pytest.mark.skipif(
    importlib.util.find_spec("tensorrt_rtx_bindings") is None,
    reason="pip install 'edge_sdk[rtx]' for NVIDIA's compiler",
)
@pytest.mark.parametrize("precision", ["int8", "float"])
def test_nvidias_compiler_takes_it(made, tmp_path, precision):
    if precision == "float":
        path = tmp_path / "float.edge"
        shutil.copytree(made[0], tmp_path / "data")
        built(tmp_path / "data", "../float", limits=Limits(inline_bytes=0), precision="float")
    else:
        path = tmp_path / "int8.edge"
        shutil.copytree(made[0] / "large.edge", path)
    finished = finish.compile_bundle(path, compiler="tensorrt-rtx")
    assert finished.report.ok
    assert WEIGHTS in bundles.read_bundle(path).manifest.files
