"""`edge-sdk build` as a user runs it on a model of the zoo, and the bare float loop that it is held against."""

import json
import sys
from pathlib import Path
from typing import NamedTuple

from measure import run

REFUSED = 1
ANY = range(-64, 256)

BARE = """
import json, sys, numpy as np, onnxruntime as ort
model, rules, threads, files = sys.argv[1], json.loads(sys.argv[2]), int(sys.argv[3]), sys.argv[4:]
settings = ort.SessionOptions()
settings.intra_op_num_threads = threads
session = ort.InferenceSession(model, settings, providers=["CPUExecutionProvider"])
spec = session.get_inputs()[0]
batch = 1 if isinstance(spec.shape[0], int) else 32
for file in files:
    raw = np.load(file)[spec.name]
    for start in range(0, len(raw), batch):
        session.run(None, {spec.name: raw[start : start + batch].astype(np.float32) * np.float32(rules[spec.name]["scale"])})
"""


class Built(NamedTuple):
    """What the build cost and said; `error` holds its last words where there is no bundle, and then nothing else counts.

    `is_refused` when the gate said no at first, or gave float16, and was then opened wide.
    """

    cpu_s: float
    wall_s: float
    document: dict
    model: Path
    is_refused: bool
    error: str = ""


def built(entry):
    """Builds with the defaults; where the gate refuses, again with a drop of 100 points allowed, so as to have a model."""
    target = entry.model.with_name("built.edge")
    model = target / "model.int8.onnx"
    command = [
        sys.executable, "-m", "edge_sdk", "build", str(entry.model), "-o", str(target), "--force", "--json",
        "--calibration", str(entry.raw), "--evaluate", str(entry.evaluation),
        "--preprocess", str(entry.rules_file()), "--name", "bench",
    ]  # fmt: skip
    first = run(command, allowed=ANY)
    is_refused = first.code == REFUSED or (first.code == 0 and not model.exists())
    done = run([*command, "--max-drop", "100"], allowed=ANY) if is_refused else first
    if done.code or not model.exists():
        words = [line for line in done.stderr.splitlines() if line.strip()] or ["it made no INT8 graph"]
        return Built(0.0, 0.0, {}, model, is_refused, words[-1])
    return Built(done.cpu_s, done.wall_s, json.loads(done.stdout), model, is_refused)


def bare(entry, *files, threads=0):
    """The float model over the samples of the archives, with nothing else done; 0 threads: as many as usual."""
    command = [sys.executable, "-c", BARE, str(entry.model), json.dumps(entry.preprocess), str(threads)]
    return run([*command, *map(str, files)])
