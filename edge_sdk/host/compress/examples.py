"""Labelled samples in memory, and what a batch of them is for the network."""

import zipfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from edge_sdk import errors
from edge_sdk.numerics.preprocess import prepared
from edge_sdk.records.bundle import Preprocess
from edge_sdk.records.tensors import TensorSpec

LABELS = "labels"
MAX_BYTES = 4 * 2**30
"""Raw samples that are held at once; training picks them in random order. uint8 images take a quarter of float32."""


class Piece(NamedTuple):
    """Some samples in a row, as a reader of DATA gives them: raw array, labels, digest of each."""

    raw: NDArray[Any]
    labels: NDArray[np.int64] | None
    digests: tuple[str, ...]


@dataclass(frozen=True)
class Examples:
    """Labelled samples.

    Attributes:
        raw: ``[n, ...]`` as read.
        labels: int64[n].
        rule: how raw values become what the network takes; None where they are that already.
        digests: of each sample.
        name: of the data, for messages.
    """

    raw: NDArray[Any]
    labels: NDArray[np.int64]
    rule: Preprocess | None
    digests: tuple[str, ...]
    name: str

    def inputs(self, rows: NDArray[np.int64] | slice) -> NDArray[np.float32]:
        """Gives some samples as the network takes them: float32, a fresh array."""
        picked = self.raw[rows]
        return prepared(picked, self.rule) if self.rule else np.array(picked, np.float32)

    @property
    def count(self) -> int:
        """How many samples there are."""
        return len(self.labels)


def examples_from_pieces(
    pieces: Iterable[Piece], *, rule: Preprocess | None, name: str, max_bytes: int = MAX_BYTES
) -> Examples:
    """Gives all samples of some labelled data.

    Raises:
        DataError: none at all, no labels, or more than `max_bytes`.
    """
    found: list[Piece] = []
    size_bytes = 0
    for piece in pieces:
        if piece.labels is None:
            raise errors.DataError(f"{name} has no labels, which training and top-1 need; add them ({LABELS!r})")
        size_bytes += piece.raw.nbytes
        if size_bytes > max_bytes:
            raise errors.DataError(f"{name} has more than {max_bytes} bytes of samples; give fewer or smaller ones")
        found.append(piece)
    if not found:
        raise errors.DataError(f"{name} holds no samples")
    labels = [piece.labels for piece in found if piece.labels is not None]
    digests = tuple(digest for piece in found for digest in piece.digests)
    return Examples(np.concatenate([piece.raw for piece in found]), np.concatenate(labels), rule, digests, name)


def check_labels(examples: Examples, classes: int) -> None:
    """Raises DataError for a label outside 0 to `classes` - 1, naming the first such sample."""
    wrong = (examples.labels < 0) | (examples.labels >= classes)
    if wrong.any():
        index = int(np.argmax(wrong))
        raise errors.DataError(
            f"sample {index} of {examples.name} has the label {examples.labels[index]}, outside the classes 0 to "
            f"{classes - 1} of the network; mend the labels, or ask for a new head with as many classes as there are"
        )


def check_apart(train: Examples, evaluate: Examples) -> None:
    """Raises DataError when a sample is in both: its accuracy would be that of data learnt by heart."""
    seen = {digest: index for index, digest in enumerate(train.digests)}
    for index, digest in enumerate(evaluate.digests):
        if digest in seen:
            raise errors.DataError(
                f"sample {seen[digest]} of {train.name} and sample {index} of {evaluate.name} are the same; take it "
                "out of one of them, or the measured accuracy is not that of unseen data"
            )


def spec_from_npz(file: Path) -> TensorSpec:
    """Gives the network's input as an .npz of its one array (beside the labels) says it: float32, the batch free.

    Raises:
        DataError: no such archive, or not exactly one array of samples.
    """
    try:
        with np.load(file, allow_pickle=False) as arrays:
            names = [name for name in arrays.files if name != LABELS]
            shapes = [arrays[name].shape for name in names]
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise errors.DataError(f"{file} is not an .npz archive of numbers: {error}") from error
    if len(names) != 1 or len(shapes[0]) < 2:
        raise errors.DataError(
            f"{file} has the arrays {', '.join(names) or 'none'}; expected one [n, ...] with the input's "
            f"name, and {LABELS!r}"
        )
    return TensorSpec(names[0], "float32", (None, *shapes[0][1:]))
