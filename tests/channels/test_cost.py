"""Costs read off the graph are those that fvcore counts, before and after cutting."""

import numpy as np
import pytest
import torch

from prune_cli.budget import masks
from prune_cli.channels import METRICS, trace
from prune_cli.costs import count_macs
from prune_cli.plan import Plan, Width
from prune_cli.surgery import apply
from tests.networks import REAL, TINY, half_of, make


def parameters(model):
    return sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize("name", [*TINY, *REAL])
def test_macs_and_params_equal_fvcore_before_and_after(name):
    model, shape = make(name)
    network = trace(model, shape)
    assert network.cost("macs") == count_macs(model, shape)
    assert network.cost("params") == parameters(model)
    kept = half_of(network)
    small = apply(model, Plan(tuple(Width(group, keep) for group, keep in kept.items())), shape)
    after = trace(small, shape)
    for metric in METRICS:
        assert network.cost(metric, masks(network, kept)) == after.cost(metric)
    assert after.cost("macs") == count_macs(small, shape)
    assert after.cost("params") == parameters(small)


def test_published_counts():
    """ResNet-56 with option A: 125.49M multiply-adds, 0.853M parameters; VGG-16: 313.2M, 14.72M."""
    from prune_cli.models.resnet import CifarResNet
    from prune_cli.models.vgg import Vgg16

    resnet = trace(CifarResNet(56, 10), (3, 32, 32))
    assert (resnet.cost("macs"), resnet.cost("params")) == (125_485_696, 853_018)
    vgg = trace(Vgg16(10), (3, 32, 32))
    assert (vgg.cost("macs"), vgg.cost("params")) == (313_201_664, 14_724_042)


def test_soft_costs_have_gradients():
    model, shape = make("resnet-pad")
    network = trace(model, shape)
    gates = {name: torch.full((group.size,), 0.5, requires_grad=True) for name, group in network.groups.items()}
    cost = network.cost("macs", gates)
    cost.backward()
    assert cost.item() < network.cost("macs")
    assert all(bool((gate.grad > 0).all()) for gate in gates.values())


def test_cost_of_whole_groups_is_the_cost_of_the_network():
    model, shape = make("bottleneck")
    network = trace(model, shape)
    whole = {name: np.ones(group.size) for name, group in network.groups.items()}
    assert all(network.cost(metric, whole) == network.cost(metric) for metric in METRICS)
