"""What a build costs, against a bare float inference loop over the same calibration and evaluation images."""

import json
import sys
import tempfile
from pathlib import Path

import edge_sdk
from measure import best
from rows import main, mb, ms, ratio_row

DEMO = Path(edge_sdk.__file__).parent / "cli" / "demo"

BARE = """
import sys, numpy as np, onnxruntime as ort
demo, batch = sys.argv[1], 32
session = ort.InferenceSession(f"{demo}/fashion_cnn.onnx", providers=["CPUExecutionProvider"])
for name in ("calibration", "evaluation"):
    images = np.load(f"{demo}/{name}.npz")["image"]
    for start in range(0, len(images), batch):
        session.run(None, {"image": images[start : start + batch].astype(np.float32) / 255})
"""


def measure():
    with tempfile.TemporaryDirectory() as folder:
        build = [
            sys.executable, "-m", "edge_sdk", "build", str(DEMO / "fashion_cnn.onnx"), "-o", f"{folder}/fashion.edge",
            "--calibration", str(DEMO / "calibration.npz"), "--evaluate", str(DEMO / "evaluation.npz"),
            "--preprocess", str(DEMO / "preprocess.toml"), "--name", "fashion", "--force", "--json",
        ]  # fmt: skip
        floor = best([sys.executable, "-c", BARE, str(DEMO)])
        value = best(build)
    result = json.loads(value.stdout)
    images = f"bare float loop over the same {result['samples']} + {result['evaluation_samples']} images"
    yield ratio_row("build of the demo model: wall time", value.wall_s, floor.wall_s, unit=ms, what=images, bar=None)
    yield ratio_row("build of the demo model: CPU time", value.cpu_s, floor.cpu_s, unit=ms, what=images, bar=None)
    yield ratio_row("build of the demo model: peak memory", value.peak_bytes, floor.peak_bytes, unit=mb, what=images, bar=None)


if __name__ == "__main__":
    sys.exit(main("build", measure))
