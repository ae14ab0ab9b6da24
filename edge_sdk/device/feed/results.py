"""What an engine said about a frame, in a form that other programs read."""

from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from edge_sdk.device.feed.frames import Frame
from edge_sdk.engines.protocol import Tensors
from edge_sdk.numerics import detections, pictures, scores, suppression
from edge_sdk.numerics.pictures import Layout
from edge_sdk.records.bundle import Manifest, Preprocess

MOST_VALUES = 1000
"""Of an output that is neither a classifier's nor a detector's; of a larger one only the shape is told."""

_DIGITS = 6


class Class(msgspec.Struct, frozen=True):
    """One class and how sure the network is of it."""

    index: int
    name: str
    value: float


class Detection(msgspec.Struct, frozen=True):
    """One object; `box` is left, top, right, bottom as shares of the frame's width and height."""

    index: int
    name: str
    score: float
    box: tuple[float, float, float, float]


class Output(msgspec.Struct, frozen=True, omit_defaults=True):
    """One output as it came; its values only if there are few."""

    shape: list[int]
    values: Any = None


class Result(msgspec.Struct, frozen=True, omit_defaults=True):
    """One line of JSON.

    Attributes:
        frame: name of the frame.
        t: Unix time at which it was taken in.
        model, digest: what answered, and of which bundle.
        latency_ms: preprocessing and inference.
        size: width and height of the frame.
        top: of a classifier, the best classes.
        detections: of a detector, one per object.
        outputs: of any other network.
    """

    frame: str
    t: float
    model: str
    digest: str
    latency_ms: float
    size: tuple[int, int]
    top: list[Class] | None = None
    detections: list[Detection] | None = None
    outputs: dict[str, Output] | None = None


class Reading:
    """How one network's outputs are read.

    Args:
        manifest: of the bundle.
        digest: of the bundle.
        layout: of the input.
        rule: of the input.
        top: classes to give.
        least_score: of a detection.
    """

    def __init__(
        self, manifest: Manifest, digest: str, layout: Layout, rule: Preprocess, *, top: int, least_score: float
    ) -> None:
        self._manifest = manifest
        self._digest = digest[:12]
        self._layout = layout
        self._rule = rule
        self._top = top
        self._least_score = least_score

    def result(self, frame: Frame, outputs: Tensors, *, latency_ms: float) -> Result:
        """Gives what the outputs say about the frame."""
        first = outputs[self._manifest.outputs[0].name]
        common = Result(
            frame=frame.name,
            t=frame.wall_s,
            model=self._manifest.name,
            digest=self._digest,
            latency_ms=round(latency_ms, 3),
            size=(frame.pixels.shape[1], frame.pixels.shape[0]),
        )
        if first.dtype.kind == "f" and first.ndim >= 2 and first.size == first.shape[1] > 1:
            ranked = scores.top_classes(first, self._top)
            return msgspec.structs.replace(
                common, top=[Class(index, self._name(index), round(value, _DIGITS)) for index, value in ranked]
            )
        if len(outputs) == 1 and first.dtype.kind == "f" and first.shape[0] == 1 and detections.is_layout(first.shape):
            return msgspec.structs.replace(common, detections=self._detections(frame, first))
        return msgspec.structs.replace(common, outputs={name: _output(values) for name, values in outputs.items()})

    def _detections(self, frame: Frame, output: NDArray[Any]) -> list[Detection]:
        found = suppression.best_boxes(
            detections.rows_from_output(output[0]), most=MOST_VALUES, least_score=self._least_score
        )
        height, width = frame.pixels.shape[:2]
        at = pictures.region(height, width, self._layout, self._rule)
        shares = (found.corners - (at.left, at.top) * 2) / ((at.width, at.height) * 2)
        return [
            Detection(index, self._name(index), round(score, _DIGITS), _box(corners))
            for index, score, corners in zip(
                found.classes.tolist(), found.scores.tolist(), np.clip(shares, 0, 1).tolist(), strict=True
            )
        ]

    def _name(self, index: int) -> str:
        return self._manifest.classes[index] if index < len(self._manifest.classes) else str(index)


def _box(corners: list[float]) -> tuple[float, float, float, float]:
    left, top, right, bottom = (round(value, _DIGITS) for value in corners)
    return left, top, right, bottom


def _output(values: NDArray[Any]) -> Output:
    """Gives an output; NaN and infinity, which JSON has not, as null."""
    if values.size > MOST_VALUES:
        return Output(list(values.shape))
    if values.dtype.kind == "f" and not np.isfinite(values).all():
        listed = np.where(np.isfinite(values), values, 0).astype(object)
        listed[~np.isfinite(values)] = None
        return Output(list(values.shape), listed.tolist())
    return Output(list(values.shape), values.tolist())
