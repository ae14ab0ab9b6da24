"""A Q/DQ model with the Q/DQ of its activations taken out again, to be placed anew for other kernels."""

from typing import Any

import numpy as np
import onnx
import onnx.numpy_helper
from numpy.typing import NDArray

_KEEPING = (
    "Flatten",
    "Reshape",
    "Transpose",
    "Squeeze",
    "Unsqueeze",
    "MaxPool",
    "Slice",
    "GlobalAveragePool",
    "AveragePool",
)
"""What gives no negative value unless it was given one."""

_MOST_BIAS = 2**30
"""The sum and its bias share 32 bits."""


class Stripped:
    """The INT8 graph with the Q/DQ of its activations taken out.

    Attributes:
        proto: as it came.
        nodes: without the Q/DQ of activations.
        scales: of the tensors that had Q/DQ.
        constants: by name.
        weights: INT8 weights by their dequantised name: the DequantizeLinear.
        producer: who makes a tensor.
        users: who takes it.
        coded_slots: (first output of a node, slot) that took a tensor behind its Q/DQ.
        outputs: of the graph.
    """

    def __init__(self, proto: onnx.ModelProto) -> None:
        self.proto = proto
        graph = proto.graph
        self.constants = {tensor.name: tensor for tensor in graph.initializer}
        self.outputs = {value.name for value in graph.output}
        quantizers = {node.output[0]: node for node in graph.node if node.op_type == "QuantizeLinear"}
        self.scales = {node.input[0]: float(self.constant(node.input[1])) for node in quantizers.values()}
        dequantizers = [node for node in graph.node if node.op_type == "DequantizeLinear"]
        self.weights = {node.output[0]: node for node in dequantizers if node.input[0] in self.constants}
        before = {n.output[0]: quantizers[n.input[0]].input[0] for n in dequantizers if n.input[0] in quantizers}
        self.nodes: list[onnx.NodeProto] = []
        self.coded_slots: set[tuple[str, int]] = set()
        for node in graph.node:
            if node.output[0] in quantizers or node.output[0] in before:
                continue
            plain = onnx.NodeProto()
            plain.CopyFrom(node)
            for slot, name in enumerate(node.input):
                if name in before:
                    plain.input[slot] = before[name]
                    self.coded_slots.add((node.output[0], slot))
            self.nodes.append(plain)
        self.producer = {name: node for node in self.nodes for name in node.output}
        self.users: dict[str, list[onnx.NodeProto]] = {}
        for node in self.nodes:
            for name in node.input:
                self.users.setdefault(name, []).append(node)

    def constant(self, name: str) -> NDArray[Any]:
        """Gives the values of a constant."""
        values: NDArray[Any] = onnx.numpy_helper.to_array(self.constants[name])
        return values

    def data_inputs(self, node: onnx.NodeProto) -> list[str]:
        """Gives the inputs that are neither constants nor weights."""
        return [name for name in node.input if name and name not in self.constants and name not in self.weights]

    def activated(self, name: str) -> str:
        """Gives the tensor behind the ReLU or Clip that alone takes `name`, or `name`: a kernel does both at once."""
        users = self.users.get(name, [])
        if name in self.outputs or len(users) != 1:
            return name
        is_fused = users[0].op_type == "Relu" or (users[0].op_type == "Clip" and self.lowest(users[0]) >= 0)
        return str(users[0].output[0]) if is_fused else name

    def lowest(self, clip: onnx.NodeProto) -> float:
        """Gives what a Clip lets through at least."""
        return self._bound(clip, 1, -np.inf)

    def highest(self, clip: onnx.NodeProto) -> float:
        """Gives what a Clip lets through at most."""
        return self._bound(clip, 2, np.inf)

    def is_never_negative(self, name: str) -> bool:
        """Says whether a tensor's producer rules negative values out."""
        node = self.producer.get(name)
        if node is None:
            return False
        if node.op_type in _KEEPING:
            return self.is_never_negative(node.input[0])
        return node.op_type in ("Relu", "Sigmoid") or (node.op_type == "Clip" and self.lowest(node) >= 0)

    def integer_bias(self, node: onnx.NodeProto, scale: float) -> tuple[NDArray[np.int32], NDArray[np.float32]] | None:
        """Gives a layer's bias in steps of input scale times weight scale, with these steps; None if it is too large.

        A layer without a bias gives empty arrays.
        """
        if len(node.input) < 3 or not node.input[2]:
            return np.empty(0, np.int32), np.empty(0, np.float32)
        if node.input[2] not in self.constants:
            return None
        steps = np.asarray(self.constant(self.weights[node.input[1]].input[1]) * np.float32(scale), np.float32)
        codes = np.rint(self.constant(node.input[2]).astype(np.float64) / np.maximum(steps, np.finfo(np.float32).tiny))
        if codes.size == 0 or np.abs(codes).max() > _MOST_BIAS or codes.shape != steps.shape:
            return None
        return codes.astype(np.int32), steps

    def _bound(self, clip: onnx.NodeProto, slot: int, absent: float) -> float:
        if len(clip.input) <= slot or not clip.input[slot]:
            return absent
        known = clip.input[slot] in self.constants
        return float(self.constant(clip.input[slot])) if known else float("nan")
