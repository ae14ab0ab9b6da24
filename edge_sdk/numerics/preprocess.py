"""Raw values (pixels) to what the network takes; the same function on the host and on the device."""

import numpy as np
from numpy.typing import NDArray

from edge_sdk.records.bundle import Preprocess


def prepared(raw: NDArray[np.generic], rule: Preprocess) -> NDArray[np.float32]:
    """Gives ``(raw * scale - mean) / std`` as a new float32 array of the same shape, C-contiguous.

    Args:
        raw: ``[N, C, ...]`` of any real dtype, or ``[N, ..., C]`` where the rule's layout is ``nhwc``; `mean` and
            `std` run along C when they have more than one value.
        rule: from the manifest.

    Raises:
        ValueError: `mean` or `std` has neither one value nor C values.

    >>> prepared(np.array([[[255, 0]]], np.uint8), Preprocess(scale=1 / 255)).tolist()
    [[[1.0, 0.0]]]
    """
    axis = raw.ndim - 1 if rule.layout == "nhwc" else 1
    mean, std = (_along_channels(raw, name, values, axis) for name, values in (("mean", rule.mean), ("std", rule.std)))
    gain = np.float32(rule.scale) / std
    out = np.multiply(raw, gain, dtype=np.float32)
    if np.any(mean):
        out -= mean / std
    return np.ascontiguousarray(out)


def _along_channels(raw: NDArray[np.generic], name: str, values: tuple[float, ...], axis: int) -> NDArray[np.float32]:
    array = np.asarray(values, np.float32)
    if array.size == 1:
        return array.reshape(())
    if raw.ndim < 2 or raw.shape[axis] != array.size:
        raise ValueError(f"{name} has {array.size} values, but the input's channel axis has shape {raw.shape}")
    return array.reshape([-1 if position == axis else 1 for position in range(raw.ndim)])
