"""Samples from a folder of images: class sub-folders, or ``labels.csv`` with ``file,label``, or neither."""

import csv
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from edge_sdk import errors, imports
from edge_sdk.host.calibrate import samples
from edge_sdk.numerics import pictures
from edge_sdk.records.bundle import Preprocess
from edge_sdk.records.tensors import TensorSpec

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".webp", ".tif", ".tiff", ".pgm", ".ppm"})
LABELS_FILE = "labels.csv"

_BOMBS = (Image.DecompressionBombError, Image.DecompressionBombWarning)
_MODES = {1: "L", 3: "RGB"}


class Target(NamedTuple):
    """The input that pictures go into.

    Attributes:
        name: of the input.
        layout: how it takes them.
        rule: how size and colours are made to fit.
    """

    name: str
    layout: pictures.Layout
    rule: Preprocess


def target_from_inputs(inputs: tuple[TensorSpec, ...], preprocess: Mapping[str, Preprocess]) -> Target:
    """Gives the input of a model that takes pictures.

    Raises:
        DataError: several inputs, or not 4 axes with 1 or 3 channels.
    """
    if len(inputs) != 1:
        raise errors.DataError(
            f"images fit a model with one input, this one takes {', '.join(spec.name for spec in inputs)}; give an .npz"
        )
    spec = inputs[0]
    rule = preprocess.get(spec.name, Preprocess())
    try:
        return Target(spec.name, pictures.layout_from_shape(spec.shape, rule), rule)
    except ValueError as error:
        raise errors.DataError(
            f"images fit an input [N, C, H, W] or [N, H, W, C] with 1 or 3 channels; {spec.name!r} is {spec}"
        ) from error


def array_from_image(file: Path, target: Target) -> NDArray[np.uint8]:
    """Gives one picture, turned as its EXIF data says, as uint8 in the model's layout, size and colours.

    Raises:
        DataError: it can't be read as an image; the message is the reason alone, the caller knows the file.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow's remarks on palettes and EXIF do not concern the pixels
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(file) as image:
                picture = ImageOps.exif_transpose(image).convert(_MODES[target.layout.channels])
                pixels = np.asarray(picture, np.uint8).reshape(picture.height, picture.width, target.layout.channels)
    except (OSError, EOFError, ValueError, SyntaxError, *_BOMBS) as error:  # what Pillow raises for damaged files
        raise errors.DataError(_reason(error, file)) from error
    picked: NDArray[np.uint8] = pictures.raw_from_picture(pixels, target.layout, target.rule)[0]
    return picked


def folder_source(
    folder: Path, inputs: tuple[TensorSpec, ...], preprocess: Mapping[str, Preprocess], classes: samples.Classes
) -> samples.Source:
    """Gives the Source of a folder of images; the files come in the order of their names.

    Args:
        folder: with images, or one sub-folder of images per class, or `labels.csv`.
        inputs: of the model.
        preprocess: by input name.
        classes: what is known of them; without names, those of the folder are sorted.

    Raises:
        DataError: no images, or labels that don't fit the classes.
    """
    target = target_from_inputs(inputs, preprocess)
    named = _from_csv(folder) if (folder / LABELS_FILE).is_file() else _from_subfolders(folder)
    if not named:
        raise errors.DataError(
            f"the folder {folder} holds no images ({', '.join(sorted(SUFFIXES))}); give one that does"
        )
    labels, known = _numbered(folder, [label if classes.is_used else None for _, label in named], classes)
    files = [file for file, _ in named]

    def read(skipped: dict[str, str]) -> Iterator[samples.Sample]:
        for file, label in zip(files, labels, strict=True):
            name = file.relative_to(folder).as_posix()
            try:
                pixels = array_from_image(file, target)
            except errors.DataError as error:
                skipped[name] = str(error)
                continue
            yield samples.Sample({target.name: pixels}, label, name)

    return samples.Source(str(folder), read, None not in labels, len(files), known)


def _from_subfolders(folder: Path) -> list[tuple[Path, str | None]]:
    """Gives (file, name of its sub-folder or None), sorted by path."""
    files = sorted(file for file in folder.rglob("*") if file.suffix.lower() in SUFFIXES and file.is_file())
    found = [(file, parts[0] if len(parts := file.relative_to(folder).parts) > 1 else None) for file in files]
    if len({label is None for _, label in found}) > 1:
        raise errors.DataError(
            f"{folder} holds images beside class sub-folders that hold images too; put all into sub-folders, or none"
        )
    return found


def _from_csv(folder: Path) -> list[tuple[Path, str | None]]:
    try:
        with (folder / LABELS_FILE).open(encoding="utf-8-sig", newline="") as stream:
            rows = list(csv.DictReader(stream))
    except (UnicodeDecodeError, csv.Error) as error:
        raise errors.DataError(f"{folder / LABELS_FILE} is not a CSV file: {error}") from error
    found: list[tuple[Path, str | None]] = []
    for line, row in enumerate(rows, 2):
        name, label = row.get("file"), row.get("label")
        if not name or not label:
            raise errors.DataError(f"line {line} of {folder / LABELS_FILE}: expected the columns file,label; got {row}")
        file = folder / name
        if not file.is_file():
            raise errors.DataError(f"line {line} of {folder / LABELS_FILE} names {name}, which is not in {folder}")
        found.append((file, label))
    return found


def _numbered(
    folder: Path, names: list[str | None], classes: samples.Classes
) -> tuple[list[int | None], tuple[str, ...]]:
    """Gives each label as the index of its class, and the names of the classes."""
    labels = [name for name in names if name is not None]
    if not labels:
        return [None] * len(names), classes.names
    if all(label.isdecimal() for label in labels) and not classes.names:
        return [int(label) for label in labels], ()
    known = classes.names or tuple(sorted(set(labels)))
    for label in labels:
        if label not in known:
            raise errors.DataError(
                f"{folder} has a class {label!r}{imports.nearest(label, known)}; known: {', '.join(known)}"
            )
    if classes.total is not None and len(known) != classes.total:
        raise errors.DataError(
            f"{folder} has {len(known)} classes ({', '.join(known[:5])}), the model gives {classes.total}; name all of "
            "them in the model's order with --classes"
        )
    return [known.index(label) for label in labels], known


def _reason(error: BaseException, file: Path) -> str:
    """Gives why an image can't be read, without the folder that it lies in."""
    if isinstance(error, UnidentifiedImageError):
        return "not an image"
    return str(getattr(error, "strerror", None) or error).replace(str(file), file.name)
