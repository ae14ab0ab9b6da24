"""Structured pruning removes channels for real, keeps the classes, and words what it can't take apart."""

import pytest

torch = pytest.importorskip("torch", reason="torch is not installed (pip install 'edge_sdk[torch]')")
pytest.importorskip("torch_pruning", reason="torch-pruning is not installed (pip install 'edge_sdk[torch]')")

import compress_nets as nets  # noqa: E402 - needs torch

from edge_sdk import errors  # noqa: E402
from edge_sdk.host.compress import measure, pruning  # noqa: E402

PROBE = torch.zeros(3, 1, 8, 8)


@pytest.mark.parametrize(
    ("count", "amount", "round_to", "kept"),
    [(96, 0.3, 16, 64), (24, 0.5, 16, 16), (24, 0.5, 8, 8), (64, 0.9, 16, 16), (12, 0.5, 16, 12), (100, 0.0, 16, 96)],
)
def test_what_stays_is_a_multiple_near_the_share_asked_for_and_never_nothing(count, amount, round_to, kept):
    assert pruning.kept_channels(count, amount, round_to) == kept


@pytest.mark.parametrize(("amount", "round_to", "width"), [(0.5, 16, 16), (0.3, 8, 24), (0.9, 16, 16)])
def test_channels_leave_every_layer_that_hangs_together(amount, round_to, width):
    net = nets.fresh_net(32)
    before = measure.macs(net, PROBE)
    changed = pruning.prune(net, PROBE, amount=amount, round_to=round_to)
    assert changed == dict.fromkeys(("0", "2.first", "2.second"), (32, width))
    assert net(PROBE).shape == (3, nets.CLASSES)
    assert measure.macs(net, PROBE) < before


def test_the_smallest_channels_leave():
    net = nets.fresh_net(32)
    with torch.no_grad():
        net[2].first.weight[::2] *= 1e-3
        net[2].norm.weight[::2] *= 1e-3
        net[2].second.weight[:, ::2] *= 1e-3
    pruning.prune(net, PROBE, amount=0.5, round_to=16)
    assert (net[2].first.weight.abs().amax((1, 2, 3)) > 1e-2).all()


def test_a_layer_too_narrow_for_the_rounding_stays():
    assert pruning.prune(nets.fresh_net(16), PROBE, amount=0.5, round_to=16) == {}


def test_one_network_does_not_remember_the_groups_of_another():
    grouped = torch.nn.Sequential(
        torch.nn.Conv2d(1, 32, 3),
        torch.nn.Conv2d(32, 32, 3, groups=2),
        torch.nn.AdaptiveAvgPool2d(1),
        torch.nn.Flatten(),
        torch.nn.Linear(32, 4),
    ).eval()
    pruning.prune(grouped, PROBE, amount=0.5, round_to=16)
    assert grouped(PROBE).shape == (3, 4)
    assert pruning.prune(nets.fresh_net(32), PROBE, amount=0.5, round_to=16)


def test_depthwise_convolutions_follow_the_layer_before_them():
    net = torch.nn.Sequential(
        torch.nn.Conv2d(1, 32, 3, padding=1),
        torch.nn.Conv2d(32, 32, 3, padding=1, groups=32),
        torch.nn.Conv2d(32, 64, 1),
        torch.nn.AdaptiveAvgPool2d(1),
        torch.nn.Flatten(),
        torch.nn.Linear(64, 4),
    ).eval()
    changed = pruning.prune(net, PROBE, amount=0.5, round_to=16)
    assert changed == {"0": (32, 16), "1": (32, 16), "2": (64, 32)}
    assert net[1].groups == 16


def test_a_network_that_counts_on_fixed_sizes_is_refused_in_its_own_words():
    class Fixed(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.first = torch.nn.Conv2d(1, 32, 3, padding=1)
            self.head = torch.nn.Linear(32, 4)

        def forward(self, x):
            y = self.first(x)
            return self.head(y.reshape(len(y), 32, 64).mean(2))

    with pytest.raises(errors.ModelError, match="fixed sizes.*invalid for input"):
        pruning.prune(Fixed().eval(), PROBE, amount=0.5, round_to=16)


def test_a_network_that_can_not_be_traced_is_refused_in_torch_prunings_words():
    class Detached(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.first = torch.nn.Conv2d(1, 32, 3)
            self.head = torch.nn.Linear(32, 4)

        def forward(self, x):
            if torch.is_grad_enabled():
                raise NotImplementedError("no gradients through here")
            return self.head(self.first(x).mean((2, 3)))

    with pytest.raises(
        errors.ModelError, match="torch-pruning can't take this network apart.*no gradients through here"
    ):
        pruning.prune(Detached().eval(), PROBE, amount=0.5, round_to=16)
