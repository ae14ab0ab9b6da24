"""Patterns of real networks: where Q/DQ lands in each, that the audit finds nothing, and that NVIDIA's compiler takes it."""

import importlib.util

import host_graphs as hg
import numpy as np
import pytest

from edge_sdk.engines import compilers, ort
from edge_sdk.host.graph import audit, clean, placement, qdq
from edge_sdk.host.graph import model as models

HAS_RTX = importlib.util.find_spec("tensorrt_rtx_bindings") is not None
IMAGE = {"x": ["N", 16, 8, 8]}
W = [hg.weight("w", 16, 16, 3, 3), hg.weight("v", 16, 16, 3, 3, seed=1), hg.weight("u", 16, 16, 1, 1, seed=2)]


def conv(data, weight, output, name, **attributes):
    return hg.node("Conv", [data, weight], [output], name, **({"pads": [1] * 4} | attributes))


def silu(data, output):
    return [hg.node("Sigmoid", [data], [f"{output}_gate"], f"{output}_sigmoid"),
            hg.node("Mul", [data, f"{output}_gate"], [output], f"{output}_mul")]  # fmt: skip


def gelu(data, output):
    return [
        hg.node("Div", [data, "root"], [f"{output}_d"], f"{output}_div"),
        hg.node("Erf", [f"{output}_d"], [f"{output}_e"], f"{output}_erf"),
        hg.node("Add", [f"{output}_e", "one"], [f"{output}_a"], f"{output}_plus"),
        hg.node("Mul", [data, f"{output}_a"], [f"{output}_m"], f"{output}_mul"),
        hg.node("Mul", [f"{output}_m", "half"], [output], f"{output}_half"),
    ]


CONSTANTS = [
    hg.constant("root", np.float32(2**0.5)),
    hg.constant("one", np.float32(1)),
    hg.constant("half", np.float32(0.5)),
]


def same(nodes, weights=W, *, inputs=IMAGE, outputs=None):
    return hg.graph(nodes, weights, inputs, outputs or {"y": ["N", 16, 8, 8]})


def residual():
    return hg.residual()


def residual_after_an_activation():
    return same([conv("x", "w", "a", "one"), hg.node("Relu", ["a"], ["r"], "relu"), conv("r", "v", "b", "two"),
                 hg.node("Add", ["b", "r"], ["s"], "add"), hg.node("Relu", ["s"], ["t"], "out"), conv("t", "u", "y", "last", pads=[0] * 4)])  # fmt: skip


def concatenation():
    nodes = [conv("x", "w", "a", "one"), hg.node("Relu", ["a"], ["r"], "relu"), conv("r", "v", "b", "two"),
             hg.node("Concat", ["r", "b"], ["c"], "concat", axis=1), conv("c", "z", "y", "last")]  # fmt: skip
    return same(nodes, [*W, hg.weight("z", 16, 32, 3, 3, seed=3)])


def squeeze_and_excite():
    nodes = [conv("x", "w", "a", "one"), hg.node("Relu", ["a"], ["r"], "relu"), hg.node("GlobalAveragePool", ["r"], ["p"], "pool"),
             conv("p", "u", "d", "down", pads=[0] * 4), hg.node("Relu", ["d"], ["e"], "squeezed"),
             conv("e", "t", "f", "up", pads=[0] * 4), hg.node("HardSigmoid", ["f"], ["g"], "gate", alpha=1 / 6),
             hg.node("Mul", ["r", "g"], ["m"], "excite"), conv("m", "v", "y", "last")]  # fmt: skip
    return same(nodes, [*W, hg.weight("t", 16, 16, 1, 1, seed=3)])


def depthwise():
    return same([conv("x", "w", "a", "one"), hg.node("Clip", ["a", "zero", "six"], ["r"], "relu6"), conv("r", "z", "b", "deep", group=16),
                 hg.node("HardSwish", ["b"], ["h"], "swish"), conv("h", "u", "y", "point", pads=[0] * 4)],
                [*W, hg.weight("z", 16, 1, 3, 3, seed=3), hg.constant("zero", np.float32(0)), hg.constant("six", np.float32(6))])  # fmt: skip


