"""What a model takes and gives."""

import msgspec

DTYPES = (
    "float32",
    "float16",
    "float64",
    "int8",
    "uint8",
    "int16",
    "uint16",
    "int32",
    "uint32",
    "int64",
    "uint64",
    "bool",
)
"""The numpy names of the element types that a bundle may use."""


class TensorSpec(msgspec.Struct, frozen=True):
    """One input or output of a model.

    Attributes:
        name: the tensor's name in the ONNX graph.
        dtype: numpy name of the element type, one of DTYPES.
        shape: one entry per axis; None is a free axis (for example the batch).
    """

    name: str
    dtype: str
    shape: tuple[int | None, ...]

    def __str__(self) -> str:
        """Gives the form of messages: ``float32[N, 3, 640, 640]``."""
        return shape_text(self.dtype, self.shape)


def shape_text(dtype: str, shape: tuple[int | None, ...]) -> str:
    """Gives ``float32[N, 3, 640, 640]``; a free axis is ``N``.

    >>> shape_text("uint8", (None, 3))
    'uint8[N, 3]'
    """
    axes = ", ".join("N" if axis is None else str(axis) for axis in shape)
    return f"{dtype}[{axes}]"
