"""Every criterion is its formula, checked against autograd-free arithmetic, and leaves the network alone."""

import copy

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from prune_cli.channels import trace
from prune_cli.criteria import CRITERIA, score_filters
from prune_cli.data.images import Look, MemoryImages
from tests.networks import TINY, make


@pytest.fixture
def batch():
    """One batch of 8 images of 4 classes."""
    pixels = torch.randint(0, 256, (8, 3, 32, 32), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    return MemoryImages(pixels, torch.arange(8) % 4, Look((0.5,) * 3, (0.25,) * 3))


def inner(network):
    return [group for group in network.groups.values() if not group.is_stream]


class Gate(nn.Module):
    def __init__(self, values):
        super().__init__()
        self.values = nn.Parameter(values)

    def forward(self, x):
        return x * self.values[:, None, None]


def loss_of(model, batch, place):
    x, y = next(batch.batches(8, place))
    return F.cross_entropy(model(x), y)


def test_weight_criteria_by_hand(batch, place):
    model, shape = make("resnet-pad")
    network = trace(model, shape)
    weight = model.layer2[0].conv1.weight.detach().flatten(1)
    expected = {
        "l2": (weight**2).sum(1),
        "l1": weight.abs().sum(1),
        "bn_scale": model.layer2[0].bn1.weight.detach().abs(),
    }
    for criterion, values in expected.items():
        scores = score_filters(network, inner(network), criterion, batch, place)
        assert np.allclose(scores["layer2.0.conv1"], values.numpy(), rtol=1e-5)


@pytest.mark.parametrize(
    "name, group, norm", [("resnet-pad", "layer2.0.conv1", "layer2.0.bn1"), ("vgg", "features.4.conv", "features.4.bn")]
)
def test_gate_scores_equal_finite_differences(name, group, norm, batch, place):
    model, shape = make(name)
    network = trace(model, shape)
    scores = score_filters(network, inner(network), "taylor_gate", batch, place)[group]
    gated = copy.deepcopy(model).double()
    gate = Gate(torch.ones(network.groups[group].size, dtype=torch.float64))
    gated.set_submodule(norm, nn.Sequential(gated.get_submodule(norm), gate))
    x, y = next(batch.batches(8, place))
    whole, h = F.cross_entropy(gated(x.double()), y), 1e-6
    for j in range(network.groups[group].size):
        gate.values.data[j] = 1 - h
        slope = ((whole - F.cross_entropy(gated(x.double()), y)) / h).item()
        gate.values.data[j] = 1
        assert scores[j] == pytest.approx(slope**2, rel=1e-3, abs=1e-9)


def test_weight_taylor_and_map_taylor_by_autograd(batch, place):
    model, shape = make("resnet-pad")
    network = trace(model, shape)
    conv = model.layer3[1].conv1
    (gradient,) = torch.autograd.grad(loss_of(model, batch, place), [conv.weight])
    expected = ((conv.weight * gradient) ** 2).flatten(1).sum(1).detach().numpy()
    assert np.allclose(
        score_filters(network, inner(network), "taylor_weight", batch, place)["layer3.1.conv1"], expected, rtol=1e-4
    )
    maps = score_filters(network, inner(network), "taylor_map", batch, place)
    assert all(np.linalg.norm(values) == pytest.approx(1) for values in maps.values())


def test_a_silent_branch_has_no_gradient_scores(batch, place):
    """Its last batch-norm gives zeros, so nothing inside of it can move the loss."""
    model, shape = make("resnet-pad")
    nn.init.zeros_(model.layer2[1].bn2.weight)
    network = trace(model, shape)
    for criterion in ("taylor_gate", "taylor_map", "taylor_weight"):
        scores = score_filters(network, inner(network), criterion, batch, place)
        assert (scores["layer2.1.conv1"] == 0).all() and (scores["layer2.0.conv1"] > 0).any()
    assert (score_filters(network, inner(network), "l2", batch, place)["layer2.1.conv1"] > 0).all()


@pytest.mark.parametrize("criterion", CRITERIA)
@pytest.mark.parametrize("name", TINY)
def test_every_criterion_scores_every_group_and_leaves_no_trace(name, criterion, batch, place):
    model, shape = make(name)
    model.train()
    before = copy.deepcopy(model.state_dict())
    network = trace(model, shape)
    scores = score_filters(network, network.groups.values(), criterion, batch, place, size=4)
    assert {group: len(values) for group, values in scores.items()} == {n: g.size for n, g in network.groups.items()}
    assert all(np.isfinite(values).all() and (values >= 0).all() for values in scores.values())
    assert model.training and not any(module._forward_hooks for module in model.modules())
    assert all(torch.equal(a, b) for a, b in zip(before.values(), model.state_dict().values(), strict=True))
    assert all(p.grad is None for p in model.parameters())
