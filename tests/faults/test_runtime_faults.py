"""Engines that must not run here, and one that hangs: each with its figure, and a control that shows the test can fail."""

import hashlib
import http.client
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import msgspec
import pytest

from edge_sdk import errors
from edge_sdk.device.daemon import Daemon
from edge_sdk.device.deployment import Deployment
from edge_sdk.device.entrances import Entrances
from edge_sdk.device.settings import DaemonSettings
from edge_sdk.engines import plans
from edge_sdk.link.memory import MemoryBroker, MemoryLink
from edge_sdk.records.passport import EnginePassport, Passport
from edge_sdk.testing.clock import FakeClock
from edge_sdk.wire import bundles

sys.path.append(str(Path(__file__).parents[1] / "systemd"))
import namespace

HERE = Passport(
    module="p3767-0000", compute_capability="8.7", sm_count=8, l4t="36.4.3", tensorrt="10.3.0.30", cuda="12.6"
)
BODY = json.dumps({"inputs": [{"name": "x", "shape": [1, 3], "datatype": "FP32", "data": [1, 2, 3]}]})
BACK_BY_S = 5.0
"""The previous bundle answers within so long (U8)."""


class Serving:
    """A daemon's models and entrances over a repository."""

    def __init__(self, folder, **settings):
        values = {"model_repository": str(folder), "model_control": True, "http_port": 0, "threads": 1, **settings}
        self.deployment = Deployment(DaemonSettings(**values), clocks=FakeClock())
        self.entrances = Entrances(DaemonSettings(**values), self.deployment, clocks=FakeClock(), sample=lambda: None)
        self.entrances.start()
        self.host = self.entrances.urls[0].removeprefix("http://")

    def ask(self, path, body=None):
        client = http.client.HTTPConnection(self.host, timeout=30)
        client.request("POST", path, body)
        answer = client.getresponse()
        found = answer.status, answer.read()
        client.close()
        return found[0], json.loads(found[1]) if found[1] else {}

    def version(self):
        """Gives which version answers one inference."""
        status, answer = self.ask("/v2/models/tiny/infer", BODY)
        assert status == 200, answer
        return answer["model_version"]

    def close(self):
        self.entrances.stop()
        self.deployment.models.close()


@pytest.fixture
def serving(tmp_path):
    opened = []

    def make(folder, **settings):
        opened.append(Serving(folder, **settings))
        return opened[-1]

    yield make
    for one in opened:
        one.close()


@pytest.fixture
def repository(tmp_path, write_bundle, tiny_onnx):
    folder = tmp_path / "models"
    folder.mkdir()
    write_bundle(folder / "tiny1.edge", tiny_onnx, name="tiny", version="1", counter=1)
    return folder


def write_engine(folder, here):
    """Writes an engine file that nobody may open, and its passport."""
    plan = folder / plans.plan_name(here.token())
    plan.write_bytes(b"native code")
    made = EnginePassport(
        schema=1, built_on=here, model="0" * 64, sha256=hashlib.sha256(b"native code").hexdigest(), size_bytes=11
    )
    plan.with_suffix(".json").write_bytes(msgspec.json.encode(made))
    return plan


@pytest.fixture(scope="module")
def opened_files():
    """Gives the paths that this process opens, as the interpreter reports them."""
    found = []
    sys.addaudithook(lambda event, arguments: event == "open" and found.append(str(arguments[0])))
    return found


@pytest.mark.fault("U7")
def test_an_engine_of_another_board_is_refused_before_a_byte_of_it_is_read(tmp_path, opened_files, fault):
    others = {
        "another module": ("module", "p3701-0005"),
        "another compute capability": ("compute_capability", "7.2"),
        "another number of multiprocessors": ("sm_count", 16),
        "another TensorRT": ("tensorrt", "8.6.2.3"),
        "another CUDA": ("cuda", "11.4"),
    }
    for number, (field, value) in enumerate(others.values()):
        folder = tmp_path / str(number)
        folder.mkdir()
        plan = write_engine(folder, msgspec.structs.replace(HERE, **{field: value}))
        opened_files.clear()
        with pytest.raises(errors.BundleError) as caught:
            plans.find_plan(folder, [plan.name, plan.with_suffix(".json").name], HERE)
        assert str(value) in str(caught.value)
        assert str(getattr(HERE, field)) in str(caught.value)
        assert str(plan) not in opened_files
    folder = tmp_path / "own"
    folder.mkdir()
    plan = write_engine(folder, HERE)
    opened_files.clear()
    assert plans.find_plan(folder, [plan.name, plan.with_suffix(".json").name], HERE) == plan
    made = plans.read_engine_passport(plan)
    assert plans.read_plan(plan, sha256=made.sha256, size_bytes=made.size_bytes) == b"native code"
    assert str(plan) in opened_files
    fault(
        what="bundle for another module, compute capability, SM count, TensorRT or CUDA",
        injected=f"{len(others)} engines, one field each",
        bar="refused with both values named, no byte of the engine read",
        measured=f"{len(others)} of {len(others)} refused, 0 engine files opened",
        control="the engine of this very board is taken, and its file is opened",
    )


