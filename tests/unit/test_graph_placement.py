"""Where Q/DQ lands, by TensorRT's rules, on small graphs of each pattern; and that the result still computes the same."""

import host_graphs as hg
import numpy as np
import onnx
import pytest
from onnx import TensorProto

from edge_sdk.engines import ort
from edge_sdk.host.graph import clean, macs, placement, qdq
from edge_sdk.host.graph import model as models
from edge_sdk.records.bundle import Pinned


def prepared(tmp_path, model):
    """The cleaned model and a probe for it."""
    read = models.read_model(hg.save(model, tmp_path / "m.onnx"))
    rng = np.random.default_rng(0)
    probe = {s.name: rng.normal(size=[a or 4 for a in s.shape]).astype(np.float32) for s in read.inputs}
    return clean.cleaned(read, probe), probe


def quantised(model, probe, pinned=()):
    placed = placement.placement_from_model(model).without(pinned)
    seen = ort.runner_from_model(qdq.with_outputs(model, placed.tensors))(probe) | probe
    scales = {name: float(np.abs(seen[name]).max()) / 127 for name in placed.tensors}
    return placed, qdq.quantized_model(model, placed, scales)


def sqnr_db(model, other, probe):
    wanted, given = (ort.runner_from_model(m.to_bytes())(probe) for m in (model, other))
    return min(
        10 * np.log10(np.square(wanted[n]).sum() / max(np.square(wanted[n] - given[n]).sum(), 1e-30)) for n in wanted
    )


def is_dequantised(proto, node, slot):
    maker = hg.producer(proto, hg.by_name(proto)[node].input[slot])
    return maker is not None and maker.op_type == "DequantizeLinear"


@pytest.fixture
def residual(tmp_path):
    return prepared(tmp_path, hg.residual())


def test_the_skip_input_of_a_residual_add_is_quantised_and_the_layer_s_is_not(residual):
    _, int8 = quantised(*residual)
    add = hg.by_name(int8.proto)["add"]
    makers = {hg.producer(int8.proto, name).op_type for name in add.input}
    assert makers == {"Conv", "DequantizeLinear"}


def test_skip_and_layer_share_one_pair(residual):
    _, int8 = quantised(*residual)
    nodes = hg.by_name(int8.proto)
    skip = next(n for n in nodes["add"].input if hg.producer(int8.proto, n).op_type == "DequantizeLinear")
    assert nodes["branch"].input[0] == skip


def test_nothing_stands_between_a_layer_and_its_norm_and_activation(residual):
    model, probe = residual
    _, int8 = quantised(model, probe)
    assert "BatchNormalization" not in {n.op_type for n in int8.proto.graph.node}
    nodes = hg.by_name(int8.proto)
    assert nodes["stem_relu"].input[0] in nodes["stem"].output
    assert nodes["add_relu"].input[0] in nodes["add"].output


def test_graph_outputs_keep_their_names_and_are_never_quantised(residual):
    model, probe = residual
    _, int8 = quantised(model, probe)
    assert int8.outputs == model.outputs
    assert int8.inputs == model.inputs
    assert hg.producer(int8.proto, "logits").op_type == "Gemm"


def test_an_output_that_is_also_a_layer_s_input_stays_float_itself(tmp_path):
    nodes = [
        hg.node("MatMul", ["x", "w"], ["mid"], "first"),
        hg.node("MatMul", ["mid", "v"], ["y"], "second"),
    ]
    model = hg.graph(
        nodes, [hg.weight("w", 16, 16), hg.weight("v", 16, 16)], {"x": ["N", 16]}, {"mid": ["N", 16], "y": ["N", 16]}
    )
    cleaned, probe = prepared(tmp_path, model)
    _, int8 = quantised(cleaned, probe)
    assert hg.producer(int8.proto, "mid").op_type in ("MatMul", "Gemm")
    assert is_dequantised(int8.proto, hg.producer(int8.proto, "y").name, 0)


