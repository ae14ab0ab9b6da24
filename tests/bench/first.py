"""What the main job costs: a build, one request, an idle daemon, each beside a bare `session.run` loop."""

import itertools
import sys
import tempfile
from pathlib import Path

import runtime
from measure import best
from rows import main, mb, ms, ratio_row

BARE = """
import sys, numpy as np, onnxruntime as ort
demo = sys.argv[1]
session = ort.InferenceSession(f"{demo}/fashion_cnn.onnx", providers=["CPUExecutionProvider"])
for name in ("calibration", "evaluation"):
    images = np.load(f"{demo}/{name}.npz")["image"]
    for start in range(0, len(images), 32):
        session.run(None, {"image": images[start : start + 32].astype(np.float32) / 255})
"""
DEMO_ROWS = 6


def measure():
    with tempfile.TemporaryDirectory() as folder:
        command = [
            sys.executable, "-m", "edge_sdk", "build", str(runtime.DEMO / "fashion_cnn.onnx"),
            "-o", str(Path(folder) / "fashion.edge"), "--calibration", str(runtime.DEMO / "calibration.npz"),
            "--evaluate", str(runtime.DEMO / "evaluation.npz"), "--preprocess", str(runtime.DEMO / "preprocess.toml"),
            "--name", "fashion", "--force", "--json",
        ]  # fmt: skip
        floor = best([sys.executable, "-c", BARE, str(runtime.DEMO)])
        value = best(command)
    what = "bare float loop over the same 512 + 2,000 images"
    yield ratio_row("build of the demo model: wall time", value.wall_s, floor.wall_s, unit=ms, what=what, bar=None)
    yield ratio_row("build of the demo model: CPU time", value.cpu_s, floor.cpu_s, unit=ms, what=what, bar=None)
    yield ratio_row(
        "build of the demo model: peak memory of a process",
        value.peak_bytes,
        floor.peak_bytes,
        unit=mb,
        what=what,
        bar=None,
    )
    yield from itertools.islice(runtime.measure(), DEMO_ROWS)


if __name__ == "__main__":
    sys.exit(main("first", measure))