def flip_a_byte(file):
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


@pytest.mark.fault("U8")
def test_an_engine_that_rotted_after_it_was_installed(repository, write_bundle, tiny_onnx, serving, tmp_path, fault):
    second = repository / "tiny2.edge"
    write_bundle(second, tiny_onnx, name="tiny", version="2", counter=2)
    good = serving(repository)
    assert good.version() == "2"  # the control: whole, it is what answers
    manifest = (second / bundles.MANIFEST).read_bytes()
    flip_a_byte(second / bundles.FLOAT_MODEL)
    assert (second / bundles.MANIFEST).read_bytes() == manifest  # so a signature over it still holds

    status, answer = good.ask("/v2/repository/models/tiny/load")
    assert (status, "changed or damaged" in answer["error"]) == (400, True), answer
    assert good.version() == "2"  # what was loaded before is in memory, and stays

    start_s = time.monotonic()
    again = serving(repository)  # a restart, as after a power cut
    assert again.version() == "1"
    back_s = time.monotonic() - start_s
    assert back_s <= BACK_BY_S
    assert list(again.deployment.refused) == [second]

    flip_a_byte(repository / "tiny1.edge" / bundles.FLOAT_MODEL)
    with pytest.raises(errors.BundleError, match="tiny2.edge"):
        Serving(repository)  # nothing whole is left
    fault(
        what="engine file rots after install, its signature is valid",
        injected="one bit of the newest version, then a load and a restart",
        bar=f"refused at load; the previous bundle answers within {BACK_BY_S:g} s",
        measured=f"refused; the previous version answered {back_s:.2f} s after the restart began",
        control="before the flip the newest version answers; with every version damaged nothing is served",
    )


@pytest.mark.fault("U8")
def test_the_fleet_hears_of_it(repository, write_bundle, tiny_onnx, fault):
    write_bundle(repository / "tiny2.edge", tiny_onnx, name="tiny", version="2", counter=2)
    flip_a_byte(repository / "tiny2.edge" / bundles.FLOAT_MODEL)
    broker, said = MemoryBroker(), []
    listener = MemoryLink(broker)
    listener.subscribe("edge/v1/default/cam/up/event", lambda message: said.append(json.loads(message.payload)))
    listener.open()
    settings = DaemonSettings(device="cam", model_repository=str(repository), http_port=0, threads=1)
    daemon = Daemon(settings, lambda will: MemoryLink(broker, will=will), clocks=FakeClock(), sensors=())
    daemon.start()
    daemon.beat()
    daemon.stop()
    refused = [event for event in said if event["kind"] == "bundle_refused"]
    assert len(refused) == 1
    assert refused[0]["details"] == {"bundle": "tiny2.edge"}
    fault(
        part="event",
        what="engine file rots after install: the operator is told",
        injected="as above",
        bar="one event bundle_refused that names the bundle",
        measured="1 event",
        control="none at a start with whole bundles (test_device_daemon)",
    )


BACKEND = """
import ctypes, os, signal, sys
import numpy as np
from edge_sdk.engines import probe, plans
from edge_sdk.records.passport import EnginePassport, Passport
from edge_sdk.records.tensors import TensorSpec
import hashlib

def deserialise(plan):
    # What a native deserialiser may do to its process.
    word = plan.decode().split()[0]
    if word == "SEGFAULT": ctypes.string_at(0)
    if word == "HANG": signal.pause()
    if word == "MEMORY":
        kept = []
        while True: kept.append(bytearray(1 << 26))

class Native:
    def __init__(self, model, options):
        plan = model.with_name("calibration.json")
        content = plan.read_bytes()
        made = EnginePassport(schema=1, built_on=Passport(module="m", compute_capability="8.7", sm_count=8),
                              model="0" * 64, sha256=hashlib.sha256(content).hexdigest(), size_bytes=len(content))
        if os.environ.get("WITHOUT_PROBE"): deserialise(content)
        else: probe.check_plan(plan, made, limits=probe.Limits(3, 512 << 20), opener="native_of_the_test:deserialise")
    def inputs(self): return (TensorSpec("x", "float32", (1, 3)),)
    def run(self, feeds, spent): return {"y": np.zeros((1, 2), np.float32)}
    def close(self): pass
"""
PROBE_S = 3


@pytest.fixture
def native(tmp_path, monkeypatch):
    (tmp_path / "native_of_the_test.py").write_text(BACKEND)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    return tmp_path


def write_native(folder, word, version, counter, write_bundle, tiny_onnx):
    """Writes a bundle whose engine does `word` when it is deserialised."""
    write_bundle(folder, tiny_onnx, name="tiny", version=version, counter=counter)
    manifest = bundles.read_manifest(folder)
    files = {name: (folder / name).read_bytes() for name in manifest.files}
    files[bundles.CALIBRATION] = f"{word} {version}".encode()
    entries = {name: bundles.file_entry(content) for name, content in files.items()}
    changed = msgspec.structs.replace(
        manifest, files=entries, calibration=hashlib.sha256(files[bundles.CALIBRATION]).hexdigest()
    )
    bundles.write_bundle(folder, changed, files, replace=True)


