"""What serving costs beside the bare engine: in process, over HTTP, in shared memory, and after a hundred thousand requests."""

import contextlib
import functools
import json
import os
import re
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
import onnxruntime as ort
import serving_models
from rows import Row, ratio_row

import edge_sdk
from edge_sdk.clock import SystemClock
from edge_sdk.device.deployment import Deployment
from edge_sdk.device.settings import DaemonSettings

TRITON = Path(__file__).parents[2] / ".venv-clients" / "triton" / "bin" / "python"
PEER = Path(__file__).with_name("peers") / "with_tritonclient.py"
ROUNDS = 5
REQUESTS = 100_000
SETTINGS = """\
model_repository = "models"
threads = 1
shared_memory = true
http_port = 0
frames_socket = "frames.sock"
broker = "mqtt://127.0.0.1:1"
"""


def us(seconds: float) -> str:
    return f"{seconds * 1e6:.1f} us"


def p50_s(call, count: int) -> float:
    spent = []
    for _ in range(count):
        start = time.perf_counter()
        call()
        spent.append(time.perf_counter() - start)
    return statistics.median(spent)


def best(calls: dict, count: int, rounds: int = ROUNDS) -> dict[str, float]:
    """Gives the least p50 of each, measured in turn."""
    return in_turn({name: functools.partial(p50_s, call, count) for name, call in calls.items()}, rounds)


def in_turn(calls: dict, rounds: int = ROUNDS) -> dict[str, float]:
    """Gives the least that each call gives."""
    found = [{name: call() for name, call in calls.items()} for _ in range(rounds)]
    return {name: min(one[name] for one in found) for name in calls}


class Bare:
    """The floor: a session of one thread, run in a loop."""

    def __init__(self, model: serving_models.Model) -> None:
        options = ort.SessionOptions()
        options.intra_op_num_threads = 1
        session = ort.InferenceSession(model.onnx, options, providers=["CPUExecutionProvider"])
        feeds = {"x": model.input()}
        self.run = lambda: session.run(None, feeds)


def head_of(port: int, model: str, header: bytes, size: int) -> bytes:
    return (
        f"POST /v2/models/{model}/infer HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nContent-Length: {len(header) + size}\r\n"
        f"Inference-Header-Content-Length: {len(header)}\r\n\r\n"
    ).encode()


class Http:
    """The least a client can do: a prepared request, one socket, the answer read and thrown away."""

    def __init__(self, port: int, model: serving_models.Model, *, region: str = "") -> None:
        x = model.input()
        parameters = {"binary_data_size": x.nbytes}
        if region:
            parameters = {"shared_memory_region": region, "shared_memory_byte_size": x.nbytes}
        tensor = {"name": "x", "shape": x.shape, "datatype": "FP32", "parameters": parameters}
        self.header = json.dumps({"inputs": [tensor], "parameters": {"binary_data_output": True}}).encode()
        self.body = self.header + (b"" if region else x.tobytes())
        self.request = head_of(port, model.name, self.header, len(self.body) - len(self.header)) + self.body
        self.answer = memoryview(bytearray(1 << 20))
        self.socket = socket.create_connection(("127.0.0.1", port))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.call()

    def call(self) -> None:
        self.socket.sendall(self.request)
        have = self.socket.recv_into(self.answer)
        raw = bytes(self.answer[:have])
        end = raw.index(b"\r\n\r\n") + 4
        assert raw.startswith(b"HTTP/1.1 200"), raw[:500]
        whole = end + int(re.search(rb"Content-Length: (\d+)", raw)[1])
        while have < whole:
            have += self.socket.recv_into(self.answer[have:])


def wrk_of(port: int, model: serving_models.Model, folder: Path):
    """Gives a function that gives the p50 of wrk with one connection over a second."""
    client = Http(port, model)
    client.socket.close()
    (folder / "body").write_bytes(client.body)
    script = folder / "ask.lua"
    script.write_text(
        f'local file = io.open("{folder}/body", "rb")\nwrk.method = "POST"\nwrk.body = file:read("*a")\n'
        f'wrk.headers["Inference-Header-Content-Length"] = "{len(client.header)}"\n'
    )
    url = f"http://127.0.0.1:{port}/v2/models/{model.name}/infer"

    def p50_s() -> float:
        command = ["wrk", "-t1", "-c1", "-d1s", "--latency", "-s", str(script), url]
        said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        assert "Non-2xx" not in said, said
        value, unit = re.search(r"50%\s+([\d.]+)(us|ms|s)", said).groups()
        return float(value) * {"us": 1e-6, "ms": 1e-3, "s": 1.0}[unit]

    return p50_s


