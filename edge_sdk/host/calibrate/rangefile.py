"""The range file: histograms of a model's tensors over some samples, to be reused, merged, and gone on from.

An .npz archive: ``header`` is JSON (what it belongs to, the samples' digests, limits and extremes), every other array
the counts of one part, a row per tensor.
"""

import contextlib
import io
import tempfile
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from edge_sdk import errors
from edge_sdk.host.calibrate import collect
from edge_sdk.host.calibrate.collect import Histograms, Mark, State
from edge_sdk.numerics.ranges import BINS, MagnitudeHistogram
from edge_sdk.records.bundle import Digest

SCHEMA = 3
"""3: other samples are held out than before, and 2: of large tensors other elements are drawn; ranges of two of them
would not be those of one pass."""

_FITTED, _HELD_OUT, _HEADER = "fitted", "held_out", "header"
_LARGEST_EXPONENT = 200
_STATE, _README = "state.npz", "README.txt"
_WORDS = (
    "An interrupted `edge-sdk build` left this. The same command with --resume goes on from here;\n"
    "without --resume it starts anew. Either removes this folder at its end.\n"
)


class Key(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What ranges belong to: SHA-256 of the cleaned float model, and of the preprocessing rules."""

    model: Digest
    preprocess: Digest


class _Row(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    tensor: str
    exponent: Annotated[int, msgspec.Meta(ge=-_LARGEST_EXPONENT, le=_LARGEST_EXPONENT)]
    zeros: Annotated[int, msgspec.Meta(ge=0)]
    minimum: float
    maximum: float


class _Part(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    samples: Annotated[int, msgspec.Meta(ge=0)]
    rows: tuple[_Row, ...]


class _Header(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    schema: int
    key: Key
    digests: tuple[Digest, ...]
    parts: dict[str, _Part]


class Ranges(NamedTuple):
    """What a range file holds."""

    key: Key
    state: State


def write_ranges(file: Path, key: Key, state: State, *, is_compressed: bool = True) -> None:
    """Writes a range file: all of it or nothing.

    Args:
        file: a file of this name gives way.
        key: what the ranges belong to.
        state: of a pass.
        is_compressed: takes longer than calibrating a small network.

    Raises:
        UsageError: it can't be written there.
    """
    parts = {_FITTED: state.fitted, _HELD_OUT: state.held_out}
    parts |= {f"mark_{mark.samples}": mark.histograms for mark in state.marks}
    samples = dict.fromkeys(parts, len(state.digests)) | {f"mark_{mark.samples}": mark.samples for mark in state.marks}
    header = _Header(
        SCHEMA,
        key,
        state.digests,
        {name: _Part(samples[name], tuple(_rows(part))) for name, part in parts.items()},
    )
    arrays: dict[str, Any] = {name: _counts(part) for name, part in parts.items()}
    arrays[_HEADER] = np.frombuffer(msgspec.json.encode(header), np.uint8)
    content = io.BytesIO()
    (np.savez_compressed if is_compressed else np.savez)(content, **arrays)
    try:
        with tempfile.NamedTemporaryFile(prefix=f".{file.name}.", dir=file.parent, delete=False) as stream:
            stream.write(content.getbuffer())
        Path(stream.name).replace(file)
    except OSError as error:
        raise errors.UsageError(
            f"the ranges can't be written to {file}: {error.strerror}; give another place"
        ) from error


def read_ranges(file: Path) -> Ranges:
    """Gives what a range file holds.

    Raises:
        DataError: there is none, or it is damaged.
    """
    try:
        with file.open("rb") as stream, np.load(stream, allow_pickle=False) as arrays:
            header = msgspec.json.decode(arrays[_HEADER].tobytes(), type=_Header)
            found = {name: _histograms(part, arrays[name]) for name, part in header.parts.items()}
    except (OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile, msgspec.DecodeError) as error:
        raise errors.DataError(
            f"{file} is not a range file: {error}; expected what edge-sdk build --save-ranges wrote"
        ) from error
    if header.schema != SCHEMA or not {_FITTED, _HELD_OUT} <= found.keys():
        raise errors.DataError(f"{file} is a range file of another edge_sdk; write it again with this one")
    marks = sorted(
        (Mark(part.samples, found[name]) for name, part in header.parts.items() if name.startswith("mark_")),
        key=lambda mark: mark.samples,
    )
    return Ranges(header.key, State(header.digests, found[_FITTED], found[_HELD_OUT], tuple(marks)))


def state_from_files(files: Sequence[Path], key: Key, tensors: Sequence[str]) -> State:
    """Gives the state in some range files together, after checking that it belongs to the model at hand.

    Raises:
        DataError: a file is damaged, of another model or preprocessing, or two files share samples.
    """
    found = [read_ranges(file) for file in files]
    for file, given in zip(files, found, strict=True):
        for what, mine, theirs in (
            ("model", key.model, given.key.model),
            ("preprocessing", key.preprocess, given.key.preprocess),
        ):
            if mine != theirs:
                raise errors.DataError(
                    f"the ranges in {file} are of another {what} ({theirs[:12]}..., this one is {mine[:12]}...); "
                    "calibrate this one, without --ranges"
                )
        total = {**given.state.fitted, **given.state.held_out}
        if missing := [name for name in tensors if name not in total]:
            raise errors.DataError(
                f"the ranges in {file} lack the tensor {missing[0]!r}, which this edge_sdk quantises; calibrate again, "
                "without --ranges"
            )
    return collect.merged([given.state for given in found])


@contextlib.contextmanager
def work_folder(target: Path) -> Iterator[Path]:
    """Gives the folder beside a bundle in which an interrupted build leaves what it can go on from.

    It is gone at the end, however that comes, but by Ctrl-C or a kill after something was saved in it.
    """
    folder = folder_beside(target)
    try:
        yield folder
    except KeyboardInterrupt:
        raise
    except BaseException:
        remove(folder)
        raise
    remove(folder)


def folder_beside(target: Path) -> Path:
    """Gives where the state of a build of `target` lies.

    >>> folder_beside(Path("models/net.edge")).name
    '.net.edge.unfinished'
    """
    return target.parent / f".{target.name}.unfinished"


def save(folder: Path, key: Key, state: State) -> None:
    """Saves the state of a build, with a word on how to go on for whoever finds the folder."""
    folder.mkdir(exist_ok=True)
    (folder / _README).write_text(_WORDS, encoding="utf-8")
    write_ranges(folder / _STATE, key, state, is_compressed=False)


def saved(folder: Path, key: Key) -> State | None:
    """Gives the state that an interrupted build left; None where there is none.

    Raises:
        DataError: it is damaged, or of another model or preprocessing.
    """
    if not (folder / _STATE).is_file():
        return None
    found = read_ranges(folder / _STATE)
    if found.key != key:
        raise errors.DataError(
            f"{folder} is of a build of another model or preprocessing; build without --resume, which starts anew"
        )
    return found.state


def remove(folder: Path) -> None:
    """Removes a work folder and what `save` put there, nothing else."""
    for name in (_STATE, _README):
        (folder / name).unlink(missing_ok=True)
    with contextlib.suppress(OSError):  # it is not there, or somebody put something else in
        folder.rmdir()


def _rows(part: Histograms) -> Iterator[_Row]:
    for name, found in part.items():
        yield _Row(name, found.exponent, found.zeros, found.minimum, found.maximum)


def _counts(part: Histograms) -> NDArray[np.int64]:
    return np.stack([found.counts for found in part.values()]) if part else np.zeros((0, BINS), np.int64)


def _histograms(part: _Part, counts: NDArray[np.int64]) -> Histograms:
    if counts.shape != (len(part.rows), BINS) or counts.dtype != np.int64 or (counts < 0).any():
        raise ValueError("its counts do not fit its header")
    return {
        row.tensor: MagnitudeHistogram(row.exponent, counts[index], row.zeros, row.minimum, row.maximum)
        for index, row in enumerate(part.rows)
    }
