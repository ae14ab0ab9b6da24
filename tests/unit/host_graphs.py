"""Small ONNX graphs and data that the tests of the host wing build on."""

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

node = helper.make_node


def weight(name, *shape, seed=0):
    values = np.random.default_rng([seed, *shape]).normal(size=shape) / np.sqrt(max(1, int(np.prod(shape[1:]))))
    return numpy_helper.from_array(values.astype(np.float32), name)


def constant(name, values):
    return numpy_helper.from_array(np.asarray(values), name)


def graph(nodes, weights, inputs, outputs, *, opset=17, dtype=TensorProto.FLOAT):
    """A model; `inputs` and `outputs` are {name: shape}."""
    infos = [[helper.make_tensor_value_info(n, dtype, s) for n, s in part.items()] for part in (inputs, outputs)]
    made = helper.make_graph(nodes, "g", *infos, weights)
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def residual(*, classes=10, opset=17):
    """conv + batch norm + relu, a residual block, pooling, a classifier: image [N, 1, 8, 8] to logits [N, classes]."""
    nodes = [
        node("Conv", ["image", "w1"], ["c1"], "stem", pads=[1] * 4),
        node("BatchNormalization", ["c1", "gamma", "beta", "mean", "variance"], ["n1"], "norm"),
        node("Relu", ["n1"], ["r1"], "stem_relu"),
        node("Conv", ["r1", "w2", "b2"], ["c2"], "branch", pads=[1] * 4),
        node("Add", ["c2", "r1"], ["sum"], "add"),
        node("Relu", ["sum"], ["r2"], "add_relu"),
        node("GlobalAveragePool", ["r2"], ["pooled"], "pool"),
        node("Flatten", ["pooled"], ["flat"], "flatten"),
        node("Gemm", ["flat", "w3", "b3"], ["logits"], "head", transB=1),
    ]
    ones = np.ones(16, np.float32)
    weights = [
        weight("w1", 16, 1, 3, 3),
        weight("w2", 16, 16, 3, 3),
        weight("b2", 16),
        weight("w3", classes, 16),
        weight("b3", classes),
        constant("gamma", 1.5 * ones),
        constant("beta", 0.1 * ones),
        constant("mean", 0.05 * ones),
        constant("variance", 0.5 * ones),
    ]
    return graph(nodes, weights, {"image": ["N", 1, 8, 8]}, {"logits": ["N", classes]}, opset=opset)


def cut(start, end, *, axis, batch="N"):
    """Two convolutions, and between them the node ``cut`` that leaves `start` to `end` of an axis."""
    nodes = [
        node("Conv", ["image", "w1"], ["c1"], "first", pads=[1] * 4),
        node("Relu", ["c1"], ["r1"], "first_relu"),
        node("Slice", ["r1", "start", "end", "axis"], ["part"], "cut"),
        node("Conv", ["part", "w2"], ["c2"], "second", pads=[1] * 4),
        node("Relu", ["c2"], ["r2"], "second_relu"),
        node("GlobalAveragePool", ["r2"], ["pooled"], "pool"),
        node("Flatten", ["pooled"], ["flat"], "flatten"),
        node("Gemm", ["flat", "w3"], ["logits"], "head", transB=1),
    ]
    places = [constant(name, np.array([value])) for name, value in (("start", start), ("end", end), ("axis", axis))]
    weights = [weight("w1", 16, 1, 3, 3), weight("w2", 16, 16, 3, 3), weight("w3", 10, 16), *places]
    return graph(nodes, weights, {"image": [batch, 1, 8, 8]}, {"logits": [batch, 10]})


def with_free_sides(model):
    """The model with free height and width of its first input."""
    for axis, name in ((2, "H"), (3, "W")):
        model.graph.input[0].type.tensor_type.shape.dim[axis].dim_param = name
    return model


def save(model, path: Path) -> Path:
    path.write_bytes(model.SerializeToString())
    return path


def pixels(count, seed, *, shape=(1, 8, 8)):
    """Smooth random pictures: noise is refused as data."""
    rng = np.random.default_rng(seed)
    if len(shape) < 3:
        return rng.integers(0, 256, (count, *shape), dtype=np.uint8)
    height, width = (np.linspace(0, 2, side)[:, None] - np.arange(3) for side in shape[1:])
    down, across = (np.maximum(1 - np.abs(weights), 0) for weights in (height, width))
    return (down @ rng.uniform(0, 255, (count, shape[0], 3, 3)) @ across.T).astype(np.uint8)


def without(model, name):
    """The model with one initialiser taken out of it."""
    kept = [tensor for tensor in model.graph.initializer if tensor.name != name]
    del model.graph.initializer[:]
    model.graph.initializer.extend(kept)
    return model


def initializer(model, name):
    return numpy_helper.to_array(next(t for t in model.graph.initializer if t.name == name))


def by_name(model):
    return {n.name: n for n in model.graph.node}


def producer(model, tensor):
    return next((n for n in model.graph.node if tensor in n.output), None)


def files_below(folder):
    """Every path below a folder, to assert that nothing was written."""
    return sorted(str(path.relative_to(folder)) for path in Path(folder).rglob("*"))


def checked(model):
    onnx.checker.check_model(model)
    return model