def test_weights_are_int8_per_channel_with_zero_zero_points_and_biases_stay_float(residual):
    _, int8 = quantised(*residual)
    proto = int8.proto
    for name in ("stem", "branch", "head"):
        layer = hg.by_name(proto)[name]
        dequantize = hg.producer(proto, layer.input[1])
        codes, scales, zeros = (hg.initializer(proto, n) for n in dequantize.input)
        assert dequantize.op_type == "DequantizeLinear"
        assert codes.dtype == np.int8
        assert -127 <= codes.min() <= codes.max() <= 127
        assert scales.shape == zeros.shape == (codes.shape[0],)
        assert scales.dtype == np.float32
        assert (scales > 0).all()
        assert zeros.dtype == np.int8
        assert not zeros.any()
        assert hg.initializer(proto, layer.input[2]).dtype == np.float32


def test_activations_have_one_positive_scale_and_an_int8_zero_point_of_zero(residual):
    _, int8 = quantised(*residual)
    pairs = [n for n in int8.proto.graph.node if n.op_type == "QuantizeLinear"]
    assert pairs
    for pair in pairs:
        scale, zero = (hg.initializer(int8.proto, n) for n in pair.input[1:])
        assert scale.shape == zero.shape == ()
        assert scale > 0
        assert (zero.dtype, zero) == (np.int8, 0)


def test_float_copies_of_the_weights_are_gone(residual):
    model, probe = residual
    placed, int8 = quantised(model, probe)
    left = {t.name for t in int8.proto.graph.initializer}
    assert not left & {use.tensor for use in placed.weights}


def test_names_are_readable(residual):
    _, int8 = quantised(*residual)
    names = {t.name for t in int8.proto.graph.initializer} | {o for n in int8.proto.graph.node for o in n.output}
    assert {"image_quantized", "image_scale", "image_zero_point", "image_dequantized"} <= names


def test_names_that_are_taken_are_not_taken_twice(tmp_path):
    nodes = [hg.node("Relu", ["x"], ["x_quantized"], "relu"), hg.node("MatMul", ["x", "w"], ["p"], "product"),
             hg.node("Add", ["p", "x_quantized"], ["y"], "add")]  # fmt: skip
    model = hg.graph(nodes, [hg.weight("w", 16, 16)], {"x": ["N", 16]}, {"y": ["N", 16]})
    cleaned, probe = prepared(tmp_path, model)
    _, int8 = quantised(cleaned, probe)
    hg.checked(int8.proto)
    assert sqnr_db(cleaned, int8, probe) > 30


def test_the_result_is_close_to_float_and_the_same_bytes_each_time(residual):
    model, probe = residual
    _, first = quantised(model, probe)
    _, second = quantised(model, probe)
    assert first.to_bytes() == second.to_bytes()
    assert sqnr_db(model, first, probe) > 30


def test_the_cleaned_model_is_left_as_it_was(residual):
    model, probe = residual
    before = model.to_bytes()
    quantised(model, probe)
    assert model.to_bytes() == before


def test_a_gemm_of_either_layout_has_its_output_axis(tmp_path):
    nodes = [hg.node("Gemm", ["x", "w"], ["h"], "plain"), hg.node("Relu", ["h"], ["r"], "relu"),
             hg.node("Gemm", ["r", "v"], ["y"], "transposed", transB=1)]  # fmt: skip
    model = hg.graph(nodes, [hg.weight("w", 16, 48), hg.weight("v", 10, 48)], {"x": ["N", 16]}, {"y": ["N", 10]})
    cleaned, probe = prepared(tmp_path, model)
    placed, int8 = quantised(cleaned, probe)
    assert [use.axis for use in placed.weights] == [1, 0]
    assert hg.initializer(int8.proto, "w_scale").shape == (48,)
    assert sqnr_db(cleaned, int8, probe) > 30


def test_matmul_over_a_sequence(tmp_path):
    nodes = [hg.node("MatMul", ["x", "w"], ["h"], "product"), hg.node("Add", ["h", "x"], ["y"], "add")]
    model = hg.graph(nodes, [hg.weight("w", 32, 32)], {"x": ["N", 7, 32]}, {"y": ["N", 7, 32]})
    cleaned, probe = prepared(tmp_path, model)
    placed, int8 = quantised(cleaned, probe)
    assert placed.tensors == ("x",)
    assert is_dequantised(int8.proto, "add", 1)
    assert sqnr_db(cleaned, int8, probe) > 30


