"""Waiting for an engine: at once when one is free, by priority, bounded, and until the deadline; batches split exactly."""

import threading
import time

import numpy as np
import pytest

from edge_sdk import errors
from edge_sdk.clock import SystemClock
from edge_sdk.device.serve.gate import Gate, Scheduling
from edge_sdk.device.serve.models import Model, Wish
from edge_sdk.engines.engine import Engine
from edge_sdk.records.bundle import Manifest
from edge_sdk.records.tensors import TensorSpec


class Held:
    """A back end that runs only when it is let; ``y = 2 * x``."""

    def __init__(self, *, is_free=True, output_rows=None):
        self.may_run, self.entered = threading.Semaphore(0), threading.Semaphore(0)
        self.batches, self.is_free, self.output_rows = [], is_free, output_rows
        self.fails_on = None
        self.closed = 0

    def inputs(self):
        return (TensorSpec("x", "float32", (None, 2)),)

    def run(self, feeds, spent):
        x = feeds["x"]
        self.batches.append(len(x))
        self.entered.release()
        if not self.is_free:
            assert self.may_run.acquire(timeout=10)
        if self.fails_on is not None and (x == self.fails_on).any():
            raise RuntimeError("this row is poison")
        return {"y": 2 * x[: self.output_rows]}

    def close(self):
        self.closed += 1


def manifest(**changes):
    values = {name: None for name in Manifest.__struct_fields__} | {
        "name": "m",
        "version": "1",
        "counter": 1,
        "preprocess": {},
    }
    return Manifest(**(values | changes))


def model_of(*backends, **scheduling):
    spec = (TensorSpec("y", "float32", (None, 2)),)
    engines = [Engine(backend, name="held", outputs=spec) for backend in backends]
    return Model(manifest(), "d" * 64, engines, SystemClock(), Scheduling(**scheduling))


def rows(*values):
    return {"x": np.repeat(np.array(values, np.float32)[:, None], 2, axis=1)}


class Asking(threading.Thread):
    """One request in a thread of its own."""

    def __init__(self, model, feeds, wish=Wish(), order=None):
        super().__init__()
        self.model, self.feeds, self.wish, self.order = model, feeds, wish, order
        self.outcome = None
        self.start()

    def run(self):
        try:
            self.outcome = self.model.run(self.feeds, self.model.tick_ns(), self.wish)[0]["y"]
        except errors.EdgeError as error:
            self.outcome = error
        if self.order is not None:
            self.order.append(self.feeds["x"][0, 0])

    def wait(self):
        self.join(10)
        assert not self.is_alive()
        return self.outcome


def wait_until(condition):
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.001)


def waiting(model):
    return len(model._gate._waiting)


def test_a_full_queue_refuses_at_once_and_runs_nothing():
    backend = Held(is_free=False)
    model = model_of(backend, queue_size=1)
    first = Asking(model, rows(1))
    assert backend.entered.acquire(timeout=10)
    second = Asking(model, rows(2))
    wait_until(lambda: waiting(model) == 1)
    with pytest.raises(errors.BusyError, match="Exceeds maximum queue size: 1 requests wait"):
        model.infer(rows(3))
    assert model.recorder.window(1.0).errors == {"busy": 1}
    backend.may_run.release(2)
    assert [first.wait()[0, 0], second.wait()[0, 0]] == [2, 4]
    assert backend.batches == [1, 1]


def test_the_most_urgent_goes_first_and_equals_in_order():
    backend, order = Held(is_free=False), []
    model = model_of(backend)
    asked = [Asking(model, rows(0), order=order)]
    assert backend.entered.acquire(timeout=10)
    for number, priority in enumerate([0, 9, 5, 1, 1], start=1):  # 0 is the middle, 5
        asked.append(Asking(model, rows(number), Wish(priority=priority), order))
        wait_until(lambda n=number: waiting(model) == n)
    for done in range(1, 7):
        backend.may_run.release()
        wait_until(lambda n=done: len(order) == n)
    for each in asked:
        each.wait()
    assert order == [0, 4, 5, 1, 3, 2]


@pytest.mark.parametrize("scheduling", [{}, {"timeout_us": 20_000}, {"max_batch": 4}])
def test_a_request_whose_deadline_passes_is_not_run(scheduling):
    backend = Held(is_free=False)
    model = model_of(backend, **scheduling)
    first = Asking(model, rows(1), Wish(timeout_us=10_000_000))
    assert backend.entered.acquire(timeout=10)
    wish = Wish() if "timeout_us" in scheduling else Wish(timeout_us=20_000)
    late = Asking(model, rows(2), wish).wait()
    assert isinstance(late, errors.BusyError)
    assert "timeout expired" in str(late)
    assert waiting(model) == 0
    backend.may_run.release()
    first.wait()
    backend.may_run.release()
    assert Asking(model, rows(3)).wait()[0, 0] == 6
    assert backend.batches == [1, 1]


def test_two_engines_run_two_requests_at_once():
    backends = Held(is_free=False), Held(is_free=False)
    model = model_of(*backends)
    asked = [Asking(model, rows(number)) for number in (1, 2)]
    for backend in backends:
        assert backend.entered.acquire(timeout=10)
        backend.may_run.release()
    assert sorted(each.wait()[0, 0] for each in asked) == [2, 4]


