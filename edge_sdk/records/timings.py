"""Where the time of one inference went; the bottleneck question needs the parts."""

import msgspec

STAGES = ("queue", "pre", "copy_in", "compute", "copy_out", "post")
"""The stages of one inference in order, as named in `Window.stage_ms`."""


class Timings(msgspec.Struct, frozen=True, gc=False):
    """One inference in nanoseconds of the process's monotonic clock."""

    queue_ns: int = 0
    pre_ns: int = 0
    copy_in_ns: int = 0
    compute_ns: int = 0
    copy_out_ns: int = 0
    post_ns: int = 0

    @property
    def total_ns(self) -> int:
        """Sum of all stages."""
        return self.queue_ns + self.pre_ns + self.copy_in_ns + self.compute_ns + self.copy_out_ns + self.post_ns
