"""ONNX files of any age and origin: what comes out answers the same, and what is refused leaves nothing behind."""

import re

import host_graphs as hg
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from edge_sdk import errors
from edge_sdk.engines import ort
from edge_sdk.host.convert import onnx_shapes, sandbox
from edge_sdk.host.convert.jobs import Job
from edge_sdk.host.convert.limits import Limits
from edge_sdk.host.convert.source import onnx_from_source

NEWEST = onnx.defs.onnx_opset_version()


def converted(model, tmp_path, work, **options):
    return onnx_from_source(hg.save(model, tmp_path / "m.onnx"), workdir=work, **options)


def answers(path, **feeds):
    return ort.runner_from_model(str(path))(feeds)


def assert_same_answers(before, after, **feeds):
    for name, values in answers(before, **feeds).items():
        np.testing.assert_allclose(answers(after, **feeds)[name], values, rtol=1e-4, atol=1e-5)


def refused(path, work, *words, kind=errors.ModelError, **options):
    (work / "mine.txt").write_text("was here before")
    with pytest.raises(kind) as caught:
        onnx_from_source(path, workdir=work, **options)
    for word in words:
        assert re.search(word, str(caught.value)), f"{word!r} is not in: {caught.value}"
    assert hg.files_below(work) == ["mine.txt"]


def opset_of(path):
    return max(entry.version for entry in onnx.load(path).opset_import)


def simple(nodes, *weights, opset=17, inputs=None, outputs=None):
    return hg.graph(nodes, list(weights), inputs or {"x": ["N", 16]}, outputs or {"y": ["N", 16]}, opset=opset)


def old_net(opset, *, ir_version=3):
    """A net in the dialect of an old opset: Upsample or Resize, Dropout with ratio, Clip with attributes."""
    nodes = [
        hg.node("Conv", ["image", "w1"], ["c1"], "stem", pads=[1] * 4),
        hg.node("BatchNormalization", ["c1", "gamma", "beta", "mean", "variance"], ["n1"], "norm"),
        hg.node("Relu", ["n1"], ["r1"], "relu"),
        hg.node("Dropout", ["r1"], ["d1"], "dropout"),
        hg.node("ReduceMean", ["d1"], ["m1"], "mean", axes=[2, 3], keepdims=0),
        hg.node("Unsqueeze", ["m1"], ["u1"], "unsqueeze", axes=[2]),
        hg.node("Squeeze", ["u1"], ["s1"], "squeeze", axes=[2]),
        hg.node("Gemm", ["s1", "w3", "b3"], ["logits"], "head", transB=1),
        hg.node("Softmax", ["logits"], ["scores"], "softmax", axis=1),
    ]
    ones = np.ones(16, np.float32)
    weights = [
        hg.weight("w1", 16, 3, 3, 3),
        hg.weight("w3", 10, 16),
        hg.weight("b3", 10),
        *(
            hg.constant(name, value * ones)
            for name, value in [("gamma", 1.5), ("beta", 0.1), ("mean", 0.05), ("variance", 0.5)]
        ),
    ]
    model = hg.graph(nodes, weights, {"image": ["N", 3, "H", "W"]}, {"scores": ["N", 10]}, opset=opset)
    model.ir_version = ir_version
    for tensor in weights if ir_version < 4 else ():
        model.graph.input.append(helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims))
    return model


@pytest.mark.parametrize("opset", [7, 8, 9, 10, 11, 12])
def test_an_old_opset_is_raised_and_answers_the_same(tmp_path, work, opset):
    done = converted(old_net(opset), tmp_path, work)
    assert opset_of(done.path) == 17
    assert f"raised from opset {opset} to 17" in done.notes[0]
    assert done.origin.startswith(f"ONNX opset {opset}")
    image = np.random.default_rng(3).random((2, 3, 20, 24), np.float32)
    assert_same_answers(tmp_path / "m.onnx", done.path, image=image)
    shape = onnx.load(done.path).graph.input[0].type.tensor_type.shape.dim
    assert [axis.dim_param for axis in shape] == ["N", "", "H", "W"]
    assert len(onnx.load(done.path).graph.input) == 1


