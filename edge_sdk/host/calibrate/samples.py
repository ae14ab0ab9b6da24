"""One sample as its source gives it, and the checked, prepared batches that go into the network."""

import hashlib
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from edge_sdk import errors, imports
from edge_sdk.engines.protocol import Tensors
from edge_sdk.numerics.preprocess import prepared
from edge_sdk.records.bundle import Preprocess
from edge_sdk.records.tensors import TensorSpec, shape_text

_BATCH_BYTES = 2 * 1024 * 1024
_BATCH_MOST = 32
_NUMBERS = "biuf"


class Sample(NamedTuple):
    """Raw arrays by input name, without the batch axis; `origin` names the sample in messages."""

    raw: Mapping[str, NDArray[Any]]
    label: int | None
    origin: str


class Classes(NamedTuple):
    """What is known of the classes that labels name.

    Attributes:
        total: how many the model gives; None if unknown.
        names: in the model's order; empty if unknown.
        is_used: False where labels do not matter and are passed over (calibration).
    """

    total: int | None = None
    names: tuple[str, ...] = ()
    is_used: bool = True

    def holds(self, label: int) -> bool:
        """Says whether a label is one of the classes."""
        return label >= 0 and (self.total is None or label < self.total)

    def text(self) -> str:
        """Gives the classes as messages name them: ``0 to 9``."""
        return "0 and up" if self.total is None else f"0 to {self.total - 1}"


class Source(NamedTuple):
    """A form of DATA, opened.

    Attributes:
        name: as the user wrote it.
        read: gives the samples from the start, each time it is called; puts unreadable files and why into its argument.
        is_labelled: whether every sample has a label.
        expected: how many samples there are (unreadable ones too), where that is known beforehand.
        classes: names of the classes, where the source knows them.
    """

    name: str
    read: Callable[[dict[str, str]], Iterator[Sample]]
    is_labelled: bool
    expected: int | None = None
    classes: tuple[str, ...] = ()


class Batch(NamedTuple):
    """Some samples in a row.

    Attributes:
        first: index of the first one in the data.
        raw: as read, with the batch axis.
        feeds: prepared for the network.
        labels: int64[n], or None.
        digests: SHA-256 of each sample's raw arrays, with their names, types and shapes.
    """

    first: int
    raw: Tensors
    feeds: Tensors
    labels: NDArray[np.int64] | None
    digests: tuple[str, ...]


class Data:
    """DATA that fits a model: any number of passes over its samples in batches, one batch in memory at a time.

    Attributes:
        name: as the user wrote it.
        is_labelled: whether every sample has a label.
        expected: how many samples there are, where that is known beforehand.
        classes: their names, where the data says them.
        skipped: unreadable files and why, complete after a pass.
    """

    def __init__(
        self,
        source: Source,
        inputs: tuple[TensorSpec, ...],
        *,
        preprocess: Mapping[str, Preprocess],
        classes: Classes,
    ) -> None:
        self.name = source.name
        self.is_labelled = source.is_labelled
        self.expected = source.expected
        self.classes = source.classes
        self.skipped: dict[str, str] = {}
        self._source = source
        self._inputs = inputs
        self._preprocess = preprocess
        self._known = classes
        self._batch = batch_size(inputs)
        self._digests: list[str] = []

    def batches(self) -> Iterator[Batch]:
        """Gives the samples, checked and prepared.

        Raises:
            DataError: no samples at all, or one of the wrong name, dtype, shape or label, or with NaN or infinity.
        """
        self.skipped.clear()
        pending: list[Sample] = []
        count = 0
        for sample in self._source.read(self.skipped):
            self._check(sample)
            pending.append(sample)
            if len(pending) == self._batch:
                yield self._assembled(pending, count)
                count += len(pending)
                pending = []
        if pending:
            yield self._assembled(pending, count)
            count += len(pending)
        if not count:
            unreadable = (
                f"; {len(self.skipped)} files could not be read: {skipped_text(self.skipped)}" if self.skipped else ""
            )
            raise errors.DataError(
                f"{self.name} holds no samples{unreadable}; give data that the model will see in use"
            )

    def prepare(self, raw: Mapping[str, NDArray[Any]]) -> Tensors:
        """Gives what the network takes for raw arrays with the batch axis."""
        return prepared_feeds(raw, self._inputs, self._preprocess)

    def _check(self, sample: Sample) -> None:
        names = {spec.name for spec in self._inputs}
        if sample.raw.keys() != names:
            raise errors.DataError(
                f"{sample.origin} of {self.name} has arrays {sorted(sample.raw)}, the model takes {sorted(names)}; "
                "give each input one array of its name"
            )
        for spec in self._inputs:
            check_array(sample.raw[spec.name], spec, self._preprocess.get(spec.name), f"{sample.origin} of {self.name}")
        if (sample.label is not None) != self.is_labelled:
            raise errors.DataError(
                f"{sample.origin} of {self.name} has {'no' if self.is_labelled else 'a'} label, the first sample has "
                f"{'one' if self.is_labelled else 'none'}; label all samples or none"
            )
        if sample.label is not None and not self._known.holds(sample.label):
            raise errors.DataError(
                f"{sample.origin} of {self.name} has the label {sample.label}, outside the classes "
                f"{self._known.text()} that the model gives; mend the labels"
            )

    def _assembled(self, samples: list[Sample], first: int) -> Batch:
        raw = {spec.name: np.stack([sample.raw[spec.name] for sample in samples]) for spec in self._inputs}
        feeds = self.prepare(raw)
        for name, values in feeds.items():
            if values.dtype.kind == "f" and not np.isfinite(values).all():
                rows = np.isfinite(values.reshape(len(samples), -1)).all(axis=1)
                origin = samples[int(np.argmin(rows))].origin
                raise errors.DataError(
                    f"{origin} of {self.name} holds NaN or infinity for input {name!r}; remove it, or mend the "
                    "preprocessing"
                )
        labels = [sample.label for sample in samples if sample.label is not None]
        if first == len(self._digests):  # the first pass; the others give the same samples
            self._digests += map(_digest, samples)
        digests = tuple(self._digests[first : first + len(samples)])
        return Batch(first, raw, feeds, np.array(labels, np.int64) if self.is_labelled else None, digests)


