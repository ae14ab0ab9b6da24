"""Versions that crash the daemon: what a start reads from the file that the one before left, and what is served then."""

import contextlib
import io
import json
import os
import subprocess
import sys
from pathlib import Path

import hypothesis
import msgspec
import numpy as np
import pytest
from hypothesis import strategies as st

from edge_sdk import errors
from edge_sdk.device.daemon import Daemon
from edge_sdk.device.deployment import Deployment
from edge_sdk.device.settings import DaemonSettings
from edge_sdk.device.slots import proving, trials
from edge_sdk.link.memory import MemoryBroker, MemoryLink
from edge_sdk.testing.clock import FakeClock
from edge_sdk.wire import bundles

A, B, C = "a" * 64, "b" * 64, "c" * 64
STARTS = 3


def load(state, *digests):
    for digest in digests:
        state = trials.loading(state, model="m", version=digest[0], digest=digest)
    return trials.loaded(state)


def restart(state, machine_boot="1"):
    return trials.settled(state, starts=STARTS, machine_boot=machine_boot)


def order(state, *digests):
    return trials.in_order(state, digests, starts=STARTS)


def good(*digests):
    return trials.ended(trials.confirmed(load(restart(trials.NONE), *digests)))


def lose(state, *digests, times=STARTS, machine_boot="1"):
    for _ in range(times):
        state = restart(load(state, *digests), machine_boot)
    return state


def test_a_version_whose_starts_are_lost_gives_way_to_the_one_that_was_confirmed():
    state = good(A)
    assert order(state, B, A) == [B, A]
    assert order(lose(state, B, times=STARTS - 1), B, A) == [B, A]
    state = lose(state, B)
    assert order(state, B, A) == [A]
    assert "3 starts ended with it, the last while it was up" in trials.find(state, B).bad
    assert order(state, C, B, A) == [C, A]  # another version is another digest


def test_the_one_that_was_being_loaded_is_charged_alone():
    state = trials.loading(load(restart(trials.NONE), A), model="n", version="1", digest=B)
    state = restart(state)
    assert [trials.find(state, digest).lost_starts for digest in (A, B)] == [0, 1]


def test_of_what_was_up_those_on_trial_are_charged():
    state = lose(good(A), A, B, times=1)
    assert [trials.find(state, digest).lost_starts for digest in (A, B)] == [0, 1]


def test_a_confirmed_version_that_is_lost_at_each_start_is_bad_in_the_end():
    assert order(lose(good(A), A), A) == []


def test_a_power_cut_is_not_charged_to_what_was_good_before():
    state = good(A)
    for boot in "23456":
        state = restart(load(state, A), machine_boot=boot)
    assert trials.find(state, A).lost_starts == 0
    for boot in "789":  # a version that takes the whole machine down is found all the same
        state = restart(load(state, B), machine_boot=boot)
    assert order(state, B, A) == [A]


def test_an_orderly_end_and_a_refusal_are_no_lost_starts():
    state = restart(trials.NONE)
    for _ in range(5):
        state = restart(trials.ended(load(state, A)))
        state = restart(trials.refused(trials.loading(state, model="m", version="a", digest=A), A))
    assert trials.find(state, A).lost_starts == 0


def test_being_confirmed_forgives_what_was_before_and_waits_for_a_load():
    state = trials.confirmed(load(lose(trials.NONE, A, times=2), A))
    assert trials.find(state, A) == trials.Trial(model="m", version="a", digest=A, is_confirmed=True)
    busy = trials.loading(state, model="m", version="b", digest=B)
    assert trials.confirmed(busy) == busy


def test_where_the_newest_is_bad_the_confirmed_come_before_those_never_tried():
    assert order(lose(good(A), C), C, B, A) == [A, B]
    assert order(good(A), C, B, A) == [C, B, A]


def test_so_many_lost_starts_in_a_row_and_nothing_is_loaded_until_one_holds():
    state = trials.NONE
    for digest in "abc":
        state = lose(state, digest * 64)
    assert trials.is_storm(state, starts=STARTS)
    assert order(state, "d" * 64) == []
    assert order(trials.confirmed(state), "d" * 64) == ["d" * 64]


