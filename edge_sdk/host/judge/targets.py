"""What is published of the modules' arithmetic and memory: data, with where each row comes from.

Published peaks are no measurements: they serve for upper bounds of a ratio, never for a latency.
"""

from typing import NamedTuple

from edge_sdk import errors, imports
from edge_sdk.engines import modules


class Target(NamedTuple):
    """One module as its maker describes it.

    Attributes:
        part: P-number, by which `engines.modules` knows INT8 support and DLA cores.
        int8_tops: 1e12 operations a second; None where no figure was found, or there is no INT8.
        is_sparse: the figure counts 2:4 sparsity, and the DLA with the GPU; dense INT8 on the GPU is at most half.
        fp16_tflops: 1e12 operations a second; half of dense INT8 on tensor cores.
        bandwidth_gb_s: of the memory; None where no figure was found.
        source: where the figures were read.
    """

    part: str
    int8_tops: float | None
    is_sparse: bool
    fp16_tflops: float | None
    bandwidth_gb_s: float | None
    source: str

    @property
    def module(self) -> modules.Module:
        """What else is known of it."""
        found = modules.find_module(self.part)
        assert found is not None
        return found


_GUIDE = "Ultralytics' guide to NVIDIA Jetson, table of modules"

TARGETS: dict[str, Target] = {
    "nano": Target("p3448", None, False, 0.47, 25.6, _GUIDE),
    "tx2": Target("p3310", None, False, None, None, "no figure was found; INT8 support: AlexeyAB/yolo2_light#26"),
    "xavier-nx": Target("p3668", 21, False, 10.5, 59.7, _GUIDE),
    "agx-xavier": Target("p2888", 32, False, 16, 136.5, _GUIDE),
    "orin-nano": Target("p3767-0003", 67, True, 16.75, 102, f"{_GUIDE} (Super mode)"),
    "orin-nx": Target("p3767-0000", 100, True, 25, 102.4, _GUIDE),
    "agx-orin": Target("p3701-0005", 275, True, 68.75, 204.8, _GUIDE),
    "thor": Target("p3834-0008", None, False, None, 273, "antirez/ds4#788 (memory only)"),
}
"""By the name that `--target` takes. FP16 is INT8 over two, and over four where the INT8 figure counts sparsity."""


def find_target(name: str) -> Target:
    """Gives a row by name.

    Raises:
        UsageError: there is none of that name.
    """
    if name not in TARGETS:
        raise errors.UsageError(f"no target {name!r}{imports.nearest(name, TARGETS)}; known: {', '.join(TARGETS)}")
    return TARGETS[name]
