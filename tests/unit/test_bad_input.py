"""Models and data that can't become INT8: refused with the node and what to do, or left in float with the reason."""

import json
import re
import shutil

import host_graphs as hg
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from edge_sdk import errors
from edge_sdk.engines import compilers
from edge_sdk.host import builder
from edge_sdk.host.graph import finite
from edge_sdk.host.graph import model as models
from edge_sdk.records.bundle import Preprocess

IMAGE, LOGITS = {"image": ["N", 1, 8, 8]}, {"logits": ["N", 10]}


@pytest.fixture
def work(tmp_path):
    for name, seed in (("calibration", 1), ("evaluation", 2)):
        np.savez(tmp_path / f"{name}.npz", image=hg.pixels(40, seed))
    return tmp_path


def built(work, model, **options):
    hg.save(model, work / "net.onnx")
    return builder.build_bundle(
        work / "net.onnx",
        work / "net.edge",
        **{"calibration": work / "calibration.npz", "evaluation": work / "evaluation.npz", **options},
        preprocess={"image": Preprocess(scale=1 / 255)},
        max_drop=100,
        check=lambda _model: compilers.ABSENT.report,
    )


def refused(work, model, *words, kind=errors.ModelError, **options):
    hg.save(model, work / "net.onnx")
    before = hg.files_below(work)
    with pytest.raises(kind) as caught:
        built(work, model, **options)
    for word in words:
        assert re.search(word, str(caught.value)), f"{word!r} is not in: {caught.value}"
    assert hg.files_below(work) == before


def layers(dtype, *, is_half_in=False):
    """A convolution in float32 and one in `dtype`, between casts."""
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    nodes = [
        hg.node("Conv", ["image", "w1"], ["c1"], "stem", pads=[1] * 4),
        hg.node("Relu", ["c1"], ["r1"], "relu"),
        hg.node("Cast", ["r1"], ["h1"], "down", to=kind),
        hg.node("Conv", ["h1", "w2"], ["c2"], "other", pads=[1] * 4),
        hg.node("Relu", ["c2"], ["r2"], "other_relu"),
        hg.node("Cast", ["r2"], ["f2"], "up", to=TensorProto.FLOAT),
        hg.node("GlobalAveragePool", ["f2"], ["pooled"], "pool"),
        hg.node("Flatten", ["pooled"], ["flat"], "flatten"),
        hg.node("Gemm", ["flat", "w3"], ["logits"], "head", transB=1),
    ]
    second = hg.initializer(hg.residual(), "w2").astype(dtype)
    weights = [hg.weight("w1", 16, 1, 3, 3), hg.constant("w2", second), hg.weight("w3", 10, 16)]
    return hg.graph(nodes, weights, IMAGE, LOGITS)


def test_float16_layers_are_int8_like_any_other(work):
    made = built(work, layers(np.float16))
    assert (made.precision, made.int8_compute_ratio) == ("int8", 1.0)
    assert made.sqnr_db["logits"] > 20
    kept = onnx.load(work / "net.edge" / "model.float.onnx").graph.initializer
    assert TensorProto.FLOAT16 not in {tensor.data_type for tensor in kept}


def test_a_whole_network_in_float16(work):
    model = layers(np.float32)
    for tensor in list(model.graph.initializer):
        half = hg.constant(tensor.name, hg.initializer(model, tensor.name).astype(np.float16))
        tensor.CopyFrom(half)
    for node in model.graph.node:
        if node.op_type == "Cast":
            node.attribute[0].i = TensorProto.FLOAT16
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.elem_type = TensorProto.FLOAT16
    made = built(work, model)
    assert (made.precision, made.int8_compute_ratio, made.pinned) == ("int8", 1.0, ())


def test_float64_layers_that_nothing_here_computes_are_named(work):
    refused(work, layers(np.float64), "'other'")


def test_weights_that_are_computed_leave_their_layer_in_float(work):
    model = layers(np.float32)
    weight = next(tensor for tensor in model.graph.initializer if tensor.name == "w2")
    weight.name = "w2_static"
    model.graph.node.insert(0, hg.node("ReduceMean", ["image"], ["mean"], "mean", keepdims=0))
    model.graph.node.insert(1, hg.node("Mul", ["w2_static", "mean"], ["w2"], "modulate"))
    made = built(work, model)
    assert [(entry.node, entry.reason) for entry in made.pinned] == [("other", "its weights are computed (R9)")]


