"""One way of building for every TensorRT from 8.6 to 11: what is set follows from what the version has."""

import importlib.util

import pytest

from edge_sdk.engines import nvidia
from edge_sdk.engines.nvidia import Resources

rtx = pytest.mark.skipif(
    importlib.util.find_spec("tensorrt_rtx_bindings") is None, reason="pip install 'edge_sdk[rtx]'"
)

no_op = pytest.mark.filterwarnings("ignore:.*Deprecated in TensorRT-RTX:DeprecationWarning")
"""RTX takes a timing cache and does nothing with it: the calls are checked, what they gain is not."""


class Flags86:
    EXPLICIT_BATCH = 0


class Flags103:
    EXPLICIT_BATCH, STRONGLY_TYPED = 0, 1


class Flags11:
    STRONGLY_TYPED = 1


class Precisions:
    FP16, INT8 = 0, 1


class NoPrecisions:
    pass


@pytest.mark.parametrize(("flags", "precisions", "dla_core", "bits"), [
    (Flags86, Precisions, None, 0b01),
    (Flags103, Precisions, None, 0b11),
    (Flags103, Precisions, 0, 0b01),  # up to 10.7 the DLA is driven by flags
    (Flags11, NoPrecisions, None, 0b10),
    (Flags11, NoPrecisions, 0, 0b10),
])  # fmt: skip
def test_the_network_is_strongly_typed_where_that_exists(flags, precisions, dla_core, bits):
    class Version:
        NetworkDefinitionCreationFlag = flags
        BuilderFlag = precisions

    is_typed = nvidia._is_strongly_typed(Version, Resources(dla_core=dla_core))
    assert nvidia._network_flags(Version, is_typed=is_typed) == bits


@rtx
@no_op
def test_nvidias_own_compiler_takes_workspace_and_timing_cache(tiny_onnx):
    import tensorrt_rtx_bindings as trt

    def build(resources):
        return nvidia.compile_network(
            trt, tiny_onnx, name="rtx", target="t", shapes={}, progress=None, resources=resources
        )

    first = build(Resources(workspace_bytes=64 << 20, timing_cache=b""))
    assert first.report.ok, first.report.messages
    again = build(Resources(workspace_bytes=64 << 20, timing_cache=first.timing_cache))
    assert again.report.ok
    assert not any("discarded" in message for message in again.report.messages)
    assert build(Resources()).timing_cache == b""
