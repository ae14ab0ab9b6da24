"""A short, seeded training: AdamW on a one-cycle schedule. Fine-tuning, transfer learning and distillation use it."""

import resource
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from edge_sdk import errors
from edge_sdk.host.compress.examples import Examples
from edge_sdk.host.compress.pytorch import Module, Tensor, first_output, torch, worded
from edge_sdk.host.compress.settings import CompressSettings

Loss = Callable[[Tensor, Tensor, Tensor], Tensor]
"""(inputs, the network's scores, labels) to the loss."""

Progress = Callable[[str, int, int], None]

_SHOWN_LOSSES = 10
"""The first and last figures of the curve are means over this many steps."""


class Training(NamedTuple):
    """What a training was like."""

    steps: int
    first_loss: float | None
    last_loss: float | None
    cpu_s: float


def train(
    net: Module,
    examples: Examples,
    settings: CompressSettings,
    *,
    loss: Loss | None = None,
    after_step: Callable[[], None] | None = None,
    stage: str = "train",
    progress: Progress | None = None,
) -> Training:
    """Trains `net` in place for `settings.steps` steps; the same seed, data and threads give the same weights.

    Layers without a trainable parameter keep still altogether: their batch norm statistics and dropout too.

    Args:
        net: on the device that it is to be trained on.
        examples: to learn from, each once per epoch in a shuffled order.
        settings: steps, batch, rate, weight decay, seed.
        loss: cross-entropy by default.
        after_step: called after each step, for example to put zeros back.
        stage: for `progress`.
        progress: told (stage, done, total).

    Raises:
        ModelError: the loss is NaN or infinite, or the network fails on a batch.
    """
    started_s = cpu_s()
    losses: list[float] = []
    weights = [weight for weight in net.parameters() if weight.requires_grad]
    where = next(net.parameters()).device
    measure = loss or cross_entropy
    with torch.random.fork_rng(), worded("the network can't be trained"):
        torch.manual_seed(settings.seed)
        _set_training(net)
        optimizer = torch.optim.AdamW(weights, lr=settings.rate, weight_decay=settings.weight_decay)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, settings.rate, total_steps=settings.steps + 1)
        for step, rows in enumerate(_picks(examples.count, settings), 1):
            inputs = _on(where, examples.inputs(rows))
            error = measure(inputs, first_output(net(inputs)), torch.from_numpy(examples.labels[rows]).to(where))
            losses.append(_checked(error.item(), step, settings))
            optimizer.zero_grad()
            error.backward()
            optimizer.step()
            schedule.step()
            if after_step:
                after_step()
            if progress:
                progress(stage, step, settings.steps)
    net.eval()
    return Training(settings.steps, _mean(losses[:_SHOWN_LOSSES]), _mean(losses[-_SHOWN_LOSSES:]), cpu_s() - started_s)


def cross_entropy(_inputs: Tensor, scores: Tensor, labels: Tensor) -> Tensor:
    """Gives the mean cross-entropy of class scores."""
    return torch.nn.functional.cross_entropy(scores, labels)


def distillation(teacher: Module, *, temperature: float, weight: float) -> Loss:
    """Gives the loss ``weight * T^2 * KL(teacher || student) + (1 - weight) * cross-entropy``.

    Source: G. Hinton, O. Vinyals, J. Dean, "Distilling the knowledge in a neural network" (2015); T^2 keeps both
    gradients on one scale whatever the temperature T.
    """
    teacher.eval()

    def loss(inputs: Tensor, scores: Tensor, labels: Tensor) -> Tensor:
        with torch.no_grad():
            wanted = torch.log_softmax(first_output(teacher(inputs)) / temperature, 1)
        given = torch.log_softmax(scores / temperature, 1)
        apart = torch.nn.functional.kl_div(given, wanted, reduction="batchmean", log_target=True)
        return weight * temperature**2 * apart + (1 - weight) * cross_entropy(inputs, scores, labels)

    return loss


def right_answers(net: Module, examples: Examples, *, batch: int = 256) -> NDArray[np.bool_]:
    """Gives for each sample whether the class with the highest score is its label."""
    net.eval()
    where = next(net.parameters()).device
    found = []
    with torch.no_grad(), worded("the network fails on the evaluation data"):
        for start in range(0, examples.count, batch):
            scores = first_output(net(_on(where, examples.inputs(slice(start, start + batch)))))
            found.append(scores.argmax(1).cpu().numpy() == examples.labels[start : start + batch])
    return np.concatenate(found)


def cpu_s() -> float:
    """Gives the processor seconds of this process so far, all threads together."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def _on(device: str, array: NDArray[np.float32]) -> Tensor:
    """Gives a batch on the device; images with channels last, with which a CPU trains nearly twice as fast."""
    tensor = torch.from_numpy(array).to(device)
    return tensor.contiguous(memory_format=torch.channels_last) if tensor.ndim == 4 else tensor


def _set_training(net: Module) -> None:
    net.train()
    for module in net.modules():
        weights = list(module.parameters())
        if weights and not any(weight.requires_grad for weight in weights):
            module.eval()


def _picks(count: int, settings: CompressSettings) -> Iterator[NDArray[np.int64]]:
    """Gives the rows of each step: whole epochs in an order of their own, the incomplete batch at an end left out."""
    rng = np.random.default_rng(settings.seed)
    batch = min(settings.batch, count)
    left: NDArray[np.int64] = np.empty(0, np.int64)
    for _ in range(settings.steps):
        if len(left) < batch:
            left = rng.permutation(count)
        yield left[:batch]
        left = left[batch:]


def _checked(loss: float, step: int, settings: CompressSettings) -> float:
    if not np.isfinite(loss):
        raise errors.ModelError(
            f"the loss became {loss} at step {step} of {settings.steps}, so nothing was written; try a lower rate than "
            f"{settings.rate}, and look for NaN in the network's weights"
        )
    return loss


def _mean(losses: list[float]) -> float | None:
    return float(np.mean(losses)) if losses else None