@contextlib.contextmanager
def running_daemon(folder: Path):
    (folder / "device.toml").write_text(SETTINGS)
    with (folder / "log").open("w") as log:
        daemon = subprocess.Popen(
            [sys.executable, "-m", "edge_sdk", "daemon", "--json", "--config", str(folder / "device.toml")],
            stdout=subprocess.PIPE,
            stderr=log,
            env={**os.environ, "XDG_STATE_HOME": str(folder / "state")},
        )
        try:
            line = daemon.stdout.readline()
            if not line:
                sys.exit((folder / "log").read_text())
            yield daemon.pid, int(json.loads(line)["url"].rpartition(":")[2])
        finally:
            daemon.terminate()
            daemon.communicate(timeout=20)


def in_process(folder: Path, mlp, mnet):
    settings = DaemonSettings(model_repository=str(folder / "models"), threads=1)
    models = Deployment(settings, clocks=SystemClock()).models
    for model, count, rounds in ((mlp, 3000, ROUNDS), (mnet, 30, 4 * ROUNDS)):
        feeds, bare = {"x": model.input()}, Bare(model)
        served = models.find(model.name)
        with served.engine.input_buffers() as buffers:
            buffers["x"][...] = feeds["x"]
            calls = {"infer": lambda: served.infer(feeds), "lent": lambda: served.engine.infer(buffers)}
            yield model.name, best({"bare": bare.run, **calls}, count, rounds)
    models.close()


def over_http(folder: Path, port: int, models):
    """Gives the p50 of the floor and of the request, in turn, the best of both clients: the daemon is measured."""
    for model, bar in models:
        client, bare = Http(port, model), Bare(model)
        count = 100 if model.name == "mnet025" else 1000
        calls = {
            "bare": functools.partial(p50_s, bare.run, count),
            "raw socket": functools.partial(p50_s, client.call, count),
        }
        if shutil.which("wrk"):
            calls["wrk"] = wrk_of(port, model, folder)
        found = in_turn(calls)
        client.socket.close()
        floor = found.pop("bare")
        how = min(found, key=found.get)
        figure = f"HTTP binary, {model.name}, c=1, p50"
        what = f"bare session.run ({how} is the client)"
        yield ratio_row(figure, found[how], floor, unit=us, what=what, bar=bar)


def over_shared_memory(port: int, model, small):
    """One client, once with the tensor in the request, once in a region that it fills each time.

    Both wait for the same engine, and for an answer as long; what the region can spare is the tensor's way through
    the socket. So the parts are shown too: the engine alone, filling alone, and a request to a model of next to no work.
    """
    path = Path("/dev/shm") / f"edge_sdk_bench_{os.getpid()}"
    frame = model.input()
    try:
        path.write_bytes(bytes(frame.nbytes))
        region = np.memmap(path, np.float32, "r+", shape=frame.shape)
        register(port, path.name, frame.nbytes)
        inline, shared, empty = Http(port, model), Http(port, model, region="bench"), Http(port, small)

        def filled():
            np.copyto(region, frame)
            shared.call()

        calls = {"inline": inline.call, "shared": filled, "empty": empty.call, "engine": Bare(model).run}
        found = best({**calls, "unfilled": shared.call}, 1000)
        parts = (
            f"inline, same client; in both {us(found['engine'])} of engine and {us(found['empty'])} of request and answer; "
            f"filling is {us(found['shared'] - found['unfilled'])}"
        )
        figure = "v2 shared memory, 602 kB, filled each time, raw socket, p50"
        yield ratio_row(figure, found["shared"], found["inline"], unit=us, what=parts, bar=0.6)
        figure = "the same with tritonclient"
        if TRITON.exists():
            command = [str(TRITON), str(PEER), f"127.0.0.1:{port}"]
            found = json.loads(subprocess.run(command, capture_output=True, check=True).stdout)
            what = f"inline, same client; its request without a tensor to move {us(found['empty'])}"
            yield ratio_row(figure, found["shared"], found["inline"], unit=us, what=what, bar=0.6)
        else:
            yield Row(figure, "not measured", "`tools/test clients` installs it", None, 0.6)
    finally:
        path.unlink()


def register(port: int, key: str, size: int) -> None:
    body = json.dumps({"key": f"/{key}", "byte_size": size}).encode()
    path = "/v2/systemsharedmemory/region/bench/register"
    with socket.create_connection(("127.0.0.1", port)) as connection:
        head = f"POST {path} HTTP/1.1\r\nHost: h\r\nConnection: close\r\nContent-Length: {len(body)}\r\n\r\n"
        connection.sendall(head.encode() + body)
        assert connection.recv(4096).startswith(b"HTTP/1.1 200")


