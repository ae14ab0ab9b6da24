"""The INT8 model in the form of ONNX Runtime's integer kernels: what is rewritten, what stays, what it costs."""

import tempfile
from collections import Counter
from pathlib import Path

import host_graphs as hg
import numpy as np
import onnx
import onnxruntime
import pytest
from host_graphs import constant, graph, initializer, node, producer, weight

from edge_sdk.engines import ort
from edge_sdk.host.graph import lowering, placement, qdq
from edge_sdk.host.graph import model as models


def int8_of(proto, feeds):
    """INT8 by TensorRT's rules, ranges by the largest magnitude."""
    model = models.model_from_proto(proto, 17)
    placed = placement.placement_from_model(model)
    inner = [name for name in placed.tensors if name not in feeds]
    seen = ort.runner_from_model(qdq.with_outputs(model, inner), inner)(feeds) if inner else {}
    scales = {name: float(np.abs(values).max()) / 127 for name, values in {**seen, **feeds}.items()}
    return models.serialized(qdq.quantized_proto(model, placed, scales))


def models_by_rule(int8, feeds):
    with tempfile.TemporaryDirectory() as folder:
        made = lowering.write_lowered(int8, [feeds], Path(folder))
        return {rule: file.read_bytes() for rule, file in made.items()}


def lowered_of(proto, feeds):
    int8 = int8_of(proto, feeds)
    return int8, next(iter(models_by_rule(int8, feeds).values()))


def fused(content, tmp_path):
    """The operators that ONNX Runtime really runs."""
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimised.onnx")
    options.log_severity_level = 3
    onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    return Counter(n.op_type for n in onnx.load(tmp_path / "optimised.onnx").graph.node)


def sqnr_db(wanted, given):
    return 10 * np.log10(np.square(wanted).sum() / np.square(wanted - given).sum())


@pytest.fixture
def noise():
    return {"image": np.random.default_rng(1).normal(size=(16, 1, 8, 8)).astype(np.float32)}


def folded(**options):
    """The residual net without its batch norm, as the builder would have folded it."""
    proto = hg.residual(**options)
    norm = hg.by_name(proto)["norm"]
    proto.graph.node.remove(norm)
    hg.by_name(proto)["stem"].output[0] = "n1"
    return proto


def test_every_layer_of_a_residual_net_runs_in_integer_kernels(tmp_path, noise):
    _, content = lowered_of(folded(), noise)

    runs = fused(content, tmp_path)

    assert runs["QLinearConv"] == 2
    assert runs["QLinearAdd"] == 1
    assert runs["QLinearGlobalAveragePool"] == 1
    assert runs["QGemm"] == 1
    assert not {"Conv", "Gemm", "Add", "Relu"} & set(runs)


def test_it_answers_as_int8_does(noise):
    proto = folded()
    int8, content = lowered_of(proto, noise)
    wanted, given, exact = (
        ort.runner_from_model(model)(noise)["logits"] for model in (int8, content, proto.SerializeToString())
    )

    assert sqnr_db(exact, given) > sqnr_db(exact, wanted) - 3


def test_activations_are_unsigned_with_the_scales_of_int8(noise):
    int8, content = lowered_of(folded(), noise)
    before, after = map(onnx.load_model_from_string, (int8, content))

    for tensor, zero_point in (("image", 128), ("r1", 0), ("flat", 0)):
        code = next(n for n in after.graph.node if n.op_type == "QuantizeLinear" and n.input[0] == tensor)
        assert initializer(after, code.input[1]) == initializer(before, f"{tensor}_scale")
        assert initializer(after, code.input[2]) == np.uint8(zero_point)


def test_weights_stay_and_biases_become_integers_of_both_scales(noise):
    int8, content = lowered_of(folded(), noise)
    before, after = map(onnx.load_model_from_string, (int8, content))

    assert np.array_equal(initializer(before, "w2_quantized"), initializer(after, "w2_quantized"))
    bias = producer(after, hg.by_name(after)["branch"].input[2])
    codes, steps = (initializer(after, name) for name in bias.input[:2])
    assert codes.dtype == np.int32
    assert steps == pytest.approx(initializer(before, "r1_scale") * initializer(before, "w2_scale"))
    assert np.abs(codes * steps - initializer(before, "b2")).max() <= steps.max() / 2


def test_equal_models_and_samples_give_equal_bytes(noise):
    int8 = int8_of(folded(), noise)

    assert models_by_rule(int8, noise) == models_by_rule(int8, noise)


def test_the_scales_that_int8_lacks_come_by_several_rules(noise):
    made = models_by_rule(int8_of(folded(), noise), noise)

    assert list(made)[0] == "mse"
    assert len(made) >= 2
    assert len(set(made.values())) == len(made)


