"""The served models: a request in process goes straight through, one over HTTP passes here as well."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_sdk import clock, errors, imports
from edge_sdk.device.serve.recorder import Recorder
from edge_sdk.engines.engine import Engine, Result
from edge_sdk.engines.protocol import Tensors
from edge_sdk.numerics import preprocess
from edge_sdk.records.bundle import Manifest, Preprocess
from edge_sdk.records.timings import Timings


class Model:
    """One bundle's engine with its preprocessing and its recorder.

    Attributes:
        name, version, digest: of the bundle.
        engine: what runs it.
        recorder: what it did.
    """

    def __init__(self, manifest: Manifest, digest: str, engine: Engine, clocks: clock.Clock) -> None:
        self.name = manifest.name
        self.version = manifest.version
        self.digest = digest
        self.engine = engine
        self.recorder = Recorder(model=self.name, digest=digest[:12], engine=engine.name)
        self.tick_ns = clocks.tick_ns
        self._rules = [
            (spec.name, np.dtype(spec.dtype), manifest.preprocess[spec.name])
            for spec in engine.inputs
            if spec.name in manifest.preprocess
        ]

    def infer(self, feeds: Mapping[str, NDArray[Any]]) -> Tensors:
        """Gives the outputs by name for one set of inputs; the arrays belong to the caller.

        Integers where the network takes floats are raw values: they go through the bundle's preprocessing, so pixels
        can be sent as they are. Floats of another width are refused, since they may be prepared already.

        Raises:
            InputError: a name, dtype or shape does not fit; nothing was run.
            EngineError: the engine failed while running, or the daemon is stopping.
        """
        entered_ns = self.tick_ns()
        self.recorder.enter()
        try:
            outputs, spent = self.run(feeds, entered_ns)
            self.recorder.record(spent)
        except errors.EdgeError as error:
            self.recorder.record_error(error_kind(error))
            raise
        finally:
            self.recorder.leave()
        return outputs

    def run(self, feeds: Mapping[str, NDArray[Any]], entered_ns: int) -> Result:
        """Gives outputs and timings without recording them; raises as `infer` does.

        Args:
            feeds: arrays by input name.
            entered_ns: when the work for this request began; the time from there to the engine counts as ``pre``.
        """
        for name, dtype, rule in self._rules:
            raw = feeds.get(name)
            if raw is not None and raw.dtype != dtype and raw.dtype.kind in "iu":
                feeds = {**feeds, name: _prepared(name, raw, rule)}
        handed_ns = self.tick_ns()
        outputs, spent = self.engine.run(feeds)
        return Result(
            outputs,
            Timings(
                spent.queue_ns,
                handed_ns - entered_ns + spent.pre_ns,
                spent.copy_in_ns,
                spent.compute_ns,
                spent.copy_out_ns,
                spent.post_ns,
            ),
        )


class Models:
    """All models of a daemon by name. Fixed once made, so any thread may look up."""

    def __init__(self, models: Iterable[Model]) -> None:
        self._by_name = {model.name: model for model in models}
        self.is_ready = True

    def __iter__(self) -> Iterator[Model]:
        return iter(self._by_name.values())

    def find(self, name: str) -> Model | None:
        """Gives the model of that name, if it is served."""
        return self._by_name.get(name)

    def infer(self, name: str, feeds: Mapping[str, NDArray[Any]]) -> Tensors:
        """Gives the outputs of a model; raises as `Model.infer` does.

        Raises:
            UsageError: no such model.
        """
        model = self._by_name.get(name)
        if model is None:
            known = ", ".join(self._by_name) or "none"
            raise errors.UsageError(f"no model {name!r}{imports.nearest(name, self._by_name)}; served here: {known}")
        return model.infer(feeds)

    def close(self) -> None:
        """Says that this daemon takes no more, and closes the engines; a request inside one is let through first."""
        self.is_ready = False
        for model in self._by_name.values():
            model.engine.close()


def error_kind(error: errors.EdgeError) -> str:
    """Gives the name under which a failed request is counted."""
    return "input" if isinstance(error, (errors.InputError, errors.UsageError)) else "engine"


def _prepared(name: str, raw: NDArray[Any], rule: Preprocess) -> NDArray[np.float32]:
    try:
        return preprocess.prepared(raw, rule)
    except ValueError as error:
        raise errors.InputError(f"input {name!r} does not fit the bundle's preprocessing: {error}") from error
