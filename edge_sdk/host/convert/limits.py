"""How much a model file may cost while it is opened."""

from typing import Annotated

import msgspec

GIB = 2**30

Seconds = Annotated[int, msgspec.Meta(ge=1, le=7 * 86400)]


class Limits(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What the child process that opens a model may use; each step (export, then check) has them anew.

    Attributes:
        memory_bytes: address space. Default 8 GiB: TensorFlow and torch take 1 GiB before the first weight (measured),
            a model of 2 GB is held three times while its operators are raised, and a workstation has twice that.
        cpu_s: processor seconds, all threads together. Default 1800: ten times what exporting a large network takes.
        wall_s: seconds from start to end. Default 900, for a child that waits instead of computing.
        file_bytes: largest file that it may write. Default 16 GiB, above any network that fits on a Jetson.
        inline_bytes: weights above this stay in a file of their own beside the model, which is then neither raised
            nor cleaned. Default 1.9 GB: protobuf, and with it every compiler, takes less than 2 GiB as one message.
    """

    memory_bytes: Annotated[int, msgspec.Meta(ge=64 * 2**20)] = 8 * GIB
    cpu_s: Seconds = 1800
    wall_s: Seconds = 900
    file_bytes: Annotated[int, msgspec.Meta(ge=2**20)] = 16 * GIB
    inline_bytes: Annotated[int, msgspec.Meta(ge=0, le=2**31 - 2**20)] = 1_900_000_000
