"""What a back end must do: three methods. The Engine around it adds checks, timing and error translation."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol, TypeAlias, runtime_checkable

import msgspec
from numpy.typing import NDArray

from edge_sdk.records import tensors

Tensors: TypeAlias = dict[str, NDArray[Any]]


class StageTimes(msgspec.Struct, gc=False):
    """Where a back end says how long its copies took; what it leaves at zero counts as compute."""

    copy_in_ns: int = 0
    copy_out_ns: int = 0


class Backend(Protocol):
    """A loaded model. Made by a factory ``(model: Path, options: Mapping[str, str | int]) -> Backend``."""

    def inputs(self) -> tuple[tensors.TensorSpec, ...]:
        """Gives what the model takes."""
        ...

    def run(self, feeds: Mapping[str, NDArray[Any]], spent: StageTimes) -> Tensors:
        """Runs once on arrays that fit `inputs`; the outputs belong to the caller.

        May raise anything: the Engine translates it to EngineError.
        """
        ...

    def close(self) -> None:
        """Gives everything back; called once."""
        ...


@runtime_checkable
class Lender(Protocol):
    """A back end with input memory of its own, which a caller may fill in place. Back ends without any lack this."""

    def buffers(self, shapes: Mapping[str, tuple[int, ...]]) -> Tensors:
        """Gives the memory of each input in that shape; `run` copies nothing of an array that came from here."""
        ...


class BackendFactory(Protocol):
    """What a row of the table names."""

    def __call__(self, model: Path, options: Mapping[str, str | int]) -> Backend:
        """Loads `model`."""
        ...
