"""Loads that take long or never end: other models come and go, what was served stays, and somebody is told."""

import json
import sys
import threading
import time
import urllib.error
import urllib.request

import numpy as np
import pytest
from test_finishing import BACKEND as FAKE
from test_finishing import Builder
from test_serve_gate import wait_until

from edge_sdk import errors
from edge_sdk.device.deployment import Deployment
from edge_sdk.device.entrances import Entrances
from edge_sdk.device.settings import DaemonSettings
from edge_sdk.device.slots import exchanging, proving
from edge_sdk.engines import building, registry
from edge_sdk.testing.clock import FakeClock

X = {"x": np.array([[1, 2, 3]], np.float32)}

HANGING = """
import threading
import numpy as np
from edge_sdk.records.tensors import TensorSpec

HANGS = set()
GO_ON = threading.Event()
CLOSED = []

class Backend:
    def __init__(self, model, options):
        self.name = model.parent.name
        if self.name in HANGS:
            GO_ON.wait(30)
    def inputs(self): return (TensorSpec("x", "float32", (None, 3)),)
    def run(self, feeds, spent): return {"y": np.zeros((1, 2), np.float32)}
    def close(self): CLOSED.append(self.name)
"""


@pytest.fixture
def repository(tmp_path, write_bundle, tiny_onnx):
    folder = tmp_path / "models"
    folder.mkdir()

    def add(name, version):
        write_bundle(folder / f"{name}{version}", tiny_onnx, name=name, version=str(version), counter=version)

    add("a", 1)
    add("b", 1)
    return folder, add


@pytest.fixture
def deploy(tmp_path, repository):
    opened = []

    def make(builder=None, **settings):
        values = {"model_repository": str(repository[0]), "state_folder": str(tmp_path / "state"), "threads": 1}
        values |= {"model_control": True, "http_port": 0, **settings}
        one = Deployment(DaemonSettings(**values), clocks=FakeClock(), builder=builder)
        entrances = Entrances(DaemonSettings(**values), one, clocks=FakeClock(), sample=lambda: None)
        entrances.start()
        opened.append((one, entrances))
        return one, entrances.urls[0]

    yield make
    for one, entrances in opened:
        one.stop()
        entrances.stop()
        one.models.close()


@pytest.fixture
def hanging(tmp_path, monkeypatch):
    (tmp_path / "hanging_at_load.py").write_text(HANGING)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "hanging_at_load", raising=False)
    import hanging_at_load

    yield hanging_at_load
    hanging_at_load.GO_ON.set()


def ask(url, action, name):
    request = urllib.request.Request(f"{url}/v2/repository/models/{name}/{action}", b"", method="POST")
    try:
        with urllib.request.urlopen(request, timeout=20) as answer:
            return answer.status, ""
    except urllib.error.HTTPError as error:
        return error.code, json.loads(error.read())["error"]


def test_other_models_come_and_go_while_an_engine_is_built(deploy, repository, tmp_path, monkeypatch):
    (tmp_path / "building_slowly.py").write_text(FAKE)
    monkeypatch.syspath_prepend(tmp_path)
    row = registry.Row("building_slowly:Fake", "", finder="building_slowly:find")
    monkeypatch.setitem(registry.BACKENDS, "fake", row)
    builder = Builder(tmp_path / "state" / "engines")
    builder.go_on.set()
    one, url = deploy(builder, backend="fake")
    one.finish()
    assert {(model.name, model.version) for model in one.models} == {("a", "1"), ("b", "1")}
    repository[1]("a", 2)
    builder.go_on.clear()
    said = []
    loading = threading.Thread(target=lambda: said.append(ask(url, "load", "a")))
    loading.start()
    wait_until(lambda: any(news.kind == "engine_progress" for news in one.take_news()))
    for action, served in (("unload", None), ("load", "1")):
        assert ask(url, action, "b") == (200, "")
        found = one.models.find("b")
        assert (found and found.version) == served
    for action in ("load", "unload"):
        status, words = ask(url, action, "a")
        assert (status, words) == (503, "model 'a' is being loaded already; try again when that is done")
    assert one.models.infer("a", X)["y"].shape == (1, 2)
    assert (one.models.find("a").version, said) == ("1", [])
    builder.go_on.set()
    loading.join(20)
    assert (one.models.find("a").version, said) == ("2", [(200, "")])
    assert ask(url, "unload", "a") == (200, "")


