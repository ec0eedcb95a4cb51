"""Gates: a shut gate is a cut channel, an open one changes nothing, and the network is as before when they are gone."""

import copy

import numpy as np
import pytest
import torch

from prune_cli.budget import cuttable, plan_of
from prune_cli.channels import trace
from prune_cli.errors import PruneError
from prune_cli.gates import Gates
from prune_cli.surgery import apply
from tests.networks import REAL, TINY, half_of, images, make

NETWORKS = [*TINY, "resnet18", "mobilenet_v2", "densenet121", "googlenet", "shufflenet_v2"]


def gated(name, **options):
    model, shape = make(name)
    network = trace(model, shape)
    return network, Gates(network, cuttable(network, streams=True), **options)


def seen(network, gates, z):
    with gates.attached(network.model, lambda: z), torch.no_grad():
        return network.model(images(network.shape))


@pytest.mark.parametrize("name", NETWORKS)
def test_open_gates_change_nothing_and_leave_no_trace(name):
    network, gates = gated(name)
    before = network.model(images(network.shape))
    state = {key: tensor.clone() for key, tensor in network.model.state_dict().items()}
    assert torch.equal(seen(network, gates, torch.ones(gates.size)), before)
    after = network.model.state_dict()
    assert list(after) and {k: v.shape for k, v in after.items()} == {k: v.shape for k, v in state.items()}
    assert all(torch.equal(state[key], after[key]) for key in state)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in network.model.modules())
    assert (
        type(network.model.get_submodule(next(iter(gates._lengths)))).__name__
        == type(make(name)[0].get_submodule(next(iter(gates._lengths)))).__name__
    )


@pytest.mark.parametrize("name", NETWORKS)
def test_shut_is_cut(name):
    network, gates = gated(name)
    kept = half_of(network)
    z = torch.zeros(gates.size)
    for own in gates.sets:
        z[own.span] = torch.from_numpy(np.isin(own.channels, kept[own.group])).float()
    small = apply(network.model, plan_of(kept), network.shape)
    assert torch.allclose(seen(network, gates, z), small(images(network.shape)), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(
    "name", ["resnet-pad", "resnet-project", "bottleneck", "depthwise", "resnet18", "mobilenet_v2"]
)
def test_an_empty_unit_is_a_dropped_one(name):
    network, gates = gated(name)
    assert gates.units
    for unit in gates.units[:3]:
        z = torch.ones(gates.size)
        z[next(own for own in gates.sets if own.unit == unit).span] = 0
        small = apply(network.model, plan_of({}, [unit]), network.shape)
        assert torch.allclose(seen(network, gates, z), small(images(network.shape)), atol=1e-5)


@pytest.mark.parametrize("name", ["vgg", "googlenet", "concat"])
def test_only_residual_blocks_vanish(name):
    assert gated(name)[1].vanishing == {}


def test_burning_in_is_what_was_seen():
    network, gates = gated("resnet-pad")
    z = torch.rand(gates.size)
    wanted = seen(network, gates, z)
    model = copy.deepcopy(network.model)
    gates.burn_in(model, z)
    assert torch.allclose(model(images(network.shape)), wanted, atol=1e-6)


def test_gradients_reach_every_gate():
    network, gates = gated("resnet-pad")
    z = torch.full((gates.size,), 0.5, requires_grad=True)
    with gates.attached(network.model.train(), lambda: z):
        network.model(images(network.shape, count=4)).logsumexp(1).sum().backward()
    assert z.grad is not None and (z.grad != 0).float().mean() > 0.95


def test_gates_of_every_norm():
    network, gates = gated("resnet-pad", tied=False)
    norms = {m for m, module in network.model.named_modules() if hasattr(module, "running_mean")}
    assert {own.name for own in gates.sets} == norms
    stream = [own for own in gates.sets if own.group == "conv1"]
    z = torch.ones(gates.size)
    for own in stream:  # a channel that every member has shut is out of the stream
        z[own.span] = torch.tensor([channel % 2 for channel in own.channels]).float()
    keep = tuple(c for c in range(network.groups["conv1"].size) if c % 2)
    small = apply(network.model, plan_of({"conv1": keep}), network.shape)
    assert torch.allclose(seen(network, gates, z), small(images(network.shape)), atol=1e-5)


def test_networks_without_a_norm_behind_each_convolution_need_tied_gates():
    with pytest.raises(PruneError, match="use tied"):
        gated("concat", tied=False)
    assert "vgg16" in REAL
