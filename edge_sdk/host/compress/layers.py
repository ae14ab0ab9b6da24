"""Which layers a network runs, which one is its head, and a new head in its place."""

from typing import Any, NamedTuple

from edge_sdk import errors
from edge_sdk.host.compress.pytorch import Module, Tensor, first_output, torch, worded


class Layer(NamedTuple):
    """A layer with weights, under its name in the network."""

    name: str
    module: Module


def channels(module: Module) -> tuple[int, int]:
    """Gives (input, output) channels of a Conv or Linear."""
    if isinstance(module, torch.nn.Linear):
        return module.in_features, module.out_features
    return module.in_channels, module.out_channels


def weighted_layers(net: Module) -> list[Layer]:
    """Gives every Conv and Linear, in the order of their definition."""
    kinds = (torch.nn.Linear, torch.nn.Conv1d, torch.nn.Conv2d, torch.nn.Conv3d)
    return [Layer(name, module) for name, module in net.named_modules() if isinstance(module, kinds)]


def class_count(net: Module, probe: Tensor, failing: str = "the network can't run on the evaluation data") -> int:
    """Gives how many classes the network scores.

    Args:
        net: to run once.
        probe: a few samples.
        failing: what to say when it does not run.

    Raises:
        ModelError: it fails on them, or gives no class scores.
    """
    net.eval()
    with torch.no_grad(), worded(failing):
        return int(first_output(net(probe)).shape[1])


def head(net: Module, probe: Tensor) -> Layer:
    """Gives the layer that makes the class scores: the last one with weights that runs.

    Raises:
        ModelError: that layer has another number of outputs than the network, so something else makes them.
    """
    ran: list[Layer] = []
    hooks = [
        layer.module.register_forward_hook(lambda *_call, layer=layer: ran.append(layer))
        for layer in weighted_layers(net)
    ]
    try:
        classes = class_count(net, probe)
    finally:
        for hook in hooks:
            hook.remove()
    if not ran or channels(ran[-1].module)[1] != classes:
        last = f"{ran[-1].name!r} with {channels(ran[-1].module)[1]} outputs" if ran else "none"
        raise errors.ModelError(
            f"the network gives {classes} class scores, but its last layer with weights is {last}: the head can't be "
            "told; write the network so that a Linear or Conv comes last"
        )
    return ran[-1]


def replace_head(net: Module, probe: Tensor, *, classes: int, freeze: bool, seed: int) -> str:
    """Puts a fresh layer with `classes` outputs where the head is, in place; gives its name.

    Args:
        net: to change.
        probe: a few samples.
        classes: of the new head.
        freeze: nothing but the new layer is to be trained.
        seed: of its weights.
    """
    old = head(net, probe)
    if freeze:
        net.requires_grad_(requires_grad=False)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        new = _like(old.module, classes)
    parent, _, name = old.name.rpartition(".")
    if not old.name:
        raise errors.ModelError("the network is one layer without a network around it; wrap it in torch.nn.Sequential")
    setattr(net.get_submodule(parent), name, new)
    return old.name


def _like(old: Module, classes: int) -> Module:
    has_bias: Any = old.bias is not None
    if isinstance(old, torch.nn.Linear):
        return torch.nn.Linear(old.in_features, classes, bias=has_bias)
    return type(old)(old.in_channels, classes, old.kernel_size, old.stride, old.padding, old.dilation, bias=has_bias)