def test_attention_products_stay_in_float(tmp_path):
    nodes = [hg.node("MatMul", ["x", "w"], ["q"], "query"), hg.node("Transpose", ["x"], ["t"], "turn", perm=[0, 2, 1]),
             hg.node("MatMul", ["q", "t"], ["y"], "scores")]  # fmt: skip
    model = hg.graph(nodes, [hg.weight("w", 32, 32)], {"x": ["N", 7, 32]}, {"y": ["N", 7, 7]})
    cleaned, probe = prepared(tmp_path, model)
    placed, int8 = quantised(cleaned, probe)
    (pinned,) = placed.pinned
    assert "two activations" in pinned.reason
    assert not is_dequantised(int8.proto, pinned.node, 0)


def test_depthwise_and_transposed_convolutions(tmp_path):
    nodes = [
        hg.node("Conv", ["x", "w"], ["a"], "depthwise", group=16, pads=[1] * 4),
        hg.node("Relu", ["a"], ["r"], "relu"),
        hg.node("ConvTranspose", ["r", "v", "b"], ["y"], "up", strides=[2, 2]),
    ]
    model = hg.graph(nodes, [hg.weight("w", 16, 1, 3, 3), hg.weight("v", 16, 24, 2, 2), hg.weight("b", 24)],
                     {"x": ["N", 16, 6, 6]}, {"y": ["N", 24, 12, 12]})  # fmt: skip
    cleaned, probe = prepared(tmp_path, model)
    placed, int8 = quantised(cleaned, probe)
    assert [(use.node, use.axis) for use in placed.weights] == [("depthwise", 0), ("up", 1)]
    assert hg.initializer(int8.proto, "v_scale").shape == (24,)
    assert sqnr_db(cleaned, int8, probe) > 30


def test_of_two_layers_into_one_add_the_shallower_is_the_skip(tmp_path):
    nodes = [
        hg.node("Conv", ["x", "s"], ["short"], "shortcut"),
        hg.node("Conv", ["x", "w"], ["a"], "first", pads=[1] * 4),
        hg.node("Relu", ["a"], ["r"], "relu"),
        hg.node("Conv", ["r", "v"], ["b"], "second", pads=[1] * 4),
        hg.node("Add", ["short", "b"], ["y"], "add"),
    ]
    weights = [hg.weight("s", 16, 16, 1, 1), hg.weight("w", 16, 16, 3, 3), hg.weight("v", 16, 16, 3, 3)]
    cleaned, probe = prepared(tmp_path, hg.graph(nodes, weights, {"x": ["N", 16, 6, 6]}, {"y": ["N", 16, 6, 6]}))
    _, int8 = quantised(cleaned, probe)
    assert is_dequantised(int8.proto, "add", 0)
    assert not is_dequantised(int8.proto, "add", 1)


def test_an_add_of_activations_only_is_left_alone(tmp_path):
    nodes = [hg.node("MatMul", ["x", "w"], ["a"], "first"), hg.node("Relu", ["a"], ["r"], "relu"),
             hg.node("Add", ["r", "x"], ["y"], "add")]  # fmt: skip
    cleaned, probe = prepared(tmp_path, hg.graph(nodes, [hg.weight("w", 16, 16)], {"x": ["N", 16]}, {"y": ["N", 16]}))
    _, int8 = quantised(cleaned, probe)
    assert not any(is_dequantised(int8.proto, "add", slot) for slot in (0, 1))


@pytest.mark.parametrize(
    ("takes", "gives", "is_int8"),
    [(1, 16, True), (3, 32, True), (3, 12, False), (16, 6, False), (16, 8, True), (16, 20, True)],
)
def test_rule_nine_for_the_first_convolution(tmp_path, takes, gives, is_int8):
    nodes = [hg.node("Conv", ["x", "w"], ["y"], "first")]
    model = hg.graph(nodes, [hg.weight("w", gives, takes, 1, 1)], {"x": ["N", takes, 4, 4]}, {"y": ["N", gives, 4, 4]})
    placed = placement.placement_from_model(prepared(tmp_path, model)[0])
    assert bool(placed.weights) == is_int8
    assert [entry.node for entry in placed.pinned] == ([] if is_int8 else ["first"])
    assert all("R9" in entry.reason for entry in placed.pinned)


