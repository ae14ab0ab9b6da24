"""Symmetric INT8: scales from thresholds, weights per channel; QuantizeLinear with zero point 0."""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

LEVELS = 127
"""The largest code; -128 is not used, so that the range is symmetric as TensorRT wants it."""

_SMALLEST_SCALE = float(np.finfo(np.float32).tiny)


class QuantizedWeights(NamedTuple):
    """INT8 codes of the shape of the weights, and one float32 scale per channel."""

    codes: NDArray[np.int8]
    scales: NDArray[np.float32]


def scale_from_threshold(threshold: float) -> float:
    """Gives the scale whose code 127 stands for `threshold`; exactly a float32, never zero.

    >>> scale_from_threshold(127.0)
    1.0
    """
    return float(np.float32(max(threshold / LEVELS, _SMALLEST_SCALE)))


def quantized_weights(weights: NDArray[np.float32], *, axis: int) -> QuantizedWeights:
    """Gives weights as INT8 with one scale per index of `axis` (its largest magnitude becomes 127).

    A channel of zeros gets the scale 1: TensorRT refuses a scale of 0, and any scale gives zeros back.

    >>> quantized_weights(np.array([[0.5, -1.0], [0.0, 0.0]], np.float32), axis=0).codes.tolist()
    [[64, -127], [0, 0]]
    """
    others = tuple(i for i in range(weights.ndim) if i != axis)
    peaks = np.abs(weights).max(axis=others).astype(np.float64)
    scales = np.where(peaks > 0, np.maximum(peaks / LEVELS, _SMALLEST_SCALE), 1.0).astype(np.float32)
    along = scales.reshape([-1 if i == axis else 1 for i in range(weights.ndim)])
    return QuantizedWeights(quantized(weights, along), scales)


def quantized(values: NDArray[Any], scale: NDArray[np.float32] | float) -> NDArray[np.int8]:
    """Gives ``clip(round_half_even(values / scale), -127, 127)`` as int8."""
    return np.clip(np.rint(values / np.asarray(scale, np.float32)), -LEVELS, LEVELS).astype(np.int8)


def dequantized(codes: NDArray[np.int8], scale: NDArray[np.float32] | float) -> NDArray[np.float32]:
    """Gives ``codes * scale`` as float32."""
    return np.multiply(codes, np.asarray(scale, np.float32), dtype=np.float32)