@pytest.mark.parametrize("opset", [13, 16, 18, 21, 24])
def test_a_working_opset_stays(tmp_path, work, opset):
    done = converted(hg.residual(opset=opset), tmp_path, work)
    assert opset_of(done.path) == opset
    assert not any("raised" in note for note in done.notes)
    assert_same_answers(tmp_path / "m.onnx", done.path, image=np.ones((3, 1, 8, 8), np.float32))


def test_cleaning_says_that_operators_were_written_out(tmp_path, work):
    nodes = [
        helper.make_node("Conv", ["image", "w"], ["a"], "conv"),
        helper.make_node("HardSwish", ["a"], ["scores"], "swish"),
    ]
    model = hg.graph(nodes, [hg.weight("w", 4, 1, 3, 3)], {"image": ["N", 1, 8, 8]}, {"scores": ["N", 4, 6, 6]})
    done = converted(model, tmp_path, work)
    assert re.search(r"some operators written out as several simple ones \(2 nodes to 3\)", done.notes[-1])


def test_cleaning_folds_what_is_constant_and_says_how_far_outputs_moved(tmp_path, work):
    done = converted(hg.residual(), tmp_path, work)
    kinds = [node.op_type for node in onnx.load(done.path).graph.node]
    assert "BatchNormalization" not in kinds
    assert re.search(r"cleaned from 9 nodes to \d, which moved its outputs", done.notes[-1])
    assert hg.files_below(work) == ["model.onnx"]


def test_dead_ends_go_and_keep_nothing_from_being_folded(tmp_path, work):
    model = hg.residual()
    model.graph.node.append(hg.node("Relu", ["c1"], ["unused"], "dead"))
    done = converted(model, tmp_path, work)
    assert done.is_cleaned
    assert "BatchNormalization" not in [node.op_type for node in onnx.load(done.path).graph.node]
    assert_same_answers(tmp_path / "m.onnx", done.path, image=np.ones((3, 1, 8, 8), np.float32))


@pytest.mark.parametrize("opset", [11, 17])
def test_nodes_that_share_a_name_get_their_own_and_are_told(tmp_path, work, opset):
    model = simple(
        [
            hg.node("MatMul", ["x", "w"], ["m"], "layer"),
            hg.node("Relu", ["m"], ["r"], "layer_2"),
            hg.node("MatMul", ["r", "w"], ["n"], "layer"),
            hg.node("Neg", ["n"], ["o"]),
            hg.node("Abs", ["o"], ["y"]),
        ],
        hg.weight("w", 16, 16),
        opset=opset,
    )
    made = converted(model, tmp_path, work)
    assert "nodes that shared a name were renamed: another 'layer' is 'layer_3'" in made.notes
    assert [path.name for path in work.iterdir()] == ["model.onnx"]
    model.graph.node[2].name = "other"  # the control
    other = hg.save(model, tmp_path / "other.onnx")
    assert_same_answers(other, made.path, x=np.random.default_rng(0).normal(size=(2, 16)).astype(np.float32))
    assert "renamed" not in str(converted(model, tmp_path, work).notes)


def test_what_only_a_branch_needs_is_no_dead_end(tmp_path, work):
    def branch(name, operator):
        value = helper.make_tensor_value_info(name, TensorProto.FLOAT, None)
        return helper.make_graph([hg.node(operator, ["p"], [name])], name, [], [value])

    nodes = [
        hg.node("MatMul", ["x", "w"], ["p"], "product"),
        hg.node("If", ["flag"], ["y"], "either", then_branch=branch("a", "Relu"), else_branch=branch("b", "Tanh")),
        hg.node("Sin", ["x"], ["unused"], "dead"),
    ]
    done = converted(simple(nodes, hg.weight("w", 16, 16), hg.constant("flag", np.array(False))), tmp_path, work)
    assert [node.op_type for node in onnx.load(done.path).graph.node] == ["MatMul", "Tanh"]


