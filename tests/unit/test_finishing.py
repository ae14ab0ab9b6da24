"""A bundle without an engine for this board: it is built beside it, told as it goes, and served when it is there."""

import json
import shutil
import threading
import uuid
from pathlib import Path

import numpy as np
import pytest
from test_serve_gate import wait_until

from edge_sdk import errors
from edge_sdk.device.daemon import Daemon
from edge_sdk.device.deployment import Deployment
from edge_sdk.device.settings import DaemonSettings
from edge_sdk.engines import building, compilers, own_engines, registry
from edge_sdk.link.memory import MemoryBroker, MemoryLink
from edge_sdk.testing.clock import FakeClock
from edge_sdk.wire import bundles

BACKEND = """
from edge_sdk import errors
from edge_sdk.engines.ort import OrtBackend

def find(folder, names):
    if "engine.fake.plan" not in set(names):
        raise errors.BundleError(f"{folder} holds no engine for this machine")
    return folder / "engine.fake.plan"

class Fake(OrtBackend):
    pass
"""
X = {"x": np.array([[1, 2, 3]], np.float32)}


class Builder:
    """Does what the compiler's process does, step by step as the test says."""

    def __init__(self, root):
        self.root, self.built, self.go_on, self.refusal = root, [], threading.Event(), ""

    def build(self, bundle, progress):
        progress("compile", 1, 4)
        assert self.go_on.wait(20)
        progress("compile", 3, 4)
        if self.refusal:
            raise errors.EngineError(self.refusal)
        folder = own_engines.folder_of(self.root, bundle)
        folder.mkdir(parents=True)
        (folder / "engine.fake.plan").write_bytes((bundle / bundles.FLOAT_MODEL).read_bytes())
        self.built.append(bundle.name)

    def stop(self):
        self.refusal = "the daemon is stopping"
        self.go_on.set()


@pytest.fixture
def backend(tmp_path, monkeypatch):
    name = f"fake_{uuid.uuid4().hex}"
    (tmp_path / f"{name}.py").write_text(BACKEND)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(registry.BACKENDS, "fake", registry.Row(f"{name}:Fake", "", finder=f"{name}:find"))
    return "fake"


@pytest.fixture
def repository(tmp_path, write_bundle, tiny_onnx):
    folder = tmp_path / "models"
    folder.mkdir()
    write_bundle(folder / "a1.edge", tiny_onnx, name="a", version="1", counter=1)
    (folder / "a1.edge" / bundles.SIGNATURE).write_bytes(b"a signature over the manifest")
    return folder


@pytest.fixture
def deploy(tmp_path, backend, repository):
    opened = []

    def make(**settings):
        values = {"backend": backend, "model_repository": str(repository), "state_folder": str(tmp_path / "state")}
        values |= {"model_control": True, "threads": 1, **settings}
        builder = Builder(tmp_path / "state" / "engines")
        opened.append(Deployment(DaemonSettings(**values), clocks=FakeClock(), builder=builder))
        return opened[-1], builder

    yield make
    for one in opened:
        one.stop()
        one.models.close()


def contents(folder):
    return {file.name: file.read_bytes() for file in folder.iterdir()}


def test_the_engine_is_built_beside_a_signed_bundle_which_stays_as_it_was(deploy, repository):
    before = contents(repository / "a1.edge")
    one, builder = deploy()
    assert one.models.find("a") is None
    builder.go_on.set()
    one.finish()
    assert one.models.infer("a", X)["y"].shape == (1, 2)
    assert contents(repository / "a1.edge") == before
    kinds = [news.kind for news in one.take_news()]
    assert kinds == ["engine_building", "engine_built"]
    again, builder = deploy()  # the next start finds it
    assert again.models.infer("a", X)["y"].shape == (1, 2)
    assert (builder.built, again.take_news()) == ([], [])