def loop():
    def value(name, kind, shape):
        return helper.make_tensor_value_info(name, kind, shape)

    body = helper.make_graph(
        [hg.node("Identity", ["go"], ["go_on"], "go"), hg.node("Add", ["v", "v"], ["twice"], "double")],
        "body",
        [value("i", TensorProto.INT64, []), value("go", TensorProto.BOOL, []), value("v", TensorProto.FLOAT, None)],
        [value("go_on", TensorProto.BOOL, []), value("twice", TensorProto.FLOAT, None)],
    )
    nodes = [
        hg.node("Flatten", ["image"], ["flat"], "flatten"),
        hg.node("Gemm", ["flat", "w"], ["g"], "head"),
        hg.node("Loop", ["count", "yes", "g"], ["logits"], "looping", body=body),
    ]
    weights = [hg.weight("w", 64, 10), hg.constant("count", np.array(3)), hg.constant("yes", np.array(True))]
    return hg.graph(nodes, weights, IMAGE, LOGITS)


def test_a_loop_names_the_node(work):
    refused(work, loop(), "Loop node 'looping'", "control flow", "tracing")


def test_a_scan_names_the_node(work):
    body = helper.make_graph(
        [hg.node("Identity", ["row"], ["same"], "same")],
        "body",
        [helper.make_tensor_value_info("row", TensorProto.FLOAT, [10])],
        [helper.make_tensor_value_info("same", TensorProto.FLOAT, [10])],
    )
    nodes = [
        hg.node("Flatten", ["image"], ["flat"], "flatten"),
        hg.node("Gemm", ["flat", "w"], ["g"], "head"),
        hg.node("Scan", ["g"], ["logits"], "scanning", body=body, num_scan_inputs=1),
    ]
    refused(work, hg.graph(nodes, [hg.weight("w", 64, 10)], IMAGE, LOGITS), "Scan node 'scanning'", "control flow")


def test_a_weight_of_no_size_stays_in_float(work):
    nodes = [
        hg.node("Flatten", ["image"], ["flat"], "flatten"),
        hg.node("Slice", ["flat", "zero", "zero", "one"], ["nothing"], "slice"),
        hg.node("MatMul", ["nothing", "empty"], ["l0"], "of_nothing"),
        hg.node("MatMul", ["flat", "w"], ["l1"], "of_all"),
        hg.node("Add", ["l0", "l1"], ["logits"], "add"),
    ]
    weights = [
        hg.constant("zero", np.array([0])),
        hg.constant("one", np.array([1])),
        hg.weight("empty", 0, 10),
        hg.weight("w", 64, 10),
    ]
    made = built(work, hg.graph(nodes, weights, IMAGE, LOGITS), precision="auto")
    assert "of_nothing" in {entry.node for entry in made.pinned}


def test_a_node_that_leaves_nothing_of_the_data_is_named(work):
    refused(work, hg.with_free_sides(hg.cut(8, 99, axis=2)), "Slice node 'cut'", r"\[1, 16, 0, 8\]", "larger inputs")
    assert built(work, hg.with_free_sides(hg.cut(4, 99, axis=2))).precision == "int8"  # the control


def second_layer(of):
    """Two convolutions, and between them the operator `of`."""
    nodes = [
        hg.node("Conv", ["image", "w1"], ["c1"], "first", pads=[1] * 4),
        hg.node("Relu", ["c1"], ["r1"], "relu"),
        hg.node(of, ["r1"], ["odd"], "odd"),
        hg.node("Conv", ["odd", "w2"], ["c2"], "second", pads=[1] * 4),
        hg.node("Softmax", ["c2"], ["s"], "softmax", axis=1),
        hg.node("GlobalMaxPool", ["s"], ["p"], "pool"),
        hg.node("Flatten", ["p"], ["flat"], "flatten"),
        hg.node("Gemm", ["flat", "w3"], ["logits"], "head", transB=1),
    ]
    weights = [hg.weight("w1", 16, 1, 3, 3), hg.weight("w2", 16, 16, 3, 3), hg.weight("w3", 10, 16)]
    return hg.graph(nodes, weights, IMAGE, LOGITS)


def test_activations_that_are_not_finite_are_named(work):
    words = ("'logits'|'odd'", "NaN or infinite", "preprocessing", "first node that makes it .* is Log node 'odd'")
    refused(work, second_layer("Log"), *words)
    assert built(work, second_layer("Sqrt")).precision == "int8"  # the control: the same net with a sound operator


