"""The training loop, masks, heads and pruning on a tiny network."""

import copy
import math

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="torch is not installed (pip install 'edge_sdk[torch]')")

import compress_nets as nets  # noqa: E402 - needs torch

from edge_sdk import errors  # noqa: E402
from edge_sdk.host.compress import layers, measure, sparsity, training  # noqa: E402
from edge_sdk.host.compress.settings import CompressSettings  # noqa: E402

QUICK = CompressSettings(steps=20, batch=32, rate=5e-3)
PROBE = torch.zeros(3, 1, 8, 8)


def weights(net):
    return torch.cat([value.float().flatten() for value in net.state_dict().values()])


def test_training_learns_and_counts_its_processor_time():
    net = nets.fresh_net()
    done = training.train(net, nets.samples(), CompressSettings(steps=40, batch=64, rate=1e-2))
    assert done.last_loss < done.first_loss / 2
    assert done.cpu_s > 0
    assert training.right_answers(net, nets.samples(seed=9)).mean() > 0.9


def test_the_same_seed_gives_the_same_weights_and_another_one_others():
    trained = []
    for seed in (0, 0, 1):
        net = nets.fresh_net()
        training.train(net, nets.samples(), CompressSettings(steps=5, batch=32, seed=seed))
        trained.append(weights(net))
    assert torch.equal(trained[0], trained[1])
    assert not torch.equal(trained[0], trained[2])


def test_the_callers_random_numbers_are_left_alone():
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    training.train(nets.fresh_net(), nets.samples(64), CompressSettings(steps=2, batch=32))
    assert torch.equal(torch.rand(3), expected)


def test_every_sample_is_seen_once_before_any_is_seen_twice():
    seen = []

    class Recorder(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = torch.nn.Parameter(torch.zeros(1))

        def forward(self, x):
            seen.extend(x[:, 0, 0, 0].int().tolist())
            return torch.cat([x[:, 0, 0, :1] * self.weight, x[:, 0, 0, :1]], 1)

    data = nets.samples(12)
    data.raw[:, 0, 0, 0] = np.arange(12)
    data.labels[:] = 0
    training.train(Recorder(), data, CompressSettings(steps=6, batch=4))
    assert sorted(seen[:12]) == sorted(seen[12:]) == list(range(12))
    assert seen[:12] != seen[12:]


def test_progress_is_told_every_step():
    steps = []
    settings = CompressSettings(steps=3, batch=32)
    training.train(nets.fresh_net(), nets.samples(64), settings, stage="tune", progress=lambda *s: steps.append(s))
    assert steps == [("tune", 1, 3), ("tune", 2, 3), ("tune", 3, 3)]


def test_a_loss_that_is_not_finite_stops_the_training():
    net = nets.fresh_net()
    with torch.no_grad():
        next(net.parameters()).fill_(math.nan)
    with pytest.raises(errors.ModelError, match=r"became nan at step 1 of 20.*lower rate"):
        training.train(net, nets.samples(), QUICK)


def test_a_network_that_does_not_fit_the_data_is_refused_in_torchs_words():
    with pytest.raises(errors.ModelError, match="can't be trained.*mat1 and mat2"):
        training.train(torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3, 4)), nets.samples(), QUICK)


@pytest.mark.parametrize("output", ["image", "number"])
def test_what_is_no_classifier_is_refused(output):
    net = (
        torch.nn.Conv2d(1, 4, 3)
        if output == "image"
        else torch.nn.Sequential(torch.nn.Flatten(0), torch.nn.Linear(192, 4))
    )
    with pytest.raises(errors.ModelError, match="scores of classes"):
        layers.class_count(net, PROBE)


