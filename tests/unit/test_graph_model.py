"""Reading a model: what can't become INT8 is refused with the node named, before anything else happens."""

import re

import host_graphs as hg
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from edge_sdk import errors
from edge_sdk.host.graph import model as models


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


def test_a_missing_file(tmp_path):
    refused(tmp_path / "none.onnx", "no model file", "none.onnx")


@pytest.mark.parametrize("content", [b"", b"GIF89a not a model at all", bytes(range(256)) * 4, b"\x08\x08"])
def test_not_an_onnx_file(tmp_path, content):
    path = tmp_path / "m.onnx"
    path.write_bytes(content)
    refused(path, "not an ONNX file")


def test_a_truncated_file(tmp_path):
    path = tmp_path / "m.onnx"
    path.write_bytes(hg.residual().SerializeToString()[:-500])
    refused(path, "not an ONNX file|breaks the ONNX standard")


@pytest.mark.parametrize("opset", [7, 11, 12])
def test_an_old_opset_is_named_with_the_way_to_raise_it(tmp_path, opset):
    path = hg.save(simple([MATMUL], hg.weight("w", 16, 16), opset=opset), tmp_path / "m.onnx")
    refused(path, f"opset {opset}", "13", "opset_version=17", "convert_version")


def test_opset_13_is_enough(tmp_path):
    assert models.read_model(hg.save(hg.residual(opset=13), tmp_path / "m.onnx")).opset == 13


def test_an_operator_of_another_domain(tmp_path):
    custom = helper.make_node("Wobble", ["p"], ["y"], "odd", domain="com.acme")
    model = simple([hg.node("MatMul", ["x", "w"], ["p"], "product"), custom], hg.weight("w", 16, 16))
    model.opset_import.append(helper.make_opsetid("com.acme", 1))
    refused(hg.save(model, tmp_path / "m.onnx"), "Wobble node 'odd'", "com.acme")


def test_an_unknown_operator_of_the_standard_domain(tmp_path):
    model = simple([hg.node("Wobble", ["x", "w"], ["y"], "odd")], hg.weight("w", 16, 16))
    refused(hg.save(model, tmp_path / "m.onnx"), "Wobble node 'odd'")


def test_what_onnx_runtime_cannot_load_is_refused_in_its_own_words(tmp_path):
    # Valid for onnx's checker, but ONNX Runtime infers that the matrices do not fit.
    model = simple([MATMUL], hg.weight("w", 20, 16))
    refused(hg.save(model, tmp_path / "m.onnx"), "ONNX Runtime", "cannot load")


@pytest.mark.parametrize("op", ["QuantizeLinear", "DynamicQuantizeLinear", "ConvInteger", "QLinearMatMul"])
def test_a_quantised_model_names_the_node(tmp_path, op):
    nodes = [MATMUL, hg.node(op, ["y", "s"], ["z"], "quantised_here")]
    refused(
        hg.save(simple(nodes, hg.weight("w", 16, 16)), tmp_path / "m.onnx"), f"{op} node 'quantised_here'", "already"
    )


def test_a_quantised_model_is_called_that_even_where_its_opset_is_old_too(tmp_path):
    nodes = [MATMUL, hg.node("DynamicQuantizeLinear", ["y"], ["q", "s", "z"], "quantised_here")]
    model = simple(nodes, hg.weight("w", 16, 16), opset=12)
    refused(hg.save(model, tmp_path / "m.onnx"), "quantised already")


def test_a_branch_names_the_node(tmp_path):
    def branch(name):
        value = helper.make_tensor_value_info(name, TensorProto.FLOAT, [1])
        return helper.make_graph([hg.node("Constant", [], [name], value_float=1.0)], name, [], [value])

    nodes = [MATMUL, hg.node("If", ["flag"], ["z"], "either", then_branch=branch("a"), else_branch=branch("b"))]
    model = simple(nodes, hg.weight("w", 16, 16), hg.constant("flag", np.array(True)))
    refused(hg.save(model, tmp_path / "m.onnx"), "If node 'either'", "control flow")


def test_no_weights(tmp_path):
    model = simple([hg.node("Relu", ["x"], ["y"], "relu")])
    refused(hg.save(model, tmp_path / "m.onnx"), "no weights", "export_params")


def test_weights_in_constant_nodes_count(tmp_path):
    held = hg.node("Constant", [], ["w"], value=hg.weight("w", 16, 16))
    models.read_model(hg.save(simple([held, MATMUL]), tmp_path / "m.onnx"))


@pytest.mark.parametrize(("value", "word"), [(np.nan, "NaN"), (np.inf, "infinity")])
def test_weights_that_are_not_finite_name_weight_and_node(tmp_path, value, word):
    values = np.ones((16, 16), np.float32)
    values[3, 4] = value
    model = simple([MATMUL], hg.constant("w", values))
    refused(hg.save(model, tmp_path / "m.onnx"), "'w'", "MatMul node 'product'", word)