def test_the_same_model_gives_the_same_bytes(tmp_path, work):
    again = tmp_path / "again"
    again.mkdir()
    one, two = (converted(hg.residual(), tmp_path, folder).path.read_bytes() for folder in (work, again))
    assert one == two


def test_only_the_standard_domain_is_left(tmp_path, work):
    model = hg.residual()
    model.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    done = converted(model, tmp_path, work)
    assert [entry.domain for entry in onnx.load(done.path).opset_import] == [""]


def test_functions_of_the_model_are_written_out(tmp_path, work):
    body = [hg.node("Relu", ["a"], ["b"], "inner")]
    nodes = [
        hg.node("MatMul", ["x", "w"], ["p"], "product"),
        helper.make_node("Act", ["p"], ["y"], "act", domain="own"),
    ]
    model = simple(nodes, hg.weight("w", 16, 16))
    model.functions.append(helper.make_function("own", "Act", ["a"], ["b"], body, [helper.make_opsetid("", 17)]))
    model.opset_import.append(helper.make_opsetid("own", 1))
    done = converted(model, tmp_path, work)
    assert [node.op_type for node in onnx.load(done.path).graph.node] == ["MatMul", "Relu"]


def test_a_branch_that_hangs_on_a_constant_is_decided(tmp_path, work):
    def branch(name, operator):
        value = helper.make_tensor_value_info(name, TensorProto.FLOAT, None)
        return helper.make_graph([hg.node(operator, ["p"], [name])], name, [], [value])

    nodes = [
        hg.node("MatMul", ["x", "w"], ["p"], "product"),
        hg.node("If", ["flag"], ["y"], "either", then_branch=branch("a", "Relu"), else_branch=branch("b", "Tanh")),
    ]
    model = simple(nodes, hg.weight("w", 16, 16), hg.constant("flag", np.array(True)))
    done = converted(model, tmp_path, work)
    assert [node.op_type for node in onnx.load(done.path).graph.node] == ["MatMul", "Relu"]


def test_example_inputs_make_a_model_checkable_that_fits_no_usual_size(tmp_path, work):
    def picky(opset):
        nodes = [hg.node("Reshape", ["x", "shape"], ["r"], "only_7"), hg.node("MatMul", ["r", "w"], ["y"], "product")]
        weights = [hg.constant("shape", np.array([7, 16])), hg.weight("w", 16, 16)]
        return hg.graph(nodes, weights, {"x": ["N", "M"]}, {"y": [7, 16]}, opset=opset)

    refused(hg.save(picky(11), tmp_path / "m.onnx"), work, "opset 11", "no usual size", "inputs=")
    x = np.ones((7, 16), np.float32)
    for inputs in ({"x": x}, [x]):
        assert "raised" in converted(picky(11), tmp_path, work, inputs=inputs).notes[0]
    done = converted(picky(17), tmp_path, work)
    assert done.notes[-1].startswith("not cleaned: it runs on no usual size")
    assert not done.is_cleaned


@pytest.mark.parametrize(
    ("inputs", "words"),
    [
        ({"pixels": np.ones((1, 1, 8, 8), np.float32)}, ["'image'", "'pixels'"]),
        ([np.ones((1, 1, 8, 8), np.float32)] * 2, ["'image'", "2 without names"]),
        ({"image": np.ones((1, 1, 9, 8), np.float32)}, [r"float32\[N, 1, 8, 8\]", r"float32\[1, 1, 9, 8\]"]),
        ({"image": np.ones((1, 1, 8, 8), np.uint8)}, [r"uint8\[1, 1, 8, 8\]"]),
    ],
)
def test_example_inputs_that_do_not_fit(tmp_path, work, inputs, words):
    refused(hg.save(hg.residual(), tmp_path / "m.onnx"), work, *words, kind=errors.UsageError, inputs=inputs)


@pytest.mark.parametrize("content", [b"", b"GIF89a not a model at all", bytes(range(256)) * 4, b"\x08\x08"])
def test_not_an_onnx_file(tmp_path, work, content):
    (tmp_path / "m.onnx").write_bytes(content)
    refused(tmp_path / "m.onnx", work, "not an ONNX file")