def test_the_gate_gives_an_engine_to_whoever_is_late_in_the_very_moment_it_comes():
    engine = Engine(Held(), name="held")
    gate = Gate([engine], queue_size=4, tick_ns=time.perf_counter_ns)
    for _ in range(300):
        taken = gate.take()
        outcomes = []

        def late():
            try:
                outcomes.append(gate.take(5, time.perf_counter_ns() + 100_000))
            except errors.BusyError:
                outcomes.append(None)

        thread = threading.Thread(target=late)
        thread.start()
        time.sleep(0.0001)
        gate.give(taken)
        thread.join(10)
        if outcomes[0] is not None:
            gate.give(outcomes[0])
    assert gate._free == [engine]
    assert gate._waiting == []


class TestBatching:
    def test_requests_that_find_the_engine_busy_run_together_and_each_gets_its_rows(self):
        backend = Held(is_free=False)
        model = model_of(backend, max_batch=8)
        first = Asking(model, rows(100))
        assert backend.entered.acquire(timeout=10)
        asked = [Asking(model, rows(number, number + 0.5)) for number in (1, 2, 3)]
        wait_until(lambda: sum(len(batch.parts) for batch in model._batcher._open.values()) == 3)
        backend.may_run.release(2)
        assert first.wait().tolist() == [[200, 200]]
        for number, each in zip((1, 2, 3), asked, strict=True):
            np.testing.assert_array_equal(each.wait(), 2 * rows(number, number + 0.5)["x"])
        assert backend.batches == [1, 6]

    def test_a_batch_is_never_larger_than_it_may_be(self):
        backend = Held()
        model = model_of(backend, max_batch=4, batch_wait_us=20_000)
        asked = [Asking(model, rows(number)) for number in range(21)]
        assert sorted(each.wait()[0, 0] for each in asked) == [2.0 * number for number in range(21)]
        assert max(backend.batches) <= 4
        assert sum(backend.batches) == 21
        assert len(backend.batches) < 21

    def test_statistics_tell_rows_and_runs_apart(self):
        backend = Held(is_free=False)
        model = model_of(backend, max_batch=8)
        first = Asking(model, rows(1))
        assert backend.entered.acquire(timeout=10)
        asked = [Asking(model, rows(1, 2)) for _ in range(2)]
        wait_until(lambda: sum(len(batch.parts) for batch in model._batcher._open.values()) == 2)
        backend.may_run.release(2)
        for each in (first, *asked):
            each.wait()
            model.recorder.record(_spent())
        totals = model.recorder.totals()
        assert (totals.requests, totals.inferences, totals.executions) == (3, 5, 2)

    def test_requests_of_another_form_or_priority_do_not_mix(self):
        backend = Held(is_free=False)
        model = model_of(backend, max_batch=8)
        first = Asking(model, rows(1))
        assert backend.entered.acquire(timeout=10)
        asked = [
            Asking(model, rows(2)),
            Asking(model, rows(3), Wish(priority=1)),
            Asking(model, {"x": np.ones((1, 3), np.float32)}),
        ]
        wait_until(lambda: waiting(model) == 3)
        backend.may_run.release(4)
        first.wait()
        assert [each.wait()[0, 0] for each in asked[:2]] == [4, 6]
        assert isinstance(asked[2].wait(), errors.InputError)
        assert backend.batches == [1, 1, 1]

    def test_one_that_fails_fails_alone(self):
        backend = Held(is_free=False)
        backend.fails_on = 7
        model = model_of(backend, max_batch=8)
        first = Asking(model, rows(1))
        assert backend.entered.acquire(timeout=10)
        asked = [Asking(model, rows(number)) for number in (6, 7, 8)]
        wait_until(lambda: sum(len(batch.parts) for batch in model._batcher._open.values()) == 3)
        backend.is_free = True
        backend.may_run.release()
        first.wait()
        good, bad, fine = (each.wait() for each in asked)
        assert (good[0, 0], fine[0, 0]) == (12, 16)
        assert "poison" in str(bad)

    def test_a_model_that_gives_other_rows_is_never_batched_again(self, caplog):
        backend = Held(is_free=False, output_rows=1)
        model = model_of(backend, max_batch=8)
        first = Asking(model, rows(1))
        assert backend.entered.acquire(timeout=10)
        asked = [Asking(model, rows(number)) for number in (2, 3)]
        wait_until(lambda: sum(len(batch.parts) for batch in model._batcher._open.values()) == 2)
        backend.is_free = True
        backend.may_run.release()
        first.wait()
        assert [each.wait()[0, 0] for each in asked] == [4, 6]
        assert "batching is switched off" in caplog.text

    def test_followers_of_one_that_is_refused_are_judged_by_themselves(self):
        backend = Held(is_free=False)
        model = model_of(backend, queue_size=1, max_batch=2)
        busy = Asking(model, rows(1))
        assert backend.entered.acquire(timeout=10)
        queued = Asking(model, rows(2, 2))
        wait_until(lambda: waiting(model) == 1)
        assert isinstance(Asking(model, rows(3)).wait(), errors.BusyError)
        backend.may_run.release(2)
        assert [busy.wait()[0, 0], queued.wait()[0, 0]] == [2, 4]


def _spent():
    from edge_sdk.device.serve.recorder import Spent
    from edge_sdk.records.timings import Timings

    return Spent(Timings(), 0, 0, 0)
