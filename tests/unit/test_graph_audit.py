"""The audit names each broken rule with node and remedy, on any tool's output, and NVIDIA's parser agrees."""

import importlib.util
import re

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edge_sdk import errors
from edge_sdk.cli import audit as audit_command
from edge_sdk.cli import main
from edge_sdk.engines import compilers
from edge_sdk.host import auditing
from edge_sdk.host.convert.limits import Limits
from edge_sdk.host.graph import audit

HAS_RTX = importlib.util.find_spec("tensorrt_rtx_bindings") is not None


class Drawing:
    """A small graph drawn node by node: x -> conv ... with Q/DQ where a test puts it."""

    def __init__(self, opset=17):
        self.nodes, self.constants, self.opset = [], {}, opset

    def constant(self, name, value):
        self.constants[name] = np.asarray(value)
        return name

    def pair(self, tensor, *, zero=np.int8(0), scale=np.float32(0.05), axis=None):
        scale_name, zero_name = self.constant(f"{tensor}_s", scale), self.constant(f"{tensor}_z", zero)
        extra = {} if axis is None else {"axis": axis}
        self.nodes.append(
            helper.make_node(
                "QuantizeLinear", [tensor, scale_name, zero_name], [f"{tensor}_q"], name=f"{tensor}_Q", **extra
            )
        )
        self.nodes.append(
            helper.make_node(
                "DequantizeLinear",
                [f"{tensor}_q", scale_name, zero_name],
                [f"{tensor}_dq"],
                name=f"{tensor}_DQ",
                **extra,
            )
        )
        return f"{tensor}_dq"

    def weight(self, name, *, per_channel=True):
        self.constant(f"{name}_int8", np.ones((16, 16, 3, 3), np.int8))
        scale = np.full(16, 0.01, np.float32) if per_channel else np.float32(0.01)
        zero = np.zeros(16, np.int8) if per_channel else np.int8(0)
        inputs = [f"{name}_int8", self.constant(f"{name}_s", scale), self.constant(f"{name}_z", zero)]
        self.nodes.append(
            helper.make_node(
                "DequantizeLinear", inputs, [f"{name}_dq"], name=f"{name}_DQ", **({"axis": 0} if per_channel else {})
            )
        )
        return f"{name}_dq"

    def conv(self, name, data, weight, bias=None):
        bias = bias or self.constant(f"{name}_b", np.zeros(16, np.float32))
        self.nodes.append(helper.make_node("Conv", [data, weight, bias], [name], name=name, pads=[1, 1, 1, 1]))
        return name

    def node(self, op, inputs, output):
        self.nodes.append(helper.make_node(op, inputs, [output], name=output))
        return output

    def model(self, output="y"):
        shape = ["N", 16, 8, 8]
        graph = helper.make_graph(
            self.nodes,
            "drawing",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
            [helper.make_tensor_value_info(output, TensorProto.FLOAT, shape)],
            [numpy_helper.from_array(value, name) for name, value in self.constants.items()],
        )
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", self.opset)], ir_version=9)


def lawful():
    d = Drawing()
    d.conv("c1", d.pair("x"), d.weight("w1"))
    d.node("Relu", ["c1"], "r1")
    d.conv("c2", d.pair("r1"), d.weight("w2"))
    d.node("Add", ["c2", "r1_dq"], "a")
    d.node("Relu", ["a"], "y")
    return d.model()


def asymmetric():
    d = Drawing()
    d.conv("c1", d.pair("x", zero=np.int8(3)), d.weight("w1"))
    d.node("Relu", ["c1"], "y")
    return d.model()


def unsigned():
    d = Drawing()
    d.conv("c1", d.pair("x", zero=np.uint8(0)), d.weight("w1"))
    d.node("Relu", ["c1"], "y")
    return d.model()


def negative_scale():
    d = Drawing()
    d.conv("c1", d.pair("x", scale=np.float32(-0.1)), d.weight("w1"))
    d.node("Relu", ["c1"], "y")
    return d.model()


