"""A new version that answers too slowly, and one whose load never ends: with a whole daemon, and requests all the while."""

import http.client
import json
import sys
import threading
import time

import pytest

from edge_sdk.clock import SystemClock
from edge_sdk.device.daemon import Daemon
from edge_sdk.device.settings import DaemonSettings, ModelSettings
from edge_sdk.device.slots import pace
from edge_sdk.link.memory import MemoryBroker, MemoryLink

BODY = json.dumps({"inputs": [{"name": "x", "shape": [1, 3], "datatype": "FP32", "data": [1, 2, 3]}]})
LIMIT_MS, SLOW_MS, CLIENTS = 150.0, 80.0, 4
"""Of four clients at one engine each waits for the others: four times SLOW_MS, far over the limit."""
INTERVAL_S, WINDOW_S, LOAD_LIMIT_S = 0.25, 60.0, 1.0
WAIT_S = 100
"""Longer than any of it takes on a busy machine; what it took is measured."""

BACKEND = """
import threading, time
import numpy as np
from edge_sdk.records.tensors import TensorSpec

NEVER = threading.Event()

class Backend:
    def __init__(self, model, options):
        self.spends_s = SLOW_S if model.parent.name == "slow" else 0.0
        if model.parent.name == "endless":
            NEVER.wait()
    def inputs(self): return (TensorSpec("x", "float32", (None, 3)),)
    def run(self, feeds, spent):
        time.sleep(self.spends_s)
        return {"y": np.zeros((1, 2), np.float32)}
    def close(self): pass
"""


class Running:
    """A daemon that takes Samples in a thread, and clients that ask it as fast as they can."""

    def __init__(self, folder, state, model):
        broker, self.kinds = MemoryBroker(), []
        listener = MemoryLink(broker)
        listener.subscribe("edge/v1/default/cam/up/event", self.take)
        listener.open()
        settings = DaemonSettings(
            device="cam", model_repository=str(folder), state_folder=str(state), backend="slow_versions:Backend",
            http_port=0, model_control=True, interval_s=INTERVAL_S, trial_window_s=WINDOW_S,
            load_limit_s=LOAD_LIMIT_S, models={"tiny": model},
        )  # fmt: skip
        self.daemon = Daemon(settings, lambda will: MemoryLink(broker, will=will), clocks=SystemClock(), sensors=())
        self.daemon.start()
        self.host = self.daemon.snapshot().url.removeprefix("http://")
        self.ending, self.versions, self.wrong = threading.Event(), [], []
        self.threads = [threading.Thread(target=self.daemon.run, args=(self.ending.wait,))]
        self.threads += [threading.Thread(target=self.ask) for _ in range(CLIENTS)]
        for thread in self.threads:
            thread.start()

    def take(self, message):
        self.kinds.append(json.loads(message.payload)["kind"])

    def ask(self):
        client = http.client.HTTPConnection(self.host, timeout=WAIT_S)
        while not self.ending.is_set():
            client.request("POST", "/v2/models/tiny/infer", BODY)
            answer = client.getresponse()
            said = json.loads(answer.read())
            (self.versions if answer.status == 200 else self.wrong).append(said.get("model_version", said))
            self.ending.wait(0.002)
        client.close()

    def load(self):
        client = http.client.HTTPConnection(self.host, timeout=WAIT_S)
        client.request("POST", "/v2/repository/models/tiny/load", b"")
        answer = client.getresponse()
        found = answer.status, answer.read().decode()
        client.close()
        return found

    def wait_for(self, condition):
        deadline_s = time.monotonic() + WAIT_S
        while not condition():
            assert time.monotonic() < deadline_s, (self.versions[-3:], self.wrong[-3:], self.kinds)
            time.sleep(0.02)

    def answers_by(self, version):
        self.wait_for(lambda: self.versions[-CLIENTS:] == [version] * CLIENTS)

    def close(self):
        self.ending.set()
        for thread in self.threads:
            thread.join(WAIT_S)
        self.daemon.stop()


@pytest.fixture
def run(tmp_path, write_bundle, tiny_onnx, monkeypatch):
    (tmp_path / "slow_versions.py").write_text(BACKEND.replace("SLOW_S", str(SLOW_MS / 1e3)))
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "slow_versions", raising=False)
    opened = []

    def make(name, model):
        folder = tmp_path / name
        folder.mkdir()
        write_bundle(folder / "first", tiny_onnx, name="tiny", version="1", counter=1)
        opened.append(Running(folder, tmp_path / f"{name}.state", model))
        opened[-1].add = lambda kind: write_bundle(folder / kind, tiny_onnx, name="tiny", version="2", counter=2)
        opened[-1].answers_by("1")
        return opened[-1]

    yield make
    for one in opened:
        one.close()


@pytest.mark.fault("U10")
@pytest.mark.timeout(400)
def test_a_new_version_that_is_too_slow_is_taken_back_while_it_serves(run, fault):
    one = run("limited", ModelSettings(p99_limit_ms=LIMIT_MS))
    one.add("slow")
    start_s = time.monotonic()
    assert one.load()[0] == 200
    one.answers_by("2")
    one.answers_by("1")
    took_s = time.monotonic() - start_s
    one.wait_for(lambda: "rolled_back" in one.kinds)
    answered = one.versions.count("2")
    assert one.wrong == []
    assert took_s <= WINDOW_S
    # The control: the same version without a limit.
    other = run("unlimited", ModelSettings())
    other.add("slow")
    assert other.load()[0] == 200
    other.wait_for(lambda: other.versions.count("2") >= 1.2 * answered)
    assert (other.versions[-1], other.kinds, other.wrong) == ("2", [], [])
    fault(
        part="too slow",
        what="a new version of a model answers, but slower than its limit",
        injected=f"loaded over HTTP under {CLIENTS} clients; each inference takes {SLOW_MS:g} ms, p99_limit_ms = {LIMIT_MS:g}",
        bar=f"the old one answers again within the trial window of {WINDOW_S:g} s, one event rolled_back, 0 failed requests",
        measured=f"{took_s:.1f} s and {answered} answers later ({pace.ENOUGH} are waited for), 1 event, 0 failed",
        control="without a limit the same version answers on, and no event comes",
    )


@pytest.mark.fault("U9")
@pytest.mark.timeout(400)
def test_a_load_that_never_ends_is_given_up_and_what_was_served_stays(run, fault):
    one = run("loading", ModelSettings())
    one.add("endless")
    start_s = time.monotonic()
    status, words = one.load()
    took_s = time.monotonic() - start_s
    assert (status, "given up" in words) == (500, True)
    one.wait_for(lambda: "bundle_refused" in one.kinds)
    count = len(one.versions)
    one.wait_for(lambda: len(one.versions) > count + 2 * CLIENTS)
    assert (set(one.versions), one.wrong) == ({"1"}, [])
    # The control: a version whose load ends is served.
    other = run("ending", ModelSettings())
    other.add("second")
    assert other.load()[0] == 200
    other.answers_by("2")
    fault(
        part="load never ends",
        what="a back end that never comes back from loading a new version, in the daemon's own process",
        injected=f"loaded over HTTP under {CLIENTS} clients, load_limit_s = {LOAD_LIMIT_S:g}",
        bar="the client is told after the limit, one event bundle_refused, the old version answers all the while",
        measured=f"told after {took_s:.1f} s, 1 event, 0 of {len(one.versions)} requests failed",
        control="a version whose load ends is served",
    )
