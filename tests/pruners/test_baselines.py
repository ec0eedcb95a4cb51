"""`none`, `random` and `magnitude` do what their names say."""

import numpy as np
import pytest
import torch

from prune_cli.budget import Budget
from prune_cli.channels import trace
from prune_cli.errors import PruneError
from prune_cli.plan import Plan
from prune_cli.pruners.magnitude import Magnitude
from prune_cli.pruners.none import NoPruner
from prune_cli.pruners.random import RandomFilters
from tests.networks import make


def test_none_decides_nothing(data, place):
    model, shape = make("vgg")
    assert NoPruner().plan(trace(model, shape), data, Budget(), place, 0) == Plan()


def test_random_depends_on_the_seed_alone(data, place):
    model, shape = make("vgg")
    network = trace(model, shape)
    plans = [RandomFilters().plan(network, data, Budget(), place, seed) for seed in (0, 0, 1)]
    assert plans[0] == plans[1] != plans[2]


@pytest.mark.parametrize("norm, order", [("l1", 1), ("l2", 2)])
def test_magnitude_removes_the_smallest_filters_of_each_layer(norm, order, data, place):
    model, shape = make("resnet-pad")
    network = trace(model, shape)
    plan = Magnitude(norm).plan(network, data, Budget(keep=0.6), place, 0)
    assert [edit.group for edit in plan.edits] == [f"layer{s}.{b}.conv1" for s in (1, 2, 3) for b in (0, 1)]
    parts = []
    for edit in plan.edits:
        norms = model.get_submodule(edit.group).weight.detach().flatten(1).norm(order, 1).numpy()
        assert set(edit.keep) == set(np.argsort(norms)[-len(edit.keep) :])
        parts.append(len(edit.keep) / len(norms))
    assert max(parts) - min(parts) <= 1 / 8 + 1e-9  # the same part of every layer, up to one of eight channels


def test_global_magnitude_compares_layers(data, place):
    model, shape = make("resnet-pad")
    with torch.no_grad():  # half of this layer's filters hardly count
        model.layer2[0].conv1.weight[:8] *= 1e-3
    plan = Magnitude(scope="global").plan(trace(model, shape), data, Budget(keep=0.9, floor=0.0), place, 0)
    kept = {edit.group: edit.keep for edit in plan.edits}
    assert set(kept["layer2.0.conv1"]) == set(range(8, 16))


def test_streams_are_cut_when_asked_for(data, place):
    model, shape = make("resnet-project")
    network = trace(model, shape)
    groups = {e.group for e in Magnitude(streams=True).plan(network, data, Budget(), place, 0).edits}
    assert {name for name, group in network.groups.items() if group.is_stream} <= groups


def test_unknown_choices_are_refused():
    with pytest.raises(PruneError, match="norm must be one of l1, l2"):
        Magnitude(norm="l3")
    with pytest.raises(PruneError, match="scope must be one of"):
        Magnitude(scope="world")
