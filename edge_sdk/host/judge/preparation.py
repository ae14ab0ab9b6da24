"""Preprocessing mistakes: the float model scored on labelled samples as they are, and with usual mistakes undone."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from edge_sdk import errors
from edge_sdk.engines.protocol import Tensors
from edge_sdk.host.judge.gate import Run
from edge_sdk.numerics import intervals
from edge_sdk.records.bundle import Preprocess

SAMPLES = 64
"""Labelled samples that each variant is scored on."""

WELL = 0.9
"""A model that gets this share right as the samples are prepared leaves a variant too little to gain."""

FAR_BETTER, BETTER = 0.2, 0.1
"""Shares by which a variant must beat what was given to be refused, or to be warned of."""

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)

Array = NDArray[np.float32]
Labelled = tuple[Tensors, NDArray[np.int64]]


class Variant(NamedTuple):
    """Another way to prepare one input: what it would be, and what it makes of prepared values."""

    name: str
    change: Callable[[Array], Array]


class Finding(NamedTuple):
    """A variant that scores better: top-1 as given and with it, and whether that is far better."""

    name: str
    samples: int
    given: float
    other: float
    is_far: bool

    @property
    def message(self) -> str:
        """What is wrong and what to do."""
        return (
            f"the preprocessing looks wrong: of {self.samples} samples the float model gets {self.given:.1%} right as "
            f"they are prepared, and {self.other:.1%} with {self.name}; mend --preprocess or the data"
        )


def variants(shape: tuple[int, ...], rule: Preprocess | None) -> Iterator[Variant]:
    """Gives what may have gone wrong with an input of float32 pictures ``[N, C, H, W]`` or ``[N, H, W, C]``.

    Args:
        shape: of a prepared batch.
        rule: how raw values were prepared; None means not at all.
    """
    rule = rule or Preprocess()
    yield Variant("values 255 times smaller (scale 1/255)", lambda x: x / np.float32(255))
    yield Variant("values 255 times larger (scale 1)", lambda x: x * np.float32(255))
    channels = _channel_axis(shape)
    if channels is None:
        return
    if shape[channels] == 3:
        yield Variant("the colours in the other order (BGR against RGB)", lambda x: np.flip(x, channels).copy())
        yield from _means(rule, channels)
    height, width = (axis for axis in range(1, 4) if axis != channels)
    if shape[height] == shape[width]:
        yield Variant("rows and columns swapped", lambda x: np.ascontiguousarray(x.swapaxes(height, width)))
    if shape[channels] > 1:
        yield Variant("the axes taken in the other order (NHWC against NCHW)", lambda x: _other_layout(x, channels))


def finding(run: Run, output: str, batches: Sequence[Labelled], rules: Mapping[str, Preprocess]) -> Finding | None:
    """Gives the variant that scores best, if it beats what was given by more than chance can explain.

    Args:
        run: the float model.
        output: name of the classes.
        batches: prepared samples and their labels.
        rules: by input name.
    """
    given = np.concatenate([_hits(run(feeds)[output], labels) for feeds, labels in batches])
    if given.mean() >= WELL:
        return None

    def hits_of(name: str, variant: Variant) -> NDArray[np.bool_]:
        changed = ({**feeds, name: variant.change(feeds[name])} for feeds, _ in batches)
        return np.concatenate([_hits(run(feeds)[output], b[1]) for feeds, b in zip(changed, batches, strict=True)])

    tried = {
        f"{variant.name} for input {name!r}": hits_of(name, variant)
        for name, values in batches[0][0].items()
        if values.dtype == np.float32
        for variant in variants(values.shape, rules.get(name))
    }
    if not tried:
        return None
    best = max(tried, key=lambda name: int(tried[name].sum()))
    return _judged(best, given, tried[best])


def check_far(found: Finding | None) -> str:
    """Gives the warning, empty where there is none.

    Raises:
        DataError: the variant is far better: a bundle with this preprocessing would be of no use.
    """
    if found is not None and found.is_far:
        raise errors.DataError(found.message)
    return "" if found is None else found.message


def _judged(name: str, given: NDArray[np.bool_], other: NDArray[np.bool_]) -> Finding | None:
    counts = [int(cell.sum()) for cell in (given & other, other & ~given, given & ~other, ~given & ~other)]
    gain = intervals.paired_drop(*counts)
    if gain.value < BETTER or gain.low <= 0:
        return None
    return Finding(name, len(given), float(given.mean()), float(other.mean()), is_far=gain.value >= FAR_BETTER)


def _hits(outputs: NDArray[np.generic], labels: NDArray[np.int64]) -> NDArray[np.bool_]:
    found: NDArray[np.bool_] = outputs.reshape(len(labels), -1).argmax(axis=1) == labels
    return found


def _channel_axis(shape: tuple[int, ...]) -> int | None:
    if len(shape) != 4:
        return None
    return next((axis for axis in (1, 3) if shape[axis] in (1, 3)), None)


def _means(rule: Preprocess, channels: int) -> Iterator[Variant]:
    along = [-1 if axis == channels else 1 for axis in range(4)]
    if any(rule.mean) or set(rule.std) != {1.0}:
        mean, std = (np.asarray(values, np.float32) for values in (rule.mean, rule.std))
        mean, std = (values.reshape(along) if values.size > 1 else values for values in (mean, std))
        yield Variant("no mean and deviation taken off", lambda x: x * std + mean)
    else:
        mean, std = (np.array(values, np.float32).reshape(along) for values in (IMAGENET_MEAN, IMAGENET_STD))
        yield Variant("ImageNet's mean and deviation taken off", lambda x: (x - mean) / std)
        yield Variant("values from -1 to 1 (mean 0.5, std 0.5)", lambda x: x * 2 - 1)


def _other_layout(values: Array, channels: int) -> Array:
    """Gives the samples that would be right had the file held the other layout: its numbers in the other order."""
    count, *rest = values.shape
    if channels == 1:
        depth, height, width = rest
        return np.ascontiguousarray(values.reshape(count, height, width, depth).transpose(0, 3, 1, 2))
    height, width, depth = rest
    return np.ascontiguousarray(values.reshape(count, depth, height, width).transpose(0, 2, 3, 1))
