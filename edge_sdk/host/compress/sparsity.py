"""2:4 sparsity: two zeros in each four weights along the input channels, which sparse tensor cores (Ampere on) skip."""

from typing import NamedTuple

from edge_sdk.host.compress import layers
from edge_sdk.host.compress.pytorch import Module, Tensor, torch

GROUP, KEPT = 4, 2


class Sparse(NamedTuple):
    """The masks of a network.

    Attributes:
        masks: by layer name; 1 where a weight stays.
        skipped: layers that stay dense, and why.
    """

    masks: dict[str, Tensor]
    skipped: dict[str, str]

    def apply(self, net: Module) -> None:
        """Sets what the masks leave out to zero, in place; call it after each step of training."""
        with torch.no_grad():
            for name, mask in self.masks.items():
                net.get_submodule(name).weight.mul_(mask)


def sparse_from_net(net: Module) -> Sparse:
    """Gives masks that keep the two largest of each four weights."""
    masks, skipped = {}, {}
    for name, module in layers.weighted_layers(net):
        inputs, _ = layers.channels(module)
        if getattr(module, "groups", 1) != 1:
            skipped[name] = "grouped convolutions have no sparse kernel"
        elif inputs % GROUP:
            skipped[name] = f"its {inputs} input channels are no multiple of {GROUP}"
        else:
            masks[name] = mask_from_weight(module.weight.detach())
    return Sparse(masks, skipped)


def mask_from_weight(weight: Tensor) -> Tensor:
    """Gives the 2:4 mask of a weight ``[out, in, ...]``; of equal weights the first ones stay."""
    rows = weight.abs().movedim(1, -1)
    fours = rows.reshape(-1, GROUP)
    order = torch.argsort(fours, dim=1, descending=True, stable=True)
    mask = torch.zeros_like(fours).scatter_(1, order[:, :KEPT], 1.0)
    return mask.reshape(rows.shape).movedim(-1, 1)


def has_pattern(weight: Tensor) -> bool:
    """Gives whether no four weights along the input channels have more than two that are not zero."""
    fours = weight.movedim(1, -1).reshape(-1, GROUP)
    return bool(((fours != 0).sum(1) <= KEPT).all())