ALONE = """
import sys
from pathlib import Path
from native_of_the_test import Native
Native(Path(sys.argv[1]), {})
"""


@pytest.mark.fault("U9")
@pytest.mark.parametrize(
    ("word", "words", "end"),
    [
        ("SEGFAULT", "SIGSEGV", -signal.SIGSEGV),
        ("HANG", f"not loaded within {PROBE_S} s", None),
        ("MEMORY", "out of memory", "memory"),
    ],
)
def test_an_engine_that_breaks_the_process_that_deserialises_it(
    tmp_path, native, write_bundle, tiny_onnx, serving, fault, word, words, end
):
    repository = tmp_path / "models"
    repository.mkdir()
    write_native(repository / "tiny1.edge", "FINE", "1", 1, write_bundle, tiny_onnx)
    one = serving(repository, backend="native_of_the_test:Native")
    assert one.version() == "1"
    write_native(repository / "tiny2.edge", word, "2", 2, write_bundle, tiny_onnx)
    start_s = time.monotonic()
    status, answer = one.ask("/v2/repository/models/tiny/load")
    took_s = time.monotonic() - start_s
    assert (status, words in answer["error"]) == (400, True), answer
    assert took_s <= PROBE_S + 5
    assert one.version() == "1"
    control = without_the_probe(native, repository / "tiny2.edge", end)
    fault(
        part=word.lower(),
        what=f"an engine that does this when it is deserialised: {word.lower()}",
        injected="a new version of a served model, loaded while the old one answers",
        bar=f"the daemon lives and is not restarted; refused within the probe's {PROBE_S} s and its start",
        measured=f"refused after {took_s:.1f} s by the same process ({os.getpid()}), which goes on answering",
        control=control,
    )


def without_the_probe(native, folder, end):
    """Deserialises in the process itself; gives in words how that ended."""
    limit = "import resource; resource.setrlimit(resource.RLIMIT_DATA, (512 << 20, 512 << 20))\n"
    command = [sys.executable, "-c", (limit if end == "memory" else "") + ALONE, str(folder / bundles.FLOAT_MODEL)]
    environment = {**os.environ, "PYTHONPATH": str(native), "WITHOUT_PROBE": "1"}
    try:
        done = subprocess.run(command, env=environment, capture_output=True, timeout=10, check=False)
    except subprocess.TimeoutExpired:
        assert end is None
        return "without the child process the loader hangs for good"
    assert done.returncode == (1 if end == "memory" else end), done.stderr
    return f"without the child process the loader itself ends, with code {done.returncode}"


WATCHDOG_S, RESTART_S, GRACE_S = 2, 0.3, 2


@pytest.mark.fault("D11")
@pytest.mark.skipif(bool(namespace.why_not()), reason=namespace.why_not() or "it can be run")
@pytest.mark.timeout(200)
def test_a_runtime_that_hangs_is_ended_by_the_watchdog(tmp_path, tiny_bundle, fault):
    with namespace.Namespace(tmp_path / "stage", tiny_bundle.path, watchdog_s=WATCHDOG_S) as one:
        pid = began(one)
        one.infer(100.0, timeout_s=1)  # never answers
        start_s = time.monotonic()
        one.wait_for(lambda: one.show()["MainPID"] not in (pid, "0"), WATCHDOG_S + RESTART_S + GRACE_S + 5)
        ended_s = 1 + time.monotonic() - start_s
        new = one.wait_until_ready(unlike=pid, timeout_s=60)
        assert one.infer(1.0) == (0, "200")
        assert ended_s <= WATCHDOG_S + RESTART_S + GRACE_S
        # The control: the same hang with the watchdog off lasts.
        drop_in = one.srv / "units/edge-sdk-device.service.d/without.conf"
        drop_in.parent.mkdir(exist_ok=True)
        drop_in.write_text("[Service]\nWatchdogSec=0\n")
        one.systemctl("daemon-reload")
        one.systemctl("restart", "--no-block", "edge-sdk-device.service")
        last = one.wait_until_ready(unlike=new, timeout_s=60)
        one.infer(100.0, timeout_s=1)
        deadline_s = time.monotonic() + 3 * WATCHDOG_S
        while time.monotonic() < deadline_s:
            assert one.show()["MainPID"] == last
            time.sleep(0.5)
    fault(
        what="the runtime hangs in an inference, as when CUDA is stuck",
        injected="an engine that never returns, under the real systemd",
        bar=f"a new process within WatchdogSec + RestartSec + 2 s = {WATCHDOG_S + RESTART_S + GRACE_S:g} s",
        measured=f"{ended_s:.1f} s after the request",
        control=f"without the watchdog the same process hangs on for {3 * WATCHDOG_S} s and more",
    )


def began(one):
    one.systemctl("start", "--no-block", "edge-sdk-device.service")
    pid = one.wait_until_ready()
    assert one.infer(1.0) == (0, "200"), one.words()
    return pid
