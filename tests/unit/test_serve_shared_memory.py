"""Memory that clients share: POSIX regions over HTTP and the local fast path; shrinking, lying and dying clients."""

import fcntl
import gc
import json
import mmap
import os
import socket
import subprocess
import sys
import threading
import uuid
from pathlib import Path

import msgspec
import numpy as np
import pytest
from test_serve_gate import wait_until
from test_serve_swap import Rig

import edge_sdk
from edge_sdk import errors
from edge_sdk.device.serve import frame_wire, listening
from edge_sdk.device.serve.regions import Regions
from edge_sdk.device.serve.v2 import Place
from edge_sdk.device.settings import ModelSettings

X = np.array([[1, 2, 3]], np.float32)
Y = [[5.0, 9.0]]


def descriptors():
    gc.collect()
    return len(os.listdir("/proc/self/fd"))


@pytest.fixture
def segment():
    """Makes POSIX shared memory of a client; gives its key."""
    made = []

    def make(content):
        made.append(Path("/dev/shm") / f"edge_sdk_test_{uuid.uuid4().hex}")
        made[-1].write_bytes(content)
        return f"/{made[-1].name}"

    yield make
    for path in made:
        path.unlink(missing_ok=True)


class TestRegions:
    def test_what_is_written_is_read_and_the_other_way_round(self, segment):
        key = segment(bytes(64))
        regions = Regions(is_allowed=True)
        regions.register("r", key=key, offset=16, byte_size=48)
        regions.visit().write(Place("r", 8, 12), X)
        assert bytes(regions.visit().read(Place("r", 8, 12))) == X.tobytes()
        assert Path(f"/dev/shm{key}").read_bytes()[24:36] == X.tobytes()
        assert regions.status("r") == [{"name": "r", "key": key, "offset": 16, "byte_size": 48}]

    def test_two_tensors_of_one_request_do_not_overwrite_each_other(self, segment):
        regions = Regions(is_allowed=True)
        regions.register("r", key=segment(bytes(range(100))), offset=0, byte_size=100)
        first, second = regions.visit().read(Place("r", 0, 10)), regions.visit().read(Place("r", 50, 10))
        assert (bytes(first), bytes(second)) == (bytes(range(10)), bytes(range(50, 60)))
        large = Regions(is_allowed=True)
        large.register("r", key=segment(b"\1" * 5_000_000), offset=0, byte_size=5_000_000)
        assert sum(large.visit().read(Place("r", 0, 5_000_000))) == 5_000_000

    def test_a_region_that_shrinks_is_a_refusal_and_not_a_bus_error(self, segment):
        key = segment(bytes(8192))
        regions = Regions(is_allowed=True)
        regions.register("r", key=key, offset=0, byte_size=8192)
        os.truncate(f"/dev/shm{key}", 100)
        with pytest.raises(errors.InputError, match="has shrunk: 0 of 4096 bytes"):
            regions.visit().read(Place("r", 4096, 4096))
        with pytest.raises(errors.InputError, match="has shrunk"):
            regions.visit().write(Place("r", 4096, 4096), np.zeros(4096, np.uint8))
        assert Path(f"/dev/shm{key}").stat().st_size == 100

    @pytest.mark.parametrize(
        ("change", "words"),
        [
            ({"key": "/edge_sdk_no_such"}, "Unable to open"),
            ({"key": "/../etc/passwd"}, "is not the name"),
            ({"key": ".."}, "is not the name"),
            ({"key": ""}, "is not the name"),
            ({"byte_size": 65}, "has 64 bytes, 65 at 0"),
            ({"offset": 1}, "has 64 bytes, 64 at 1"),
            ({"byte_size": 0}, "at least 1"),
            ({"offset": -1}, "not negative"),
        ],
    )
    def test_a_region_that_is_not_there_as_said_is_refused(self, segment, change, words):
        regions = Regions(is_allowed=True)
        before = descriptors()
        with pytest.raises(errors.InputError, match=words):
            regions.register("r", **({"key": segment(bytes(64)), "offset": 0, "byte_size": 64} | change))
        assert regions.status() == []
        assert descriptors() == before

    def test_a_link_is_not_followed(self, segment, tmp_path):
        secret = tmp_path / "secret"
        secret.write_bytes(bytes(64))
        key = segment(b"")
        link = Path(f"/dev/shm{key}")
        link.unlink()
        link.symlink_to(secret)
        with pytest.raises(errors.InputError, match="Unable to open"):
            Regions(is_allowed=True).register("r", key=key, offset=0, byte_size=64)

    @pytest.mark.parametrize(
        "place", [Place("r", 60, 8), Place("r", 0, 65), Place("q", 0, 1), Place("r", 2**62, 2**62)]
    )
    def test_a_place_outside_is_refused(self, segment, place):
        regions = Regions(is_allowed=True)
        regions.register("r", key=segment(bytes(64)), offset=0, byte_size=64)
        for use in (lambda: regions.visit().read(place), lambda: regions.visit().write(place, np.zeros(1, np.uint8))):
            with pytest.raises(errors.InputError, match=r"Invalid offset|Unable to find"):
                use()

    def test_not_unless_the_settings_allow_it(self, segment):
        regions = Regions(is_allowed=False)
        with pytest.raises(errors.InputError, match="shared_memory = true"):
            regions.register("r", key=segment(bytes(64)), offset=0, byte_size=64)
        regions.unregister()
        assert regions.status() == []

    def test_nothing_stays_open_of_what_was_forgotten_or_removed(self, segment):
        regions, before = Regions(is_allowed=True), descriptors()
        keys = [segment(bytes(64)) for _ in range(3)]
        for number, key in enumerate(keys):
            regions.register(str(number), key=key, offset=0, byte_size=64)
        with pytest.raises(errors.InputError, match="already in manager"):
            regions.register("1", key=keys[1], offset=0, byte_size=64)
        regions.unregister("0")
        Path(f"/dev/shm{keys[1]}").unlink()  # as a client that was killed and cleaned up after
        regions.register("3", key=keys[0], offset=0, byte_size=64)
        assert {row["name"] for row in regions.status()} == {"2", "3"}
        regions.unregister()
        assert descriptors() == before