def test_the_old_model_answers_while_the_new_ones_engine_is_built(deploy, repository, write_bundle, tiny_onnx):
    one, builder = deploy()
    builder.go_on.set()
    one.finish()
    write_bundle(repository / "a2.edge", tiny_onnx, name="a", version="2", counter=2)
    builder.go_on.clear()
    one.take_news()
    loading = threading.Thread(target=one.load, args=("a",))
    loading.start()
    found = []
    wait_until(lambda: found.extend(one.take_news()) or any(news.kind == "engine_progress" for news in found))
    assert found[-1].details == {"bundle": "a2.edge", "stage": "compile", "done": 1, "total": 4}
    assert one.models.find("a").version == "1"
    assert one.models.infer("a", X)["y"].shape == (1, 2)
    builder.go_on.set()
    loading.join(20)
    assert one.models.find("a").version == "2"


def test_a_start_serves_the_version_that_has_an_engine_and_then_the_newest(deploy, repository, write_bundle, tiny_onnx):
    one, builder = deploy()
    builder.go_on.set()
    one.finish()
    write_bundle(repository / "a2.edge", tiny_onnx, name="a", version="2", counter=2)
    again, builder = deploy()
    assert again.models.find("a").version == "1"
    assert again.refused == {}
    builder.go_on.set()
    again.finish()
    assert again.models.find("a").version == "2"


def test_a_compiler_that_refuses_is_told_and_nothing_changes(deploy, repository, write_bundle, tiny_onnx):
    one, builder = deploy()
    builder.go_on.set()
    one.finish()
    one.take_news()
    write_bundle(repository / "a2.edge", tiny_onnx, name="a", version="2", counter=2)
    builder.refusal = "no room on the GPU"
    with pytest.raises(errors.EngineError, match="no room"):
        one.load("a")
    assert one.models.find("a").version == "1"
    assert [(news.kind, news.message) for news in one.take_news()][-1] == (
        "engine_refused",
        "a2.edge: no room on the GPU",
    )


def test_an_orderly_end_in_the_middle_of_a_build_is_not_told_as_a_refusal(deploy, repository):
    deployment, _ = deploy()
    finishing = threading.Thread(target=deployment.finish)
    finishing.start()
    wait_until(lambda: "engine_progress" in {news.kind for news in deployment.take_news()})
    deployment.stop()
    finishing.join(20)
    assert not finishing.is_alive()
    assert {news.kind for news in deployment.take_news()} <= {"engine_progress"}


def test_without_a_state_folder_the_start_says_what_is_missing(backend, repository):
    with pytest.raises(errors.BundleError, match="holds no engine for this machine"):
        Deployment(DaemonSettings(backend=backend, model_repository=str(repository)), clocks=FakeClock())


def test_an_engine_is_taken_for_the_very_bundle_that_it_was_built_from(deploy, repository, write_bundle, tiny_onnx):
    one, builder = deploy()
    builder.go_on.set()
    one.finish()
    write_bundle(repository / "b.edge", tiny_onnx, name="b", version="1", counter=1)
    again, _ = deploy()
    assert (again.models.find("a") is None, again.models.find("b") is None) == (False, True)


def test_a_version_that_is_older_than_what_is_served_gets_no_engine(deploy, repository, write_bundle, tiny_onnx):
    one, builder = deploy()
    builder.go_on.set()
    one.finish()
    write_bundle(repository / "a0.edge", tiny_onnx, name="a", version="0", counter=0)
    again, builder = deploy()
    builder.go_on.set()
    again.finish()
    assert (again.models.find("a").version, builder.built) == ("1", [])


def test_engines_of_bundles_that_are_gone_are_removed(deploy, repository, write_bundle, tiny_onnx, tmp_path):
    one, builder = deploy()
    builder.go_on.set()
    one.finish()
    shutil.rmtree(repository / "a1.edge")
    write_bundle(repository / "a2.edge", tiny_onnx, name="a", version="2", counter=2)
    one.load("a")
    kept = own_engines.folder_of(tmp_path / "state" / "engines", repository / "a2.edge")
    assert list((tmp_path / "state" / "engines").iterdir()) == [kept]