@pytest.mark.parametrize("cut", [1, 200, 5000])
def test_a_truncated_file(tmp_path, work, cut):
    (tmp_path / "m.onnx").write_bytes(hg.residual().SerializeToString()[:-cut])
    refused(tmp_path / "m.onnx", work, "not an ONNX file|breaks the ONNX standard|no outputs")


def test_an_opset_that_is_too_old_or_too_new(tmp_path, work):
    refused(hg.save(hg.residual(opset=6), tmp_path / "m.onnx"), work, "opset 6", "7 to")
    refused(hg.save(hg.residual(opset=NEWEST + 1), tmp_path / "m.onnx"), work, f"opset {NEWEST + 1}", "newer onnx")
    model = hg.residual()
    del model.opset_import[:]
    refused(hg.save(model, tmp_path / "m.onnx"), work, "opset none")


@pytest.mark.parametrize("domain", ["com.acme", "ai.onnx.ml", ""])
def test_a_custom_operator_names_the_node(tmp_path, work, domain):
    custom = helper.make_node("Wobble", ["p"], ["y"], "odd", domain=domain)
    model = simple([hg.node("MatMul", ["x", "w"], ["p"], "product"), custom], hg.weight("w", 16, 16))
    if domain:
        model.opset_import.append(helper.make_opsetid(domain, 1))
    refused(hg.save(model, tmp_path / "m.onnx"), work, "Wobble node 'odd'", domain or "ai.onnx")


def test_an_operator_newer_than_the_opset(tmp_path, work):
    nodes = [hg.node("Gelu", ["x"], ["g"], "late"), hg.node("MatMul", ["g", "w"], ["y"], "product")]
    refused(hg.save(simple(nodes, hg.weight("w", 16, 16)), tmp_path / "m.onnx"), work, "Gelu node 'late'", "opset 17")


def test_a_branch_names_the_node(tmp_path, work):
    def branch(name):
        value = helper.make_tensor_value_info(name, TensorProto.FLOAT, None)
        return helper.make_graph([hg.node("Constant", [], [name], value_float=1.0)], name, [], [value])

    nodes = [
        hg.node("MatMul", ["x", "w"], ["y"], "product"),
        hg.node("ReduceMax", ["x"], ["top"], "top", keepdims=0),
        hg.node("Greater", ["top", "limit"], ["flag"], "greater"),
        hg.node("If", ["flag"], ["z"], "either", then_branch=branch("a"), else_branch=branch("b")),
    ]
    model = simple(
        nodes, hg.weight("w", 16, 16), hg.constant("limit", np.float32(0.5)), outputs={"y": ["N", 16], "z": [1]}
    )
    refused(hg.save(model, tmp_path / "m.onnx"), work, "If node 'either'", "control flow")


@pytest.mark.parametrize("op", ["QuantizeLinear", "DynamicQuantizeLinear", "ConvInteger", "QLinearMatMul"])
def test_a_quantised_model_names_the_node(tmp_path, work, op):
    nodes = [hg.node("MatMul", ["x", "w"], ["y"], "product"), hg.node(op, ["y", "s"], ["z"], "quantised_here")]
    path = hg.save(simple(nodes, hg.weight("w", 16, 16)), tmp_path / "m.onnx")
    refused(path, work, f"{op} node 'quantised_here'", "already")


def test_a_quantised_model_passes_unchanged_for_an_audit(tmp_path, work):
    nodes = [
        hg.node("QuantizeLinear", ["x", "s", "z"], ["q"], "quantize"),
        hg.node("DequantizeLinear", ["q", "s", "z"], ["d"], "dequantize"),
        hg.node("MatMul", ["d", "w"], ["y"], "product"),
    ]
    scale, zero = hg.constant("s", np.float32(0.1)), hg.constant("z", np.int8(3))
    model = simple(nodes, hg.weight("w", 16, 16), scale, zero)
    done = converted(model, tmp_path, work, keep_quantized=True)
    assert onnx.load(done.path) == model


