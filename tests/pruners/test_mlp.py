"""Fully connected networks: hidden neurons are channels like others."""

import pytest
import torch

from prune_cli.budget import Budget
from prune_cli.channels import trace
from prune_cli.errors import PruneError
from prune_cli.models.mlp import Mlp
from prune_cli.pruners.chipnet import ChipNet
from prune_cli.pruners.csgd import CSgd
from prune_cli.pruners.epruner import EPruner
from prune_cli.pruners.lfe import FilterEnsembles
from prune_cli.pruners.magnitude import Magnitude
from prune_cli.surgery import apply
from prune_cli.training.recipe import Recipe

SHORT = Recipe(epochs=2, batch=32, lr=0.01, schedule="constant")
GATED = Recipe(epochs=2, batch=32, optimizer="adamw", lr=1e-3, schedule="constant")
METHODS = [
    EPruner(), Magnitude(), CSgd(SHORT), ChipNet(GATED), FilterEnsembles(masks=20, images=16),
    FilterEnsembles(mode="network", masks=20, images=16),
]  # fmt: skip


@pytest.mark.parametrize("method", METHODS, ids=lambda m: type(m).__name__)
def test_every_filter_method_takes_hidden_neurons(method, data, place):
    torch.manual_seed(0)
    model = Mlp(4, 3 * 32 * 32, (30, 10))
    network = trace(model, data.shape)
    assert {name: group.size for name, group in network.groups.items()} == {"hidden.0": 30, "hidden.1": 10}
    budget = Budget(keep=0.5, floor=0.0)
    method.check(network, budget)
    small = trace(apply(model, method.plan(network, data, budget, place, 0), data.shape), data.shape)
    assert 0.3 < small.cost("macs") / network.cost("macs") <= 0.5


@pytest.mark.parametrize("metric", ["channels", "volume"])
def test_metrics_that_count_convolutions_are_refused(metric):
    network = trace(Mlp(4, 3 * 32 * 32, (30, 10)), (3, 32, 32))
    with pytest.raises(PruneError, match="this network has none: use macs or params"):
        Magnitude().check(network, Budget(metric))
