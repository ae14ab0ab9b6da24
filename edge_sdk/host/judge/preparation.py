"""Mistakes in preprocessing and labels: the float model scored on labelled samples, and with usual mistakes undone."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from edge_sdk import errors
from edge_sdk.engines.protocol import Tensors
from edge_sdk.host.judge.gate import Run
from edge_sdk.numerics import intervals
from edge_sdk.records.bundle import Preprocess, Score

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
    """A variant that scores better: top-1 as given and with it, and whether that is far better.

    `is_of_labels`: it is the labels that vary, not how the inputs are prepared.
    """

    name: str
    samples: int
    given: float
    other: float
    is_far: bool
    is_of_labels: bool = False

    @property
    def message(self) -> str:
        """What is wrong and what to do."""
        if self.is_of_labels:
            return (
                f"the labels look wrong: of {self.samples} samples the float model gets {self.given:.1%} right as they "
                f"are labelled, and {self.other:.1%} with {self.name}; mend the labels, or name the classes in the "
                "model's order with --classes"
            )
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


def step_over(labels: Sequence[NDArray[np.int64]], expected: int | None) -> int:
    """Gives how far apart samples must be to show all classes, where the first show few and stand class by class.

    A folder per class gives them so. Of one class a network that is fed nonsense may get every sample right.

    Args:
        labels: of the first samples.
        expected: how many samples there are, if known.

    >>> step_over([np.repeat([0, 1], 32)], 640), step_over([np.arange(64) % 10], 640)
    (10, 1)
    """
    first = np.concatenate(labels)
    changes = np.count_nonzero(np.diff(first))
    is_by_class = changes < len(np.unique(first)) <= SAMPLES // 4
    return max(1, (expected or 0) // SAMPLES) if is_by_class else 1


def finding(run: Run, output: str, batches: Sequence[Labelled], rules: Mapping[str, Preprocess]) -> Finding | None:
    """Gives the variant that scores best, if it beats what was given by more than chance can explain.

    Args:
        run: the float model.
        output: name of the classes.
        batches: prepared samples and their labels.
        rules: by input name.
    """
    labels = np.concatenate([batch[1] for batch in batches])
    answers = _answers(run, output, batches)
    given = answers == labels
    if given.mean() >= WELL:
        return None

    def hits_of(name: str, variant: Variant) -> NDArray[np.bool_]:
        changed = (({**feeds, name: variant.change(feeds[name])}, known) for feeds, known in batches)
        hits: NDArray[np.bool_] = _answers(run, output, changed) == labels
        return hits

    tried = {
        f"{variant.name} for input {name!r}": hits_of(name, variant)
        for name, values in batches[0][0].items()
        if values.dtype == np.float32
        for variant in variants(values.shape, rules.get(name))
    }
    relabelled = dict(_relabelled(answers, labels))
    tried |= relabelled
    best = max(tried, key=lambda name: int(tried[name].sum()))
    return _judged(best, given, tried[best], is_of_labels=best in relabelled)


def remark_on_guessing(score: Score, classes: int) -> str:
    """Gives a warning where a model that was given labels does no better than guessing; else an empty text.

    >>> remark_on_guessing(Score(0.09, 0.04, 0.19), 10)[:32]
    'the float model gets 9.0% right,'
    >>> remark_on_guessing(Score(0.47, 0.35, 0.59), 10)
    ''
    """
    if score.low > 1 / classes:
        return ""
    return (
        f"the float model gets {score.value:.1%} right, which guessing one of its {classes} classes may do too: check "
        "that model, labels and preprocessing belong together; what INT8 loses of nothing says nothing"
    )


def check_far(found: Finding | None) -> str:
    """Gives the warning, empty where there is none.

    Raises:
        DataError: the variant is far better: a bundle with this preprocessing would be of no use.
    """
    if found is not None and found.is_far:
        raise errors.DataError(found.message)
    return "" if found is None else found.message


def _relabelled(answers: NDArray[np.int64], labels: NDArray[np.int64]) -> Iterator[tuple[str, NDArray[np.bool_]]]:
    """Gives usual mistakes in the labels, and which samples would be right without each."""
    yield "every label one lower (they count from 1, the model from 0)", answers == labels - 1
    yield "every label one higher", answers == labels + 1
    (said, rows), (known, columns) = (np.unique(values, return_inverse=True) for values in (answers, labels))
    counts = np.zeros((len(said), len(known)), np.int64)
    np.add.at(counts, (rows, columns), 1)
    usual = counts.argmax(axis=1)
    if len(said) < 2 or len(np.unique(usual)) < len(said):
        return  # no other order of the classes
    others = counts[rows]  # of each sample how its answer is labelled elsewhere, so that none speaks for itself
    others[np.arange(len(labels)), columns] -= 1
    pairs = zip(said.tolist(), known[usual].tolist(), strict=True)
    answer, label = next((pair for pair in pairs if pair[0] != pair[1]), (0, 0))
    yield (
        f"the classes in another order (what the model calls class {answer} is labelled {label})",
        others.argmax(axis=1) == columns,
    )


def _judged(
    name: str, given: NDArray[np.bool_], other: NDArray[np.bool_], *, is_of_labels: bool = False
) -> Finding | None:
    counts = [int(cell.sum()) for cell in (given & other, other & ~given, given & ~other, ~given & ~other)]
    gain = intervals.paired_drop(*counts)
    if gain.value < BETTER or gain.low <= 0:
        return None
    return Finding(name, len(given), float(given.mean()), float(other.mean()), gain.value >= FAR_BETTER, is_of_labels)


def _answers(run: Run, output: str, batches: Iterable[Labelled]) -> NDArray[np.int64]:
    """Gives the class that a model says of each sample."""
    return np.concatenate([run(feeds)[output].reshape(len(labels), -1).argmax(axis=1) for feeds, labels in batches])


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
