"""Models come and go while sixteen connections ask: no request fails that should have succeeded."""

import http.client
import json
import threading

import msgspec
import numpy as np
import pytest
from test_serve_gate import wait_until

from edge_sdk import errors
from edge_sdk.device.deployment import Deployment
from edge_sdk.device.entrances import Entrances
from edge_sdk.device.settings import DaemonSettings, ModelSettings
from edge_sdk.testing.clock import FakeClock

BODY = json.dumps({"inputs": [{"name": "x", "shape": [1, 3], "datatype": "FP32", "data": [1, 2, 3]}]})
Y = [5.0, 9.0]


class Rig:
    def __init__(self, folder, **settings):
        values = {"model_repository": str(folder), "model_control": True, "http_port": 0, "threads": 1, **settings}
        self.deployment = Deployment(DaemonSettings(**values), clocks=FakeClock())
        self.entrances = Entrances(DaemonSettings(**values), self.deployment, clocks=FakeClock(), sample=lambda: None)
        self.entrances.start()
        self.host = self.entrances.urls[0].removeprefix("http://")

    @property
    def models(self):
        return self.deployment.models

    def ask(self, path, body=None, method="POST"):
        client = http.client.HTTPConnection(self.host, timeout=10)
        client.request(method, path, body)
        answer = client.getresponse()
        found = answer.status, answer.read()
        client.close()
        return found[0], json.loads(found[1]) if found[1] else None

    def close(self):
        self.entrances.stop()
        self.models.close()


@pytest.fixture
def repository(tmp_path):
    (tmp_path / "repo").mkdir()
    return tmp_path / "repo"


@pytest.fixture
def rig(repository, write_bundle, tiny_onnx):
    write_bundle(repository / "a1.edge", tiny_onnx, name="a", version="1", counter=1)
    write_bundle(repository / "b1.edge", tiny_onnx, name="b", version="1", counter=1)
    rigs = []

    def make(**settings):
        rigs.append(Rig(repository, **settings))
        return rigs[-1]

    yield make
    for each in rigs:
        each.close()


class Load:
    """Sixteen connections that ask as fast as they can; whatever is not a right answer is kept."""

    def __init__(self, host, path, is_fine=lambda status, answer: status == 200 and answer["outputs"][0]["data"] == Y):
        self.host, self.path, self.is_fine = host, path, is_fine
        self.answers, self.wrong, self.stopping = [], [], threading.Event()
        self.threads = [threading.Thread(target=self.run) for _ in range(16)]
        for thread in self.threads:
            thread.start()

    def run(self):
        client = http.client.HTTPConnection(self.host, timeout=20)
        try:
            while not self.stopping.is_set():
                client.request("POST", self.path, BODY)
                response = client.getresponse()
                answer = json.loads(response.read())
                if not self.is_fine(response.status, answer):
                    self.wrong.append((response.status, answer))
                self.answers.append(answer.get("model_version"))
        except (OSError, http.client.HTTPException) as error:
            self.wrong.append(error)
        finally:
            client.close()

    def wait_for(self, count):
        start = len(self.answers)
        wait_until(lambda: len(self.answers) >= start + count or self.wrong)

    def end(self):
        self.stopping.set()
        for thread in self.threads:
            thread.join(20)


@pytest.mark.parametrize("models", [{}, {"a": ModelSettings(max_batch=8)}])
def test_new_versions_under_load_fail_no_request(rig, repository, write_bundle, tiny_onnx, models):
    one = rig(models=models)
    load = Load(one.host, "/v2/models/a/infer")
    try:
        for version in range(2, 8):
            load.wait_for(50)
            old = one.models.find("a")
            write_bundle(repository / f"a{version}.edge", tiny_onnx, name="a", version=str(version), counter=version)
            assert one.ask("/v2/repository/models/a/load") == (200, None)
            assert one.models.find("a").version == str(version)
            wait_until(lambda gone=old: not gone.engine._is_open)
        load.wait_for(50)
    finally:
        load.end()
    assert load.wrong == []
    assert load.answers[-1] == "7"
    assert set(load.answers) >= {"1", "7"}
    assert one.ask("/v2/models/a", method="GET")[1]["versions"] == ["7"]
    counted = one.models.windows(1.0)
    assert sum(window.count for window in counted) == len(load.answers)
    assert [window.errors for window in counted if window.errors] == []


