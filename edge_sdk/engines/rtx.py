"""TensorRT for RTX: NVIDIA's compiler as a wheel, which builds on any x86-64 machine. The only door to it."""

from collections.abc import Callable, Mapping
from pathlib import Path

import tensorrt_rtx_bindings as trt

from edge_sdk import errors
from edge_sdk.engines.nvidia import BuildOptions, Compiled, ShapeRange, compile_network

TARGET = f"rtx-{trt.__version__}"


def compile_model(
    model: bytes | Path,
    *,
    shapes: Mapping[str, ShapeRange],
    progress: Callable[[str, int, int], None] | None = None,
    options: BuildOptions | None = None,
) -> Compiled:
    """Builds `model` ahead of time; raises as `compile_network` does. It measures no GPU, so keeps no timing cache."""
    if options is not None and options.dla_core is not None:
        raise errors.UsageError("TensorRT for RTX has no DLA; a Jetson finishes its own engine with it")
    return compile_network(trt, model, name="tensorrt-rtx", target=TARGET, shapes=shapes, progress=progress)
