"""Every test starts with a fresh driver and must leave it as it found it."""

import gc
import os

import pytest


@pytest.fixture(autouse=os.environ.get("EDGE_SDK_EMULATED_STUBS") is not None)
def clean_driver():
    import emulated

    emulated.reset()
    before = emulated.live()
    yield
    gc.collect()
    left = emulated.live()
    emulated.reset()
    assert left == before, f"left on the device: {left}, and before the test {before}"


@pytest.fixture(params=[0, 1], ids=["discrete", "integrated"])
def memory(request):
    """Both kinds of GPU: with memory of its own, and sharing the host's."""
    import emulated

    emulated.configure(integrated=request.param)
    return request.param