def test_infinity_in_a_mask_is_no_fault(tmp_path):
    nodes = [hg.node("Max", ["x", "mask"], ["m"], "masked"), hg.node("MatMul", ["m", "w"], ["y"], "product")]
    model = simple(nodes, hg.weight("w", 16, 16), hg.constant("mask", np.full(16, -np.inf, np.float32)))
    models.read_model(hg.save(model, tmp_path / "m.onnx"))


def test_no_inputs(tmp_path):
    nodes = [hg.node("MatMul", ["a", "w"], ["y"], "product")]
    model = hg.graph(nodes, [hg.weight("a", 4, 16), hg.weight("w", 16, 16)], {}, {"y": [4, 16]})
    refused(hg.save(model, tmp_path / "m.onnx"), "no inputs")


def test_an_input_that_is_no_tensor_of_numbers(tmp_path):
    model = simple([MATMUL], hg.weight("w", 16, 16))
    model.graph.input.append(helper.make_tensor_value_info("text", TensorProto.STRING, ["N"]))
    model.graph.node.append(hg.node("Identity", ["text"], ["same"], "identity"))
    model.graph.output.append(helper.make_tensor_value_info("same", TensorProto.STRING, ["N"]))
    refused(hg.save(model, tmp_path / "m.onnx"), "'text'", "string")


def test_an_axis_of_size_zero(tmp_path):
    model = simple([MATMUL], hg.weight("w", 0, 16), inputs={"x": ["N", 0]})
    refused(hg.save(model, tmp_path / "m.onnx"), "size 0")


def test_a_fixed_batch_above_one_says_how_to_free_it(tmp_path):
    model = simple([MATMUL], hg.weight("w", 16, 16), inputs={"x": [4, 16]}, outputs={"y": [4, 16]})
    refused(hg.save(model, tmp_path / "m.onnx"), "fixed at 4", "dynamic_axes")


def test_weights_listed_as_inputs_too_are_not_inputs(tmp_path):
    model = simple([MATMUL], hg.weight("w", 16, 16))
    model.graph.input.append(helper.make_tensor_value_info("w", TensorProto.FLOAT, [16, 16]))
    assert [s.name for s in models.read_model(hg.save(model, tmp_path / "m.onnx")).inputs] == ["x"]


def test_functions_of_the_model_are_taken_apart(tmp_path):
    body = [hg.node("Relu", ["a"], ["b"], "inner")]
    function = helper.make_function("own", "Act", ["a"], ["b"], body, [helper.make_opsetid("", 17)])
    nodes = [
        hg.node("MatMul", ["x", "w"], ["p"], "product"),
        helper.make_node("Act", ["p"], ["y"], "act", domain="own"),
    ]
    model = simple(nodes, hg.weight("w", 16, 16))
    model.functions.append(function)
    model.opset_import.append(helper.make_opsetid("own", 1))
    read = models.read_model(hg.save(model, tmp_path / "m.onnx"))
    assert [n.op_type for n in read.proto.graph.node] == ["MatMul", "Relu"]


class TestExternalData:
    def saved(self, folder, location="weights.bin"):
        model = hg.residual()
        onnx.save_model(model, folder / "m.onnx", save_as_external_data=True, location="weights.bin", size_threshold=0)
        if location != "weights.bin":
            proto = onnx.load(folder / "m.onnx", load_external_data=False)
            for tensor in proto.graph.initializer:
                next(e for e in tensor.external_data if e.key == "location").value = location
            hg.save(proto, folder / "m.onnx")
        return folder / "m.onnx"

    def test_beside_the_model_it_is_taken_in(self, tmp_path):
        read = models.read_model(self.saved(tmp_path))
        assert all(t.data_location != TensorProto.EXTERNAL for t in read.proto.graph.initializer)
        np.testing.assert_array_equal(hg.initializer(read.proto, "w3"), hg.initializer(hg.residual(), "w3"))

    def test_missing(self, tmp_path):
        path = self.saved(tmp_path)
        (tmp_path / "weights.bin").unlink()
        refused(path, "weights.bin", "not beside the model")

    @pytest.mark.parametrize("location", ["../weights.bin", "/etc/passwd", "sub/weights.bin", ""])
    def test_anywhere_else_is_an_escape(self, tmp_path, location):
        refused(self.saved(tmp_path, location), "plain file beside the model|not beside the model")

    def test_a_link_is_an_escape(self, tmp_path):
        path = self.saved(tmp_path)
        (tmp_path / "weights.bin").rename(tmp_path / "elsewhere")
        (tmp_path / "weights.bin").symlink_to(tmp_path / "elsewhere")
        refused(path, "plain file beside the model")

    def test_too_short(self, tmp_path):
        path = self.saved(tmp_path)
        content = (tmp_path / "weights.bin").read_bytes()
        (tmp_path / "weights.bin").write_bytes(content[:100])
        refused(path, "weights.bin|can't be read|breaks")
