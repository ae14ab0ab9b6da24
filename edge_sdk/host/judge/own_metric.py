"""A metric that the user brings: ``module:function``, called as ``function(outputs, labels)``."""

from collections.abc import Callable
from typing import Any, TypeAlias, cast

import numpy as np
from numpy.typing import NDArray

from edge_sdk import errors, imports
from edge_sdk.engines.protocol import Tensors
from edge_sdk.host.judge.pairs import Figures, Metric, Pair, Rows
from edge_sdk.numerics import intervals

Function: TypeAlias = "Callable[[Tensors, NDArray[np.int64] | None], Any]"
"""Takes the outputs of some samples and their labels (None where there are none), gives one figure per sample."""

BUDGET = 0.5
"""Points that INT8 may lose unless told otherwise: nothing is known of what they mean."""


def metric_of_user(spec: str) -> Metric:
    """Gives the metric that a function of the user's own computes; see `metrics` for how it is called.

    Raises:
        UsageError: `spec` names no function.
    """
    found = imports.object_from_spec(spec)
    if not callable(found):
        raise errors.UsageError(f"{spec} is not a function; expected one that takes (outputs, labels)")
    function = cast("Function", found)

    def rows(pair: Pair) -> Rows:
        return np.stack([_user_rows(function, spec, pair, outputs) for outputs in (pair.wanted, pair.given)], axis=1)

    def figures(all_rows: Rows) -> Figures:
        drop = intervals.bootstrap_score(all_rows, lambda means: means[:, 0] - means[:, 1])
        first, second = (intervals.bootstrap_score(column[:, None], lambda means: means[:, 0]) for column in all_rows.T)
        return Figures(first, second, drop)

    return Metric(spec, rows, figures, BUDGET)


def _user_rows(function: Function, spec: str, pair: Pair, outputs: Tensors) -> NDArray[np.float64]:
    try:
        found = np.asarray(function(outputs, pair.labels), np.float64)
    except Exception as error:  # boundary: the user's own code may raise anything
        raise errors.DataError(f"the metric {spec} failed: {type(error).__name__}: {error}") from error
    if found.shape != (pair.size,) or not np.isfinite(found).all():
        raise errors.DataError(
            f"the metric {spec} gave {found.dtype}{list(found.shape)} for {pair.size} samples; expected one finite "
            "figure per sample"
        )
    return found
