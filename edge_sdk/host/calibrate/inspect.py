"""Whether DATA can be real: constant, made up, copied over and over, or the evaluation pictures in another file."""

from collections.abc import Collection
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from edge_sdk import errors, imports
from edge_sdk.engines.protocol import Tensors
from edge_sdk.host.calibrate.samples import Batch
from edge_sdk.numerics import hashes, noise
from edge_sdk.records.tensors import TensorSpec

CONSTANT_SHARE = 0.1
"""More samples of one single value than this are refused: a few black frames are real, a tenth of them is a fault."""

DUPLICATE_SHARE = 0.1
"""More exact copies of earlier samples than this are refused: the count of samples would say nothing."""

NOISE_SHARE = 0.25
"""More pictures without any relation between neighbouring pixels than this are refused."""

ALLOWANCES = {
    "duplicates": "copies of samples, as a camera before a still scene gives them",
    "similar": "calibration pictures that look like evaluation pictures, as one fixed camera gives them",
    "noise": "pictures whose neighbouring pixels are unrelated, as radar and event cameras give them",
}
"""What may be let pass by name, and where that is honest. It goes into the report."""

_SMALLEST_SIDE = 8
_CHANNELS = (1, 3, 4)
_KEPT_VALUES = 1 << 16
_SHOWN = 5


class Pictures(NamedTuple):
    """Where the pictures are among the inputs, and how they are laid out."""

    name: str
    is_channels_first: bool


class Seen(NamedTuple):
    """What the inspection of a whole data set leaves behind.

    Attributes:
        fingerprints: of each sample's picture; None where the model takes none.
        notes: what was found and not refused, a sentence each.
    """

    fingerprints: hashes.Fingerprints | None
    notes: tuple[str, ...]


class Inspector:
    """Looks at batches as they go by, and gives its verdict at the end.

    Args:
        name: of the data, for messages.
        inputs: of the model.
        allowed: keys of ALLOWANCES that are let pass.
        against: of the evaluation samples, where pictures must not look like them.
    """

    def __init__(
        self,
        name: str,
        inputs: tuple[TensorSpec, ...],
        *,
        allowed: Collection[str] = (),
        against: hashes.Fingerprints | None = None,
    ) -> None:
        self._name = name
        self._allowed = allowed
        self._against = against
        self._pictures = pictures_from_inputs(inputs)
        self._first: dict[str, int] = {}
        self._copies: list[tuple[int, int]] = []
        self._constant: list[int] = []
        self._unrelated: list[int] = []
        self._near: list[hashes.Near] = []
        self._prints: list[hashes.Fingerprints] = []
        self._values: dict[str, list[NDArray[Any]]] = {}
        self.count = 0

    @property
    def is_refused(self) -> bool:
        """Whether it is certain already that the data will be refused, so that no more work need go into it."""
        return bool(self._near) and "similar" not in self._allowed

    def look(self, batch: Batch) -> None:
        """Takes a batch in."""
        for index, digest in enumerate(batch.digests, batch.first):
            if digest in self._first:
                self._copies.append((index, self._first[digest]))
            self._first.setdefault(digest, index)
        self.count += len(batch.digests)
        is_constant = np.all([_is_constant(values) for values in batch.raw.values()], axis=0)
        self._constant += (batch.first + np.flatnonzero(is_constant)).tolist()
        if self._pictures is not None and _is_large(batch.raw[self._pictures.name], self._pictures):
            self._look_at_pictures(batch.raw[self._pictures.name], batch.first)
        elif self._pictures is None:
            self._keep_values(batch.raw)

    def finish(self) -> Seen:
        """Gives what was seen.

        Raises:
            DataError: the data can't be what the model will see in use; the message names samples.
        """
        self._check_constant()
        notes = [self._copied(), self._unrelated_pictures(), self._similar(), *self._distributions()]
        prints = hashes.joined(self._prints) if self._pictures is not None and self._prints else None
        return Seen(prints, tuple(note for note in notes if note))

    def _look_at_pictures(self, pixels: NDArray[Any], first: int) -> None:
        is_first = self._pictures is not None and self._pictures.is_channels_first
        related = noise.neighbour_correlations(pixels, is_channels_first=is_first)
        self._unrelated += (first + np.flatnonzero(related < noise.UNRELATED)).tolist()
        prints = hashes.fingerprints(pixels, is_channels_first=is_first)
        self._prints.append(prints)
        if self._against is not None:
            sides = pixels.shape[2:] if is_first else pixels.shape[1:3]
            near = hashes.near_pairs(prints, self._against, side=min(sides))
            self._near += [hashes.Near(first + pair.first, pair.second) for pair in near]

    def _keep_values(self, raw: Tensors) -> None:
        """Keeps the first values of each input for the test of their distribution."""
        for name, values in raw.items():
            kept = self._values.setdefault(name, [])
            if (room := _KEPT_VALUES - sum(part.size for part in kept)) > 0 and values.dtype.kind != "b":
                kept.append(values.ravel()[:room].copy())

    def _check_constant(self) -> None:
        if len(self._constant) > CONSTANT_SHARE * self.count:
            raise errors.DataError(
                f"{len(self._constant)} of {self.count} samples of {self._name} are of one single value (sample "
                f"{_listed(self._constant)}); give data that the model will see in use"
            )

    def _copied(self) -> str:
        if not self._copies:
            return ""
        pairs = _listed([f"{index} is sample {first}" for index, first in self._copies])
        text = f"{len(self._copies)} of {self.count} samples of {self._name} are copies of others (sample {pairs})"
        if len(self._copies) > DUPLICATE_SHARE * self.count:
            self._refuse_unless("duplicates", f"{text}; take the copies out")
        return text

    def _unrelated_pictures(self) -> str:
        if not self._unrelated:
            return ""
        text = (
            f"{len(self._unrelated)} of {self.count} pictures of {self._name} look like random noise: their "
            f"neighbouring pixels are unrelated (sample {_listed(self._unrelated)})"
        )
        if len(self._unrelated) > NOISE_SHARE * self.count:
            self._refuse_unless("noise", f"{text}; give pictures that the model will see in use")
        return text

    def _similar(self) -> str:
        if not self._near:
            return ""
        pairs = _listed([f"calibration sample {a} and evaluation sample {b}" for a, b in self._near])
        text = f"{len(self._near)} pairs of pictures look the same: {pairs}"
        self._refuse_unless(
            "similar", f"{text}; take them out of one of the two, or the measured accuracy is not that of unseen data"
        )
        return text

    def _distributions(self) -> list[str]:
        """Warns only: features that were standardised are near to normal by right."""
        found = {
            name: noise.textbook_noise(np.concatenate(parts)) for name, parts in sorted(self._values.items()) if parts
        }
        return [
            f"the values of input {name!r} of {self._name} are distributed like {kind} random numbers; if they are "
            "made up, so are the ranges"
            for name, kind in found.items()
            if kind
        ]

    def _refuse_unless(self, allowance: str, problem: str) -> None:
        if allowance not in self._allowed:
            raise errors.DataError(f"{problem}; or, where it is {ALLOWANCES[allowance]}, --allow {allowance}")