@hypothesis.given(st.lists(st.lists(st.sampled_from([A, B, C]), min_size=1, max_size=3, unique=True), max_size=40))
def test_whatever_crashes_the_starts_that_are_lost_are_bounded(crashing):
    """A loop can't be made: after nine lost starts in a row nothing is loaded."""
    state, lost = trials.NONE, 0
    for digests in crashing:
        allowed = order(state, *digests)
        if not allowed:
            break
        state = restart(load(state, *allowed))
        lost += 1
    assert lost <= 3 * STARTS


def test_the_file_is_whole_or_put_aside(tmp_path):
    one = proving.Proving(tmp_path, starts=STARTS)
    with one.loading(bundle("1")):
        kept = msgspec.json.decode((tmp_path / proving.FILE).read_bytes(), type=trials.Trials)
        assert kept.loading == kept.at_stake[0] == bundle("1").digest  # before it is loaded
    one.end()
    assert list(tmp_path.iterdir()) == [tmp_path / proving.FILE]
    for damage in (b"", b"\0" * 100, b'{"schema": 99}', b'{"versions": [{}]}', b"\xff"):
        (tmp_path / proving.FILE).write_bytes(damage)
        again = proving.Proving(tmp_path, starts=STARTS)
        assert again.is_on_trial(bundle("1").digest)
        assert (tmp_path / "trials.damaged").read_bytes() == damage


def test_a_disk_that_takes_nothing_does_not_keep_it_from_serving(tmp_path, caplog):
    (tmp_path / "file").write_text("")
    one = proving.Proving(tmp_path / "file", starts=STARTS)
    with one.loading(bundle("1")):
        pass
    one.loaded()
    assert "can't be written" in caplog.text


def bundle(version):
    class Manifest:
        name = "tiny"

    Manifest.version = version
    return bundles.Bundle(Path(), version * 64, Manifest)


BACKEND = """
import os
from pathlib import Path
import numpy as np
from edge_sdk.records.tensors import TensorSpec

class Backend:
    def __init__(self, model, options):
        if (model.parent / "../../crashing" / model.parent.name).resolve().exists():
            os._exit(9)
    def inputs(self): return (TensorSpec("x", "float32", (None, 3)),)
    def run(self, feeds, spent): return {"y": np.zeros((1, 2), np.float32)}
    def close(self): pass
"""

START = """
import sys
from edge_sdk.device.deployment import Deployment
from edge_sdk.device.settings import DaemonSettings
from edge_sdk.testing.clock import FakeClock
import msgspec
settings = msgspec.json.decode(sys.argv[1], type=DaemonSettings)
clocks = FakeClock()
one = Deployment(settings, clocks=clocks)
print(",".join(f"{model.name} {model.version}" for model in one.models))
if sys.argv[2] == "confirm":
    clocks.advance(60)
    one.prove()
one.stop()
"""


@pytest.fixture
def device(tmp_path, write_bundle, tiny_onnx, monkeypatch):
    """A repository with two versions, and starts of the daemon's models in processes of their own."""
    (tmp_path / "crashing_at_load.py").write_text(BACKEND)
    monkeypatch.syspath_prepend(tmp_path)
    repository = tmp_path / "models"
    repository.mkdir()
    (tmp_path / "crashing").mkdir()

    class Device:
        folder = repository
        settings = {
            "device": "cam", "model_repository": str(repository), "state_folder": str(tmp_path / "state"),
            "backend": "crashing_at_load:Backend", "http_port": 0, "model_control": True,
        }  # fmt: skip

        @staticmethod
        def add(counter):
            write_bundle(repository / f"{counter}", tiny_onnx, name="tiny", version=str(counter), counter=counter)

        @staticmethod
        def crash(*names):
            for name in names:
                (tmp_path / "crashing" / name).write_text("")

        def start(self, what="confirm", **changes):
            """Gives what was served; None where the process died."""
            command = [sys.executable, "-c", START, json.dumps({**self.settings, **changes}), what]
            done = subprocess.run(
                command, env={**os.environ, "PYTHONPATH": str(tmp_path)}, capture_output=True, text=True, timeout=60
            )
            if done.returncode == 9:
                return None
            assert done.returncode == 0, done.stderr
            return done.stdout.strip()

    one = Device()
    one.add(1)
    return one


