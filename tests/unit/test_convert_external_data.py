"""Weights that lie beside the model: taken along whatever their size, and never read from anywhere else."""

import os
import re

import host_graphs as hg
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from edge_sdk import errors
from edge_sdk.engines import ort
from edge_sdk.host.convert.limits import Limits
from edge_sdk.host.convert.source import onnx_from_source

IMAGE = np.random.default_rng(0).random((2, 1, 8, 8), np.float32)


@pytest.fixture
def home(tmp_path):
    """A folder with a model whose weights lie beside it; secrets lie outside."""
    folder = tmp_path / "home"
    folder.mkdir()
    (tmp_path / "secret").write_bytes(bytes(range(256)) * 256)
    onnx.save_model(
        hg.residual(), folder / "m.onnx", save_as_external_data=True, location="weights.bin", size_threshold=0
    )
    return folder


def edit(folder, **entries):
    """Rewrites where the first weight is said to lie."""
    proto = onnx.load(folder / "m.onnx", load_external_data=False)
    tensor = proto.graph.initializer[0]
    kept = {entry.key: entry.value for entry in tensor.external_data} | entries
    del tensor.external_data[:]
    for key, value in kept.items():
        tensor.external_data.add(key=key, value=value)
    hg.save(proto, folder / "m.onnx")


def refused(home, work, *words, **options):
    with pytest.raises(errors.ModelError) as caught:
        onnx_from_source(home / "m.onnx", workdir=work, **options)
    for word in words:
        assert re.search(word, str(caught.value)), f"{word!r} is not in: {caught.value}"
    assert hg.files_below(work) == []


def answers(path):
    return ort.runner_from_model(str(path))({"image": IMAGE})["logits"]


def test_small_weights_are_taken_in(home, work):
    done = onnx_from_source(home / "m.onnx", workdir=work)
    assert hg.files_below(work) == ["model.onnx"]
    np.testing.assert_allclose(answers(done.path), answers(home / "m.onnx"), rtol=1e-5)


def test_weights_in_a_folder_below_are_fine(home, work):
    (home / "data").mkdir()
    (home / "weights.bin").rename(home / "data" / "weights.bin")
    proto = onnx.load(home / "m.onnx", load_external_data=False)
    for tensor in proto.graph.initializer:
        next(entry for entry in tensor.external_data if entry.key == "location").value = "data/weights.bin"
    hg.save(proto, home / "m.onnx")
    onnx_from_source(home / "m.onnx", workdir=work)


def test_large_weights_go_from_file_to_file(home, work):
    done = onnx_from_source(home / "m.onnx", workdir=work, limits=Limits(inline_bytes=0))
    assert hg.files_below(work) == ["model.onnx", "model.onnx.data"]
    assert "not cleaned" in done.notes[0]
    np.testing.assert_array_equal(answers(done.path), answers(home / "m.onnx"))
    tensors = onnx.load(done.path, load_external_data=False).graph.initializer
    offsets = [int(entry.value) for tensor in tensors for entry in tensor.external_data if entry.key == "offset"]
    assert all(offset % 4096 == 0 for offset in offsets), "so that they can be mapped"


def test_large_weights_of_an_old_opset_say_what_to_do(home, work):
    proto = onnx.load(home / "m.onnx", load_external_data=False)
    proto.opset_import[0].version = 11
    hg.save(proto, home / "m.onnx")
    refused(home, work, "opset 11", "opset_version=17", limits=Limits(inline_bytes=0))