def test_the_first_convolution_is_int8_behind_what_exporters_put_before_it(tmp_path):
    # tf2onnx turns [N, H, W, 1] into [N, 1, H, W] by a Reshape, other images by a Transpose.
    nodes = [
        hg.node("Reshape", ["x", "shape"], ["flat"], "reshape"),
        hg.node("Transpose", ["flat"], ["turned"], "turn", perm=[0, 1, 3, 2]),
        hg.node("Conv", ["turned", "w"], ["y"], "first"),
    ]
    weights = [hg.constant("shape", np.array([-1, 1, 8, 8])), hg.weight("w", 16, 1, 3, 3)]
    model, _ = prepared(tmp_path, hg.graph(nodes, weights, {"x": ["N", 8, 8, 1]}, {"y": ["N", 16, 6, 6]}))
    assert placement.placement_from_model(model).nodes == {"first"}


def test_a_later_convolution_with_few_input_channels_stays_in_float(tmp_path):
    nodes = [hg.node("Relu", ["x"], ["r"], "relu"), hg.node("Conv", ["r", "w"], ["y"], "later")]
    model = hg.graph(nodes, [hg.weight("w", 16, 3, 1, 1)], {"x": ["N", 3, 4, 4]}, {"y": ["N", 16, 4, 4]})
    (pinned,) = placement.placement_from_model(prepared(tmp_path, model)[0]).pinned
    assert "3 input channels" in pinned.reason


def test_small_products_stay_in_float(tmp_path):
    nodes = [hg.node("MatMul", ["x", "w"], ["y"], "small")]
    model = hg.graph(nodes, [hg.weight("w", 8, 16)], {"x": ["N", 8]}, {"y": ["N", 16]})
    (pinned,) = placement.placement_from_model(prepared(tmp_path, model)[0]).pinned
    assert "8 terms" in pinned.reason


def test_half_precision_weights_stay_in_float(tmp_path):
    nodes = [hg.node("MatMul", ["x", "w"], ["y"], "half")]
    half = hg.constant("w", np.ones((16, 16), np.float16))
    model = hg.graph(nodes, [half], {"x": ["N", 16]}, {"y": ["N", 16]}, dtype=TensorProto.FLOAT16)
    read = models.read_model(hg.save(model, tmp_path / "m.onnx"))
    (pinned,) = placement.placement_from_model(read).pinned
    assert "float16" in pinned.reason


def test_a_pinned_node_stays_in_float_with_its_reason(residual):
    model, probe = residual
    placed, int8 = quantised(model, probe, pinned=[Pinned("branch", "too sensitive")])
    assert placed.pinned == (Pinned("branch", "too sensitive"),)
    assert not is_dequantised(int8.proto, "branch", 1)
    assert not any(is_dequantised(int8.proto, "add", slot) for slot in (0, 1))


def test_macs_are_counted_by_hand(residual):
    model, probe = residual
    one = {"image": probe["image"][:1]}
    counted = macs.costs_by_node(model, one).macs
    head = next(n.name for n in model.proto.graph.node if n.op_type == "Gemm")
    assert counted == {"stem": 64 * 16 * 9, "branch": 64 * 16 * 16 * 9, head: 160}
    assert macs.int8_compute_ratio(counted, frozenset(counted)) == 1
    assert macs.int8_compute_ratio(counted, frozenset({head})) == pytest.approx(160 / sum(counted.values()))
    assert macs.int8_compute_ratio({}, frozenset()) == 0


def test_macs_of_transposed_convolution_and_attention(tmp_path):
    nodes = [hg.node("ConvTranspose", ["x", "w"], ["up"], "up", strides=[2, 2]),
             hg.node("MatMul", ["up", "up"], ["y"], "square")]  # fmt: skip
    model = hg.graph(nodes, [hg.weight("w", 16, 8, 2, 2)], {"x": ["N", 16, 3, 3]}, {"y": ["N", 8, 6, 6]})
    cleaned, _ = prepared(tmp_path, model)
    counted = macs.costs_by_node(cleaned, {"x": np.zeros((1, 16, 3, 3), np.float32)}).macs
    assert counted == {"up": 16 * 9 * 8 * 4, "square": 8 * 36 * 6}