@pytest.mark.parametrize(("value", "word"), [(np.nan, "NaN"), (np.inf, "infinity")])
@pytest.mark.parametrize("dtype", [np.float32, np.float16, np.float64])
def test_weights_that_are_not_finite_name_weight_and_node(tmp_path, work, value, word, dtype):
    values = np.ones((16, 16), dtype)
    values[3, 4] = value
    nodes = [
        hg.node("Cast", ["x"], ["c"], "cast", to=helper.np_dtype_to_tensor_dtype(np.dtype(dtype))),
        hg.node("MatMul", ["c", "w"], ["p"], "product"),
        hg.node("Cast", ["p"], ["y"], "back", to=TensorProto.FLOAT),
    ]
    path = hg.save(simple(nodes, hg.constant("w", values)), tmp_path / "m.onnx")
    refused(path, work, "'w'", "MatMul node 'product'", word)


def test_nan_in_a_constant_node(tmp_path, work):
    held = hg.node("Constant", [], ["w"], "held", value=hg.constant("", np.full((16, 16), np.nan, np.float32)))
    path = hg.save(simple([held, hg.node("MatMul", ["x", "w"], ["y"], "product")]), tmp_path / "m.onnx")
    refused(path, work, "NaN", "MatMul node 'product'")


def test_infinity_in_a_mask_is_no_fault(tmp_path, work):
    nodes = [hg.node("Max", ["x", "mask"], ["m"], "masked"), hg.node("MatMul", ["m", "w"], ["y"], "product")]
    mask = hg.constant("mask", np.full(16, -np.inf, np.float32))
    converted(simple(nodes, hg.weight("w", 16, 16), mask), tmp_path, work)


@pytest.mark.parametrize(
    ("inputs", "outputs"), [({"x": ["N", 0]}, None), (None, {"y": ["N", 0]}), ({"x": [-1, 16]}, None)]
)
def test_an_axis_that_holds_nothing(tmp_path, work, inputs, outputs):
    model = simple([hg.node("MatMul", ["x", "w"], ["y"], "p")], hg.weight("w", 16, 16), inputs=inputs, outputs=outputs)
    refused(hg.save(model, tmp_path / "m.onnx"), work, "axis below 1", "input 'x'|output 'y'")


def test_no_inputs_and_no_outputs(tmp_path, work):
    nodes = [hg.node("MatMul", ["a", "w"], ["y"], "product")]
    model = hg.graph(nodes, [hg.weight("a", 4, 16), hg.weight("w", 16, 16)], {}, {"y": [4, 16]})
    refused(hg.save(model, tmp_path / "m.onnx"), work, "no inputs")
    model = simple([hg.node("MatMul", ["x", "w"], ["y"], "product")], hg.weight("w", 16, 16))
    del model.graph.output[:]
    refused(hg.save(model, tmp_path / "m.onnx"), work, "no outputs")


@pytest.mark.parametrize("kind", ["sequence", "string", "no shape", "bfloat16"])
def test_inputs_that_are_no_tensors_of_numbers(tmp_path, work, kind):
    model = simple([hg.node("MatMul", ["x", "w"], ["y"], "product")], hg.weight("w", 16, 16))
    value = {
        "sequence": helper.make_tensor_sequence_value_info("odd", TensorProto.FLOAT, ["N"]),
        "string": helper.make_tensor_value_info("odd", TensorProto.STRING, ["N"]),
        "no shape": helper.make_tensor_value_info("odd", TensorProto.FLOAT, None),
        "bfloat16": helper.make_tensor_value_info("odd", TensorProto.BFLOAT16, ["N"]),
    }[kind]
    model.graph.input.append(value)
    refused(hg.save(model, tmp_path / "m.onnx"), work, "input 'odd'", kind.removeprefix("no "))


