"""Samples from .npz and .npy files, row by row: the file is never in memory as a whole, compressed or not."""

import zipfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from edge_sdk import errors, imports
from edge_sdk.host.calibrate import samples
from edge_sdk.records.bundle import Preprocess
from edge_sdk.records.tensors import TensorSpec

LABELS = "labels"


class _Header(NamedTuple):
    shape: tuple[int, ...]
    dtype: np.dtype[Any]


def npz_source(
    file: Path, inputs: tuple[TensorSpec, ...], rules: Mapping[str, Preprocess], classes: samples.Classes
) -> samples.Source:
    """Gives the Source of an .npz with one array per input and, if labelled, `labels`.

    Raises:
        DataError: no such archive; unknown, missing or unequal arrays; wrong shape or dtype; wrong labels.
    """
    try:
        with zipfile.ZipFile(file) as archive:
            members = [name.removesuffix(".npy") for name in archive.namelist()]
    except (zipfile.BadZipFile, OSError) as error:
        raise errors.DataError(
            f"{file} is not an .npz archive: {error}; write it with numpy.savez_compressed"
        ) from error
    wanted = [spec.name for spec in inputs]
    for name in members:
        if name not in (*wanted, LABELS):
            raise errors.DataError(
                f"{file} has an array {name!r}{imports.nearest(name, wanted)}; expected {', '.join(wanted)} and, if "
                f"there are labels, {LABELS!r}"
            )
    if missing := [name for name in wanted if name not in members]:
        raise errors.DataError(f"{file} lacks the array {missing[0]!r}; it has {', '.join(members) or 'none'}")
    counts = {spec.name: _checked_count(file, spec.name, spec, rules.get(spec.name)) for spec in inputs}
    labels = _checked_labels(file, classes) if LABELS in members and classes.is_used else None
    if labels is not None:
        counts[LABELS] = len(labels)
    if len(set(counts.values())) > 1:
        raise errors.DataError(
            f"the arrays of {file} have unequal lengths: {', '.join(f'{name} {n}' for name, n in counts.items())}"
        )

    def read(_skipped: dict[str, str]) -> Iterator[samples.Sample]:
        streams = [_rows(file, name) for name in wanted]
        for index, rows in enumerate(zip(*streams, strict=True)):
            label = int(labels[index]) if labels is not None else None
            yield samples.Sample(dict(zip(wanted, rows, strict=True)), label, f"sample {index}")

    return samples.Source(str(file), read, labels is not None, counts[wanted[0]])


def npy_source(file: Path, inputs: tuple[TensorSpec, ...], rules: Mapping[str, Preprocess]) -> samples.Source:
    """Gives the Source of an .npy file for a model with one input.

    Raises:
        DataError: the model has several inputs; not an array file; wrong shape or dtype.
    """
    if len(inputs) != 1:
        names = ", ".join(spec.name for spec in inputs)
        raise errors.DataError(f"{file} is one array, the model takes {names}; give an .npz with one array per input")
    name = inputs[0].name
    count = _checked_count(file, None, inputs[0], rules.get(name))

    def read(_skipped: dict[str, str]) -> Iterator[samples.Sample]:
        for index, row in enumerate(_rows(file, None)):
            yield samples.Sample({name: row}, None, f"sample {index}")

    return samples.Source(str(file), read, is_labelled=False, expected=count)


def _checked_count(file: Path, member: str | None, spec: TensorSpec, rule: Preprocess | None) -> int:
    """Gives the number of samples of an array after checking its type and shape from the header alone."""
    with _opened(file, member) as (_, header):
        if not header.shape or not header.shape[0]:
            raise errors.DataError(f"{_title(file, member)} holds no samples: its shape is {header.shape}")
        samples.check_array(np.empty(header.shape[1:], header.dtype), spec, rule, _title(file, member))
        return header.shape[0]


def _checked_labels(file: Path, classes: samples.Classes) -> NDArray[np.int64]:
    with _opened(file, LABELS) as (_, header):
        if len(header.shape) != 1 or header.dtype.kind not in "iu":
            raise errors.DataError(
                f"{LABELS!r} of {file} is {header.dtype}{list(header.shape)}; expected one integer class per sample"
            )
    labels = np.array(list(_rows(file, LABELS)), np.int64)
    for index, label in enumerate(labels.tolist()):
        if not classes.holds(label):
            raise errors.DataError(
                f"{LABELS!r} of {file}: sample {index} has the label {label}, outside the classes {classes.text()} "
                "that the model gives; mend the labels"
            )
    return labels


def _rows(file: Path, member: str | None) -> Iterator[NDArray[Any]]:
    with _opened(file, member) as (stream, header):
        row_bytes = header.dtype.itemsize * int(np.prod(header.shape[1:], dtype=np.int64))
        native = header.dtype.newbyteorder("=")
        for index in range(header.shape[0]):
            content = stream.read(row_bytes)
            if len(content) != row_bytes:
                raise errors.DataError(
                    f"{_title(file, member)} ends at sample {index} of {header.shape[0]}; copy it again"
                )
            yield np.frombuffer(content, header.dtype).reshape(header.shape[1:]).astype(native, copy=False)


@contextmanager
def _opened(file: Path, member: str | None) -> Iterator[tuple[IO[bytes], _Header]]:
    """Gives the stream right behind an array's header, and the header."""
    try:
        if member is None:
            with file.open("rb") as stream:
                yield stream, _header(stream, file, member)
        else:
            with zipfile.ZipFile(file) as archive, archive.open(f"{member}.npy") as stream:
                yield stream, _header(stream, file, member)
    except (OSError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise errors.DataError(f"{_title(file, member)} is damaged or can't be read: {error}; copy it again") from error


def _header(stream: IO[bytes], file: Path, member: str | None) -> _Header:
    try:
        version = np.lib.format.read_magic(stream)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, is_fortran, dtype = read(stream)
    except (ValueError, EOFError) as error:
        raise errors.DataError(
            f"{_title(file, member)} is not a numpy array: {error}; write it with numpy.save"
        ) from error
    if dtype.hasobject or (is_fortran and len(shape) > 1):
        raise errors.DataError(
            f"{_title(file, member)} holds {'Python objects' if dtype.hasobject else 'columns first'}; "
            "save plain numbers with numpy.ascontiguousarray"
        )
    return _Header(tuple(shape), dtype)


def _title(file: Path, member: str | None) -> str:
    return str(file) if member is None else f"array {member!r} of {file}"