def test_a_manifest_that_is_damaged_is_refused_and_not_built(deploy, repository):
    (repository / "a1.edge" / bundles.MANIFEST).write_text("{}")
    with pytest.raises(errors.BundleError, match="manifest"):
        deploy(bundles=(str(repository / "a1.edge"),), model_repository=None)


def test_the_fleet_hears_how_far_it_is(tmp_path, backend, repository, monkeypatch):
    builders = []
    monkeypatch.setattr(building, "Builder", lambda root, **_: builders.append(Builder(root)) or builders[-1])
    monkeypatch.setitem(compilers.COMPILERS, "fake", None)
    broker, said = MemoryBroker(), []
    listener = MemoryLink(broker)
    listener.subscribe("edge/v1/default/cam/up/event", lambda message: said.append(json.loads(message.payload)))
    listener.open()
    settings = DaemonSettings(
        device="cam", backend=backend, model_repository=str(repository), http_port=0, threads=1,
        state_folder=str(tmp_path / "state"),
    )  # fmt: skip
    daemon = Daemon(settings, lambda will: MemoryLink(broker, will=will), clocks=FakeClock(), sensors=())
    daemon.start()
    try:
        wait_until(lambda: daemon.beat() or any(event["kind"] == "engine_progress" for event in said))
        builders[0].go_on.set()
        wait_until(lambda: daemon.beat() or any(event["kind"] == "engine_built" for event in said))
        wait_until(lambda: daemon.snapshot().models == ("a",))
    finally:
        daemon.stop()
    kinds = [event["kind"] for event in said]
    assert kinds.index("engine_building") < kinds.index("engine_progress") < kinds.index("engine_built")


def test_a_disk_that_takes_no_engine_is_a_refusal_in_words(tmp_path, tiny_bundle):
    (tmp_path / "engines").write_text("a file where the folder should be")
    with pytest.raises(errors.EngineError, match=f"can't be kept in {tmp_path}/engines"):
        building.Builder(tmp_path / "engines", compiler="tensorrt-rtx").build(tiny_bundle.path, lambda *_: None)
    assert (tmp_path / "engines").read_text() == "a file where the folder should be"


@pytest.mark.rtx
class TestBuilder:
    """The child process, with a compiler of NVIDIA's that needs no GPU."""

    def test_it_builds_whole_or_not_at_all_and_says_how_far_it_is(self, tmp_path, tiny_bundle):
        root, steps = tmp_path / "engines", []
        (root / ".building-left").mkdir(parents=True)
        before = contents(tiny_bundle.path)
        building.Builder(root, compiler="tensorrt-rtx").build(tiny_bundle.path, lambda *step: steps.append(step))
        made = own_engines.folder_of(root, tiny_bundle.path)
        assert [file.suffix for file in made.iterdir()] == [".plan"]
        assert [folder.name for folder in root.iterdir()] == [tiny_bundle.digest]
        assert contents(tiny_bundle.path) == before
        assert steps

    def test_a_damaged_bundle_is_refused_and_leaves_nothing(self, tmp_path, tiny_bundle):
        (tiny_bundle.path / bundles.FLOAT_MODEL).write_bytes(b"x")
        (tiny_bundle.path / bundles.INT8_MODEL).unlink(missing_ok=True)
        with pytest.raises(errors.EngineError, match="can be built here"):
            building.Builder(tmp_path / "engines", compiler="tensorrt-rtx").build(tiny_bundle.path, lambda *_: None)
        assert list((tmp_path / "engines").iterdir()) == []

    def test_one_that_was_stopped_builds_nothing(self, tmp_path, tiny_bundle):
        builder = building.Builder(tmp_path / "engines", compiler="tensorrt-rtx")
        builder.stop()
        with pytest.raises(errors.EngineError, match="stopping"):
            builder.build(tiny_bundle.path, lambda *_: None)
        assert not list(Path(tmp_path / "engines").iterdir())