def test_more_than_two_gigabytes_pass_in_little_memory(tmp_path, work):
    # A hole in a file: it takes no disk, and reads as zeros.
    rows, columns = 2**16, 2**13 + 512
    size_bytes = 4 * rows * columns
    assert size_bytes > 2**31
    big = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[columns, rows], data_location=TensorProto.EXTERNAL)
    for key, value in (("location", "big.bin"), ("offset", "0"), ("length", str(size_bytes))):
        big.external_data.add(key=key, value=value)
    with (tmp_path / "big.bin").open("wb") as stream:
        stream.truncate(size_bytes)
    nodes = [hg.node("MatMul", ["x", "w"], ["y"], "product")]
    model = hg.graph(nodes, [big], {"x": ["N", columns]}, {"y": ["N", rows]})
    limits = Limits(memory_bytes=6 * 2**30)
    done = onnx_from_source(hg.save(model, tmp_path / "m.onnx"), workdir=work, limits=limits)
    assert (work / "model.onnx.data").stat().st_size == size_bytes
    assert done.path.stat().st_size < 1000


def test_missing(home, work):
    (home / "weights.bin").unlink()
    refused(home, work, "weight 'w1'", "'weights.bin'", "missing")


@pytest.mark.parametrize("location", ["../secret", "/etc/passwd", "data/../../secret", "", "..", "a\0b", "."])
def test_a_path_that_leads_out_is_refused(home, work, location):
    (home / "data").mkdir()
    edit(home, location=location)
    refused(home, work, "weight 'w1'", "outside the model's folder")


def test_an_absolute_path_into_the_folder_is_refused_too(home, work):
    edit(home, location=str(home / "weights.bin"))
    refused(home, work, "outside the model's folder")


def test_links_are_refused(home, work):
    (home / "weights.bin").unlink()
    (home / "weights.bin").symlink_to("../secret")
    refused(home, work, "link")
    (home / "weights.bin").unlink()
    os.link(home.parent / "secret", home / "weights.bin")
    refused(home, work, "hard link")


def test_a_linked_folder_is_refused(home, work):
    (home / "data").symlink_to(home.parent)
    edit(home, location="data/secret")
    refused(home, work, "link")


def test_what_is_no_plain_file_is_refused(home, work):
    (home / "weights.bin").unlink()
    os.mkfifo(home / "weights.bin")
    refused(home, work, "not a plain file")


@pytest.mark.parametrize(
    ("entries", "words"),
    [
        ({"offset": "10000000"}, "only .* not whole"),
        ({"length": "999999999"}, "only .* not whole"),
        ({"offset": "-1"}, "bytes -1"),
        ({"offset": "many"}, "no proper place"),
        ({"length": "16"}, "16 are stored"),
    ],
)
def test_a_place_that_is_not_in_the_file(home, work, entries, words):
    edit(home, **entries)
    refused(home, work, "weight 'w1'", words)


@pytest.mark.parametrize("where", ["attribute", "sparse", "function", "branch", "training"])
def test_no_corner_of_the_file_format_is_overlooked(tmp_path, work, where):
    """A tensor may hide in many places, each of which names a file to read."""
    model = hg.residual()
    hidden = TensorProto(name="hidden", data_type=TensorProto.FLOAT, dims=[1], data_location=TensorProto.EXTERNAL)
    hidden.external_data.add(key="location", value="/etc/passwd")
    holder = hg.node("Constant", [], ["unused"], "holder", value=hidden)
    if where == "attribute":
        model.graph.node.insert(0, holder)
    elif where == "sparse":
        indices = hg.constant("i", np.array([0]))
        model.graph.sparse_initializer.append(helper.make_sparse_tensor(hidden, indices, [4]))
    elif where == "function":
        opset = [helper.make_opsetid("", 17)]
        model.functions.append(helper.make_function("own", "F", [], ["unused"], [holder], opset))
    elif where == "branch":
        body = helper.make_graph([holder], "b", [], [helper.make_tensor_value_info("unused", TensorProto.FLOAT, [1])])
        flag = hg.constant("flag", np.array(True))
        model.graph.initializer.append(flag)
        model.graph.node.append(hg.node("If", ["flag"], ["z"], "if", then_branch=body, else_branch=body))
    else:
        info = model.training_info.add()
        info.algorithm.initializer.append(hidden)
    (tmp_path / "home").mkdir()
    hg.save(model, tmp_path / "home" / "m.onnx")
    refused(tmp_path / "home", work, "'/etc/passwd'", "outside")
