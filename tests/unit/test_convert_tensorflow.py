"""Keras, SavedModel and TFLite -> ONNX that answers as they do, images turned to [N, C, H, W], the batch free."""

import importlib.util
import re
import shutil
import subprocess
import sys
from pathlib import Path

import host_graphs as hg
import numpy as np
import onnx
import pytest
from convert_checks import refused

from edge_sdk import errors
from edge_sdk.engines import ort
from edge_sdk.host.convert.source import onnx_from_source

if not (importlib.util.find_spec("tensorflow") and importlib.util.find_spec("tf2onnx")):
    pytest.skip("tensorflow and tf2onnx are not installed (edge_sdk[tensorflow])", allow_module_level=True)

IMAGES = np.random.default_rng(0).random((3, 16, 16, 3), np.float32)


@pytest.fixture(scope="session")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tensorflow")
    script = Path(__file__).with_name("convert_tensorflow_models.py")
    done = subprocess.run([sys.executable, script, folder], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return folder


def answer(done, images=IMAGES):
    (values,) = ort.runner_from_model(str(done.path))({"images": images}).values()
    return values


@pytest.mark.parametrize(
    ("name", "origin", "output"),
    [
        ("net.keras", "Keras .* model net.keras", "scores"),
        ("net.h5", "Keras .* model net.h5", "scores"),
        ("net_saved", "TensorFlow .* SavedModel net_saved", "output_0"),
        ("net.tflite", "TFLite net.tflite", "output_0"),
        ("half.tflite", "TFLite half.tflite", "output_0"),
    ],
)
def test_every_form_of_a_network_answers_the_same_in_nchw(models, work, name, origin, output):
    done = onnx_from_source(models / name, workdir=work)
    inputs, outputs = ort.specs_from_model(str(done.path))
    assert [(spec.name, spec.shape) for spec in inputs] == [("images", (None, 3, 16, 16))]
    assert [(spec.name, spec.shape) for spec in outputs] == [(output, (None, 5))]
    assert re.fullmatch(origin, done.origin)
    assert done.transposed == ("images",)
    assert "outputs differ from" in done.notes[0]
    assert "input 'images' took [N, H, W, C] and takes [N, C, H, W] now" in done.notes
    kinds = [node.op_type for node in onnx.load(done.path).graph.node]
    assert "Transpose" not in kinds
    assert kinds.count("Conv") == 3
    reference = onnx_from_source(models / "net.keras", workdir=work)
    np.testing.assert_allclose(
        answer(done, IMAGES.transpose(0, 3, 1, 2)), answer(reference, IMAGES.transpose(0, 3, 1, 2)), atol=1e-3
    )


def test_the_layout_can_be_kept(models, work):
    turned = answer(onnx_from_source(models / "net.keras", workdir=work), IMAGES.transpose(0, 3, 1, 2))
    done = onnx_from_source(models / "net.keras", workdir=work, keep_layout=True)
    assert ort.specs_from_model(str(done.path))[0][0].shape == (None, 16, 16, 3)
    assert done.transposed == ()
    np.testing.assert_allclose(answer(done), turned, atol=1e-5)


def test_example_inputs_are_in_the_layout_of_the_source(models, work):
    onnx_from_source(models / "net.keras", inputs={"images": IMAGES}, workdir=work)
    shutil.rmtree(work)
    work.mkdir()
    turned = IMAGES.transpose(0, 3, 1, 2)
    refused(models / "net.keras", work, r"float32\[N, 16, 16, 3\]", inputs=[turned], kind=errors.UsageError)


def test_several_inputs_and_outputs_keep_their_names(models, work):
    done = onnx_from_source(models / "two.keras", workdir=work)
    inputs, outputs = ort.specs_from_model(str(done.path))
    assert [spec.name for spec in inputs] == ["one", "two"]
    assert [spec.name for spec in outputs] == ["left", "right"]


@pytest.mark.parametrize("name", ["dynamic.tflite", "int8.tflite"])
def test_a_quantised_tflite_file_is_refused(models, work, name):
    refused(models / name, work, "quantised already", "tensor '.+' is u?int8", "float model")


@pytest.mark.parametrize("name", ["lambda.keras", "lambda.h5"])
def test_python_code_in_a_keras_file_is_refused(models, work, name):
    refused(models / name, work, "can't read", "Lambda")


def test_a_model_that_never_saw_an_input(models, work):
    refused(models / "unbuilt.keras", work, "before it had seen an input|can't read")


def test_a_graph_that_writes_files_is_refused_before_it_runs(models, work):
    refused(models / "writes_saved", work, "WriteFile node", "touches files")
    assert not (models / "pwned").exists()


@pytest.mark.parametrize("name", ["m.keras", "m.h5", "m.tflite"])
@pytest.mark.parametrize("content", [b"", b"what is this" * 50])
def test_files_that_are_something_else(tmp_path, work, name, content):
    (tmp_path / name).write_bytes(content)
    refused(tmp_path / name, work, "can't read|not a TFLite file")


@pytest.mark.parametrize("name", ["net.keras", "net.tflite"])
def test_truncated_files(models, tmp_path, work, name):
    content = (models / name).read_bytes()
    (tmp_path / name).write_bytes(content[: len(content) // 2])
    refused(tmp_path / name, work, re.escape(name))


def test_a_saved_model_that_is_damaged(tmp_path, work):
    (tmp_path / "saved").mkdir()
    (tmp_path / "saved" / "saved_model.pb").write_bytes(b"\xff\xff not a graph")
    refused(tmp_path / "saved", work, "can't read")


def test_a_keras_model_that_is_held(models, work):
    script = (
        f"import sys, warnings; sys.path[:0] = {sys.path!r}\n"
        "import keras\nfrom pathlib import Path\nfrom edge_sdk.host.convert.source import onnx_from_source\n"
        f"model = keras.saving.load_model({str(models / 'net.keras')!r}, compile=False)\n"
        f"print('origin:', onnx_from_source(model, workdir=Path({str(work)!r})).origin)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert "origin: Keras" in done.stdout, done.stderr[-2000:]
    assert hg.files_below(work) == ["model.onnx"]