def check_allowed(allowed: Collection[str]) -> None:
    """Raises UsageError for an allowance that does not exist."""
    for name in allowed:
        if name not in ALLOWANCES:
            raise errors.UsageError(
                f"nothing is called {name!r} that could be allowed{imports.nearest(name, ALLOWANCES)}; known: "
                f"{', '.join(ALLOWANCES)}"
            )


def pictures_from_inputs(inputs: tuple[TensorSpec, ...]) -> Pictures | None:
    """Gives the first input that is laid out as pictures: ``[N, C, H, W]`` or ``[N, H, W, C]`` with 1, 3 or 4 channels.

    >>> pictures_from_inputs((TensorSpec("x", "float32", (None, 3, 32, 32)),))
    Pictures(name='x', is_channels_first=True)
    """
    for spec in inputs:
        if len(spec.shape) == 4:
            for is_first, channels in ((True, spec.shape[1]), (False, spec.shape[3])):
                if channels in _CHANNELS:
                    return Pictures(spec.name, is_first)
    return None


def _is_large(pixels: NDArray[Any], pictures: Pictures) -> bool:
    sides = pixels.shape[2:] if pictures.is_channels_first else pixels.shape[1:3]
    return bool(min(sides) >= _SMALLEST_SIDE)


def _is_constant(values: NDArray[Any]) -> NDArray[np.bool_]:
    """Says of each sample whether it is one single value, of several elements."""
    rows = values.reshape(len(values), -1)
    if rows.shape[1] < 2:
        return np.zeros(len(rows), bool)
    constant: NDArray[np.bool_] = rows.min(axis=1) == rows.max(axis=1)
    return constant


def _listed(items: Collection[object]) -> str:
    shown = ", ".join(map(str, list(items)[:_SHOWN]))
    return shown + (f" and {len(items) - _SHOWN} more" if len(items) > _SHOWN else "")