def test_the_newest_that_crashes_at_load_gives_way_and_the_fleet_hears_of_it_once(device):
    assert device.start() == "tiny 1"
    device.add(2)
    device.crash("2")
    assert [device.start() for _ in range(4)] == [None, None, None, "tiny 1"]
    kinds = events(device)
    assert [(one["kind"], one["details"]["old"], one["details"]["new"]) for one in kinds] == [("rolled_back", "2", "1")]
    assert kinds[0]["details"]["digest"] == bundles.read_bundle(device.folder / "2").digest
    assert events(device) == []
    device.add(3)
    assert device.start() == "tiny 3"


def test_with_every_version_bad_the_daemon_goes_on_without_the_model(device):
    device.add(2)
    device.crash("1", "2")
    assert [device.start() for _ in range(8)] == [None] * 6 + ["", ""]
    told = [(one["kind"], one["details"]["old"]) for one in events(device)]
    assert told == [("safe_mode", "2"), ("safe_mode", "1")]


def test_a_bundle_that_is_named_has_no_older_one(device):
    device.crash("1")
    named = {"model_repository": None, "bundles": [str(device.folder / "1")]}
    assert [device.start(**named) for _ in range(4)] == [None, None, None, ""]


def test_without_the_file_it_crashes_for_ever(device):
    """The control."""
    device.crash("1")
    assert [device.start(state_folder=None) for _ in range(5)] == [None] * 5


def test_what_is_bad_is_not_loaded_by_hand_either_and_the_index_says_why(device):
    device.crash("1")
    assert [device.start() for _ in range(3)] == [None] * 3
    with deployment(device) as one:
        assert [(row["state"], "not tried again" in row["reason"]) for row in one.index()] == [("UNAVAILABLE", True)]
        with pytest.raises(errors.BundleError, match=r"tiny 1 is not loaded: 3 starts ended with it.*trials\.json"):
            one.load("tiny")
        (Path(device.settings["state_folder"]) / proving.FILE).unlink()  # as the message says


def test_a_load_by_hand_takes_the_older_one_where_the_newest_is_bad(device):
    assert device.start() == "tiny 1"
    device.add(2)
    device.crash("2")
    assert [device.start() for _ in range(3)] == [None] * 3
    with deployment(device) as one:
        one.unload("tiny")
        one.load("tiny")
        assert [model.version for model in one.models] == ["1"]


def with_golden(folder, answer):
    """Makes an INT8 bundle of one, with one golden sample that is to be answered so."""
    manifest = bundles.read_manifest(folder)
    arrays = {"prepared.x": np.ones((1, 3)), "float.y": answer, "int8.y": answer, "tolerance.y": np.float64(0.1)}
    stream = io.BytesIO()
    np.savez(stream, **{name: np.asarray(array, np.float32) for name, array in arrays.items()})
    files = {name: (folder / name).read_bytes() for name in manifest.files}
    files |= {bundles.GOLDEN: stream.getvalue(), bundles.INT8_MODEL: files[bundles.FLOAT_MODEL]}
    entries = {name: bundles.file_entry(content) for name, content in files.items()}
    changed = msgspec.structs.replace(manifest, files=entries, precision="int8")
    bundles.write_bundle(folder, changed, files, replace=True)


@pytest.mark.parametrize(("answer", "served"), [([[0.0, 0.0]], "tiny 2"), ([[5.0, 0.0]], "tiny 1")])
def test_a_new_version_answers_its_golden_samples_before_it_is_served(device, answer, served):
    assert device.start() == "tiny 1"
    device.add(2)
    with_golden(device.folder / "2", answer)  # the back end of this test gives zeros
    assert device.start() == served


@contextlib.contextmanager
def deployment(device):
    one = Deployment(DaemonSettings(**device.settings), clocks=FakeClock())
    try:
        yield one
    finally:
        one.stop()
        one.models.close()


def events(device):
    """Gives what one start of the whole daemon tells about versions."""
    broker, said = MemoryBroker(), []
    listener = MemoryLink(broker)
    listener.subscribe("edge/v1/default/cam/up/event", lambda message: said.append(json.loads(message.payload)))
    listener.open()
    settings = msgspec.structs.replace(DaemonSettings(**device.settings), state_folder=device.settings["state_folder"])
    daemon = Daemon(settings, lambda will: MemoryLink(broker, will=will), clocks=FakeClock(), sensors=())
    daemon.start()
    daemon.beat()
    daemon.stop()
    by_seq = {(one["boot"], one["seq"]): one for one in said if one["kind"] in ("rolled_back", "safe_mode")}
    boot = daemon.snapshot().boot
    return [one for (of, _), one in by_seq.items() if of == boot]