def prelu():
    slope = hg.constant("slope", np.full((16, 1, 1), 0.1, np.float32))
    return same([conv("x", "w", "a", "one"), hg.node("PRelu", ["a", "slope"], ["r"], "prelu"), conv("r", "v", "y", "two")], [*W, slope])  # fmt: skip


def silu_before_an_add():
    return same([conv("x", "w", "a", "one"), *silu("a", "s"), conv("s", "v", "b", "two"), *silu("b", "t"),
                 hg.node("Add", ["s", "t"], ["z"], "add"), conv("z", "u", "y", "last", pads=[0] * 4)])  # fmt: skip


def feed_forward():
    nodes = [hg.node("MatMul", ["x", "w"], ["m"], "up"), hg.node("Add", ["m", "bias"], ["a"], "up_bias"), *gelu("a", "g"),
             hg.node("MatMul", ["g", "v"], ["d"], "down"), hg.node("Add", ["d", "x"], ["y"], "add")]  # fmt: skip
    weights = [hg.weight("w", 32, 64), hg.weight("bias", 64), hg.weight("v", 64, 32), *CONSTANTS]
    return hg.graph(nodes, weights, {"x": ["N", 7, 32]}, {"y": ["N", 7, 32]})


def attention():
    nodes = [hg.node("MatMul", ["x", n], [f"{n}o"], f"to_{n}") for n in "qkv"]
    nodes += [hg.node("Transpose", ["ko"], ["kt"], "turn", perm=[0, 2, 1]), hg.node("MatMul", ["qo", "kt"], ["s"], "scores"),
              hg.node("Softmax", ["s"], ["p"], "softmax"), hg.node("MatMul", ["p", "vo"], ["m"], "mix"),
              hg.node("MatMul", ["m", "o"], ["y"], "out")]  # fmt: skip
    return hg.graph(
        nodes, [hg.weight(n, 32, 32, seed=ord(n)) for n in "qkvo"], {"x": ["N", 7, 32]}, {"y": ["N", 7, 32]}
    )


def transposed():
    nodes = [conv("x", "w", "a", "one"), hg.node("Relu", ["a"], ["r"], "relu"),
             hg.node("ConvTranspose", ["r", "z", "b"], ["y"], "up", strides=[2, 2])]  # fmt: skip
    return same(nodes, [*W, hg.weight("z", 16, 24, 2, 2), hg.weight("b", 24)], outputs={"y": ["N", 24, 16, 16]})


def matrices():
    nodes = [hg.node("Gemm", ["x", "w", "b"], ["h"], "plain"), hg.node("Relu", ["h"], ["r"], "relu"),
             hg.node("Gemm", ["r", "v"], ["y"], "turned", transB=1)]  # fmt: skip
    return hg.graph(
        nodes, [hg.weight("w", 16, 48), hg.weight("b", 48), hg.weight("v", 10, 48)], {"x": ["N", 16]}, {"y": ["N", 10]}
    )


def a_matrix_turned_on_its_way_in():
    nodes = [hg.node("Transpose", ["x"], ["t"], "turn"), hg.node("Relu", ["t"], ["r"], "relu"),
             hg.node("Gemm", ["r", "w"], ["y"], "product", transA=1)]  # fmt: skip
    return hg.graph(nodes, [hg.weight("w", 16, 48)], {"x": ["N", 16]}, {"y": ["N", 48]})


PATTERNS = {
    function.__name__: function
    for function in (residual, residual_after_an_activation, concatenation, squeeze_and_excite, depthwise, prelu,
                     silu_before_an_add, feed_forward, attention, transposed, matrices, a_matrix_turned_on_its_way_in)
}  # fmt: skip


@pytest.fixture
def made(tmp_path):
    """Cleans a pattern, quantises it with ranges of random data, and gives both with that data."""

    def make(build):
        read = models.read_model(hg.save(build(), tmp_path / "m.onnx"))
        rng = np.random.default_rng(0)
        probe = {s.name: rng.normal(size=[a or 4 for a in s.shape]).astype(np.float32) for s in read.inputs}
        cleaned = clean.cleaned(read, probe)
        placed = placement.placement_from_model(cleaned)
        seen = ort.runner_from_model(qdq.with_outputs(cleaned, placed.tensors))(probe) | probe
        scales = {name: float(np.abs(seen[name]).max()) / 127 for name in placed.tensors}
        return cleaned, placed, qdq.quantized_model(cleaned, placed, scales), probe

    return make


