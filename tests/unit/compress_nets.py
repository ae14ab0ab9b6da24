"""A tiny classifier and synthetic images for it: which of the four corners is bright."""

import functools
import hashlib

import numpy as np
import torch

from edge_sdk.host.compress import examples, training
from edge_sdk.host.compress.settings import CompressSettings
from edge_sdk.records.tensors import TensorSpec

SPEC = TensorSpec("image", "float32", (None, 1, 8, 8))
CLASSES = 4


def corners(count, seed, *, noise=1.2):
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, CLASSES, count)
    images = (rng.standard_normal((count, 1, 8, 8)) * noise).astype(np.float32)
    for image, label in zip(images, labels, strict=True):
        row, column = divmod(int(label), 2)
        image[0, 4 * row : 4 * row + 4, 4 * column : 4 * column + 4] += 1
    return images, labels.astype(np.int64)


def samples(count=256, seed=0, **options):
    images, labels = corners(count, seed, **options)
    digests = tuple(hashlib.sha256(image.tobytes()).hexdigest() for image in images)
    return examples.Examples(images, labels, None, digests, f"data of seed {seed}")


class Residual(torch.nn.Module):
    """Two convolutions and a way round them: channels that hang together."""

    def __init__(self, width):
        super().__init__()
        self.first = torch.nn.Conv2d(width, width, 3, padding=1)
        self.norm = torch.nn.BatchNorm2d(width)
        self.second = torch.nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x):
        return torch.relu(x + self.second(torch.relu(self.norm(self.first(x)))))


def fresh_net(width=32, classes=CLASSES, seed=0):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return torch.nn.Sequential(
            torch.nn.Conv2d(1, width, 3, stride=2, padding=1),
            torch.nn.ReLU(),
            Residual(width),
            torch.nn.Flatten(),
            torch.nn.Linear(width * 16, classes),
        ).eval()


@functools.cache
def _trained_weights(width):
    net = fresh_net(width)
    training.train(net, samples(512, seed=1), CompressSettings(steps=60, batch=64, rate=1e-2))
    return net.state_dict()


def trained_net(width=32):
    net = fresh_net(width)
    net.load_state_dict(_trained_weights(width))
    return net