@pytest.fixture
def rig(tmp_path, write_bundle, tiny_onnx):
    write_bundle(tmp_path / "tiny.edge", tiny_onnx, name="tiny")
    rigs = []

    def make(**settings):
        rigs.append(
            Rig(
                tmp_path,
                frames_socket=str(tmp_path / "frames.sock"),
                http_socket=str(tmp_path / "http.sock"),
                **settings,
            )
        )
        rigs[-1].frames = tmp_path / "frames.sock"
        return rigs[-1]

    yield make
    for each in rigs:
        each.close()
    assert not list(tmp_path.glob("*.sock"))


def test_inputs_and_outputs_over_http_in_shared_memory(rig, segment):
    one, key = rig(shared_memory=True), segment(X.tobytes() + bytes(8))
    assert "system_shared_memory" in one.ask("/v2", method="GET")[1]["extensions"]
    assert one.ask(
        "/v2/systemsharedmemory/region/r/register", json.dumps({"key": key, "offset": 0, "byte_size": 20})
    ) == (200, None)
    assert one.ask("/v2/systemsharedmemory/status", method="GET")[1] == [
        {"name": "r", "key": key, "offset": 0, "byte_size": 20}
    ]
    at = {"shared_memory_region": "r", "shared_memory_byte_size": 12}
    to = {"shared_memory_region": "r", "shared_memory_offset": 12, "shared_memory_byte_size": 8}
    body = {
        "inputs": [{"name": "x", "shape": [1, 3], "datatype": "FP32", "parameters": at}],
        "outputs": [{"name": "y", "parameters": to}],
    }
    status, answer = one.ask("/v2/models/tiny/infer", json.dumps(body))
    assert (status, answer["outputs"]) == (200, [{"name": "y", "datatype": "FP32", "shape": [1, 2]}])
    assert np.frombuffer(Path(f"/dev/shm{key}").read_bytes()[12:], np.float32).tolist() == Y[0]
    for wrong in (
        {"shared_memory_byte_size": 8},
        {"shared_memory_byte_size": -12},
        {"shared_memory_offset": 12},
        {"shared_memory_region": 7},
    ):
        body["inputs"][0]["parameters"] = at | wrong
        assert one.ask("/v2/models/tiny/infer", json.dumps(body))[0] == 400
    assert one.ask("/v2/systemsharedmemory/region/r/unregister")[0] == 200
    body["inputs"][0]["parameters"] = at
    assert "Unable to find" in one.ask("/v2/models/tiny/infer", json.dumps(body))[1]["error"]


@pytest.mark.parametrize("path", ["/v2/systemsharedmemory/unregister", "/v2/cudasharedmemory/unregister"])
def test_clients_that_forget_everything_before_they_begin_are_answered(rig, path):
    assert rig().ask(path)[0] == 200