def test_unload_and_load_under_load_end_no_request_of_that_model_or_another(rig):
    one = rig()
    load = Load(one.host, "/v2/models/b/infer")
    refused = "Request for unknown model: 'a' is not found"
    other = Load(
        one.host,
        "/v2/models/a/infer",
        lambda status, answer: (
            (status, answer.get("error")) == (404, refused) or (status == 200 and answer["outputs"][0]["data"] == Y)
        ),
    )
    try:
        for _ in range(5):
            load.wait_for(20)
            assert one.ask("/v2/repository/models/a/unload")[0] == 200
            assert one.ask("/v2/models/a/ready", method="GET")[0] == 404
            load.wait_for(20)
            assert one.ask("/v2/repository/models/a/load")[0] == 200
            assert one.ask("/v2/models/a/ready", method="GET")[0] == 200
    finally:
        load.end()
        other.end()
    assert load.wrong == []
    assert other.wrong == []
    assert "1" in other.answers


def test_an_engine_is_closed_only_when_its_last_request_has_left(rig):
    one = rig()
    model = one.models.take("a")
    one.deployment.unload("a")
    assert one.models.find("a") is None
    assert model.infer({"x": np.ones((1, 3), np.float32)})["y"].shape == (1, 2)
    assert [window.count for window in one.models.windows(1.0)] == [0, 1]
    one.models.give(model)
    with pytest.raises(errors.EngineError, match="closed"):
        model.infer({"x": np.ones((1, 3), np.float32)})


def test_the_index_tells_what_is_served_and_what_is_at_hand(rig, repository, write_bundle, tiny_onnx):
    one = rig()
    write_bundle(repository / "a2.edge", tiny_onnx, name="a", version="2", counter=2)
    one.deployment.unload("b")
    (repository / "broken").mkdir()
    (repository / "broken" / "manifest.json").write_text("{")
    rows = one.ask("/v2/repository/index")[1]
    assert [(row["name"], row["version"], row["state"]) for row in rows] == [
        ("a", "1", "READY"),
        ("a", "2", "UNAVAILABLE"),
        ("b", "1", "UNAVAILABLE"),
    ]
    assert one.ask("/v2/repository/index", b'{"ready": true}')[1] == [rows[0]]


def test_a_bundle_that_is_refused_changes_nothing(rig, repository, write_bundle, tiny_onnx):
    one = rig()
    write_bundle(repository / "a2.edge", tiny_onnx, name="a", version="2", counter=2)
    (repository / "a2.edge" / "extra").write_text("x")
    status, answer = one.ask("/v2/repository/models/a/load")
    assert status == 400
    assert "does not list: extra" in answer["error"]
    assert one.ask("/v2/models/a/infer", BODY)[1]["model_version"] == "1"


def test_at_the_start_a_damaged_newest_gives_way_to_the_one_before_it(rig, repository, write_bundle, tiny_onnx):
    write_bundle(repository / "a2.edge", tiny_onnx, name="a", version="2", counter=2)
    (repository / "a2.edge" / "extra").write_text("x")
    one = rig()
    assert one.ask("/v2/models/a/infer", BODY)[1]["model_version"] == "1"
    assert "does not list: extra" in one.deployment.refused[repository / "a2.edge"]


def test_what_is_named_and_in_the_repository_at_once_is_refused(repository, write_bundle, tiny_onnx, tmp_path):
    for folder in (repository, tmp_path):
        write_bundle(folder / "c.edge", tiny_onnx, name="c", version="1", counter=1)
    with pytest.raises(errors.UsageError, match="both hold the model 'c' in version 1"):
        Rig(repository, bundles=(str(tmp_path / "c.edge"),))


@pytest.mark.parametrize(
    ("action", "words"),
    [
        ("models/zzz/load", "failed to load 'zzz', failed to poll from model repository"),
        ("models/zzz/unload", "failed to unload 'zzz'"),
    ],
)
def test_a_model_that_is_not_there_can_neither_be_loaded_nor_unloaded(rig, action, words):
    one = rig()
    status, answer = one.ask(f"/v2/repository/{action}")
    assert status == 400
    assert words in answer["error"]


