"""Frames through an engine to the sinks, until the source ends or somebody asks for the end."""

from collections.abc import Callable, Sequence
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from edge_sdk import clock, errors
from edge_sdk.device.feed.pump import Pump
from edge_sdk.device.feed.results import Reading
from edge_sdk.device.feed.sinks import Sink
from edge_sdk.engines.engine import Engine
from edge_sdk.numerics import pictures, preprocess
from edge_sdk.numerics.pictures import Layout, Pixels
from edge_sdk.records.bundle import Manifest, Preprocess


class Tally(msgspec.Struct, frozen=True):
    """What became of the frames.

    Attributes:
        results: frames that were answered.
        dropped: of a live source, those that gave way to newer ones.
        unsent: results that a sink could not take.
        unreadable: files that were passed over, and why.
        seconds: wall time.
    """

    results: int
    dropped: int
    unsent: int
    unreadable: dict[str, str]
    seconds: float


class Input:
    """The one input of a network that takes pictures.

    Attributes:
        name: of the input.
        layout: how it takes them.
        rule: how size, colours and values are made to fit.
    """

    def __init__(self, manifest: Manifest) -> None:
        """Looks at what the network takes.

        Raises:
            UsageError: no picture fits.
        """
        if len(manifest.inputs) != 1:
            names = ", ".join(spec.name for spec in manifest.inputs)
            raise errors.UsageError(f"frames fit a network with one input, {manifest.name} takes {names}")
        self.spec = manifest.inputs[0]
        self.name = self.spec.name
        self.rule: Preprocess = manifest.preprocess.get(self.name, Preprocess())
        if self.spec.dtype != "uint8" and self.name not in manifest.preprocess:
            raise errors.UsageError(
                f"the bundle does not say how pixels become {self.name} {self.spec}; build it with --preprocess"
            )
        try:
            self.layout: Layout = pictures.layout_from_shape(self.spec.shape, self.rule)
        except ValueError as error:
            raise errors.UsageError(f"input {self.name!r} takes no pictures: {error}") from error

    def feeds(self, pixels: Pixels) -> dict[str, NDArray[Any]]:
        """Gives a picture as the network takes it."""
        raw = pictures.raw_from_picture(pixels, self.layout, self.rule)
        if self.spec.dtype == "uint8":
            return {self.name: raw}
        return {self.name: preprocess.prepared(raw, self.rule).astype(np.dtype(self.spec.dtype), copy=False)}


def stream(
    pump: Pump,
    engine: Engine,
    given: Input,
    reading: Reading,
    sinks: Sequence[Sink],
    *,
    ticks: clock.Clock,
    most: int | None = None,
    on_unsent: Callable[[str], None] = lambda _: None,
) -> tuple[int, int]:
    """Gives how many frames were answered, and how many results a sink could not take.

    Args:
        pump: of the frames.
        engine: that answers.
        given: the engine's input.
        reading: of its outputs.
        sinks: each takes every result.
        ticks: for the latency.
        most: frames, then it ends.
        on_unsent: told why a result could not be sent.

    Raises:
        EngineError: the engine failed.
        UsageError: the source can't be read, or a sink can't be written.
    """
    results = unsent = 0
    for frame in pump:
        started_ns = ticks.tick_ns()
        outputs = engine.infer(given.feeds(frame.pixels))
        result = reading.result(frame, outputs, latency_ms=(ticks.tick_ns() - started_ns) / 1e6)
        results += 1
        for sink in sinks:
            try:
                sink.take(result)
            except errors.LinkError as error:
                unsent += 1
                on_unsent(str(error))
        if results == most:
            break
    return results, unsent
