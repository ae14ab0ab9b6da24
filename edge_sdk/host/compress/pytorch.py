"""This room's only door to torch and torch-pruning. It opens without them too, so that ``--help`` always answers."""

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TypeAlias

from edge_sdk import errors

try:
    import torch
    import torch.utils.flop_counter
except ModuleNotFoundError:
    torch = None

try:
    import torch_pruning
except ModuleNotFoundError:
    torch_pruning = None

__all__ = ["Module", "Tensor", "check_installed", "first_output", "quiet", "torch", "torch_pruning", "worded"]

Module: TypeAlias = Any
"""A torch.nn.Module; torch's types are not to be had where torch is not."""

Tensor: TypeAlias = Any
"""A torch.Tensor."""

_FAULTS = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    ImportError,
    LookupError,
    NameError,
    OSError,
    RuntimeError,
    SyntaxError,
    TypeError,
    ValueError,
)
"""What user's networks, torch's tracers and torch-pruning raise on a network that does not suit them."""

_WORDS_MOST = 400


def check_installed(*, with_pruning: bool = False) -> None:
    """Raises UsageError, with the command that mends it, unless torch (and torch-pruning) is there."""
    for name, module, is_needed in (("torch", torch, True), ("torch-pruning", torch_pruning, with_pruning)):
        if is_needed and module is None:
            raise errors.UsageError(
                f"this needs the package {name!r}, which is not installed here: pip install 'edge_sdk[torch]'"
            )


@contextmanager
def worded(what: str, kind: type[errors.EdgeError] = errors.ModelError) -> Iterator[None]:
    """Turns what foreign code raises inside the block into `kind`: ``{what}: its own words``."""
    try:
        yield
    except errors.EdgeError:
        raise
    except _FAULTS as error:
        words = " ".join(str(error).split())
        shown = words if len(words) <= _WORDS_MOST else words[:_WORDS_MOST] + " ..."
        raise kind(f"{what}: {type(error).__name__}: {shown}") from error


@contextmanager
def quiet() -> Iterator[None]:
    """Keeps torch's exporters from warning of their own deprecations and of packages that nobody asked for."""
    log = logging.getLogger("torch.onnx")
    before = log.level
    log.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        log.setLevel(before)


def first_output(outputs: Any) -> Tensor:
    """Gives the first tensor of what a network returned, one row of class scores per sample.

    Raises:
        ModelError: it is no ``[N, C]`` (or ``[N, C, 1, ...]``).
    """
    found = outputs
    while isinstance(found, tuple | list | dict) and found:
        found = next(iter(found.values())) if isinstance(found, dict) else found[0]
    if not isinstance(found, torch.Tensor) or found.ndim < 2 or found[0, 0].numel() != 1:
        given = f"a tensor of shape {tuple(found.shape)}" if isinstance(found, torch.Tensor) else type(found).__name__
        raise errors.ModelError(
            f"the network's first output is {given}; expected the scores of classes [N, C]: only classifiers are "
            "trained here"
        )
    return found.flatten(1)
