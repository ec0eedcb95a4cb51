"""Every pruner on every small network. Pruners are found on disk: a new one is tested by being there."""

import copy
import json

import pytest
import torch
import torch.nn.functional as F
from omegaconf import OmegaConf

from prune_cli.budget import Budget
from prune_cli.channels import trace
from prune_cli.errors import PruneError
from prune_cli.plan import Drop, Plan
from prune_cli.surgery import apply
from prune_cli.trust import build
from tests.conftest import ROOT
from tests.networks import TINY, images, make

CONFIGS = {path.stem: OmegaConf.load(path) for path in sorted((ROOT / "conf" / "pruner").glob("*.yaml"))}
PRUNERS = [name for name, config in CONFIGS.items() if "_target_" in config]  # transfer needs another run's plan
KEEP = 0.6
QUICK = {"lfe": {"masks": 20, "images": 16}}  # the contract does not depend on how well a method decides

pytestmark = [pytest.mark.parametrize("pruner", PRUNERS), pytest.mark.parametrize("network", TINY)]


MADE = {}


def decide(pruner, network, data, place, keep=KEEP, seed=0):
    """The pruner's plan for the network, decided once for all tests, with the model that it left behind."""
    key = (pruner, network, keep, seed)
    if key not in MADE:
        MADE[key] = decide_anew(pruner, network, data, place, keep, seed)
    return MADE[key]


def method_of(pruner):
    return build(OmegaConf.to_container(CONFIGS[pruner]) | QUICK.get(pruner, {}))


def decide_anew(pruner, network, data, place, keep, seed):
    model, shape = make(network)
    method = method_of(pruner)
    budget = Budget(keep=keep, floor=0.0)
    traced = trace(model, shape)
    try:
        method.check(traced, budget)
    except PruneError as error:
        pytest.skip(f"refused before any training: {error}")
    return model, shape, method.plan(traced, data, budget, place, seed)


def test_budget_is_met(pruner, network, data, place):
    model, shape, plan = decide(pruner, network, data, place)
    dense = trace(make(network)[0], shape).cost("macs")
    part = trace(apply(model, plan, shape), shape).cost("macs") / dense
    assert part <= (1 if pruner == "none" else KEEP)
    drops = [edit.unit for edit in plan.edits if isinstance(edit, Drop)]
    portion = max((unit_cost(network, unit) / dense for unit in drops), default=0.12)
    assert part > KEEP - portion  # one unit; or one channel, which is up to 0.12 of these narrow networks


def unit_cost(network, unit):
    model, shape = make(network)
    without = apply(model, Plan((Drop(unit),)), shape)
    return trace(model, shape).cost("macs") - trace(without, shape).cost("macs")


def test_plan_survives_json(pruner, network, data, place):
    model, shape, plan = decide(pruner, network, data, place)
    again = Plan.from_json(json.loads(json.dumps(plan.to_json())))
    assert again == plan
    first, second = (apply(model, p, shape)(images(shape)) for p in (plan, again))
    assert torch.equal(first, second)


def test_keeping_all_changes_nothing(pruner, network, data, place):
    model, shape, plan = decide(pruner, network, data, place, keep=1.0)
    assert torch.equal(apply(model, plan, shape)(images(shape)), make(network)[0](images(shape)))


def test_same_seed_same_plan(pruner, network, data, place):
    assert decide_anew(pruner, network, data, place, KEEP, 0)[2] == decide(pruner, network, data, place)[2]


def test_structure_of_the_input_is_untouched_and_no_hook_is_left(pruner, network, data, place):
    model, _, _ = decide(pruner, network, data, place)
    fresh = make(network)[0]
    assert {n: t.shape for n, t in model.state_dict().items()} == {n: t.shape for n, t in fresh.state_dict().items()}
    assert not any(m._forward_hooks or m._forward_pre_hooks or m._backward_hooks for m in model.modules())


def test_the_pruned_network_trains_and_its_state_loads_again(pruner, network, data, place):
    model, shape, plan = decide(pruner, network, data, place)
    small = apply(model, plan, shape).train()
    before = copy.deepcopy(list(small.parameters()))
    F.cross_entropy(small(images(shape, count=4)), torch.arange(4)).backward()
    torch.optim.SGD(small.parameters(), 0.1).step()
    assert all(p.grad is not None for p in small.parameters())
    assert any(not torch.equal(a, b) for a, b in zip(before, small.parameters(), strict=True))
    other = apply(make(network)[0], plan, shape)
    other.load_state_dict(small.state_dict())
    assert torch.equal(other.eval()(images(shape)), small.eval()(images(shape)))


class Counted:
    """In place of a stopwatch: a latency that is the multiply-adds."""

    def __init__(self, network):
        self.table = {}  # the target does not tell its layers apart
        self.whole = network.cost("macs")

    def ratio(self, model):
        return trace(model, (3, 32, 32)).cost("macs") / self.whole


def test_a_latency_budget_is_met(pruner, network, data, place):
    if network not in ("vgg", "resnet-pad") or pruner == "none":
        pytest.skip("two networks are enough")
    model, shape = make(network)
    traced = trace(model, shape)
    budget = Budget("latency", KEEP, floor=0.0, stopwatch=Counted(traced))
    plan = method_of(pruner).plan(traced, data, budget, place, 0)
    assert 0.3 < Counted(trace(make(network)[0], shape)).ratio(apply(model, plan, shape)) <= KEEP


def test_widths_are_multiples(pruner, network, data, place):
    if network != "vgg":
        pytest.skip("one network is enough")
    model, shape = make(network)
    traced = trace(model, shape)
    plan = method_of(pruner).plan(traced, data, Budget(keep=KEEP, floor=0.0, round_to=2), place, 0)
    kept = {edit.group: len(edit.keep) for edit in plan.edits if not isinstance(edit, Drop)}
    assert all(width % 2 == 0 for name, width in kept.items()), kept
