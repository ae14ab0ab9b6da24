"""INT8 on this CPU against the float model, in one thread, forms in turn; and what the choice makes of depthwise nets."""

import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import onnx
from onnx import helper, numpy_helper
from rows import Row, ms, ratio_row

import edge_sdk
from edge_sdk.engines import bundled, ort
from edge_sdk.wire import bundles

HERE = Path(__file__).parent
DEMO = Path(edge_sdk.__file__).parent / "cli" / "demo"
ROUNDS = 5
FASTER = 1.5
"""Times float that INT8 must reach on a residual net, on a CPU with VNNI."""


def resnet20() -> onnx.ModelProto:
    """The 20 layers of He et al. for 32x32 pictures, 41 million multiply-accumulates; random weights."""
    rng, weights, nodes = np.random.default_rng(0), [], []

    def conv(x, name, channels_in, channels, *, kernel=3, stride=1):
        shape = (channels, channels_in, kernel, kernel)
        values = rng.normal(size=shape) * np.sqrt(2 / np.prod(shape[1:]))
        weights.append(numpy_helper.from_array(values.astype(np.float32), f"{name}.w"))
        weights.append(numpy_helper.from_array((rng.normal(size=channels) * 0.05).astype(np.float32), f"{name}.b"))
        nodes.append(
            helper.make_node(
                "Conv", [x, f"{name}.w", f"{name}.b"], [name], name, pads=[kernel // 2] * 4, strides=[stride] * 2
            )
        )
        return name

    def relu(x):
        nodes.append(helper.make_node("Relu", [x], [f"{x}.r"], f"{x}.r"))
        return f"{x}.r"

    x, width = relu(conv("image", "stem", 3, 16)), 16
    for stage in range(3):
        for block in range(3):
            name, channels, stride = f"s{stage}b{block}", 16 * 2**stage, 2 if stage and not block else 1
            inner = conv(relu(conv(x, f"{name}.1", width, channels, stride=stride)), f"{name}.2", channels, channels)
            short = x if width == channels else conv(x, f"{name}.s", width, channels, kernel=1, stride=stride)
            nodes.append(helper.make_node("Add", [inner, short], [f"{name}.a"], f"{name}.a"))
            x, width = relu(f"{name}.a"), channels
    nodes.append(helper.make_node("GlobalAveragePool", [x], ["pooled"], "pool"))
    nodes.append(helper.make_node("Flatten", ["pooled"], ["flat"], "flatten"))
    weights.append(numpy_helper.from_array((rng.normal(size=(10, width)) * 0.2).astype(np.float32), "fc.w"))
    weights.append(numpy_helper.from_array(np.zeros(10, np.float32), "fc.b"))
    nodes.append(helper.make_node("Gemm", ["flat", "fc.w", "fc.b"], ["logits"], "fc", transB=1))
    graph = helper.make_graph(
        nodes,
        "resnet20",
        [helper.make_tensor_value_info("image", 1, ["N", 3, 32, 32])],
        [helper.make_tensor_value_info("logits", 1, ["N", 10])],
        weights,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


def built(folder: Path, name: str, model: Path, *options: str) -> bundles.Bundle:
    target = folder / f"{name}.edge"
    subprocess.run(
        [sys.executable, "-m", "edge_sdk", "build", str(model), "-o", str(target), "--json", "--name", name, *options],
        check=True,
        stdout=subprocess.DEVNULL,
    )
    return bundles.read_bundle(target)


def demo_data() -> list[str]:
    return [
        "--calibration", str(DEMO / "calibration.npz"), "--evaluate", str(DEMO / "evaluation.npz"),
        "--preprocess", str(DEMO / "preprocess.toml"),
    ]  # fmt: skip


def random_data(folder: Path, model: Path) -> list[str]:
    """Smooth random pictures; the labels are what the float model says, so that only agreement counts."""
    options = []
    for name, count, seed in (("calibration", 128, 1), ("evaluate", 256, 2)):
        small = np.random.default_rng(seed).normal(size=(count, 3, 8, 8))
        pictures = np.clip(128 + 60 * small.repeat(4, axis=2).repeat(4, axis=3), 0, 255).astype(np.uint8)
        logits = ort.runner_from_model(model.read_bytes())({"image": pictures / np.float32(255)})["logits"]
        np.savez(folder / f"{name}.npz", image=pictures, labels=logits.argmax(axis=1))
        options += [f"--{name}", str(folder / f"{name}.npz")]
    (folder / "rule.toml").write_text(f"[image]\nscale = {1 / 255}\n")
    return [*options, "--preprocess", str(folder / "rule.toml"), "--max-drop", "100"]


def best_ns(checked: bundles.Bundle) -> dict[str, int]:
    """Gives the shortest run of each form over several comparisons, each with the forms in turn."""
    found = [bundled.chosen(checked, threads=1).best_ns for _ in range(ROUNDS)]
    return {name: min(one[name] for one in found) for name in found[0]}


def accuracy(checked: bundles.Bundle, variant: str) -> float:
    with np.load(DEMO / "evaluation.npz") as arrays:
        pictures, labels = arrays["image"].astype(np.float32) / np.float32(255), arrays["labels"]
    run = ort.runner_from_model(str(checked.path / {"int8": bundles.INT8_MODEL, "lowered": bundles.CPU_MODEL}[variant]))
    return float((run({"image": pictures})["logits"].argmax(axis=1) == labels).mean())


def measure():
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        onnx.save(resnet20(), folder / "resnet20.onnx")
        demo = built(folder, "demo", DEMO / "fashion_cnn.onnx", *demo_data())
        resnet = built(folder, "resnet20", folder / "resnet20.onnx", *random_data(folder, folder / "resnet20.onnx"))
        for title, checked in (("demo model", demo), ("ResNet-20", resnet)):
            spent = best_ns(checked)
            what = f"float model (INT8 as it is: {ms(spent['int8'] / 1e9)})"
            yield ratio_row(
                f"INT8 in integer kernels, {title}, 1 thread",
                spent["lowered"] / 1e9, spent["float"] / 1e9, unit=ms, what=what, bar=round(1 / FASTER, 2),
            )  # fmt: skip
        off = abs(accuracy(demo, "lowered") - accuracy(demo, "int8")) * 100
        yield Row(
            "its accuracy against INT8's, demo data, points", f"{off:.2f}", "0.10 allowed", round(off / 0.1, 2), 1.0
        )
        mobile = built(folder, "mobile", HERE / "models" / "fashion_mobilenet.onnx", *demo_data(), "--max-drop", "5")
        spent, choice = best_ns(mobile), bundled.chosen(mobile, threads=1)
        yield ratio_row(
            f"depthwise net (MobileNet-like) runs as {choice.variant}, 1 thread",
            spent[choice.variant] / 1e9, spent["float"] / 1e9, unit=ms, what="float model", bar=1.1,
        )  # fmt: skip


if __name__ == "__main__":
    for row in measure():
        print(row)
