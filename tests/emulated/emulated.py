"""The test driver's control panel: orders faults, asks for counts. It never stands in for the driver API itself."""

import ctypes
import functools

OUT_OF_MEMORY, LAUNCH_FAILED, ILLEGAL_ADDRESS, DEVICE_LOST = 2, 719, 700, 999
KINDS = ("device", "host", "stream", "event", "graph", "graph_exec", "primary", "bytes")
CONFIG = ("integrated", "sm_count", "cc_major", "cc_minor", "total_mb", "map_host")


@functools.cache
def driver() -> ctypes.CDLL:
    """Gives the test driver; refuses to talk to a real one."""
    library = ctypes.CDLL("libcuda.so.1")
    if not hasattr(library, "emu_reset"):
        raise RuntimeError("libcuda.so.1 is a real CUDA driver; the emulated suite never runs on one")
    library.emu_fail.argtypes = [ctypes.c_char_p, ctypes.c_long, ctypes.c_int, ctypes.c_int, ctypes.c_double]
    for name in ("emu_live", "emu_calls", "emu_pageable"):
        getattr(library, name).restype = ctypes.c_long
    library.emu_calls.argtypes = [ctypes.c_char_p]
    library.emu_configure.argtypes = [ctypes.c_int, ctypes.c_long]
    library.emu_is_device_range.argtypes = [ctypes.c_size_t, ctypes.c_size_t]
    return library


def reset() -> None:
    driver().emu_reset()


def configure(**settings: int) -> None:
    for key, value in settings.items():
        driver().emu_configure(CONFIG.index(key), value)


def fail(name: str, *, nth: int = 1, code: int = 0, is_sticky: bool = False, hang_s: float = 0.0) -> None:
    """The nth call of `name` from now fails with `code`; ``op.copy`` and ``op.host`` are work done on a stream."""
    assert driver().emu_fail(name.encode(), nth, code, int(is_sticky), hang_s) == 0


def live() -> dict[str, int]:
    """Gives what was made and not given back, and how deep this thread's stack of contexts is; zeros left out."""
    counts = {kind: driver().emu_live(index) for index, kind in enumerate(KINDS)}
    counts["stack"] = driver().emu_stack_depth()
    return {kind: count for kind, count in counts.items() if count}


def calls(name: str) -> int:
    return int(driver().emu_calls(name.encode()))


def pageable_copies() -> int:
    return int(driver().emu_pageable())
