"""TensorRT of a Jetson or a GPU workstation. The only door to it."""

from collections.abc import Callable, Mapping

import tensorrt as trt

from edge_sdk.engines.nvidia import Compiled, ShapeRange, compile_network


def compile_model(
    model: bytes,
    *,
    shapes: Mapping[str, ShapeRange],
    progress: Callable[[str, int, int], None] | None = None,
) -> Compiled:
    """Builds `model` for the GPU of this machine; raises as `compile_network` does."""
    target = f"trt-{trt.__version__}"
    return compile_network(trt, model, name="tensorrt", target=target, shapes=shapes, progress=progress)
