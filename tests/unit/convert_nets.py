"""Torch modules as users write them, for the tests of conversion; each function is given by its import string."""

import torch
from torch import nn


class Net(nn.Module):
    """conv, batch norm, a residual SiLU block, dropout and a classifier; three outputs by name."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, padding=1)
        self.norm = nn.BatchNorm2d(16)
        self.block = nn.Conv2d(16, 16, 3, padding=1)
        self.head = nn.Linear(16, 10)
        self.dropout = nn.Dropout(0.5)

    def forward(self, images):
        x = torch.relu(self.norm(self.stem(images)))
        x = (x + nn.functional.silu(self.block(x))).mean((2, 3))
        scores = self.head(self.dropout(x))
        return {"scores": scores, "features": x, "best": scores.argmax(1)}


class Stateful(nn.Module):
    def forward(self, sound, state):
        state = torch.tanh(state + sound.mean())
        return sound * state.mean(), state


class WritesShapes(nn.Module):
    """Computes with the size of the batch, as older detection heads do."""

    def __init__(self):
        super().__init__()
        self.head = nn.Linear(4, 2)

    def forward(self, x):
        return self.head(x) + torch.zeros(int(x.shape[0]) * 0 + 1, 2) if x.shape[0] == 1 else self.head(x) * 1.5


class Random(nn.Module):
    def forward(self, x):
        return x + torch.rand_like(x)


class DataDependent(nn.Module):
    def forward(self, x):
        return x if x.sum() > 0 else -x


class Bfloat(nn.Module):
    def forward(self, x):
        return x.to(torch.bfloat16)


class Unused(nn.Module):
    def forward(self, x):
        return torch.ones(2)


IMAGE = torch.linspace(0, 1, 3 * 16 * 16).reshape(1, 3, 16, 16)


def seeded(kind):
    torch.manual_seed(0)
    return kind()


def net():
    return seeded(Net), IMAGE


def named():
    return seeded(Net), {"images": IMAGE}


def renamed():
    return seeded(Net), {"pixels": IMAGE}


def half():
    return seeded(Net).half(), IMAGE.half()


def stateful():
    return Stateful(), (torch.ones(1, 8), torch.zeros(2, 1, 4))


def writes_shapes():
    return seeded(WritesShapes), torch.ones(1, 4)


def random():
    return Random(), torch.ones(1, 4)


def data_dependent():
    return DataDependent(), torch.ones(1, 4)


def bfloat():
    return Bfloat(), torch.ones(1, 4)


def without_inputs():
    return seeded(Net)


def no_module():
    return "resnet"


def fails():
    raise RuntimeError("no weights at /data/best.pt")


MODULE = seeded(Net)