def quantised_slots(int8, name):
    return [i for i, tensor in enumerate(hg.by_name(int8.proto)[name].input)
            if (maker := hg.producer(int8.proto, tensor)) is not None and maker.op_type == "DequantizeLinear"]  # fmt: skip


@pytest.mark.parametrize("name", PATTERNS)
def test_every_rule_is_kept_and_the_answers_stay_close(made, name):
    cleaned, placed, int8, probe = made(PATTERNS[name])
    found = audit.audit_model(int8.proto)
    assert found.violations == ()
    assert placed.weights
    wanted, given = (next(iter(ort.runner_from_model(m.to_bytes())(probe).values())) for m in (cleaned, int8))
    assert 10 * np.log10(np.square(wanted).sum() / np.square(wanted - given).sum()) > 25


@pytest.mark.rtx
@pytest.mark.skipif(not HAS_RTX, reason="the wheel of TensorRT for RTX is not installed")
@pytest.mark.parametrize("name", PATTERNS)
def test_nvidia_s_compiler_takes_it(made, name):
    _, _, int8, _ = made(PATTERNS[name])
    report = compilers.compile_model(int8.to_bytes(), name="tensorrt-rtx").report
    assert report.ok
    assert report.engine_bytes > 0


def test_the_skip_behind_an_activation_is_quantised_once_for_both_takers(made):
    _, placed, int8, _ = made(residual_after_an_activation)
    assert [use.node for use in placed.activations if use.tensor == "r"] == ["two", "add"]
    assert quantised_slots(int8, "add") == [1]


def test_a_concatenation_is_quantised_as_one_so_that_all_its_inputs_share_a_scale(made):
    _, placed, int8, _ = made(concatenation)
    assert quantised_slots(int8, "concat") == []
    assert "c" in placed.tensors
    assert quantised_slots(int8, "last") == [0, 1]


def test_the_product_of_squeeze_and_excite_stays_in_float(made):
    _, _, int8, _ = made(squeeze_and_excite)
    assert quantised_slots(int8, "excite") == []
    assert quantised_slots(int8, "last") == [0, 1]


@pytest.mark.parametrize(("pattern", "layer"), [(prelu, "one"), (depthwise, "one"), (depthwise, "deep")])
def test_nothing_stands_between_a_layer_and_its_activation(made, pattern, layer):
    _, _, int8, _ = made(pattern)
    output = hg.by_name(int8.proto)[layer].output[0]
    takers = {node.op_type for node in int8.proto.graph.node if output in node.input}
    assert takers
    assert "QuantizeLinear" not in takers


def test_an_add_behind_silu_stays_in_float_since_it_can_t_fuse_with_the_layer(made):
    _, placed, int8, _ = made(silu_before_an_add)
    assert quantised_slots(int8, "add") == []
    assert quantised_slots(int8, "last") == [0, 1]
    assert placed.nodes == {"one", "two", "last"}


def test_attention_s_own_products_stay_in_float_and_its_projections_do_not(made):
    _, placed, _, _ = made(attention)
    assert {entry.node for entry in placed.pinned} == {"scores", "mix"}
    assert placed.nodes == {"to_q", "to_k", "to_v", "out"}


def test_a_weight_for_each_of_a_batch_of_matrices_stays_in_float(made):
    nodes = [hg.node("MatMul", ["x", "w"], ["m"], "many"), hg.node("MatMul", ["m", "v"], ["y"], "one")]
    weights = [hg.weight("w", 4, 32, 32), hg.weight("v", 32, 32)]
    _, placed, _, _ = made(lambda: hg.graph(nodes, weights, {"x": ["N", 4, 7, 32]}, {"y": ["N", 4, 7, 32]}))
    (pinned,) = placed.pinned
    assert (pinned.node, placed.nodes) == ("many", {"one"})
    assert "3 axes" in pinned.reason


def test_leaving_a_layer_out_needs_no_tensor_that_was_not_calibrated(made):
    for build in PATTERNS.values():
        _, placed, _, _ = made(build)
        for node in placed.nodes:
            less = placed.only(placed.nodes - {node})
            assert set(less.tensors) <= set(placed.tensors)
            assert less.nodes == placed.nodes - {node}
