"""An INT8 model whose activation scales are inputs: one session then measures any number of ranges."""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import onnx
from numpy.typing import NDArray

from edge_sdk.host.graph import model as models


class Adjustable(NamedTuple):
    """A serialised INT8 model and, by tensor, the input that takes its scale."""

    content: bytes
    scales: dict[str, str]

    def feeds(self, scales: Mapping[str, float]) -> dict[str, NDArray[np.float32]]:
        """Gives what to feed for the scales of some tensors; those that are not quantised are passed over."""
        return {name: np.array(scales[tensor], np.float32) for tensor, name in self.scales.items()}


def adjustable_from_proto(proto: onnx.ModelProto) -> Adjustable:
    """Gives the model with the scale of every QuantizeLinear as an input; `proto` is changed.

    ONNX Runtime then computes what the Q/DQ nodes say, in float arithmetic: it fuses only scales that it knows.
    """
    scales = {node.input[0]: node.input[1] for node in proto.graph.node if node.op_type == "QuantizeLinear"}
    for name in scales.values():
        proto.graph.input.append(onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, []))
    for index in reversed(range(len(proto.graph.initializer))):
        if proto.graph.initializer[index].name in set(scales.values()):
            del proto.graph.initializer[index]
    return Adjustable(models.serialized(proto), scales)