def one_weight_scale():
    d = Drawing()
    d.conv("c1", d.pair("x"), d.weight("w1", per_channel=False))
    d.node("Relu", ["c1"], "y")
    return d.model()


def integer_bias():
    d = Drawing()
    d.constant("b_int", np.zeros(16, np.int32))
    d.constant("b_s", np.full(16, 0.001, np.float32))
    d.nodes.append(helper.make_node("DequantizeLinear", ["b_int", "b_s"], ["b_dq"], name="b_DQ", axis=0))
    d.conv("c1", d.pair("x"), d.weight("w1"), bias="b_dq")
    d.node("Relu", ["c1"], "y")
    return d.model()


def cut_before_the_activation():
    d = Drawing()
    d.conv("c1", d.pair("x"), d.weight("w1"))
    d.node("Relu", [d.pair("c1")], "y")
    return d.model()


def float_input():
    d = Drawing()
    d.conv("c1", "x", d.weight("w1"))
    d.node("Relu", ["c1"], "y")
    return d.model()


def both_sides_of_the_add():
    d = Drawing()
    d.conv("c1", d.pair("x"), d.weight("w1"))
    d.node("Add", [d.pair("c1"), "x_dq"], "a")
    d.node("Relu", ["a"], "y")
    return d.model()


def quantised_output():
    d = Drawing()
    d.conv("c1", d.pair("x"), d.weight("w1"))
    d.node("Relu", ["c1"], "r")
    d.pair("r")
    return d.model(output="r_dq")


def old_opset():
    d = Drawing(opset=12)
    d.conv("c1", d.pair("x"), d.weight("w1", per_channel=False))
    d.node("Relu", ["c1"], "y")
    return d.model()


def per_channel_activation():
    d = Drawing()
    d.conv("c1", d.pair("x", scale=np.full(16, 0.05, np.float32), zero=np.zeros(16, np.int8), axis=1), d.weight("w1"))
    d.node("Relu", ["c1"], "y")
    return d.model()


def concat_of_two_scales():
    d = Drawing()
    d.conv("c1", d.pair("x"), d.weight("w1"))
    d.node("Relu", ["c1"], "r1")
    d.node("Concat", [d.pair("r1", scale=np.float32(0.1)), "x_dq"], "j")
    d.nodes[-1].attribute.append(helper.make_attribute("axis", 2))
    d.node(
        "Slice", ["j", *(d.constant(n, np.array([v], np.int64)) for n, v in (("from", 0), ("to", 8), ("axes", 2)))], "y"
    )
    return d.model()


BROKEN = {
    "R1": [asymmetric, unsigned, negative_scale],
    "R2": [one_weight_scale],
    "R3": [integer_bias],
    "R4": [cut_before_the_activation],
    "R5": [float_input, both_sides_of_the_add],
    "R6": [quantised_output],
    "R7": [old_opset],
    "R8": [per_channel_activation],
    "R9": [concat_of_two_scales],
}
CASES = [(rule, draw) for rule, draws in BROKEN.items() for draw in draws]


def test_a_lawful_graph_keeps_every_rule():
    found = audit.audit_model(lawful())
    assert found.violations == ()
    assert not found.is_refused


@pytest.mark.parametrize(("rule", "draw"), CASES, ids=[draw.__name__ for _, draw in CASES])
def test_a_broken_rule_is_named_with_node_and_remedy(rule, draw):
    violations = audit.audit_model(draw()).violations
    assert rule in {violation.rule for violation in violations}
    assert all(re.search(r"'\w+'|the model", violation.node) and violation.remedy for violation in violations)


@pytest.mark.skipif(not HAS_RTX, reason="the wheel of TensorRT for RTX is not installed (pip install 'edge_sdk[rtx]')")
@pytest.mark.parametrize("draw", [lawful, *(draw for _, draw in CASES)], ids=lambda draw: draw.__name__)
def test_nvidias_compiler_agrees_on_what_is_refused(draw):
    model = draw()
    assert audit.audit_model(model).is_refused is not compilers.check_model(model.SerializeToString()).ok


