"""Where the first NaN or infinity of a network comes from: asked only once one was seen, so that it may cost a run."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import onnx.numpy_helper
from numpy.typing import NDArray

from edge_sdk.engines import ort
from edge_sdk.host.graph import model as models
from edge_sdk.host.graph import qdq

Find = Callable[[Mapping[str, NDArray[Any]]], str]
"""Names the first node that makes NaN or infinity of finite values on some inputs; empty where none does."""


def finder(model: models.Model, *, is_inside: bool = False) -> Find:
    """Gives what looks for the node; it keeps every tensor of a run, so give it one sample at a time.

    Constants may be infinite (masks of attention are); what is computed from one is not blamed.

    Args:
        model: that gave NaN or infinity.
        is_inside: an infinite tensor on the way counts too; else nothing is blamed where every output is finite.

    Raises:
        ModelError: the model can't be loaded. What is given raises EngineError when it can't be run.
    """
    graph = model.proto.graph
    names = [name for node in graph.node for name in node.output if name]
    run = ort.runner_from_model(qdq.with_outputs(model, names), names, is_optimized=True, is_frugal=True)
    weights = {tensor.name: tensor for tensor in graph.initializer}

    def find(feeds: Mapping[str, NDArray[Any]]) -> str:
        values = {**feeds, **run(feeds)}

        def is_sound(name: str) -> bool:
            if name in weights:
                values[name] = onnx.numpy_helper.to_array(weights[name])
            return not name or _is_finite(values[name])

        if not is_inside and all(is_sound(spec.name) for spec in model.outputs):
            return ""
        for node in graph.node:
            if node.op_type != "Constant" and not all(map(is_sound, node.output)) and all(map(is_sound, node.input)):
                return models.node_text(node)
        return ""

    return find


def _is_finite(value: object) -> bool:
    return not (isinstance(value, np.ndarray) and value.dtype.kind == "f") or bool(np.isfinite(value).all())
