"""The models that the builder is measured on: where each comes from, its samples, and what counts as a good answer.

Nothing of others is committed: ddddocr's networks come from their wheel (MIT) on PyPI, once, into the cache; their
images are drawn here. Every model ends as opset 17 with known shapes, so that all tools get the same file.
"""

import gzip
import os
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import draw
import numpy as np
import onnx
import onnx.version_converter
import onnxruntime as ort
import scores

ROOT = Path(__file__).resolve().parents[2]
DEMO = ROOT / "edge_sdk" / "cli" / "demo"
OWN = Path(__file__).with_name("models")
CACHE = Path(os.environ.get("EDGE_SDK_PEERS", ROOT / ".venv-peers")) / "models"
FASHION = Path("/usr/share/datasets/fashion-mnist")
"""Of Debian's dataset-fashion-mnist; without it the tests are the 2,000 that the demo ships."""
WHEEL = "ddddocr==1.6.1"
OPSET = 17

FEW = 4
"""Evaluation samples where a build must have some, but is not measured by them."""
EVALUATION_SEED, CALIBRATION_SEED = 1_000_001, 1


class Entry(NamedTuple):
    """A model with everything that a measurement needs, as files in one folder.

    `raw` and `evaluation` hold what a user has (pixels, labels), `preprocess` the rule from one to the other, and
    `prepared` the arrays that the peers take. The accuracy figures are of `tests`: `score` compares two lists of outputs,
    one per sample, which are computed `batch` at a time.
    """

    name: str
    model: Path
    raw: Path
    prepared: Path
    evaluation: Path
    tests: Path
    few: Path
    preprocess: dict
    count: int
    score: Callable
    batch: int

    def rules_file(self):
        """The preprocessing as `edge-sdk build --preprocess` reads it."""
        file = self.model.with_name("preprocess.toml")
        lines = [
            f"[{name}]\n" + "\n".join(f"{key} = {value}" for key, value in rule.items())
            for name, rule in self.preprocess.items()
        ]
        file.write_text("\n".join(lines) + "\n")
        return file

    def outputs(self, model):
        """The first output of a model for each test, computed as written: Q/DQ in float arithmetic."""
        settings = ort.SessionOptions()
        settings.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_BASIC
        settings.log_severity_level = 3
        session = ort.InferenceSession(str(model), settings, providers=["CPUExecutionProvider"])
        with np.load(self.tests) as arrays:
            raw = {name: arrays[name] for name in arrays.files if name != "labels"}
        found = []
        for start in range(0, len(next(iter(raw.values()))), self.batch):
            part = {name: values[start : start + self.batch] for name, values in raw.items()}
            answers = session.run(
                None, {name: prepared(values, self.preprocess[name]) for name, values in part.items()}
            )[0]
            found.extend(np.split(answers, len(answers)) if self.batch > 1 else [answers])
        return found

    def raw_of(self, count):
        """The calibration archive cut to its first `count` samples."""
        if count == self.count:
            return self.raw
        file = self.raw.with_name(f"calibration-{count}.npz")
        if not file.exists():
            with np.load(self.raw) as arrays:
                np.savez(file, **{name: arrays[name][:count] for name in arrays.files})
        return file

    def labels(self):
        """The classes of the tests; None where there are none."""
        with np.load(self.tests) as arrays:
            return arrays["labels"] if "labels" in arrays.files else None


def prepared(raw, rule):
    return raw.astype(np.float32) * np.float32(rule["scale"])


def fashion(name, model, folder, count, evaluated):
    with np.load(DEMO / "calibration.npz") as arrays:
        calibration = {"image": arrays["image"][:count]}
    with np.load(DEMO / "evaluation.npz") as arrays:
        evaluation = {key: arrays[key][:evaluated] for key in ("image", "labels")}
    tests = evaluation
    if FASHION.is_dir():  # all 10,000: differences between tools are a few in a thousand
        parts = (
            ("image", "t10k-images-idx3-ubyte.gz", (-1, 1, 28, 28)),
            ("labels", "t10k-labels-idx1-ubyte.gz", (-1,)),
        )
        tests = {key: _idx(FASHION / file).reshape(shape)[: 5 * evaluated] for key, file, shape in parts}
    pixels = {"image": {"scale": 1 / 255}}
    return _entry(
        name, onnx.load(model), calibration, evaluation, pixels, folder, scores.classes, tests=tests, batch=100
    )