def test_a_network_with_several_outputs_is_scored_by_its_first():
    class Two(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = nets.fresh_net()

        def forward(self, x):
            return {"scores": self.inner(x), "more": x}

    assert layers.class_count(Two(), PROBE) == nets.CLASSES


def test_distillation_pulls_towards_the_teacher_where_the_labels_say_nothing():
    teacher, student = nets.trained_net(), nets.fresh_net(seed=5)
    data = nets.samples()
    wanted = training.right_answers(teacher, data)
    wrong = nets.samples()
    wrong.labels[:] = 0
    loss = training.distillation(teacher, temperature=4.0, weight=1.0)
    before = weights(teacher)
    training.train(student, wrong, CompressSettings(steps=60, batch=64, rate=1e-2), loss=loss)
    assert (training.right_answers(student, data) == wanted).mean() > 0.9
    assert torch.equal(weights(teacher), before)


def test_a_mask_keeps_the_two_largest_of_each_four_along_the_inputs():
    weight = torch.tensor([[1.0, -4.0, 3.0, 2.0, 0.0, 0.0, 0.0, 5.0]])
    assert sparsity.mask_from_weight(weight).tolist() == [[0, 1, 1, 0, 1, 0, 0, 1]]


def test_masks_of_a_convolution_run_along_its_input_channels():
    mask = sparsity.mask_from_weight(torch.randn(8, 16, 3, 3))
    assert mask.shape == (8, 16, 3, 3)
    assert (mask.reshape(8, 4, 4, 3, 3).sum(2) == 2).all()


def test_2_to_4_is_kept_through_training_and_leaves_unfit_layers_dense():
    net = nets.trained_net()
    sparse = sparsity.sparse_from_net(net)
    assert set(sparse.skipped) == {"0"}
    assert "1 input channels" in sparse.skipped["0"]
    sparse.apply(net)
    training.train(net, nets.samples(), QUICK, after_step=lambda: sparse.apply(net))
    for name in sparse.masks:
        assert sparsity.has_pattern(net.get_submodule(name).weight)
    total, nonzero = measure.parameter_counts(net)
    assert 0.45 < nonzero / total < 0.6


def test_grouped_convolutions_stay_dense():
    net = torch.nn.Sequential(torch.nn.Conv2d(8, 8, 3, groups=8), torch.nn.Flatten(), torch.nn.Linear(8, 2))
    assert "grouped" in sparsity.sparse_from_net(net).skipped["0"]


def test_a_new_head_takes_the_place_of_the_last_layer_and_the_rest_can_keep_still():
    net = nets.trained_net()
    body = copy.deepcopy(net[:4].state_dict())
    assert layers.replace_head(net, PROBE, classes=7, freeze=True, seed=0) == "4"
    data = nets.samples()
    training.train(net, data, QUICK)
    assert net(PROBE).shape == (3, 7)
    assert all(torch.equal(value, net[:4].state_dict()[name]) for name, value in body.items()), "statistics moved too"


def test_a_convolution_can_be_the_head():
    net = torch.nn.Sequential(torch.nn.Conv2d(1, 8, 3), torch.nn.AdaptiveAvgPool2d(1), torch.nn.Conv2d(8, 4, 1))
    assert layers.replace_head(net, PROBE, classes=3, freeze=False, seed=0) == "2"
    assert layers.class_count(net, PROBE) == 3


def test_a_head_that_can_not_be_told_is_refused_and_the_network_stays_as_it_is():
    class Odd(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = torch.nn.Linear(64, 4)

        def forward(self, x):
            scores = self.layer(x.flatten(1))
            return torch.cat([scores, scores], 1)

    net = Odd()
    before = weights(net)
    with pytest.raises(errors.ModelError, match="8 class scores.*'layer' with 4 outputs"):
        layers.replace_head(net, PROBE, classes=3, freeze=True, seed=0)
    assert torch.equal(weights(net), before)
    assert all(weight.requires_grad for weight in net.parameters())


def test_macs_are_counted_for_one_sample():
    net = torch.nn.Sequential(torch.nn.Conv2d(1, 4, 3, padding=1), torch.nn.Flatten(), torch.nn.Linear(256, 10))
    assert measure.macs(net, PROBE) == 64 * 4 * 9 + 256 * 10