def test_control_is_off_by_default(rig):
    one = rig(model_control=False)
    for action in ("load", "unload"):
        status, answer = one.ask(f"/v2/repository/models/a/{action}")
        assert status == 400
        assert "model_control = true" in answer["error"]
    assert one.ask("/v2/models/a/infer", BODY)[0] == 200


def test_versions_that_are_named_are_all_served_and_the_newest_answers(
    rig, repository, tmp_path, write_bundle, tiny_onnx
):
    named = [
        str(
            write_bundle(tmp_path / f"n{version}.edge", tiny_onnx, name="n", version=str(version), counter=version).path
        )
        for version in (3, 1, 2)
    ]
    one = rig(bundles=tuple(named))
    assert one.ask("/v2/models/n", method="GET")[1]["versions"] == ["3", "2", "1"]
    assert one.ask("/v2/models/n/infer", BODY)[1]["model_version"] == "3"
    assert one.ask("/v2/models/n/versions/1/infer", BODY)[1]["model_version"] == "1"
    assert one.ask("/v2/models/n/versions/9/infer", BODY)[0] == 404


def test_what_is_served_has_its_configuration_statistics_and_metrics(rig):
    one = rig(models={"a": ModelSettings(max_batch=4, batch_wait_us=10)})
    for _ in range(3):
        one.ask("/v2/models/a/infer", BODY)
    config = one.ask("/v2/models/a/config", method="GET")[1]
    assert (config["max_batch_size"], config["input"][0]["dims"]) == (4, [3])
    assert config["dynamic_batching"]["max_queue_delay_microseconds"] == 10
    (found,) = one.ask("/v2/models/a/stats", method="GET")[1]["model_stats"]
    assert (found["inference_count"], found["inference_stats"]["queue"]["count"]) == (3, 3)
    assert len(one.ask("/v2/models/stats", method="GET")[1]["model_stats"]) == 2
    client = http.client.HTTPConnection(one.host, timeout=10)
    client.request("GET", "/metrics")
    page = client.getresponse().read().decode()
    client.close()
    assert 'nv_inference_request_success{model="a",version="1"} 3' in page


def test_batching_a_model_without_a_free_axis_is_refused_at_the_start(repository, write_bundle, tiny_onnx, monkeypatch):
    from edge_sdk.device.serve import batching

    write_bundle(repository / "a.edge", tiny_onnx, name="a")
    monkeypatch.setattr(batching, "can_batch", lambda *_: False)
    settings = DaemonSettings(model_repository=str(repository), models={"a": ModelSettings(max_batch=2)})
    with pytest.raises(errors.UsageError, match=r"\[models.a\] max_batch is 2"):
        Deployment(settings, clocks=FakeClock())


def test_a_full_queue_is_503_with_retry_after_and_counted(rig):
    one = rig(models={"a": ModelSettings(queue_size=1)})
    model = one.models.find("a")
    engines = [model._gate.take()]
    waiter = threading.Thread(target=lambda: one.ask("/v2/models/a/infer", BODY))
    waiter.start()
    wait_until(lambda: len(model._gate._waiting) == 1)
    client = http.client.HTTPConnection(one.host, timeout=10)
    client.request("POST", "/v2/models/a/infer", BODY)
    answer = client.getresponse()
    assert (answer.status, answer.headers["Retry-After"]) == (503, "1")
    assert "Exceeds maximum queue size" in json.loads(answer.read())["error"]
    client.close()
    late = {**json.loads(BODY), "parameters": {"timeout": 1000, "priority": 1}}
    model._gate._queue_size = 4
    assert one.ask("/v2/models/a/infer", json.dumps(late))[0] == 503
    model._gate.give(engines.pop())
    waiter.join(10)
    window = model.recorder.window(1.0)
    assert (window.count, window.errors) == (1, {"busy": 2})


def test_settings_of_a_model_know_their_keys():
    with pytest.raises(msgspec.ValidationError, match="max_bach"):
        msgspec.convert({"models": {"a": {"max_bach": 1}}}, DaemonSettings)