def test_operator_form_and_foreign_domains_are_r7():
    node = helper.make_node(
        "QLinearAdd", ["a", "as", "az", "b", "bs", "bz", "ys", "yz"], ["y"], name="add", domain="com.microsoft"
    )
    conv = helper.make_node("ConvInteger", ["x", "w"], ["c"], name="conv")
    graph = helper.make_graph([conv, node], "g", [], [])
    found = audit.audit_model(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)]))
    assert [v.rule for v in found.violations] == ["R7", "R7"]


def test_a_float_model_is_no_subject(tmp_path):
    d = Drawing()
    d.conv("y", "x", d.constant("w", np.ones((16, 16, 3, 3), np.float32)))
    with pytest.raises(errors.ModelError, match="edge-sdk build"):
        audit.audit_model(d.model())


@pytest.mark.parametrize("content", [None, b"", b"no model"], ids=["absent", "empty", "junk"])
def test_a_file_that_is_no_model_is_refused_by_name(tmp_path, content):
    file = tmp_path / "model.onnx"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(errors.ModelError):
        auditing.audit_source(file)


@pytest.mark.parametrize("inline_bytes", [0, Limits().inline_bytes], ids=["kept beside", "taken in"])
def test_weights_beside_the_model_are_audited_too(tmp_path, inline_bytes):
    file = tmp_path / "model.onnx"
    onnx.save_model(one_weight_scale(), file, save_as_external_data=True, location="w.bin", size_threshold=0)
    found = auditing.audit_source(file, limits=Limits(inline_bytes=inline_bytes))
    assert found == audit.audit_model(one_weight_scale())


def test_a_stranger_s_file_is_opened_apart_and_reads_nothing_outside_its_folder(tmp_path, capsys):
    file = tmp_path / "model.onnx"
    onnx.save_model(one_weight_scale(), file, save_as_external_data=True, location="w.bin", size_threshold=0)
    proto = onnx.load(file, load_external_data=False)
    next(e for e in proto.graph.initializer[0].external_data if e.key == "location").value = "../../etc/passwd"
    file.write_bytes(proto.SerializeToString())
    assert main.run(["audit", str(file)]) == errors.UsageError.exit_code
    assert "outside the model's folder" in capsys.readouterr().err
    onnx.save(lawful(), file)
    with pytest.raises(errors.ModelError, match="memory_bytes"):
        auditing.audit_source(file, limits=Limits(memory_bytes=64 * 2**20))


def test_operators_of_another_domain_reach_the_audit_from_a_file(tmp_path):
    model = lawful()
    for node in model.graph.node:
        if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
            node.domain = "com.microsoft"
    model.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    onnx.save(model, tmp_path / "model.onnx")
    assert {v.rule for v in auditing.audit_source(tmp_path / "model.onnx").violations} == {"R7"}


def test_the_command_counts_and_exits_1_when_a_rule_is_broken(tmp_path, capsys):
    good, bad = tmp_path / "good.onnx", tmp_path / "bad.onnx"
    onnx.save(lawful(), good)
    onnx.save(integer_bias(), bad)
    assert main.run(["audit", str(good)]) == 0
    assert "keeps every rule" in capsys.readouterr().out
    assert main.run(["audit", str(bad), "--json"]) == 1
    assert '"R3": 1' in capsys.readouterr().out


def test_the_text_shows_the_first_of_each_rule_and_counts_the_rest():
    d = Drawing()
    data = d.pair("x", zero=np.int8(1))
    for index in range(4):
        data = d.pair(d.conv(f"c{index}", data, d.weight(f"w{index}")), zero=np.int8(1))
    d.node("Identity", [data], "y")
    text = audit_command.audit_text(audit.audit_model(d.model()), shown=3)
    assert text.count("has the zero point 1") == 3
    assert "and 7 more (--all)" in text