def test_what_breaks_the_standard_is_refused_in_the_checkers_words(tmp_path, work):
    model = simple([hg.node("MatMul", ["x", "nowhere"], ["y"], "product")], hg.weight("w", 16, 16))
    refused(hg.save(model, tmp_path / "m.onnx"), work, "breaks the ONNX standard", "nowhere")


def test_a_model_that_can_not_run_on_its_own_shapes(tmp_path, work):
    nodes = [hg.node("Reshape", ["x", "shape"], ["y"], "impossible")]
    model = hg.graph(nodes, [hg.constant("shape", np.array([-1, 7]))], {"x": [2, 16]}, {"y": ["A", "B"]})
    refused(hg.save(model, tmp_path / "m.onnx"), work, "does not run|cannot load", "impossible")


@pytest.mark.parametrize("batch", [1, "N"])
@pytest.mark.parametrize(("axis", "shape"), [(1, r"\[1, 0, 8, 8\]"), (2, r"\[1, 16, 0, 8\]")])
def test_a_node_that_leaves_nothing_is_named(tmp_path, work, batch, axis, shape):
    words = ("Slice node 'cut'", f"shape {shape}", "expected 1 or more on each axis", "export the model")
    refused(hg.save(hg.cut(5, 5, axis=axis, batch=batch), tmp_path / "m.onnx"), work, *words)
    sound = hg.cut(0, 16, axis=axis, batch=batch)  # the control
    assert onnx_from_source(hg.save(sound, tmp_path / "m.onnx"), workdir=work).is_cleaned


def test_constants_that_hold_nothing_on_purpose_are_not_blamed():
    nodes = [hg.node("Identity", ["empty"], ["region"], "same"), hg.node("Neg", ["x"], ["y"], "minus")]
    onnx_shapes.check_not_empty(simple(nodes, hg.weight("empty", 0)), {"x": (1, 16)})
    with pytest.raises(errors.ModelError, match="Slice node 'cut'"):  # the control
        onnx_shapes.check_not_empty(hg.cut(5, 5, axis=1), {"image": (1, 1, 8, 8)})


def test_a_graph_that_computes_for_hours_ends_at_its_limit(tmp_path, work):
    nodes = [hg.node("Expand", ["x", "shape"], ["m0"], "expand")]
    nodes += [hg.node("MatMul", [f"m{i}", f"m{i}"], [f"m{i + 1}"], f"product_{i}") for i in range(2000)]
    nodes.append(hg.node("ReduceMax", ["m2000"], ["y"], "max"))
    model = hg.graph(nodes, [hg.constant("shape", np.array([2048, 2048]))], {"x": [1, 1]}, {"y": ["A", "B"]})
    refused(hg.save(model, tmp_path / "m.onnx"), work, "Limits.cpu_s", limits=Limits(cpu_s=3))


def test_a_graph_that_unfolds_to_more_than_memory_ends_at_its_limit(tmp_path, work):
    nodes = [hg.node("Expand", ["x", "shape"], ["big"], "bomb"), hg.node("ReduceMax", ["big"], ["y"], "max")]
    model = hg.graph(nodes, [hg.constant("shape", np.array([200_000, 200_000]))], {"x": [1, 1]}, {"y": ["A", "B"]})
    refused(
        hg.save(model, tmp_path / "m.onnx"),
        work,
        "allocate memory|memory_bytes|bomb",
        limits=Limits(memory_bytes=2**31),
    )


def test_no_damage_to_a_file_is_more_than_a_refusal(tmp_path):
    hg.save(old_net(11), tmp_path / "m.onnx")
    job = Job(source=str(tmp_path / "m.onnx"), target=str(tmp_path / "out.onnx"))
    made = sandbox.made_in_child("convert_tasks:accepts_mutants", job, folder=tmp_path, limits=Limits())
    assert int(made.origin) > 100, "most damage should be found"


def test_origin_says_who_made_the_file_without_control_characters(tmp_path, work):
    model = hg.residual()
    model.producer_name, model.producer_version = "py\x1b[31mtorch\n", "1.9"
    assert converted(model, tmp_path, work).origin == "ONNX opset 17 of py[31mtorch 1.9 m.onnx"
