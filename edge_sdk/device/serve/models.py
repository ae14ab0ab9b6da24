"""One served model: a request in process goes straight through, one over the wire passes here as well."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from edge_sdk import clock, errors
from edge_sdk.device.serve import batching
from edge_sdk.device.serve.gate import DEFAULT_PRIORITY, PRIORITY_LEVELS, Gate, Scheduling
from edge_sdk.device.serve.recorder import Recorder, Spent
from edge_sdk.engines.engine import Engine
from edge_sdk.engines.protocol import Tensors
from edge_sdk.numerics import preprocess
from edge_sdk.records.bundle import Manifest, Preprocess


class Wish(NamedTuple):
    """What a request asks for beside its tensors.

    Attributes:
        priority: 1 to 9, 1 is the most urgent; 0 takes the middle.
        timeout_us: microseconds that it may wait for an engine; 0 leaves that to the model's settings.
    """

    priority: int = 0
    timeout_us: int = 0


NO_WISH = Wish()

Ran: TypeAlias = tuple[Tensors, Spent]
"""Outputs by name, and where the time went; a plain tuple, since this is the hot path."""


class Model:
    """One bundle's engines with its preprocessing and its recorder.

    Attributes:
        name, version, digest, counter: of the bundle.
        engine: the first of those that run it; they are all alike.
        recorder: what it did.
        scheduling: how its requests wait.
        instances: how many engines there are.
        can_batch: whether the first axis is free everywhere, so that requests can be run together.
    """

    def __init__(
        self,
        manifest: Manifest,
        digest: str,
        engines: Sequence[Engine],
        clocks: clock.Clock,
        scheduling: Scheduling | None = None,
    ) -> None:
        self.name = manifest.name
        self.version = manifest.version
        self.counter = manifest.counter
        self.digest = digest
        self.engine = engines[0]
        self.scheduling = scheduling or Scheduling()
        self.recorder = Recorder(model=self.name, digest=digest[:12], engine=self.engine.name, clocks=clocks)
        self.tick_ns = clocks.tick_ns
        self.can_batch = batching.can_batch(self.engine.inputs, self.engine.outputs)
        self.instances = len(engines)
        self._engines = tuple(engines)
        self._gate = Gate(engines, queue_size=self.scheduling.queue_size, tick_ns=clocks.tick_ns)
        self._batcher = self._batching() if self.can_batch and self.scheduling.max_batch > 1 else None
        self._timeout_ns = self.scheduling.timeout_us * 1000
        self._preprocess = manifest.preprocess
        self._rules = [
            (spec.name, np.dtype(spec.dtype), manifest.preprocess[spec.name])
            for spec in self.engine.inputs
            if spec.name in manifest.preprocess
        ]

    def rule(self, name: str) -> Preprocess | None:
        """Gives how raw values of an input are prepared; None where the bundle says nothing about it."""
        return self._preprocess.get(name)

    def infer(self, feeds: Mapping[str, NDArray[Any]]) -> Tensors:
        """Gives the outputs by name for one set of inputs; the arrays belong to the caller.

        Integers where the network takes floats are raw values: they go through the bundle's preprocessing, so pixels
        can be sent as they are. Floats of another width are refused, since they may be prepared already.

        Raises:
            InputError: a name, dtype or shape does not fit; nothing was run.
            BusyError: no engine became free in time.
            EngineError: the engine failed while running, or the daemon is stopping.
        """
        entered_ns = self.tick_ns()
        self.recorder.enter()
        try:
            outputs, spent = self.run(feeds, entered_ns)
            self.recorder.record(spent)
        except errors.EdgeError as error:
            self.recorder.record_error(error_kind(error), self.tick_ns() - entered_ns)
            raise
        finally:
            self.recorder.leave()
        return outputs

    def run(self, feeds: Mapping[str, NDArray[Any]], entered_ns: int, wish: Wish = NO_WISH) -> Ran:
        """Gives outputs and where the time went without recording it; raises as `infer` does.

        Args:
            feeds: arrays by input name.
            entered_ns: when the work for this request began; the time from there to the engine counts as ``pre``.
            wish: priority and deadline.
        """
        for name, dtype, rule in self._rules:
            raw = feeds.get(name)
            if raw is not None and raw.dtype != dtype and raw.dtype.kind in "iu":
                feeds = {**feeds, name: _prepared(name, raw, rule)}
        if self._batcher is not None:
            return self._shared(feeds, entered_ns, wish)
        ready_ns = self.tick_ns()
        if wish is NO_WISH and not self._timeout_ns:
            engine = self._gate.take()
        else:
            engine = self._gate.take(*self._turn(ready_ns, wish)[:2])
        try:
            handed_ns = self.tick_ns()
            outputs, spent = engine.run(feeds)
        finally:
            self._gate.give(engine)
        return outputs, Spent(spent, handed_ns - ready_ns, ready_ns - entered_ns, 0)

    def close(self) -> None:
        """Closes every engine; a request inside one is let through first."""
        for engine in self._engines:
            engine.close()

    def _shared(self, feeds: Mapping[str, NDArray[Any]], entered_ns: int, wish: Wish) -> Ran:
        assert self._batcher is not None
        ready_ns = self.tick_ns()
        share = self._batcher.run(feeds, self._turn(ready_ns, wish))
        self.recorder.note_rows(max((array.shape[0] for array in feeds.values()), default=1), is_guest=share.is_guest)
        return share.result.outputs, Spent(share.result.timings, 0, ready_ns - entered_ns, 0)

    def _turn(self, now_ns: int, wish: Wish) -> batching.Turn:
        timeout_ns = wish.timeout_us * 1000 or self._timeout_ns
        return batching.Turn(
            min(wish.priority, PRIORITY_LEVELS) or DEFAULT_PRIORITY,
            now_ns + timeout_ns if timeout_ns else 0,
            is_own=wish.timeout_us > 0,
        )

    def _batching(self) -> batching.Batcher:
        wait_s = self.scheduling.batch_wait_us / 1e6
        return batching.Batcher(self._gate, max_rows=self.scheduling.max_batch, wait_s=wait_s, tick_ns=self.tick_ns)


def error_kind(error: errors.EdgeError) -> str:
    """Gives the name under which a failed request is counted."""
    if isinstance(error, errors.BusyError):
        return "busy"
    return "input" if isinstance(error, (errors.InputError, errors.UsageError)) else "engine"


def _prepared(name: str, raw: NDArray[Any], rule: Preprocess) -> NDArray[np.float32]:
    try:
        return preprocess.prepared(raw, rule)
    except ValueError as error:
        raise errors.InputError(f"input {name!r} does not fit the bundle's preprocessing: {error}") from error
