"""Inputs to run a model on before and after it is changed, and the comparison of the two."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from edge_sdk import errors
from edge_sdk.host.convert.jobs import Job
from edge_sdk.numerics import closeness
from edge_sdk.records.tensors import TensorSpec, shape_text

Tensors: TypeAlias = Mapping[str, NDArray[Any]]
Runner: TypeAlias = Callable[[Tensors], Tensors]
_Draw: TypeAlias = Callable[[np.random.Generator, tuple[int, ...]], NDArray[np.float64]]

SEED = 0
_FREE_SIZES = ((2, 32), (1, 32), (2, 64), (1, 64), (1, 1), (1, 224), (1, 416), (1, 640))
"""Tried in turn for a free batch and any other free axis, until the model runs: the usual sizes of small inputs."""


class Reference(NamedTuple):
    """Inputs, and what a model answered to each before it was changed; both empty when it ran on none."""

    feeds: tuple[Tensors, ...]
    outputs: tuple[Tensors, ...]


def read_examples(job: Job) -> tuple[NDArray[Any], ...]:
    """Gives the example inputs of a job, none when it has none."""
    if job.examples is None:
        return ()
    with np.load(job.examples, allow_pickle=False) as arrays:
        return tuple(arrays[f"arr_{index}"] for index in range(len(arrays.files)))


def feeds_from_examples(job: Job, specs: Sequence[TensorSpec]) -> dict[str, NDArray[Any]]:
    """Gives the example inputs of a job by the model's input names; empty when it has none.

    Raises:
        UsageError: they do not fit the inputs in number, name, dtype or shape.
    """
    arrays = read_examples(job)
    if not arrays:
        return {}
    feeds = dict(zip(job.example_names or [spec.name for spec in specs], arrays, strict=False))
    if feeds.keys() != {spec.name for spec in specs} or len(arrays) != len(specs):
        given = sorted(job.example_names) or f"{len(arrays)} without names"
        raise errors.UsageError(
            f"the model takes the inputs {[str(spec.name) for spec in specs]}, but the example inputs are {given}"
        )
    for spec in specs:
        array = feeds[spec.name]
        fits = len(array.shape) == len(spec.shape) and all(
            want in (None, got) for want, got in zip(spec.shape, array.shape, strict=True)
        )
        if array.dtype != np.dtype(spec.dtype) or not fits:
            given_text = shape_text(str(array.dtype), array.shape)
            raise errors.UsageError(f"input {spec.name!r} takes {spec}, but the example input is {given_text}")
    return feeds


def feeds_that_run(run: Runner, specs: Sequence[TensorSpec]) -> tuple[Tensors, Tensors]:
    """Gives seeded random inputs on which `run` works, and its answer; empty when no usual size of the free axes does.

    Raises:
        ModelError: no axis is free, and it does not run.
    """
    has_free_axes = any(None in spec.shape for spec in specs)
    for batch, size in _FREE_SIZES:
        feeds = _drawn(specs, {spec.name: _shape(spec, batch, size) for spec in specs}, _of_an_image)
        try:
            outputs = run(feeds)
        except errors.EngineError as error:
            if not has_free_axes:
                raise errors.ModelError(f"the model does not run on inputs of its own shapes: {error}") from error
            continue
        return feeds, outputs
    return {}, {}


def reference(run: Runner, specs: Sequence[TensorSpec], job: Job) -> Reference:
    """Gives what a model answers before it is changed: on the job's example inputs, else on two random ones.

    Raises:
        EngineError: it does not run on the example inputs.
        UsageError: they do not fit it.
        ModelError: it does not run on inputs of its own shapes.
    """
    examples = feeds_from_examples(job, specs)
    if examples:
        return Reference((examples,), (run(examples),))
    feeds, outputs = feeds_that_run(run, specs)
    if not feeds:
        return Reference((), ())
    normal = _drawn(specs, {name: array.shape for name, array in feeds.items()}, _normal)
    return Reference((feeds, normal), (outputs, run(normal)))


def difference_to(before: Reference, run: Runner) -> closeness.Difference:
    """Gives how far a changed model lies from what it answered before; the worst of the inputs counts.

    Raises:
        EngineError: it does not run.
    """
    found = [
        closeness.difference(expected, run(feeds)) for feeds, expected in zip(before.feeds, before.outputs, strict=True)
    ]
    return min(found, key=lambda one: (one.is_within_tolerance, -one.ratio))


def difference_text(found: closeness.Difference) -> str:
    """Words a difference for people."""
    if found.maximum == 0:
        return "not at all"
    return f"by at most {found.maximum:.2g} ({found.ratio:.2g} of the largest value of output {found.output!r})"


def write_examples(arrays: Sequence[NDArray[Any]], file: Path) -> None:
    """Writes example inputs for `read_examples`."""
    with file.open("wb") as stream:
        np.savez(stream, *arrays)


def fed_file(model: Path) -> Path:
    """Gives where a door leaves the inputs on which it compared: they run, and fit the ONNX file that it wrote."""
    return model.with_name(f"{model.name}.npz")


def beside(model: Path) -> Path:
    """Gives where the weights of a large model lie."""
    return model.with_name(f"{model.name}.data")


def _of_an_image(rng: np.random.Generator, shape: tuple[int, ...]) -> NDArray[np.float64]:
    return rng.random(shape)


def _normal(rng: np.random.Generator, shape: tuple[int, ...]) -> NDArray[np.float64]:
    return rng.standard_normal(shape)


def _drawn(specs: Sequence[TensorSpec], shapes: Mapping[str, tuple[int, ...]], draw: _Draw) -> dict[str, NDArray[Any]]:
    """Gives seeded inputs; integers are 0 or 1, which every table of classes or words has."""
    rng = np.random.default_rng(SEED)
    return {
        spec.name: (
            draw(rng, shapes[spec.name]) if spec.dtype.startswith("float") else rng.integers(0, 2, shapes[spec.name])
        ).astype(spec.dtype)
        for spec in specs
    }


def _shape(spec: TensorSpec, batch: int, size: int) -> tuple[int, ...]:
    return tuple((batch if axis == 0 else size) if length is None else length for axis, length in enumerate(spec.shape))
