"""What a TensorRT engine is tied to, and what a machine has to offer: compared before any byte of an engine is used."""

from typing import Annotated

import msgspec

from edge_sdk.records.bundle import Digest

SCHEMA = 1
"""Version of ``engine.<passport>.json`` that this SDK writes; a reader refuses a higher one."""


class Passport(msgspec.Struct, frozen=True, kw_only=True):
    """One machine, as far as an engine cares. None: could not be read, or does not apply.

    Attributes:
        module: P-number of a Jetson module (``p3767-0000``), or the name of a discrete GPU.
        compute_capability: for example ``8.7``. Two modules may share it and still differ, so it is never enough.
        sm_count: streaming multiprocessors; tactics are chosen for it.
        dla_cores: deep learning accelerators of the module.
        l4t: Jetson Linux release, for example ``36.4.3``; None on other machines.
        tensorrt: version with all its parts, for example ``10.3.0.26``.
        cuda: version of the CUDA driver interface, for example ``12.6``.
        memory_bytes: that the GPU can use; on a Jetson it is shared with the CPU.
    """

    module: str | None
    compute_capability: str | None
    sm_count: int | None
    dla_cores: int = 0
    l4t: str | None = None
    tensorrt: str | None = None
    cuda: str | None = None
    memory_bytes: int | None = None

    def token(self) -> str:
        """Gives the part of a file's name that says which machine it is for.

        >>> Passport(module="p3767-0000", compute_capability="8.7", sm_count=8, tensorrt="10.3.0.26").token()
        'p3767-0000-sm87x8-trt10.3.0.26'
        """
        name = "".join(c if c.isascii() and (c.isalnum() or c in "._-") else "-" for c in self.module or "unknown")
        capability = (self.compute_capability or "0.0").replace(".", "")
        return f"{name[:48].strip('-._').lower()}-sm{capability}x{self.sm_count or 0}-trt{self.tensorrt or 0}"


class EnginePassport(msgspec.Struct, frozen=True, kw_only=True):
    """``engine.<passport>.json``: the machine that an engine was built on and for, and how.

    Attributes:
        schema: version of this file.
        built_on: the machine; a TensorRT engine runs where it was built.
        model: SHA-256 of the ONNX that it was built from.
        sha256: of the engine's bytes; checked before they are handed to TensorRT.
        size_bytes: of the engine.
        dla_core: accelerator that it was built for, with the GPU as fall-back; None is the GPU alone.
        version_compatible: built to outlive a TensorRT version. Such an engine carries host code.
        hardware_compatible: built to run on other GPUs than its own.
    """

    schema: Annotated[int, msgspec.Meta(ge=1)]
    built_on: Passport
    model: Digest
    sha256: Digest
    size_bytes: Annotated[int, msgspec.Meta(gt=0)]
    dla_core: Annotated[int, msgspec.Meta(ge=0)] | None = None
    version_compatible: bool = False
    hardware_compatible: bool = False