def test_a_load_that_hangs_is_given_up_told_and_what_was_served_stays(deploy, repository, hanging):
    one, url = deploy(backend="hanging_at_load:Backend", load_limit_s=1.5)
    repository[1]("a", 2)
    hanging.HANGS.add("a2")
    status, words = ask(url, "load", "a")
    assert (status, "was not loaded within 1.5 s" in words, "load_limit_s" in words) == (500, True, True)
    assert one.models.find("a").version == "1"
    assert one.models.infer("a", X)["y"].shape == (1, 2)
    (news,) = one.take_news()
    assert (news.kind, news.details) == ("bundle_refused", {"bundle": "a2"})
    assert "was not loaded within" in news.message
    for action in ("unload", "load"):
        assert ask(url, action, "b") == (200, "")
    hanging.GO_ON.set()  # it comes at last, and is not wanted any more
    wait_until(lambda: "a2" in hanging.CLOSED)
    assert one.models.find("a").version == "1"


def test_the_same_version_is_loaded_where_it_does_not_hang(deploy, repository, hanging):
    """The control."""
    one, url = deploy(backend="hanging_at_load:Backend", load_limit_s=20)
    repository[1]("a", 2)
    assert ask(url, "load", "a") == (200, "")
    assert (one.models.find("a").version, one.take_news()) == ("2", [])


def test_what_was_given_up_does_not_count_as_good_and_does_not_keep_the_others_from_it(
    deploy, repository, hanging, tmp_path
):
    one, _ = deploy(backend="hanging_at_load:Backend", load_limit_s=0.2)
    repository[1]("a", 2)
    hanging.HANGS.add("a2")
    with pytest.raises(errors.EngineError, match="given up"):
        one.load("a")
    one._clock.advance(61)
    one.prove()
    kept = json.loads((tmp_path / "state" / proving.FILE).read_text())["versions"]
    found = {(each["model"], each["version"]): each["is_confirmed"] for each in kept}
    assert found == {("a", "1"): True, ("b", "1"): True, ("a", "2"): False}


def test_a_refused_load_is_told_to_the_fleet_too(deploy, repository):
    one, url = deploy()
    repository[1]("a", 2)
    (repository[0] / "a2" / "extra").write_text("")
    status, words = ask(url, "load", "a")
    assert (status, "does not list: extra" in words) == (400, True)
    (news,) = one.take_news()
    assert (news.kind, news.details, one.models.find("a").version) == ("bundle_refused", {"bundle": "a2"}, "1")


def test_an_error_inside_and_a_result_in_time_come_back_as_they_are():
    assert exchanging.within(20, lambda: 7, lambda _: pytest.fail("it was in time")) == 7
    with pytest.raises(ZeroDivisionError):
        exchanging.within(20, lambda: 1 / 0, lambda _: None)


def test_a_compiler_that_hangs_is_ended(tmp_path, tiny_bundle, monkeypatch):
    children = []
    popen = building.subprocess.Popen
    hung = [sys.executable, "-c", "import time; time.sleep(600)"]
    monkeypatch.setattr(building.child, "command", lambda *_: hung)
    monkeypatch.setattr(building.subprocess, "Popen", lambda *a, **k: children.append(popen(*a, **k)) or children[0])
    start_s = time.monotonic()
    builder = building.Builder(tmp_path / "engines", compiler="tensorrt-rtx", limit_s=0.3)
    with pytest.raises(errors.EngineError, match=r"within 0\.3 s, so the compiler's process was ended"):
        builder.build(tiny_bundle.path, lambda *_: None)
    assert time.monotonic() - start_s < 60
    assert children[0].returncode == -9
    assert list((tmp_path / "engines").iterdir()) == []


def test_a_compiler_that_ends_by_itself_is_not_called_late(tmp_path, tiny_bundle, monkeypatch):
    """The control."""
    monkeypatch.setattr(building.child, "command", lambda *_: [sys.executable, "-c", "raise SystemExit(3)"])
    with pytest.raises(errors.EngineError, match="ended with code 3"):
        building.Builder(tmp_path / "engines", compiler="tensorrt-rtx", limit_s=60).build(tiny_bundle.path, print)
