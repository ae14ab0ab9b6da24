"""Reads a bundle's golden.npz, and says how far an engine is from the answers in it."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from edge_sdk import errors
from edge_sdk.engines.protocol import Tensors

FLOAT_RATIO = 1e-3
"""Of the largest golden value: what another order of float32 sums may change at most, many times over."""

ROUNDING_RATIO = 1e-5
"""Of the largest golden value: for tolerances that were measured on another machine to the last bit."""


class Golden(NamedTuple):
    """Inputs and the answers they must give.

    Attributes:
        feeds: prepared inputs, one request each.
        answers: by precision, ``float`` and ``int8``: the outputs for each of them.
        tolerances: by output name: how far INT8 is from float at its worst here.
    """

    feeds: tuple[Tensors, ...]
    answers: dict[str, tuple[Tensors, ...]]
    tolerances: dict[str, float]


def read_golden(file: Path) -> Golden:
    """Gives what golden.npz holds.

    Raises:
        BundleError: it is not what the builder writes.
    """
    try:
        with np.load(file, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
        return golden_from_arrays(arrays)
    except (OSError, ValueError, IndexError, KeyError) as error:
        raise errors.BundleError(
            f"{file} is not what `edge-sdk build` writes: {error}; build the bundle again"
        ) from error


def excess(golden: Golden, given: Tensors, index: int, *, precision: str, factor: float = 1.0) -> str:
    """Gives in words how one answer breaks its tolerance; an empty text if it holds.

    Args:
        golden: of the bundle.
        given: what the engine answered to ``golden.feeds[index]``.
        index: of the sample.
        precision: ``int8`` compares with INT8's answers by INT8's tolerance, ``float`` with float's by FLOAT_RATIO.
        factor: times that tolerance.
    """
    for name, wanted in golden.answers[precision][index].items():
        if name not in given or given[name].shape != wanted.shape:
            return f"output {name!r} is missing or of another shape"
        exact = wanted.astype(np.float64)
        peak = float(np.abs(exact).max(initial=0.0))
        allowed = factor * golden.tolerances[name] if precision == "int8" else FLOAT_RATIO * peak
        off = float(np.abs(exact - given[name].astype(np.float64)).max(initial=0.0))
        if not off <= allowed + ROUNDING_RATIO * peak:  # NaN is no answer either
            return f"output {name!r} is {off:.4g} off, {allowed:.4g} allowed"
    return ""


def golden_from_arrays(arrays: Mapping[str, NDArray[Any]]) -> Golden:
    """Gives the samples in the arrays of golden.npz; raises ValueError when there are none."""
    parts: dict[str, Tensors] = {"prepared": {}, "float": {}, "int8": {}, "tolerance": {}}
    for name, values in arrays.items():
        kind, _, tensor = name.partition(".")
        parts.get(kind, {})[tensor] = values
    count = len(next(iter(parts["prepared"].values()), ()))
    rows = {
        kind: tuple({name: values[row : row + 1] for name, values in parts[kind].items()} for row in range(count))
        for kind in ("prepared", "float", "int8")
        if parts[kind]
    }
    feeds = rows.pop("prepared", ())
    if not feeds:
        raise ValueError("it holds no inputs")
    return Golden(feeds, rows, {name: float(value) for name, value in parts["tolerance"].items()})