def test_frames_of_pixels_go_through_the_shared_memory(rig):
    one = rig()
    before = set(os.listdir("/dev/shm"))
    with edge_sdk.open_frames(one.frames, "tiny", {"x": ("uint8", (1, 3))}) as frames:
        for value in range(50):
            frames.inputs["x"][:] = [value, 0, 255]
            np.testing.assert_allclose(frames.infer()["y"], [[value / 255, 3 - value / 255]], rtol=1e-5)
        assert set(os.listdir("/dev/shm")) == before
    window = one.models.find("tiny").recorder.window(1.0)
    assert (window.count, window.errors) == (50, {})


def test_a_session_outlives_a_new_version(rig, tmp_path, write_bundle, tiny_onnx):
    one = rig()
    with edge_sdk.open_frames(one.frames, "tiny", {"x": ("float32", (1, 3))}) as frames:
        frames.inputs["x"][:] = X
        frames.infer()
        write_bundle(tmp_path / "tiny2.edge", tiny_onnx, name="tiny", version="2", counter=2)
        one.deployment.load("tiny")
        assert frames.infer()["y"].tolist() == Y
        assert one.models.find("tiny").recorder.window(1.0).count == 1
        one.deployment.unload("tiny")
        with pytest.raises(errors.UsageError, match="no model 'tiny'"):
            frames.infer()


@pytest.mark.parametrize(
    ("kind", "words", "model", "inputs"),
    [
        (errors.UsageError, "no model 'tinny' .did you mean 'tiny'", "tinny", {"x": ("float32", (1, 3))}),
        (errors.InputError, "but was given float32", "tiny", {"x": ("float32", (1, 4))}),
        (errors.InputError, r"but was given \['z'\]", "tiny", {"z": ("float32", (1, 3))}),
        (errors.InputError, "complex64", "tiny", {"x": ("complex64", (1, 3))}),
        (errors.InputError, "at most", "tiny", {"x": ("float32", (2**26, 3))}),
        (errors.InputError, "not a message", "tiny", {"x": ("float32", (0, 3))}),
        (errors.InputError, "not a message", "tiny", {}),
    ],
)
def test_what_the_model_does_not_take_is_said_when_the_session_is_opened(rig, kind, words, model, inputs):
    before = descriptors()
    one = rig()
    with pytest.raises(kind, match=words):
        edge_sdk.open_frames(one.frames, model, inputs)
    one.close()
    wait_until(lambda: descriptors() <= before)


def test_without_a_daemon_there_is_a_link_error(tmp_path):
    with pytest.raises(errors.LinkError, match="no daemon answers"):
        edge_sdk.open_frames(tmp_path / "none.sock", "tiny", {"x": ("float32", (1, 3))})


def test_the_queue_of_the_model_holds_for_frames_too(rig):
    one = rig(models={"tiny": ModelSettings(queue_size=1)})
    with edge_sdk.open_frames(one.frames, "tiny", {"x": ("float32", (1, 3))}) as frames:
        model = one.models.find("tiny")
        engine = model._gate.take()
        with pytest.raises(errors.BusyError, match="timeout expired"):
            frames.infer(timeout_us=1000)
        model._gate.give(engine)
        assert frames.infer()["y"].shape == (1, 2)


class Crude:
    """A client that says and hands over what it likes."""

    def __init__(self, path, shape=(1, 3), dtype="float32"):
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.socket.settimeout(10)
        self.socket.connect(str(path))
        hello = msgspec.json.encode(frame_wire.Hello("tiny", [frame_wire.Tensor("x", dtype, shape)]))
        self.socket.sendall(frame_wire.LENGTH.pack(len(hello)) + hello)
        self.layout = self.layout_said()

    def layout_said(self):
        (length,) = frame_wire.LENGTH.unpack(self.socket.recv(4, socket.MSG_WAITALL))
        return msgspec.json.decode(self.socket.recv(length, socket.MSG_WAITALL), type=frame_wire.Layout)

    def hand_over(self, *descriptors):
        socket.send_fds(self.socket, [b"\0"], list(descriptors))
        return self.layout_said()


def memory(size, *, seals=2, flags=os.MFD_ALLOW_SEALING):
    descriptor = os.memfd_create("crude", flags)
    os.ftruncate(descriptor, size)
    if seals:
        fcntl.fcntl(descriptor, 1033, seals)
    return descriptor


