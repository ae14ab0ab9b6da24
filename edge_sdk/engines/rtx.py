"""TensorRT for RTX: NVIDIA's compiler as a wheel, which builds on any x86-64 machine. The only door to it."""

from collections.abc import Callable, Mapping

import tensorrt_rtx_bindings as trt

from edge_sdk.engines.nvidia import Compiled, ShapeRange, compile_network

TARGET = f"rtx-{trt.__version__}"


def compile_model(
    model: bytes,
    *,
    shapes: Mapping[str, ShapeRange],
    progress: Callable[[str, int, int], None] | None = None,
) -> Compiled:
    """Builds `model` ahead of time; raises as `compile_network` does."""
    return compile_network(trt, model, name="tensorrt-rtx", target=TARGET, shapes=shapes, progress=progress)
