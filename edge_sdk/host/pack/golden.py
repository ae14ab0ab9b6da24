"""golden.npz: a few inputs with the answers they must give, so that an engine can be checked wherever it was built."""

import io
import zipfile
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_sdk import errors
from edge_sdk.engines.protocol import Tensors

COUNT = 8

_QUICKLY = 1
"""Pictures and float numbers become a tenth smaller at zlib's usual level, in five times the time."""

_EPOCH = (1980, 1, 1, 0, 0, 0)
_SMALLEST_SHARE = 1e-3

Run = Callable[[Mapping[str, NDArray[Any]]], Tensors]


class Picks:
    """Copies the golden samples out of the evaluation batches that go by.

    Args:
        count: evaluation samples in all; COUNT of them are picked.
        seed: the same seed picks the same samples.
    """

    def __init__(self, count: int, seed: int) -> None:
        picked = np.random.default_rng(seed).choice(count, min(COUNT, count), replace=False)
        self._wanted = frozenset(picked.tolist())
        self._indices: list[int] = []
        self._raw: list[Tensors] = []
        self._feeds: list[Tensors] = []

    @property
    def taken(self) -> int:
        """How many were taken so far."""
        return len(self._indices)

    def has_taken(self, index: int) -> bool:
        """Says whether the sample with this index was taken."""
        return index in self._indices

    def look(self, first: int, raw: Tensors, feeds: Tensors) -> None:
        """Takes a copy of the picked ones of a batch whose first sample has the index `first`."""
        count = len(next(iter(raw.values())))
        for row in range(count):
            if first + row in self._wanted and self._fits(raw):
                self._indices.append(first + row)
                self._raw.append({name: values[row : row + 1].copy() for name, values in raw.items()})
                self._feeds.append({name: values[row : row + 1].copy() for name, values in feeds.items()})

    def arrays(self, run_float: Run, run: Run | None, *, precision: str = "int8") -> Tensors:
        """Gives the arrays of golden.npz; each sample is run on its own, as a request would be.

        Args:
            run_float: runs the float model.
            run: runs the model in the bundle; None where that is the float model.
            precision: of that model.
        """
        float_outputs = joined([run_float(feeds) for feeds in self._feeds])
        outputs = joined([run(feeds) for feeds in self._feeds]) if run else None
        return golden_arrays(joined(self._raw), joined(self._feeds), float_outputs, outputs, precision=precision)

    def _fits(self, raw: Tensors) -> bool:
        """Says whether a sample has the shape of those picked before; with free axes it need not."""
        return not self._raw or all(self._raw[0][name].shape[1:] == values.shape[1:] for name, values in raw.items())


def golden_arrays(
    raw: Tensors, feeds: Tensors, float_outputs: Tensors, outputs: Tensors | None, *, precision: str = "int8"
) -> Tensors:
    """Gives the arrays of golden.npz.

    ``raw.<input>`` and ``prepared.<input>`` are what goes in before and after preprocessing, ``float.<output>`` and
    ``int8.<output>`` (``fp16.<output>``) what the model in the bundle gave for it on a CPU, absent from a float bundle.
    ``tolerance.<output>`` is how far any other engine may be from the model in the bundle: as far as that
    is from float at its worst here, since another engine rounds in other places, and at least a thousandth of the
    largest value.
    """
    arrays = {f"raw.{name}": values for name, values in raw.items()}
    arrays |= {f"prepared.{name}": values for name, values in feeds.items()}
    for name, wanted in float_outputs.items():
        arrays[f"float.{name}"] = wanted
        smallest = _SMALLEST_SHARE * float(np.abs(wanted.astype(np.float64)).max(initial=0.0))
        error = 0.0
        if outputs is not None:
            arrays[f"{precision}.{name}"] = outputs[name]
            error = float(np.abs(wanted.astype(np.float64) - outputs[name].astype(np.float64)).max(initial=0.0))
        arrays[f"tolerance.{name}"] = np.float64(max(error, smallest)).reshape(())
    return arrays


def npz_bytes(arrays: Mapping[str, NDArray[Any]]) -> bytes:
    """Gives an .npz archive; equal arrays give equal bytes (no dates, fixed order)."""
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        for name in sorted(arrays):
            member = io.BytesIO()
            np.save(member, arrays[name], allow_pickle=False)
            entry = zipfile.ZipInfo(f"{name}.npy", date_time=_EPOCH)
            archive.writestr(entry, member.getvalue(), zipfile.ZIP_DEFLATED, _QUICKLY)
    return content.getvalue()


def joined(parts: Sequence[Tensors]) -> Tensors:
    """Gives arrays of several samples as one row per sample, by name.

    Raises:
        UsageError: their shapes differ, so that no one array can hold them.
    """
    try:
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    except ValueError as error:
        raise errors.UsageError(f"outputs of different shapes do not fit into one array: {error}") from error
