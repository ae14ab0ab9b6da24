"""Opens DATA, whichever form the user gave it in."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeAlias, cast

import numpy as np

from edge_sdk import errors, imports
from edge_sdk.host.calibrate import arrays, images, samples
from edge_sdk.records.bundle import Preprocess
from edge_sdk.records.tensors import TensorSpec

DataSpec: TypeAlias = str | Path | Callable[[], Iterable[Any]]
"""A folder of images, an .npz or .npy file, ``module:function``, or the function itself."""


def open_data(
    spec: DataSpec,
    inputs: tuple[TensorSpec, ...],
    *,
    preprocess: Mapping[str, Preprocess],
    classes: samples.Classes = samples.Classes(),  # noqa: B008 - an immutable tuple
) -> samples.Data:
    """Gives DATA for a model with `inputs`; what a header or a label file can show to be wrong is refused here.

    Args:
        spec: see DataSpec.
        inputs: what the network takes.
        preprocess: by input name; how raw values become what the network takes.
        classes: what is known of the classes, and whether labels matter.

    Raises:
        DataError: there is no such data, or it does not fit.
        UsageError: ``module:function`` names nothing.
    """
    source = _source(spec, inputs, preprocess, classes)
    return samples.Data(source, inputs, preprocess=preprocess, classes=classes)


def _source(
    spec: DataSpec,
    inputs: tuple[TensorSpec, ...],
    rules: Mapping[str, Preprocess],
    classes: samples.Classes,
) -> samples.Source:
    if callable(spec):
        return _function_source(spec, getattr(spec, "__qualname__", repr(spec)), inputs, classes)
    path = Path(spec)
    if path.is_dir():
        return images.folder_source(path, inputs, rules, classes)
    if path.is_file() and path.suffix == ".npz":
        return arrays.npz_source(path, inputs, rules, classes)
    if path.is_file() and path.suffix == ".npy":
        return arrays.npy_source(path, inputs, rules)
    if path.is_file() or ":" not in str(spec):
        problem = "is neither a folder nor an .npz or .npy file" if path.exists() else "does not exist"
        raise errors.DataError(
            f"the data {spec} {problem}; expected a folder of images, an .npz, an .npy, or module:function"
        )
    function = imports.object_from_spec(str(spec))
    if not callable(function):
        raise errors.DataError(f"{spec} is not a function; expected one that yields {{input: array}} per sample")
    return _function_source(cast("Callable[[], Iterable[Any]]", function), str(spec), inputs, classes)


def _function_source(
    function: Callable[[], Iterable[Any]], name: str, inputs: tuple[TensorSpec, ...], classes: samples.Classes
) -> samples.Source:
    def read(_skipped: dict[str, str]) -> Iterator[samples.Sample]:
        for index, item in enumerate(_items(function, name)):
            sample = _sample_from_item(item, f"sample {index}", name, inputs)
            yield sample if classes.is_used else sample._replace(label=None)

    first = next(read({}), None)
    return samples.Source(name, read, first is not None and first.label is not None)


def _items(function: Callable[[], Iterable[Any]], name: str) -> Iterator[Any]:
    try:
        yield from function()
    except errors.EdgeError:
        raise
    except Exception as error:  # boundary: the user's own code may raise anything
        raise errors.DataError(f"{name} failed: {type(error).__name__}: {error}") from error


def _sample_from_item(item: Any, origin: str, name: str, inputs: tuple[TensorSpec, ...]) -> samples.Sample:
    feeds, label = item if isinstance(item, tuple) and len(item) == 2 else (item, None)
    if not isinstance(feeds, Mapping) or not (label is None or isinstance(label, int | np.integer)):
        raise errors.DataError(
            f"{origin} of {name} is {type(item).__name__}; expected {{input: array}} or ({{input: array}}, class index)"
        )
    ranks = {spec.name: len(spec.shape) for spec in inputs}
    raw = {key: np.asarray(value) for key, value in feeds.items()}
    for key, array in raw.items():
        if array.ndim == ranks.get(key) and array.shape[0] == 1:
            raw[key] = array[0]  # a sample may come with its batch axis of 1
    return samples.Sample(raw, None if label is None else int(label), origin)
