"""The promises of a back end as named checks; run them on your own with ``for check in CHECKS: check(open_model)``.

Each takes a function that opens a fresh Engine on a model with one float32 input of at least one axis, the first
of them free, and one output; it raises AssertionError, with the reason, when the promise is broken.
"""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_sdk import errors
from edge_sdk.engines.engine import Engine

OpenEngine = Callable[[], Engine]
Check = Callable[[OpenEngine], None]

_SEED = 20240901


def feeds_for(engine: Engine, *, batch: int = 1, seed: int = _SEED) -> dict[str, NDArray[Any]]:
    """Gives seeded standard-normal inputs that fit `engine`; free axes become `batch`."""
    rng = np.random.default_rng(seed)
    return {
        spec.name: rng.standard_normal([batch if axis is None else axis for axis in spec.shape]).astype(spec.dtype)
        for spec in engine.inputs
    }


def check_same_input_same_output(open_engine: OpenEngine) -> None:
    """Two runs on the same input give the same output."""
    with open_engine() as engine:
        feeds = feeds_for(engine)
        first, second = engine.infer(feeds), engine.infer(feeds)
        for name in first:
            np.testing.assert_array_equal(first[name], second[name])


def check_outputs_belong_to_the_caller(open_engine: OpenEngine) -> None:
    """A later run does not change the arrays that an earlier one gave."""
    with open_engine() as engine:
        kept = engine.infer(feeds_for(engine))
        copies = {name: array.copy() for name, array in kept.items()}
        engine.infer(feeds_for(engine, seed=_SEED + 1))
        for name, array in kept.items():
            assert np.array_equal(array, copies[name]), f"output {name!r} was overwritten by the next run"


def check_inputs_are_left_alone(open_engine: OpenEngine) -> None:
    """A run does not change its inputs."""
    with open_engine() as engine:
        feeds = feeds_for(engine)
        copies = {name: array.copy() for name, array in feeds.items()}
        engine.infer(feeds)
        for name, array in feeds.items():
            assert np.array_equal(array, copies[name]), f"input {name!r} was changed by the run"


def check_batch_is_rows(open_engine: OpenEngine) -> None:
    """Row i of a batch gives what the row gives alone, to float tolerance."""
    with open_engine() as engine:
        feeds = feeds_for(engine, batch=3)
        together = engine.infer(feeds)
        for row in range(3):
            alone = engine.infer({name: np.ascontiguousarray(array[row : row + 1]) for name, array in feeds.items()})
            for name in together:
                np.testing.assert_allclose(together[name][row : row + 1], alone[name], rtol=1e-3, atol=1e-4)


def check_bad_requests_are_refused(open_engine: OpenEngine) -> None:
    """Wrong name, dtype, rank and length raise InputError that names the input; the engine works afterwards."""
    with open_engine() as engine:
        feeds = feeds_for(engine)
        before = engine.infer(feeds)
        spec = engine.inputs[0]
        good = feeds[spec.name]
        bad: list[dict[str, NDArray[Any]]] = [
            {},
            {"no-such-input": good},
            {**feeds, "one-too-many": good},
            {**feeds, spec.name: good.astype(np.float64)},
            {**feeds, spec.name: good[None]},
            {**feeds, spec.name: good[:0]},
        ]
        for request in bad:
            try:
                engine.infer(request)
            except errors.InputError as error:
                assert "expected" in str(error) or repr(spec.name) in str(error), f"unhelpful message: {error}"
            else:
                raise AssertionError(f"accepted { ({name: array.shape for name, array in request.items()}) }")
        after = engine.infer(feeds)
        for name in before:
            np.testing.assert_array_equal(before[name], after[name])


def check_threads_may_share(open_engine: OpenEngine) -> None:
    """Many threads on one engine get the answers that one thread gets."""
    with open_engine() as engine, ThreadPoolExecutor(4) as pool:
        requests = [feeds_for(engine, seed=seed) for seed in range(16)]
        alone = [engine.infer(request) for request in requests]
        for want, got in zip(alone, pool.map(engine.infer, requests), strict=True):
            for name in want:
                np.testing.assert_array_equal(want[name], got[name])


def check_buffers_may_be_filled_in_place(open_engine: OpenEngine) -> None:
    """What lies in the lent buffers is what is run, in each shape and each time; afterwards they can't be written."""
    with open_engine() as engine:
        for batch in (1, 3):
            requests = [feeds_for(engine, batch=batch, seed=seed) for seed in range(3)]
            want = [engine.infer(request) for request in requests]
            with engine.input_buffers({name: array.shape for name, array in requests[0].items()}) as buffers:
                for request, wanted in zip(requests, want, strict=True):
                    for name, array in request.items():
                        buffers[name][...] = array
                    got = engine.infer(buffers)
                    for name in wanted:
                        np.testing.assert_array_equal(got[name], wanted[name])
            assert not any(array.flags.writeable for array in buffers.values()), "buffers stay writable afterwards"
            engine.infer(requests[0])


def check_timings_add_up(open_engine: OpenEngine) -> None:
    """Every stage is zero or more and compute took some time."""
    with open_engine() as engine:
        timings = engine.run(feeds_for(engine)).timings
        assert timings.compute_ns > 0
        assert min(timings.queue_ns, timings.pre_ns, timings.copy_in_ns, timings.copy_out_ns, timings.post_ns) >= 0


def check_closed_is_closed(open_engine: OpenEngine) -> None:
    """After `close`, a run raises EngineError; closing twice is fine."""
    engine = open_engine()
    feeds = feeds_for(engine)
    engine.close()
    engine.close()
    try:
        engine.infer(feeds)
    except errors.EngineError:
        return
    raise AssertionError("a closed engine gave an answer")


CHECKS: tuple[Check, ...] = (
    check_same_input_same_output,
    check_outputs_belong_to_the_caller,
    check_inputs_are_left_alone,
    check_batch_is_rows,
    check_bad_requests_are_refused,
    check_threads_may_share,
    check_buffers_may_be_filled_in_place,
    check_timings_add_up,
    check_closed_is_closed,
)