def test_layers_that_are_never_in_int8_count_too(tmp_path):
    nodes = [hg.node("LSTM", ["x", "w", "r"], ["", "h"], "memory", hidden_size=8),
             hg.node("Squeeze", ["h", "first"], ["s"], "squeeze"),
             hg.node("Einsum", ["s", "e"], ["m"], "sums", equation="...i, ij -> ...j"),
             hg.node("MatMul", ["m", "v"], ["y"], "head")]  # fmt: skip
    weights = [hg.weight("w", 1, 32, 6), hg.weight("r", 1, 32, 8), hg.constant("first", np.array([0], np.int64)),
               hg.weight("e", 8, 16), hg.weight("v", 16, 16)]  # fmt: skip
    model = hg.graph(nodes, weights, {"x": [1, "N", 6]}, {"y": ["N", 16]})
    read = models.read_model(hg.save(model, tmp_path / "m.onnx"))
    costs = macs.costs_by_node(read, {"x": np.zeros((1, 3, 6), np.float32)})
    assert costs.others == {"memory": 3 * 32 * (6 + 8), "sums": 3 * 8 * 16}
    placed = placement.placement_from_model(read)
    assert {entry.node: entry.reason.split()[0] for entry in placed.pinned} == {"memory": "LSTM", "sums": "Einsum"}
    shared = macs.int8_compute_ratio(costs.total, placed.nodes)
    assert shared == pytest.approx(3 * 256 / (3 * (32 * 14 + 128 + 256)))


class TestCleaning:
    def test_what_conversion_folded_is_not_folded_again(self, tmp_path):
        read = models.read_model(hg.save(hg.residual(), tmp_path / "m.onnx"))
        probe = {"image": np.zeros((1, 1, 8, 8), np.float32)}
        same = clean.cleaned(read, probe, is_folded=True)
        assert [node.op_type for node in same.proto.graph.node] == [node.op_type for node in read.proto.graph.node]

    def test_batch_norms_are_folded_and_outputs_stay(self, tmp_path):
        read = models.read_model(hg.save(hg.residual(), tmp_path / "m.onnx"))
        probe = {"image": np.random.default_rng(1).normal(size=(3, 1, 8, 8)).astype(np.float32)}
        cleaned = clean.cleaned(read, probe)
        assert {n.op_type for n in cleaned.proto.graph.node} == {
            "Conv",
            "Relu",
            "Add",
            "GlobalAveragePool",
            "Flatten",
            "Gemm",
        }
        wanted, given = (ort.runner_from_model(m.to_bytes())(probe)["logits"] for m in (read, cleaned))
        np.testing.assert_allclose(given, wanted, rtol=1e-4, atol=1e-5)

    def test_only_the_standard_domain_is_left_and_paths_in_doc_strings_are_gone(self, tmp_path):
        source = hg.residual()
        source.graph.node[0].doc_string = "/home/someone/train.py(12): forward"
        cleaned, _ = prepared(tmp_path, source)
        assert [entry.domain for entry in cleaned.proto.opset_import] == [""]
        assert cleaned.opset == 17
        assert b"someone" not in cleaned.to_bytes()

    def test_nameless_nodes_get_names(self, tmp_path):
        source = hg.residual()
        for entry in source.graph.node:
            entry.name = ""
        cleaned, _ = prepared(tmp_path, source)
        names = [n.name for n in cleaned.proto.graph.node]
        assert all(names)
        assert len(set(names)) == len(names)

    def test_an_output_that_is_not_finite_is_refused(self, tmp_path):
        nodes = [hg.node("MatMul", ["x", "w"], ["p"], "product"), hg.node("Log", ["p"], ["y"], "log")]
        model = hg.graph(nodes, [hg.weight("w", 16, 16)], {"x": ["N", 16]}, {"y": ["N", 16]})
        with pytest.raises(models.errors.ModelError, match="'y'.*NaN or infinite"):
            prepared(tmp_path, model)

    def test_the_onnx_checker_takes_what_comes_out(self, residual):
        model, probe = residual
        onnx.checker.check_model(quantised(model, probe)[1].proto, full_check=True)
