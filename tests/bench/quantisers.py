"""The quantisers that are measured: their scripts, their environments, and one run of one of them.

Each peer lives in an environment of its own below .venv-peers (or $EDGE_SDK_PEERS), made when it is not there:
together they take 7 GB, and no two of them agree on their dependencies.
"""

import json
import os
import shutil
import subprocess
import sys
import venv
from pathlib import Path
from typing import NamedTuple

import zoo

SCRIPTS = Path(__file__).with_name("peers")
TORCH = ("--extra-index-url", "https://download.pytorch.org/whl/cpu")
THREADS = 1
"""For every tool: what the processor does then is one figure, without threads that wait in a loop."""


class Tool(NamedTuple):
    """A row of the comparison: a script beside this file, in its environment, with one of its methods."""

    title: str
    script: str
    method: str
    most: int = 1_000_000
    """More samples than this are not given: memory grows with each."""


class Spent(NamedTuple):
    """What the call cost; `error` holds the tool's last words when it failed, and all else is zero."""

    cpu_s: float
    wall_s: float
    peak_bytes: int
    output: Path
    error: str = ""


OURS = Tool("edge_sdk", "edge_sdk", "auto")
OURS_ENTROPY = Tool("edge_sdk entropy", "edge_sdk", "entropy")
OURS_MAX = Tool("edge_sdk max", "edge_sdk", "max")
MODELOPT_ENTROPY = Tool("Model Optimizer entropy", "modelopt", "entropy")
MODELOPT_MAX = Tool("Model Optimizer max", "modelopt", "max")
ORT_MINMAX = Tool("ONNX Runtime MinMax, symmetric", "onnxruntime", "MinMax")
ORT_DEFAULT = Tool("ONNX Runtime as it comes", "onnxruntime", "default")
ORT_ENTROPY = Tool("ONNX Runtime entropy, symmetric", "onnxruntime", "Entropy", most=32)
ORT_PERCENTILE = Tool("ONNX Runtime percentile, symmetric", "onnxruntime", "Percentile", most=32)
NNCF = Tool("NNCF", "nncf", "PERFORMANCE")
QUARK = Tool("Quark A8W8", "quark", "A8W8")
QUARK_LEGAL = Tool("Quark A8W8, float biases", "quark", "A8W8+float-bias")
AIMET = Tool("AIMET", "aimet", "min_max")
BARE = Tool("bare float pass", "bare", "run")
"""No quantiser: what none of them can do without."""
PEERS = (
    MODELOPT_ENTROPY,
    MODELOPT_MAX,
    ORT_MINMAX,
    ORT_DEFAULT,
    ORT_ENTROPY,
    ORT_PERCENTILE,
    NNCF,
    QUARK,
    QUARK_LEGAL,
    AIMET,
)

REQUIREMENTS = {
    "modelopt": ("nvidia-modelopt[onnx]==0.47.0", "torch", *TORCH),
    "nncf": ("nncf==3.4.0", "openvino==2026.4.1", "onnx", "onnxruntime", "torch", *TORCH),
    "quark": ("amd-quark==0.13", "onnxruntime", "torch", *TORCH),
    "aimet": ("aimet-onnx==2.42.0", "torch", *TORCH),
}
"""ONNX Runtime and edge_sdk itself run in this environment."""


def python_of(tool):
    """The interpreter of the tool's environment, after making it if need be."""
    if tool.script not in REQUIREMENTS:
        return sys.executable
    folder = zoo.CACHE.parent / tool.script
    python = folder / "bin" / "python"
    if not python.exists():
        print(f"making {folder} with {REQUIREMENTS[tool.script][0]} (up to 2 GB)", file=sys.stderr, flush=True)
        venv.create(folder, with_pip=True)
        command = [
            str(python),
            "-m",
            "pip",
            "install",
            "--quiet",
            "--disable-pip-version-check",
            "--retries=1",  # of an index that is out of reach; the packages may be in another
            *REQUIREMENTS[tool.script],
        ]
        try:
            subprocess.run(command, check=True, stdout=sys.stderr)
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)  # half of an environment would be taken for one
            raise
    return str(python)


def quantised(tool, entry, folder, *, count=None, raw=None):
    """Runs the tool on a model of the zoo with its first `count` samples; gives what that cost."""
    count = min(count or entry.count, tool.most)
    name = f"{tool.script}-{tool.method}-{count}"
    output, request = folder / f"{name}.onnx", folder / f"{name}.json"
    document = {
        "model": str(entry.model),
        "raw": str(raw or entry.raw_of(count)),
        "prepared": str(entry.prepared),
        "few": str(entry.few),
        "preprocess": entry.preprocess,
        "count": count,
        "threads": THREADS,
        "method": tool.method,
        "output": str(output),
    }
    request.write_text(json.dumps(document))
    limits = {f"{library}_NUM_THREADS": str(THREADS) for library in ("OMP", "OPENBLAS", "MKL")}
    command = [python_of(tool), str(SCRIPTS / f"with_{tool.script}.py"), str(request)]
    ran = subprocess.run(command, capture_output=True, text=True, check=False, cwd=folder, env={**os.environ, **limits})
    if ran.returncode or not ran.stdout or not output.exists():
        words = [line for line in ran.stderr.splitlines() if line.strip()] or [f"ended with {ran.returncode}"]
        return Spent(0.0, 0.0, 0, output, words[-1])
    answer = json.loads(ran.stdout)
    return Spent(answer["cpu_s"], answer["wall_s"], answer["peak_bytes"], output)
