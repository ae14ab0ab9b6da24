#!/usr/bin/env python3
"""Train one of the bench's own networks on Fashion-MNIST, and write it here as ONNX with its log.

examples, from the repository's root:
  apt-get install dataset-fashion-mnist && pip install -e '.[host,torch]'
  python tests/bench/models/train.py fashion_mobilenet --steps 900 --seed 0
  python tests/bench/models/train.py fashion_resnet20 --steps 600 --seed 0

fashion_mobilenet, a small MobileNetV3, has depthwise convolutions, squeeze-excite and HardSwish; fashion_resnet20 is the
residual network of He et al. (2015) for small pictures.
"""

import argparse
import hashlib
import importlib.machinery
import importlib.util
import io
import itertools
import json
import platform
import time
from collections import OrderedDict
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import torch
from torch import nn

HERE = Path(__file__).resolve().parent


def demo_trainer():
    """The demo's training script, whose data, loop and schedule are used as they are."""
    path = HERE.parents[2] / "tools" / "train_demo_model"
    loader = importlib.machinery.SourceFileLoader("train_demo_model", str(path))
    module = importlib.util.module_from_spec(importlib.util.spec_from_loader(loader.name, loader))
    loader.exec_module(module)
    return module


def layer(inputs, outputs, kernel=1, stride=1, groups=1, *, act=True):
    conv = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(outputs), *([nn.Hardswish()] if act else []))


class SqueezeExcite(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.down, self.up = nn.Conv2d(channels, channels // 4, 1), nn.Conv2d(channels // 4, channels, 1)

    def forward(self, x):
        gate = torch.relu(self.down(nn.functional.adaptive_avg_pool2d(x, 1)))
        return x * nn.functional.hardsigmoid(self.up(gate))


class Block(nn.Module):
    """Expand, filter each channel apart, weigh the channels, project; with a way round where shapes allow."""

    def __init__(self, inputs, outputs, expand, kernel, stride):
        super().__init__()
        wide = inputs * expand
        self.expand = layer(inputs, wide)
        self.depthwise = layer(wide, wide, kernel, stride, wide)
        self.squeeze = SqueezeExcite(wide)
        self.project = layer(wide, outputs, act=False)
        self.is_residual = inputs == outputs and stride == 1

    def forward(self, x):
        y = self.project(self.squeeze(self.depthwise(self.expand(x))))
        return x + y if self.is_residual else y


def mobilenet():
    return nn.Sequential(
        OrderedDict(
            stem=layer(1, 16, 3, 2),
            block1=Block(16, 16, 3, 3, 1),
            block2=Block(16, 24, 4, 3, 2),
            block3=Block(24, 24, 4, 5, 1),
            block4=Block(24, 40, 4, 5, 2),
            block5=Block(40, 40, 3, 3, 1),
            head=layer(40, 128),
            pool=nn.AdaptiveAvgPool2d(1),
            flatten=nn.Flatten(),
            classes=nn.Linear(128, 10),
        )
    ).to(memory_format=torch.channels_last)


class Residual(nn.Module):
    """Two convolutions and a way round, which is a projection where shapes change."""

    def __init__(self, inputs, outputs, stride):
        super().__init__()
        self.first = convolution(inputs, outputs, 3, stride)
        self.second = convolution(outputs, outputs, 3)
        self.short = convolution(inputs, outputs, 1, stride) if stride > 1 else nn.Identity()

    def forward(self, x):
        return torch.relu(self.second(torch.relu(self.first(x))) + self.short(x))


def convolution(inputs, outputs, kernel, stride=1):
    return layer(inputs, outputs, kernel, stride, act=False)


def resnet20():
    widths = [16, 16, 16, 16, 32, 32, 32, 64, 64, 64]
    blocks = [Residual(before, after, 2 if after > before else 1) for before, after in itertools.pairwise(widths)]
    return nn.Sequential(
        OrderedDict(
            stem=convolution(1, 16, 3),
            relu=nn.ReLU(),
            **{f"block{number}": block for number, block in enumerate(blocks, 1)},
            pool=nn.AdaptiveAvgPool2d(1),
            flatten=nn.Flatten(),
            classes=nn.Linear(64, 10),
        )
    ).to(memory_format=torch.channels_last)


NETWORKS = {"fashion_mobilenet": mobilenet, "fashion_resnet20": resnet20}


def exported(net):
    file = io.BytesIO()
    torch.onnx.export(
        net.to(memory_format=torch.contiguous_format),
        (torch.zeros(1, 1, 28, 28),),
        file,
        dynamo=False,
        opset_version=17,
        input_names=["image"],
        output_names=["logits"],
        dynamic_axes={"image": {0: "N"}, "logits": {0: "N"}},
    )
    onnx.checker.check_model(onnx.load_from_string(file.getvalue()), full_check=True)
    return file.getvalue()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("network", choices=NETWORKS)
    parser.add_argument("--steps", type=int, default=900)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path, default=HERE)
    args = parser.parse_args()
    torch.manual_seed(args.seed)
    torch.set_num_threads(args.threads)
    demo = demo_trainer()
    images = demo.idx(demo.DATA / "train-images-idx3-ubyte.gz")[:, None]
    tests = demo.idx(demo.DATA / "t10k-images-idx3-ubyte.gz")[:, None]
    labels, answers = (
        demo.idx(demo.DATA / f"{part}-labels-idx1-ubyte.gz").astype(np.int64) for part in ("train", "t10k")
    )
    net, started_s = NETWORKS[args.network](), time.monotonic()
    curve = demo.train(net, images, labels, args.steps, args.seed)
    seconds = time.monotonic() - started_s
    content = exported(net.eval())
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    logits = np.concatenate([session.run(None, {"image": part / np.float32(255)})[0] for part in np.split(tests, 100)])
    log = {
        "torch": torch.__version__,
        "python": platform.python_version(),
        "seed": args.seed,
        "threads": args.threads,
        "steps": args.steps,
        "batch": demo.BATCH,
        "parameters": sum(p.numel() for p in net.parameters()),
        "train_s": round(seconds, 1),
        "top1_test_10000": float((logits.argmax(axis=1) == answers).mean()),
        "sha256": hashlib.sha256(content).hexdigest(),
        "loss_curve": curve,
    }
    (args.out / f"{args.network}.onnx").write_bytes(content)
    (args.out / f"{args.network}.json").write_text(json.dumps(log, indent=2) + "\n")
    print(f"top-1 {log['top1_test_10000']:.4f}, {len(content)} bytes")


if __name__ == "__main__":
    main()