def with_reciprocal():
    """A network that takes an infinite mask in its stride, and adds the largest reciprocal of a pixel to its answers."""
    model = second_layer("Sqrt")
    first = [
        hg.node("Reciprocal", ["image"], ["inverse"], "inverse"),
        hg.node("Less", ["inverse", "nothing"], ["is_low"], "compare"),
        hg.node("Where", ["is_low", "mask", "inverse"], ["masked"], "hide"),
        hg.node("Max", ["masked", "nothing"], ["light"], "light"),
        hg.node("GlobalMaxPool", ["inverse"], ["largest"], "largest"),
        hg.node("Flatten", ["largest"], ["offset"], "offset"),
    ]
    rest = list(model.graph.node)
    rest[0].input[0], rest[-1].output[0] = "light", "scores"
    del model.graph.node[:]
    model.graph.node.extend([*first, *rest, hg.node("Add", ["scores", "offset"], ["logits"], "answer")])
    constants = [hg.constant("nothing", np.float32([1])), hg.constant("mask", np.float32([-np.inf]))]
    model.graph.initializer.extend(constants)
    return model


def test_infinity_that_reaches_no_output_is_blamed_only_where_it_is_looked_for():
    nodes = [hg.node("Log", ["x"], ["l"], "log"), hg.node("Max", ["l", "zero"], ["y"], "most")]
    proto = hg.graph(nodes, [hg.constant("zero", np.float32([0]))], {"x": [1, 2]}, {"y": [1, 2]})
    model = models.model_from_proto(proto, 17)
    dark = {"x": np.float32([[0, 1]])}
    assert finite.finder(model)(dark) == ""
    assert finite.finder(model, is_inside=True)(dark) == "Log node 'log'"
    assert finite.finder(model, is_inside=True)({"x": np.float32([[1, 1]])}) == ""


@pytest.mark.parametrize(
    ("name", "seed", "precision"), [("calibration", 1, "int8"), ("evaluation", 2, "int8"), ("evaluation", 2, "float")]
)
def test_the_first_node_that_fails_on_a_later_sample_is_named(work, name, seed, precision):
    for one, number in (("calibration", 1), ("evaluation", 2)):
        np.savez(work / f"{one}.npz", image=np.maximum(hg.pixels(40, number), 1))
    assert built(work, with_reciprocal(), precision=precision).precision == precision  # the control
    shutil.rmtree(work / "net.edge")
    images = np.maximum(hg.pixels(40, seed), 1)
    images[20, 0, 3, 3] = 0
    np.savez(work / f"{name}.npz", image=images)
    refused(work, with_reciprocal(), "NaN or infinite", "is Reciprocal node 'inverse'", precision=precision)


@pytest.mark.parametrize("labels", [np.arange(40) % 12, np.arange(40) - 1], ids=["12 classes", "below 0"])
def test_labels_that_the_model_has_no_output_for(work, labels):
    np.savez(work / "evaluation.npz", image=hg.pixels(40, 2), labels=labels)
    refused(work, hg.residual(), "label", "10 classes|0 to 9", kind=errors.DataError)


def test_fewer_labels_than_samples(work):
    np.savez(work / "evaluation.npz", image=hg.pixels(40, 2), labels=np.zeros(39, np.int64))
    refused(work, hg.residual(), "39", "40", kind=errors.DataError)


def test_more_class_names_than_outputs(work):
    names = tuple(f"class {number}" for number in range(11))
    refused(work, hg.residual(), "11 class names", "10 classes", kind=errors.UsageError, classes=names)


def test_more_class_folders_than_outputs(work):
    pillow = pytest.importorskip("PIL.Image")
    for number, pixels in enumerate(hg.pixels(40, 3)):
        folder = work / "pictures" / f"kind{number % 12:02}"
        folder.mkdir(parents=True, exist_ok=True)
        pillow.fromarray(pixels[0]).save(folder / f"{number}.png")
    refused(work, hg.residual(), "12", "10", kind=errors.DataError, evaluation=work / "pictures")


def test_a_whole_sound_build_is_the_control(work):
    np.savez(work / "evaluation.npz", image=hg.pixels(40, 2), labels=np.arange(40) % 10)
    made = built(work, hg.residual(), classes=tuple(f"class {number}" for number in range(10)))
    assert made.metric == "top-1"
    assert len(json.loads((work / "net.edge" / "manifest.json").read_text())["classes"]) == 10
