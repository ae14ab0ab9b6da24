"""One request and an idle daemon, against a bare `session.run` loop and a bare process that holds the same session."""

import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import forms
import numpy as np
import observing
import onnxruntime as ort
import serving
from rows import main, mb, ms, ratio_row

import edge_sdk
from edge_sdk.cli.children import Children
from edge_sdk.device.serve.client import Client
from edge_sdk.engines import bundled
from edge_sdk.wire import bundles

DEMO = Path(edge_sdk.__file__).parent / "cli" / "demo"
ROUNDS, CALLS = 5, 200

BARE = """
import sys, time, numpy as np, onnxruntime as ort
session = ort.InferenceSession(sys.argv[1], providers=["CPUExecutionProvider"])
session.run(None, {"image": np.zeros((1, 1, 28, 28), np.float32)})
print("ready", flush=True)
time.sleep(60)
"""


def p50_s(call) -> float:
    spent = []
    for _ in range(CALLS):
        start = time.perf_counter()
        call()
        spent.append(time.perf_counter() - start)
    return statistics.median(spent)


def best_pair(floor, value) -> tuple[float, float]:
    """Gives the least p50 of each, measured in turn."""
    pairs = [(p50_s(floor), p50_s(value)) for _ in range(ROUNDS)]
    return min(a for a, _ in pairs), min(b for _, b in pairs)


def status_bytes(pid: int, key: str = "VmRSS") -> int:
    line = next(line for line in Path(f"/proc/{pid}/status").open() if line.startswith(f"{key}:"))
    return int(line.split()[1]) * 1024


def cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def build(folder: Path) -> Path:
    bundle = folder / "fashion.edge"
    subprocess.run(
        [
            sys.executable, "-m", "edge_sdk", "build", str(DEMO / "fashion_cnn.onnx"), "-o", str(bundle), "--json",
            "--calibration", str(DEMO / "calibration.npz"), "--evaluate", str(DEMO / "evaluation.npz"),
            "--preprocess", str(DEMO / "preprocess.toml"), "--name", "fashion",
        ],
        check=True, stdout=subprocess.DEVNULL,
    )  # fmt: skip
    return bundle


def bare_start(model: Path) -> tuple[float, int]:
    """Gives seconds until a bare session has answered once, and its memory then."""
    start = time.perf_counter()
    process = subprocess.Popen([sys.executable, "-c", BARE, str(model)], stdout=subprocess.PIPE)
    process.stdout.readline()
    spent = time.perf_counter() - start
    rss = status_bytes(process.pid)
    process.kill()
    process.communicate()
    return spent, rss


def measure():
    image = np.zeros((1, 1, 28, 28), np.float32)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        bundle = build(folder)
        checked = bundles.read_bundle(bundle)
        choice = bundled.chosen(checked, is_alone=True)
        model = bundled.model_of_choice(checked, choice)
        session = ort.InferenceSession(str(model), providers=["CPUExecutionProvider"])
        alike = ort.SessionOptions()
        alike.intra_op_num_threads = choice.threads
        floor_session = ort.InferenceSession(str(model), alike, providers=["CPUExecutionProvider"])
        with bundled.engine_of_choice(checked, choice) as engine:
            calls = {
                "infer": lambda: engine.infer({"image": image}),
                "alike": lambda: floor_session.run(None, {"image": image}),
                "default": lambda: session.run(None, {"image": image}),
            }
            found = serving.best(calls, CALLS)
        what = f"bare session.run on {model.name}, which runs here too"
        figure = "one inference in process, demo model, p50"
        threads = f"{what}, with as many threads ({choice.threads or 'all'})"
        yield ratio_row(figure, found["infer"], found["alike"], unit=ms, what=threads, bar=1.1)
        cores = len(os.sched_getaffinity(0))
        default = f"{what}, as ONNX Runtime has it by default: {cores} threads that never sleep"
        yield ratio_row(f"{figure}, every core", found["infer"], found["default"], unit=ms, what=default, bar=1.1)
        bare = [bare_start(model) for _ in range(3)]
        bare_s, bare_bytes = min(s for s, _ in bare), min(b for _, b in bare)
        with Children(folder) as children:
            broker = children.start("broker", ["broker", "--port", "0", "--json"]).read_document(20)
            arguments = ["daemon", "--bundle", str(bundle), "--broker", broker["url"], "--port", "0", "--json"]
            first, again = [], []
            for attempt in range(3):
                # With an empty state the daemon times the bundle's forms; after that it remembers which is the fastest.
                os.environ["XDG_STATE_HOME"] = str(folder / f"state{attempt}")
                for spent in (first, again):
                    start = time.perf_counter()
                    daemon = children.start(f"daemon{attempt}{len(again)}", arguments)
                    url = daemon.read_document(20)["url"]
                    with Client(url) as client:
                        client.infer("fashion", {"image": image})
                    spent.append(time.perf_counter() - start)
                    if len(again) < 3:
                        children.stop(daemon)
            time.sleep(3)
            pid = daemon.process.pid
            idle_bytes, before_s, start = status_bytes(pid), cpu_s(pid), time.perf_counter()
            time.sleep(10)
            idle_share = (cpu_s(pid) - before_s) / (time.perf_counter() - start)
            with Client(url) as client:
                floor, value = best_pair(
                    lambda: session.run(None, {"image": image}), lambda: client.infer("fashion", {"image": image})
                )
        yield ratio_row("one request over HTTP, demo model, p50", value, floor, unit=ms, what=what, bar=None)
        figure = "start to first correct reply"
        yield ratio_row(figure, min(again), bare_s, unit=ms, what="bare onnxruntime", bar=4.0)
        figure = "the same, the first time with a bundle: its forms are timed"
        yield ratio_row(figure, min(first), bare_s, unit=ms, what="bare onnxruntime", bar=4.0)
        yield ratio_row(
            "idle memory of the daemon (RSS)", idle_bytes, bare_bytes, unit=mb, what="bare session", bar=2.0
        )
        yield ratio_row(
            "idle CPU of the daemon at 1 Sample/s",
            idle_share,
            0.01,
            unit=lambda share: f"{share:.2%}",
            what="of a core",
            bar=1.0,
        )
    yield from forms.measure()
    yield from serving.measure()
    yield from observing.measure()


if __name__ == "__main__":
    sys.exit(main("runtime", measure))
