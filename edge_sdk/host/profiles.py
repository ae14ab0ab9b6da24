"""How far the free axes of a model go: what the user says, or what his data has, for NVIDIA's compiler."""

from collections.abc import Mapping, Sequence

from edge_sdk import errors, imports
from edge_sdk.engines import nvidia
from edge_sdk.engines.nvidia import ShapeRange
from edge_sdk.engines.protocol import Tensors
from edge_sdk.records.tensors import TensorSpec


def check_shapes(inputs: Sequence[TensorSpec], shapes: Mapping[str, ShapeRange] | None) -> None:
    """Refuses shapes that are not those of the inputs; None are to come from the data, and are always right.

    Raises:
        UsageError: the model has no such input, a range does not fit it, or one with free axes beyond the batch has
            none.
    """
    if shapes is None:
        return
    known = {spec.name: spec for spec in inputs}
    for name, given in shapes.items():
        if name not in known:
            raise errors.UsageError(
                f"--shape names the input {name!r}, which the model has not{imports.nearest(name, known)}; "
                f"it takes {', '.join(known)}"
            )
        _check_range(known[name], given)
    for spec in inputs:
        if None in spec.shape[1:] and spec.name not in shapes:
            raise errors.UsageError(nvidia.free_axes_text(spec.name, [-1 if n is None else n for n in spec.shape]))


def widened(seen: Mapping[str, ShapeRange], feeds: Tensors) -> dict[str, ShapeRange]:
    """Gives the smallest, first and largest shape of a sample of each input, without its batch: `feeds` counted in.

    >>> import numpy as np
    >>> widened({"image": ((3, 8), (3, 8), (3, 8))}, {"image": np.zeros((4, 3, 6))})
    {'image': ((3, 6), (3, 8), (3, 8))}
    """
    found = {}
    for name, values in feeds.items():
        shape = tuple(values.shape[1:])
        low, usual, high = seen.get(name, (shape, shape, shape))
        found[name] = (tuple(map(min, low, shape)), usual, tuple(map(max, high, shape)))
    return found


def ranges_from_data(inputs: Sequence[TensorSpec], seen: Mapping[str, ShapeRange]) -> dict[str, ShapeRange]:
    """Gives the ranges of the inputs with free axes beyond the batch, as `widened` saw them.

    >>> spec = TensorSpec("image", "float32", (None, 3, None))
    >>> ranges_from_data([spec], {"image": ((3, 6), (3, 8), (3, 9))})
    {'image': ((1, 3, 6), (8, 3, 8), (32, 3, 9))}
    """
    found = {}
    for spec in inputs:
        if None in spec.shape[1:]:
            batches = nvidia.BATCH if spec.shape[0] is None else (1, 1, 1)
            low, usual, high = ((batch, *shape) for batch, shape in zip(batches, seen[spec.name], strict=True))
            found[spec.name] = (low, usual, high)
    return found


def notes(ranges: Mapping[str, ShapeRange]) -> tuple[str, ...]:
    """Says of each range that the data gave it."""
    return tuple(
        f"NVIDIA's compiler was asked about input {name!r} from {_text(low)} to {_text(high)}, as the evaluation data "
        f"has it; --shape {name}=MIN:USUAL:MAX asks about another range"
        for name, (low, _, high) in ranges.items()
    )


def _check_range(spec: TensorSpec, given: ShapeRange) -> None:
    for shape in given:
        is_fit = len(shape) == len(spec.shape) and all(
            want in (None, got) for want, got in zip(spec.shape, shape, strict=True)
        )
        if not is_fit:
            raise errors.UsageError(
                f"--shape {spec.name}=... has {_text(shape)}, but the input is {spec}; expected as many axes in each "
                "shape, and other sizes only where the axis is free"
            )


def _text(shape: Sequence[int]) -> str:
    return "x".join(map(str, shape))