class TestHostileFrames:
    @pytest.mark.parametrize(
        ("words", "hand"),
        [
            ("sealed with F_SEAL_SHRINK", lambda size: [memory(size, seals=0)]),
            ("sealed with F_SEAL_SHRINK", lambda size: [memory(size, seals=0, flags=0)]),
            ("sealed with F_SEAL_SHRINK", lambda size: [os.open("/etc/hostname", os.O_RDONLY)]),
            ("this session needs", lambda size: [memory(size - 1)]),
            ("can't be mapped", lambda size: [memory(size, seals=2 | 8)]),
            ("2 descriptors", lambda size: [memory(size), memory(size)]),
        ],
    )
    def test_memory_that_could_be_taken_away_is_refused(self, rig, words, hand):
        one, before = rig(), descriptors()
        crude = Crude(one.frames)
        handed = hand(crude.layout.byte_size)
        assert words in crude.hand_over(*handed).error
        for descriptor in handed:
            os.close(descriptor)
        crude.socket.close()
        wait_until(lambda: descriptors() <= before)

    def test_a_client_cannot_take_pages_away_afterwards(self, rig):
        crude = Crude(rig().frames)
        descriptor = memory(crude.layout.byte_size)
        assert crude.hand_over(descriptor).error == ""
        with pytest.raises(PermissionError):
            os.ftruncate(descriptor, 0)
        mapped = mmap.mmap(descriptor, crude.layout.byte_size)
        mapped[:12] = X.tobytes()
        crude.socket.sendall(frame_wire.ASK.pack(7, 0, 0))
        sequence, length = frame_wire.REPLY.unpack(crude.socket.recv(8, socket.MSG_WAITALL))
        assert (sequence, crude.socket.recv(length)) == (7, frame_wire.OK)
        at = crude.layout.outputs[0].offset
        assert np.frombuffer(mapped[at : at + 8], np.float32).tolist() == Y[0]
        mapped.close()
        os.close(descriptor)
        crude.socket.close()

    @pytest.mark.parametrize("said", [b"\xff\xff\xff\xff", b"\2\0\0\0{}", b"\4\0\0\0nope", b"\1", b""])
    def test_garbage_ends_the_session_and_nothing_else(self, rig, said):
        one = rig()
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as raw:
            raw.settimeout(10)
            raw.connect(str(one.frames))
            raw.sendall(said)
            raw.shutdown(socket.SHUT_WR)
            while raw.recv(4096):
                pass
        with edge_sdk.open_frames(one.frames, "tiny", {"x": ("float32", (1, 3))}) as frames:
            assert frames.infer()["y"].shape == (1, 2)

    def test_a_client_that_is_killed_leaves_nothing(self, rig):
        one = rig()
        before, shared, threads = descriptors(), set(os.listdir("/dev/shm")), set(threading.enumerate())
        code = (
            "import sys, edge_sdk\n"
            "frames = edge_sdk.open_frames(sys.argv[1], 'tiny', {'x': ('uint8', (1, 3))})\n"
            "print('ready', flush=True)\n"
            "while True: frames.infer()\n"
        )
        child = subprocess.Popen([sys.executable, "-c", code, str(one.frames)], stdout=subprocess.PIPE)
        assert child.stdout.readline() == b"ready\n"
        model = one.models.find("tiny")
        wait_until(lambda: model.recorder.totals().requests > 20)
        child.kill()
        child.communicate()
        wait_until(lambda: descriptors() <= before)
        assert set(os.listdir("/dev/shm")) == shared
        wait_until(lambda: set(threading.enumerate()) <= threads)  # not one more than before it came


def test_sockets_are_for_owner_and_group_only_and_a_stale_one_gives_way(tmp_path):
    path = tmp_path / "s.sock"
    before = os.umask(0o077)
    try:
        listener, url = listening.unix_listener(path)
    finally:
        os.umask(before)
    assert (url, path.stat().st_mode & 0o777) == (f"unix:{path}", 0o660)
    with pytest.raises(errors.UsageError, match="another process listens on"):
        listening.unix_listener(path)
    listener.close()  # as a process that was killed: the file stays
    assert path.exists()
    fresh, _ = listening.unix_listener(path)
    listening.close_listener(fresh)
    assert not path.exists()


def test_what_is_no_socket_is_left_alone(tmp_path):
    path = tmp_path / "precious"
    path.write_text("data")
    with pytest.raises(errors.UsageError, match="is not a socket"):
        listening.unix_listener(path)
    assert path.read_text() == "data"


def test_http_over_a_unix_socket(rig):
    one = rig()
    path = one.entrances.urls[1].removeprefix("unix:")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as raw:
        raw.settimeout(10)
        raw.connect(path)
        raw.sendall(b"GET /v2/health/ready HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n")
        assert b'{"ready":true}' in raw.makefile("rb").read()