def _idx(path):
    """The bytes of a gzipped IDX file behind its header, whose length its rank tells."""
    content = gzip.decompress(path.read_bytes())
    return np.frombuffer(content, np.uint8, offset=4 + 4 * content[3])


def demo(folder, count=512, evaluated=2000):
    return fashion("demo CNN", DEMO / "fashion_cnn.onnx", folder, count, evaluated)


def mobilenet(folder, count=512, evaluated=2000):
    return fashion("MobileNetV3", OWN / "fashion_mobilenet.onnx", folder, count, evaluated)


def resnet(folder, count=512, evaluated=2000):
    return fashion("ResNet-20", OWN / "fashion_resnet20.onnx", folder, count, evaluated)


def detector(folder, count=128, evaluated=128, side=draw.SIDE):
    model = raised(ddddocr("common_det.onnx"), {"images": (1, 3, side, side)})
    parts = (draw.scenes(count, CALIBRATION_SEED), draw.scenes(evaluated, EVALUATION_SEED))
    calibration, evaluation = ({"images": scenes[:, :, :side, :side]} for scenes in parts)
    rules = {"images": {"scale": 1.0}}
    return _entry(f"YOLOX detector {side}x{side}", model, calibration, evaluation, rules, folder, scores.boxes)


def reader(folder, count=128, evaluated=256):
    calibration, evaluation = draw.lines(count, CALIBRATION_SEED), draw.lines(evaluated, EVALUATION_SEED)
    model = raised(ddddocr("common.onnx"), {"input1": (1, 1, *draw.LINE)})
    raw = {"input1": {"scale": 1 / 255}}
    return _entry("OCR reader", model, {"input1": calibration}, {"input1": evaluation}, raw, folder, scores.texts)


ENTRIES = {"demo": demo, "resnet": resnet, "mobilenet": mobilenet, "detector": detector, "reader": reader}


def _entry(name, model, calibration, evaluation, preprocess, folder, score, *, tests=None, batch=1):
    folder.mkdir(parents=True)
    onnx.save(model, folder / "float.onnx")
    archives = {
        "calibration": calibration,
        "prepared": {key: prepared(values, preprocess[key]) for key, values in calibration.items()},
        "evaluation": evaluation,
        "tests": evaluation if tests is None else tests,
        "few": {key: values[:FEW] for key, values in evaluation.items()},
    }
    for stem, arrays in archives.items():
        np.savez(folder / f"{stem}.npz", **arrays)
    files = [folder / f"{stem}.npz" for stem in archives]
    return Entry(name, folder / "float.onnx", *files, preprocess, len(next(iter(calibration.values()))), score, batch)


def ddddocr(member):
    """One network of the wheel, which is downloaded into the cache when it is not there."""
    CACHE.mkdir(parents=True, exist_ok=True)
    if not list(CACHE.glob("ddddocr-*.whl")):
        print(f"downloading {WHEEL} into {CACHE}", file=sys.stderr)
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(CACHE), WHEEL]
        subprocess.run(command, check=True, stdout=sys.stderr)
    with zipfile.ZipFile(next(CACHE.glob("ddddocr-*.whl"))) as wheel:
        return onnx.load_from_string(wheel.read(f"ddddocr/{member}"))


def raised(model, shapes):
    """The model in OPSET with fixed input shapes; its outputs are the same, or this stops."""
    for value in model.graph.input:
        for axis, size in zip(value.type.tensor_type.shape.dim, shapes[value.name], strict=True):
            axis.Clear()
            axis.dim_value = size
    del model.graph.value_info[:]
    rng = np.random.default_rng(0)
    feeds = {name: rng.uniform(0, 1, shape).astype(np.float32) for name, shape in shapes.items()}
    before = _run(model, feeds)
    for value, array in zip(model.graph.output, before, strict=True):  # what ddddocr declares is not what it gives
        value.CopyFrom(onnx.helper.make_tensor_value_info(value.name, onnx.TensorProto.FLOAT, array.shape))
    newer = onnx.version_converter.convert_version(model, OPSET)
    del newer.graph.value_info[:]
    for old, new in zip(before, _run(newer, feeds), strict=True):
        np.testing.assert_allclose(new, old, atol=1e-4 * np.abs(old).max())
    return newer


def _run(model, feeds):
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, feeds)
