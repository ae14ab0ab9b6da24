"""What Keras, SavedModel and TFLite have in common once they are ONNX: the layout of images, and the comparison."""

import contextlib
import gc
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from edge_sdk import errors
from edge_sdk.engines import ort
from edge_sdk.host.convert import onnx_checks, probe
from edge_sdk.host.convert.jobs import Job
from edge_sdk.numerics import closeness
from edge_sdk.records.tensors import TensorSpec

OPSET = 17
"""What tf2onnx is asked for: TensorRT 8.6 reads it in full, and tf2onnx tests 14 to 18."""

_CHANNELS = (1, 3, 4)


def images(specs: Sequence[TensorSpec], job: Job) -> tuple[str, ...]:
    """Gives the inputs that are images as ``[N, H, W, C]``, to be turned; none when the layout is to be kept.

    >>> images((TensorSpec("x", "float32", (None, 32, 32, 3)),), Job(source="", target=""))
    ('x',)
    """
    if job.keep_layout:
        return ()
    return tuple(spec.name for spec in specs if len(spec.shape) == 4 and spec.shape[3] in _CHANNELS)


@contextlib.contextmanager
def eager_garbage_collection() -> Iterator[None]:
    """Keeps tf2onnx in bounds: each of its 26 passes leaves a copy of the graph to the collector, weights included.

    Python collects old garbage seldom, by the count of objects and not by their size. Converting ResNet-50 (100 MB)
    took 6.9 GB, and takes 2.7 GB so, in the same time.
    """
    before = gc.get_threshold()
    gc.freeze()
    gc.collect()
    gc.set_threshold(700, 2, 2)
    try:
        yield
    finally:
        gc.set_threshold(*before)
        gc.unfreeze()


def checked(
    proto: onnx.ModelProto, run: probe.Runner, specs: Sequence[TensorSpec], job: Job, *, label: str
) -> tuple[str, ...]:
    """Writes the ONNX form of a model and compares it with what it was made from; gives notes on both.

    Args:
        proto: what tf2onnx made, the inputs of `images` turned.
        run: runs the original, on its own layout.
        specs: inputs of the original, named as in `proto`.
        job: where it goes; its example inputs are in the layout of the original.
        label: name of the original's framework.

    Raises:
        ModelError: an operator has no ONNX form, or the two answer differently.
        UsageError: the example inputs do not fit.
    """
    onnx_checks.check_operators(proto, OPSET)
    target = Path(job.target)
    target.write_bytes(proto.SerializeToString(deterministic=True))
    turned = images(specs, job)
    converted = ort.runner_from_model(job.target)
    onnx_specs, _ = ort.specs_from_model(job.target)
    examples = probe.feeds_from_examples(job, specs)
    feeds = _turned(examples, turned, (0, 3, 1, 2)) if examples else probe.feeds_that_run(converted, onnx_specs)[0]
    if not feeds:
        raise errors.ModelError(
            f"the model runs on no usual size of its inputs {', '.join(map(str, specs))}, so that its ONNX form "
            "can't be compared: give example inputs (inputs=)"
        )
    apart = closeness.difference(run(_turned(feeds, turned, (0, 2, 3, 1))), converted(feeds))
    text = probe.difference_text(apart)
    if not apart.is_within_tolerance:
        raise errors.ModelError(
            f"as ONNX the model answers differently from {label}, {text}, more than {closeness.FLOAT_TOLERANCE}"
        )
    probe.write_examples([feeds[spec.name] for spec in onnx_specs], probe.fed_file(target))
    layout = tuple(f"input {name!r} took [N, H, W, C] and takes [N, C, H, W] now" for name in turned)
    return (f"converted to opset {OPSET}; its outputs differ from {label}'s {text}", *layout)


def _turned(
    feeds: Mapping[str, NDArray[Any]], names: Collection[str], axes: tuple[int, ...]
) -> dict[str, NDArray[Any]]:
    return {
        name: np.ascontiguousarray(array.transpose(axes)) if name in names else array for name, array in feeds.items()
    }