def test_a_clip_is_left_to_the_kernel(tmp_path, noise):
    proto = folded()
    for name in ("stem_relu", "add_relu"):
        relu = hg.by_name(proto)[name]
        relu.op_type = "Clip"
        relu.input.extend(["low", "high"])
    proto.graph.initializer.extend([constant("low", np.float32(0)), constant("high", np.float32(0.5))])
    int8, content = lowered_of(proto, noise)

    runs = fused(content, tmp_path)

    assert runs["QLinearConv"] == 2
    assert not {"Conv", "Clip"} & set(runs)
    exact = ort.runner_from_model(proto.SerializeToString())(noise)["logits"]
    given = ort.runner_from_model(content)(noise)["logits"]
    assert sqnr_db(exact, given) > sqnr_db(exact, ort.runner_from_model(int8)(noise)["logits"]) - 3


def test_a_layer_whose_result_leaves_the_graph_stays_in_its_first_form(tmp_path, noise):
    proto = folded()
    proto.graph.output.append(onnx.helper.make_tensor_value_info("c2", onnx.TensorProto.FLOAT, ["N", 16, 8, 8]))

    _, content = lowered_of(proto, noise)

    runs = fused(content, tmp_path)
    assert (runs["QLinearConv"], runs["QGemm"]) == (1, 1)
    assert sum(count for op, count in runs.items() if "Conv" in op and "QLinear" not in op) == 1
    assert [value.name for value in onnx.load_model_from_string(content).graph.output] == ["logits", "c2"]


def test_a_bias_beyond_32_bits_stays_in_float(noise):
    proto = folded()
    values = initializer(proto, "b2").copy()
    values[0] = 1e9
    next(t for t in proto.graph.initializer if t.name == "b2").CopyFrom(constant("b2", values))
    w2 = initializer(proto, "w2") * np.float32(1e-3)
    next(t for t in proto.graph.initializer if t.name == "w2").CopyFrom(constant("w2", w2))
    int8 = int8_of(proto, noise)

    (content, *_) = models_by_rule(int8, noise).values()

    assert hg.by_name(onnx.load_model_from_string(content))["branch"].input[2] == "b2"
    exact = ort.runner_from_model(int8)(noise)["logits"]
    assert sqnr_db(exact, ort.runner_from_model(content)(noise)["logits"]) > 20


def test_a_pooled_tensor_shares_its_codes_with_what_it_comes_from(tmp_path, noise):
    nodes = [
        node("Conv", ["image", "w1", "b1"], ["c1"], "first", pads=[1] * 4),
        node("Relu", ["c1"], ["r1"], "relu"),
        node("MaxPool", ["r1"], ["p1"], "pool", kernel_shape=[2, 2], strides=[2, 2]),
        node("Conv", ["p1", "w2"], ["c2"], "second", pads=[1] * 4),
        node("Relu", ["c2"], ["r2"], "relu2"),
        node("Flatten", ["r2"], ["flat"], "flatten"),
        node("Gemm", ["flat", "w3", "b3"], ["logits"], "head", transB=1),
    ]
    weights = [
        weight("w1", 16, 1, 3, 3),
        weight("b1", 16),
        weight("w2", 16, 16, 3, 3),
        weight("w3", 10, 256),
        weight("b3", 10),
    ]
    proto = graph(nodes, weights, {"image": ["N", 1, 8, 8]}, {"logits": ["N", 10]})

    _, content = lowered_of(proto, noise)

    runs = fused(content, tmp_path)
    assert (runs["QLinearConv"], runs["MaxPool"] + runs["NhwcMaxPool"], runs["QGemm"]) == (2, 1, 1)
    assert (runs["QuantizeLinear"], runs["DequantizeLinear"]) == (1, 0)


def test_attention_and_what_is_float_in_int8_keep_their_inputs():
    nodes = [
        node("MatMul", ["x", "wq"], ["q"], "query"),
        node("Softmax", ["q"], ["s"], "softmax"),
        node("Add", ["s", "x"], ["sum"], "residual"),
        node("MatMul", ["sum", "wo"], ["y"], "out"),
    ]
    proto = graph(nodes, [weight("wq", 16, 16), weight("wo", 16, 16, seed=1)], {"x": ["N", 16]}, {"y": ["N", 16]})
    feeds = {"x": np.random.default_rng(1).normal(size=(16, 16)).astype(np.float32)}

    int8, content = lowered_of(proto, feeds)

    after = onnx.load_model_from_string(content)
    assert list(hg.by_name(after)["softmax"].input) == ["q"]
    assert list(hg.by_name(after)["residual"].input) == ["s", "x"]
    wanted, given = (ort.runner_from_model(model)(feeds)["y"] for model in (int8, content))
    assert np.abs(wanted - given).max() < 1e-2


def test_a_model_without_integer_layers_gives_nothing(noise):
    assert models_by_rule(folded().SerializeToString(), noise) == {}
