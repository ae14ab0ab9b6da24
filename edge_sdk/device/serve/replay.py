"""Streams labelled samples through a daemon and counts how many answers are right."""

from pathlib import Path
from typing import NamedTuple

import numpy as np

from edge_sdk import clock, errors
from edge_sdk.device.serve.client import Client


class Result(NamedTuple):
    """What a replay saw.

    Attributes:
        images: labelled samples, each sent at least once.
        answers: all answers.
        seconds: wall time of the whole replay.
        top1: share of right answers on the first pass over the samples.
    """

    images: int
    answers: int
    seconds: float
    top1: float


class Replay:
    """One client that sends the samples of an ``.npz`` (one input by name, and ``labels``) one after the other.

    Args:
        url: of the daemon.
        model: that is asked.
        samples: file with raw samples; the daemon does the preprocessing.
        seconds: goes on from the start of the samples until this time has passed; never stops within the first pass.
        ticks: the clock.
    """

    def __init__(self, url: str, model: str, samples: Path, *, seconds: float, ticks: clock.Clock) -> None:
        self._url, self._model, self._seconds, self._clock = url, model, seconds, ticks
        with np.load(samples, allow_pickle=False) as arrays:
            self._labels = arrays["labels"]
            self._name = next(name for name in arrays.files if name != "labels")
            self._samples = arrays[self._name]
        self._result: Result | None = None
        self._error: errors.EdgeError | None = None

    def run(self) -> None:
        """Streams until done; made for a thread of its own, so what goes wrong waits in `result`."""
        try:
            self._result = self._stream()
        except errors.EdgeError as error:
            self._error = error

    def result(self) -> Result:
        """Gives the result after `run` has ended.

        Raises:
            EdgeError: what stopped it.
        """
        if self._error is not None:
            raise self._error
        assert self._result is not None
        return self._result

    def _stream(self) -> Result:
        started_s = self._clock.boot_s()
        count = len(self._samples)
        right = answers = 0
        with Client(self._url) as client:
            while answers < count or self._clock.boot_s() - started_s < self._seconds:
                at = answers % count
                (output,) = client.infer(self._model, {self._name: self._samples[at : at + 1]}).values()
                right += bool(answers < count and int(output[0].argmax()) == int(self._labels[at]))
                answers += 1
        return Result(count, answers, self._clock.boot_s() - started_s, right / count)
