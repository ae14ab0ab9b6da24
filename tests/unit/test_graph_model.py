"""A converted model becomes one to make INT8 of, or says why it can't; at any size it is written and read back."""

import gc
import re

import host_graphs as hg
import numpy as np
import onnx
import pytest

from edge_sdk import errors
from edge_sdk.engines import model_file, ort
from edge_sdk.engines.model_file import ModelFile
from edge_sdk.host.graph import model as models
from edge_sdk.host.graph import qdq


def refused(path, *words):
    before = hg.files_below(path.parent)
    with pytest.raises(errors.ModelError) as caught:
        models.read_model(path)
    for word in words:
        assert re.search(word, str(caught.value)), f"{word!r} is not in: {caught.value}"
    assert hg.files_below(path.parent) == before


def simple(nodes, *weights, opset=17, inputs=None, outputs=None):
    return hg.graph(nodes, list(weights), inputs or {"x": ["N", 16]}, outputs or {"y": ["N", 16]}, opset=opset)


MATMUL = hg.node("MatMul", ["x", "w"], ["y"], "product")


def test_inputs_outputs_and_opset_are_read_with_free_axes_as_none(tmp_path):
    model = models.read_model(hg.save(hg.residual(), tmp_path / "m.onnx"))
    assert [(s.name, s.dtype, s.shape) for s in model.inputs] == [("image", "float32", (None, 1, 8, 8))]
    assert [(s.name, s.shape) for s in model.outputs] == [("logits", (None, 10))]
    assert model.opset == 17


def test_opset_13_is_enough(tmp_path):
    assert models.read_model(hg.save(hg.residual(opset=13), tmp_path / "m.onnx")).opset == 13


def test_what_onnx_runtime_cannot_load_is_refused_in_its_own_words(tmp_path):
    # Valid for onnx's checker, but ONNX Runtime infers that the matrices do not fit.
    model = simple([MATMUL], hg.weight("w", 20, 16))
    refused(hg.save(model, tmp_path / "m.onnx"), "ONNX Runtime", "cannot load")


def test_no_weights(tmp_path):
    model = simple([hg.node("Relu", ["x"], ["y"], "relu")])
    refused(hg.save(model, tmp_path / "m.onnx"), "no weights", "export_params")


def test_weights_in_constant_nodes_count(tmp_path):
    held = hg.node("Constant", [], ["w"], value=hg.weight("w", 16, 16))
    models.read_model(hg.save(simple([held, MATMUL]), tmp_path / "m.onnx"))


def test_a_fixed_batch_above_one_says_how_to_free_it(tmp_path):
    model = simple([MATMUL], hg.weight("w", 16, 16), inputs={"x": [4, 16]}, outputs={"y": [4, 16]})
    refused(hg.save(model, tmp_path / "m.onnx"), "fixed at 4", "dynamic_axes")


def test_an_input_without_a_batch_axis(tmp_path):
    nodes = [hg.node("Mul", ["x", "by"], ["s"], "scale"), hg.node("MatMul", ["s", "w"], ["y"], "product")]
    model = hg.graph(nodes, [hg.weight("w", 16, 16)], {"x": ["N", 16], "by": []}, {"y": ["N", 16]})
    refused(hg.save(model, tmp_path / "m.onnx"), "input 'by'", "batch axis first")


class TestLargeModels:
    """Above a size the weights lie beside the model; here that size is nothing."""

    @pytest.fixture
    def model(self, tmp_path):
        return models.read_model(hg.save(hg.residual(), tmp_path / "m.onnx"), inline_bytes=0)

    def test_they_are_files_and_answer_the_same(self, model):
        content = model.content()
        assert isinstance(content, ModelFile)
        image = np.random.default_rng(0).random((2, 1, 8, 8), np.float32)
        wanted, given = (
            ort.runner_from_model(made)({"image": image})["logits"] for made in (model.to_bytes(), content)
        )
        np.testing.assert_array_equal(given, wanted)
        onnx.checker.check_model(str(content.path))

    def test_equal_graphs_give_equal_files(self, model):
        assert model.content().sha256() == model.content().sha256()
        assert model_file.sha256(model.to_bytes()) == model_file.sha256(model.to_bytes())

    def test_the_size_is_that_of_both_files(self, model):
        assert model_file.size_bytes(model.content()) > sum(len(t.raw_data) for t in model.proto.graph.initializer)
        assert model_file.size_bytes(b"four") == 4

    def test_the_files_go_with_the_last_holder(self, model):
        content = model.content()
        more = content.extended(b"")
        folder = content.path.parent
        del content
        gc.collect()
        assert more.path.is_file()
        assert more.weights.is_file()
        del more
        gc.collect()
        assert not folder.exists()

    def test_inner_tensors_can_be_asked_for(self, model):
        run = ort.runner_from_model(qdq.with_outputs(model, ["r1"]), ["r1", "logits"])
        assert run({"image": np.zeros((1, 1, 8, 8), np.float32)})["r1"].shape == (1, 16, 8, 8)

    def test_nothing_of_the_model_is_lost(self, model):
        model.proto.metadata_props.add(key="author", value="someone")
        model.proto.producer_name = "a tool"
        content = model.content()
        loaded = onnx.load(content.path)
        for tensor in loaded.graph.initializer:
            tensor.ClearField("data_location")
        assert loaded == model.proto
