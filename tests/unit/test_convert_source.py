"""What a source is, told by its name and content; and what of other people's models must be refused."""

import importlib.util
import re
from pathlib import Path

import host_graphs as hg
import numpy as np
import pytest
from convert_checks import refused

from edge_sdk import errors
from edge_sdk.host.convert.limits import Limits
from edge_sdk.host.convert.source import onnx_from_source


def of_package(package, *parts):
    """A model out of an installed package, which is found without being imported."""
    found = importlib.util.find_spec(package)
    if found is None or not found.submodule_search_locations:
        pytest.skip(f"the package {package} is not installed")
    return Path(found.submodule_search_locations[0], *parts)


def test_a_path_may_be_text_relative_or_in_capitals(tmp_path, work, monkeypatch):
    hg.save(hg.residual(), tmp_path / "M.ONNX")
    monkeypatch.chdir(tmp_path)
    for source in ("M.ONNX", Path("M.ONNX"), str(tmp_path / "M.ONNX")):
        done = onnx_from_source(source, workdir=Path("work"))
        assert done.path == Path("work/model.onnx")
        assert done.origin.endswith("M.ONNX")


def test_a_name_with_a_colon_that_exists_is_a_file(tmp_path, work):
    onnx_from_source(hg.save(hg.residual(), tmp_path / "a:b.onnx"), workdir=work)


def test_a_second_conversion_replaces_the_first(tmp_path, work):
    path = hg.save(hg.residual(), tmp_path / "m.onnx")
    first = onnx_from_source(path, workdir=work).path.read_bytes()
    hg.save(hg.residual(classes=7), path)
    assert onnx_from_source(path, workdir=work).path.read_bytes() != first
    assert hg.files_below(work) == ["model.onnx"]


def test_an_unknown_kind_names_what_is_known(tmp_path, work):
    path = tmp_path / "m.onx"
    path.write_bytes(b"")
    refused(path, work, "did you mean '.onnx'", ".keras", ".tflite", "SavedModel", "module:function")
    refused("model", work, "no known kind")
    refused(tmp_path / "m.mlmodel", work, "no known kind")


def test_a_missing_file(tmp_path, work):
    refused(tmp_path / "none.onnx", work, "no model file")
    refused(tmp_path / "none.keras", work, "no model file")


def test_a_folder_that_is_no_saved_model(tmp_path, work):
    refused(tmp_path, work, "saved_model.pb")


@pytest.mark.parametrize("suffix", [".pt", ".pth", ".ckpt", ".bin", ".pkl"])
def test_a_pickled_checkpoint_is_refused_unopened(tmp_path, work, suffix):
    path = tmp_path / f"m{suffix}"
    path.write_bytes(b"cos\nsystem\n(S'touch pwned'\ntR.")
    refused(path, work, "pickled checkpoint", "code", "weights_only", "torch.export.save")


@pytest.mark.parametrize("thing", [3, None, object(), np.ones(3), {"model": 1}])
def test_what_is_no_model_at_all(work, thing):
    refused(thing, work, f"a {type(thing).__name__} is not a model", "torch or Keras")


@pytest.mark.parametrize(
    ("name", "framework", "extra"),
    [("m.pt2", "torch", "torch"), ("m.keras", "keras", "tensorflow"), ("m.tflite", "tensorflow", "tensorflow")],
)
def test_a_framework_that_is_not_installed_says_which_extra(tmp_path, work, name, framework, extra):
    if importlib.util.find_spec(framework):
        pytest.skip(f"{framework} is installed here")
    (tmp_path / name).write_bytes(b"something")
    refused(tmp_path / name, work, framework, rf"pip install 'edge_sdk\[{extra}\]'", kind=errors.UsageError)


def test_a_quantised_model_of_others_is_refused(work):
    path = of_package("ddddocr", "common_old.onnx")
    refused(path, work, "DynamicQuantizeLinear node 'input1_QuantizeLinear'", "quantised already")


@pytest.mark.parametrize("name", ["common_det.onnx", "common.onnx"])
def test_a_detector_and_a_recogniser_of_opset_11_and_12_are_raised(work, name):
    done = onnx_from_source(of_package("ddddocr", name), workdir=work)
    assert re.match(r"raised from opset 1[12] to 17, which moved its outputs", done.notes[0])


@pytest.mark.parametrize("name", ["silero_vad.onnx", "silero_vad_op18_ifless.onnx", "silero_vad_half.onnx"])
def test_control_flow_of_others_is_refused(work, name):
    refused(of_package("silero_vad", "data", name), work, "If node '.+' holds a graph of its own")


def test_a_limit_can_be_lowered_for_what_comes_from_strangers(tmp_path, work):
    path = hg.save(hg.residual(), tmp_path / "m.onnx")
    refused(path, work, "Limits.memory_bytes", limits=Limits(memory_bytes=2**27))
