"""The float model as calibration runs it gives what the whole model gives, without computing what nobody looks at."""

import host_graphs as hg
import numpy as np
import onnx
import onnx.helper
import pytest

from edge_sdk.engines import ort
from edge_sdk.host.graph import model as models
from edge_sdk.host.graph import observed, qdq

RNG = np.random.default_rng(3)
FEEDS = {"x": RNG.normal(size=(3, 4, 6, 6)).astype(np.float32), "bias": RNG.normal(size=(3, 2)).astype(np.float32)}


def two_headed():
    """A trunk, a head with weights of its own that takes an input too, and an output that the trunk gives itself."""
    nodes = [
        hg.node("Conv", ["x", "w1"], ["c1"], "conv1", pads=[1, 1, 1, 1]),
        hg.node("Relu", ["c1"], ["r1"], "relu1"),
        hg.node("Conv", ["r1", "w1"], ["c2"], "conv2", pads=[1, 1, 1, 1]),
        hg.node("Relu", ["c2"], ["r2"], "relu2"),
        hg.node("GlobalAveragePool", ["r2"], ["pooled"], "pool"),
        hg.node("Flatten", ["pooled"], ["flat"], "flatten"),
        hg.node("Gemm", ["flat", "w2"], ["scores"], "gemm"),
        hg.node("Add", ["scores", "bias"], ["y"], "add"),
    ]
    weights = [hg.weight("w1", 4, 4, 3, 3), hg.weight("w2", 4, 2)]
    inputs = {"x": ["N", 4, 6, 6], "bias": ["N", 2]}
    return models.model_from_proto(hg.graph(nodes, weights, inputs, {"y": ["N", 2], "r1": ["N", 4, 6, 6]}), 17)


@pytest.mark.parametrize("tensors", [["r1"], ["x", "r1", "r2"], ["r2", "flat"], ["y"]])
def test_it_gives_the_tensors_and_the_outputs_of_the_whole_model(tensors):
    model = two_headed()
    network = observed.Observed(model, tensors)
    values = network.run(FEEDS) | FEEDS
    wanted = ort.runner_from_model(qdq.with_outputs(model, tensors))(FEEDS) | FEEDS
    for name in tensors:
        np.testing.assert_allclose(values[name], wanted[name], rtol=1e-5, atol=1e-6)
    answers = network.outputs(values)
    assert list(answers) == ["y", "r1"]
    for name, array in answers.items():
        np.testing.assert_allclose(array, wanted[name], rtol=1e-5, atol=1e-6)


def test_what_follows_the_last_tensor_is_not_in_the_head():
    cut = observed.cut_behind(two_headed(), ["r1"])
    head = onnx.load_model_from_string(cut.head)
    assert [node.name for node in head.graph.node] == ["conv1", "relu1"]
    assert [tensor.name for tensor in head.graph.initializer] == ["w1"]
    assert cut.seams == ("r1",)
    assert [node.name for node in cut.tail.graph.node][0] == "conv2"


def test_a_model_whose_last_tensor_is_looked_at_is_not_cut():
    assert observed.cut_behind(two_headed(), ["y"]).tail is None


def test_a_model_with_a_graph_inside_a_node_is_not_cut():
    model = two_headed()
    branch = onnx.helper.make_graph([hg.node("Identity", ["y"], ["z"])], "then", [], [])
    model.proto.graph.node[3].attribute.append(onnx.helper.make_attribute("body", branch))
    assert observed.cut_behind(model, ["r1"]).tail is None


@pytest.mark.parametrize("channels", [24, 32])
def test_each_tensor_has_the_elements_of_the_whole_model_s(channels):
    """The processor's own order of channels may show, its filling of blocks with zeros must not."""
    nodes = [
        hg.node("Conv", ["x", "w1"], ["c1"], "conv1", pads=[1, 1, 1, 1]),
        hg.node("Relu", ["c1"], ["r1"], "relu1"),
        hg.node("Conv", ["r1", "w2"], ["c2"], "conv2", pads=[1, 1, 1, 1]),
        hg.node("Sigmoid", ["c2"], ["s2"], "sigmoid2"),
        hg.node("Conv", ["s2", "w2"], ["y"], "conv3", pads=[1, 1, 1, 1]),
    ]
    weights = [hg.weight("w1", channels, 3, 3, 3), hg.weight("w2", channels, channels, 3, 3)]
    shapes = {"x": ["N", 3, 6, 6]}, {"y": ["N", channels, 6, 6]}
    model = models.model_from_proto(hg.graph(nodes, weights, *shapes), 17)
    feeds = {"x": RNG.normal(size=(2, 3, 6, 6)).astype(np.float32)}
    network = observed.Observed(model, ["r1", "s2"])
    values = network.run(feeds)
    wanted = ort.runner_from_model(qdq.with_outputs(model, ["r1", "s2"]))(feeds)
    for name, array in values.items():
        assert len(array) == 2
        for given, expected in zip(array, wanted[name], strict=True):
            np.testing.assert_allclose(np.sort(given, axis=None), np.sort(expected, axis=None), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(network.outputs(values | feeds)["y"], wanted["y"], rtol=1e-4, atol=1e-5)


def test_a_weight_that_is_listed_as_an_input_need_not_be_fed():
    model = two_headed()
    for name, shape in (("w1", (4, 4, 3, 3)), ("w2", (4, 2))):
        model.proto.graph.input.append(onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape))
    network = observed.Observed(model, ["r1"])
    values = network.run(FEEDS)
    wanted = ort.runner_from_model(two_headed().content())(FEEDS)
    np.testing.assert_allclose(network.outputs(values | FEEDS)["y"], wanted["y"], rtol=1e-5, atol=1e-6)


def test_an_output_that_is_an_input_is_given_as_it_came():
    model = two_headed()
    model.proto.graph.output.append(onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, ["N", 4, 6, 6]))
    model = model._replace(outputs=(*model.outputs, model.inputs[0]))
    network = observed.Observed(model, ["r1"])
    np.testing.assert_array_equal(network.outputs(network.run(FEEDS) | FEEDS)["x"], FEEDS["x"])