def over_frames(folder: Path, model):
    """A 602 kB frame to a model that only gives 4 kB of it back, so that the transport is what is measured."""
    frame, target = model.input(), np.empty(model.x, np.float32)
    with edge_sdk.open_frames(folder / "frames.sock", model.name, {"x": ("float32", model.x)}) as frames:

        def filled():
            np.copyto(frames.inputs["x"], frame)
            frames.infer()

        calls = {"memcpy": lambda: np.copyto(target, frame), "frames": filled}
        with zmq_echo(folder) as ask:
            if ask is not None:
                calls["zmq"] = lambda: ask(frame)
            found = best(calls, 1000)
    figure = "shared memory and a control message, 602 kB in, 4 kB back, p50"
    yield ratio_row(figure, found["frames"], found["memcpy"], unit=us, what="memcpy", bar=6.0)
    figure = "the same, against ZeroMQ over ipc"
    if "zmq" in found:
        yield ratio_row(figure, found["frames"], found["zmq"], unit=us, what="pyzmq REQ/REP, no model", bar=0.4)
    else:
        yield Row(figure, us(found["frames"]), "not measured: pip install pyzmq", None, 0.4)


ZMQ = """
import sys, zmq
socket = zmq.Context().socket(zmq.REP)
socket.bind(sys.argv[1])
print("ready", flush=True)
while True:
    socket.send(bytes(socket.recv_multipart(copy=False)[1].buffer[:4096]))
"""


@contextlib.contextmanager
def zmq_echo(folder: Path):
    """Gives a function that sends a tensor as Frigate does and gets 4 kB back; None where pyzmq is not installed."""
    try:
        import zmq
    except ModuleNotFoundError:
        yield None
        return
    address = f"ipc://{folder}/zmq"
    server = subprocess.Popen([sys.executable, "-c", ZMQ, address], stdout=subprocess.PIPE)
    server.stdout.readline()
    context = zmq.Context()
    client = context.socket(zmq.REQ)
    client.connect(address)

    def ask(frame):
        client.send_multipart([b'{"shape": [1, 3, 224, 224], "dtype": "float32"}', frame.tobytes()])
        client.recv()

    try:
        yield ask
    finally:
        client.close(0)
        context.term()
        server.kill()
        server.communicate()


def after_many(pid: int, port: int, model):
    """Memory, descriptors and shared memory before and after; four connections, each of which asks and asks."""

    def ask(count):
        def work():
            client = Http(port, model)
            for _ in range(count // 4):
                client.call()
            client.socket.close()

        threads = [threading.Thread(target=work) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        time.sleep(2)  # the daemon's next Sample folds what was recorded

    def now():
        line = next(line for line in Path(f"/proc/{pid}/status").open() if line.startswith("VmRSS:"))
        return int(line.split()[1]) * 1024, len(os.listdir(f"/proc/{pid}/fd")), len(os.listdir("/dev/shm"))

    ask(REQUESTS // 5)
    before = now()
    ask(REQUESTS)
    grown = [late - early for late, early in zip(now(), before, strict=True)]
    figure = f"growth of memory over {REQUESTS:,} requests (RSS)"
    yield ratio_row(figure, max(grown[0], 0), 1e6, unit=lambda size: f"{size / 1e6:.2f} MB", what="allowed", bar=1.0)
    for what, count in zip(("descriptors", "entries of /dev/shm"), grown[1:], strict=True):
        yield Row(f"{what} left after {REQUESTS:,} requests", str(count), "0 allowed", float(max(count, 0)), 0.0)


def measure():
    mlp, gap, head, mnet = (
        make() for make in (serving_models.mlp, serving_models.gap, serving_models.head, serving_models.mnet025)
    )
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "models").mkdir()
        for model in (mlp, gap, head, mnet):
            model.write(folder / "models")
        found = dict(in_process(folder, mlp, mnet))
        added = found["mlp"]["infer"] - found["mlp"]["bare"]
        yield ratio_row("infer() in process, mlp: what it adds", added, 5e-6, unit=us, what="allowed", bar=1.0)
        added = found["mlp"]["lent"] - found["mlp"]["bare"]
        figure = "infer() on buffers filled in place, mlp: what it adds"
        yield ratio_row(figure, added, 5e-6, unit=us, what="allowed", bar=1.0)
        figure = "infer() in process, mnet025, p50"
        pair = found["mnet025"]
        yield ratio_row(figure, pair["infer"], pair["bare"], unit=us, what="bare session.run", bar=1.02)
        with running_daemon(folder) as (pid, port):
            yield from over_http(folder, port, [(mlp, 16.0), (mnet, 1.4), (gap, 14.0)])
            yield from over_shared_memory(port, gap, mlp)
            yield from over_frames(folder, head)
            yield from after_many(pid, port, mlp)