def batch_size(inputs: tuple[TensorSpec, ...]) -> int:
    """Gives how many samples go into one run: about 2 MB of input, 1 where the batch or another axis demands it."""
    if any(spec.shape[0] == 1 or None in spec.shape[1:] for spec in inputs):
        return 1
    sizes = [4 * int(np.prod([axis or 1 for axis in spec.shape[1:]])) for spec in inputs]
    return max(1, min(_BATCH_MOST, _BATCH_BYTES // max(sum(sizes), 1)))


def check_array(array: NDArray[Any], spec: TensorSpec, rule: Preprocess | None, origin: str) -> None:
    """Raises DataError unless one raw sample (no batch axis) fits `spec`, after `rule` where there is one."""
    fits = len(array.shape) == len(spec.shape) - 1 and all(
        want in (None, got) for want, got in zip(spec.shape[1:], array.shape, strict=True)
    )
    if fits and 0 not in array.shape and rule is not None and array.dtype.kind in _NUMBERS:
        return  # the usual case; a dtype's name takes longer than all of this
    given = shape_text(str(array.dtype), (None, *array.shape))
    if not fits or 0 in array.shape:
        raise errors.DataError(f"{origin}: input {spec.name!r} takes {spec}, but the data is {given}; mend its shape")
    if rule is None and array.dtype != spec.dtype:
        raise errors.DataError(
            f"{origin}: input {spec.name!r} takes {spec}, but the data is {given}; say how raw values become the input "
            f"with --preprocess FILE.toml, for example [{spec.name}] scale = 0.00392156862745098, or convert the data"
        )
    if array.dtype.kind not in _NUMBERS:
        raise errors.DataError(f"{origin}: input {spec.name!r} takes numbers, but the data is {given}")


def check_preprocess(rules: Mapping[str, Preprocess], inputs: Iterable[TensorSpec]) -> None:
    """Raises DataError for a preprocessing rule of an input that the model has not, or one that divides by zero."""
    names = [spec.name for spec in inputs]
    for name, rule in rules.items():
        if name not in names:
            raise errors.DataError(
                f"the preprocessing names the input {name!r}{imports.nearest(name, names)}; "
                f"the model takes {', '.join(names)}"
            )
        if (
            not rule.mean
            or not rule.std
            or not all(math.isfinite(value) and value for value in (rule.scale, *rule.std))
        ):
            raise errors.DataError(
                f"the preprocessing of input {name!r} has scale {rule.scale}, mean {rule.mean} and std "
                f"{rule.std}; expected finite numbers, scale and std not zero"
            )


def prepared_feeds(
    raw: Mapping[str, NDArray[Any]], inputs: Iterable[TensorSpec], rules: Mapping[str, Preprocess]
) -> Tensors:
    """Gives what the network takes for raw arrays with the batch axis; an input without a rule goes in as it is.

    Raises:
        DataError: a rule's `mean` or `std` does not fit the channels.
    """
    feeds: Tensors = {}
    for spec in inputs:
        rule = rules.get(spec.name)
        if rule is None:
            feeds[spec.name] = np.ascontiguousarray(raw[spec.name])
            continue
        try:
            feeds[spec.name] = prepared(raw[spec.name], rule).astype(spec.dtype, copy=False)
        except ValueError as error:
            raise errors.DataError(f"the preprocessing of input {spec.name!r} does not fit: {error}") from error
    return feeds


def skipped_text(skipped: Mapping[str, str], most: int = 5) -> str:
    """Gives the first few unreadable files with their reasons, in one line."""
    shown = "; ".join(f"{name} ({reason})" for name, reason in list(skipped.items())[:most])
    return shown + ("; ..." if len(skipped) > most else "")


def _digest(sample: Sample) -> str:
    sha256 = hashlib.sha256()
    for name in sorted(sample.raw):
        array = sample.raw[name]
        sha256.update(f"{name} {array.dtype} {array.shape}\n".encode())
        sha256.update(np.ascontiguousarray(array).tobytes())
    return sha256.hexdigest()
