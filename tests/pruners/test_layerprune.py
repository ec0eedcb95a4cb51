"""LayerPrune is the published method: exact surgery, the right units, the right order."""

import copy
import itertools

import numpy as np
import pytest
import torch
from torch import nn
from torchvision import models

from prune_cli.benchmark import measure
from prune_cli.budget import Budget
from prune_cli.channels import trace
from prune_cli.criteria import CRITERIA, score_filters
from prune_cli.data.images import Look, MemoryImages
from prune_cli.errors import PruneError
from prune_cli.hardware.eager import Eager
from prune_cli.models.resnet import CifarResNet
from prune_cli.plan import Drop, Plan
from prune_cli.pruners.filter import FilterPruner
from prune_cli.pruners.layerprune import LayerPrune, imprint, inner_groups
from prune_cli.surgery import apply
from tests.networks import images, make


def plan_of(model, shape, data, place, keep=0.5, seed=0, **settings):
    network = trace(model, shape)
    return LayerPrune(**settings).plan(network, data, Budget(keep=keep), place, seed)


def dropped(plan):
    return [edit.unit for edit in plan.edits]


@torch.no_grad()
def test_removing_a_block_equals_the_network_built_without_it(data, place):
    model, shape = make("resnet-pad")
    plan = plan_of(model, shape, data, place, criteria=["random"], units=1)
    (unit,) = dropped(plan)
    stage, block = unit.split(".")
    by_hand = copy.deepcopy(model)
    rest = [b for i, b in enumerate(getattr(model, stage)) if i != int(block)]
    setattr(by_hand, stage, nn.Sequential(*rest))
    x = images(shape)
    assert torch.equal(apply(model, plan, shape)(x), by_hand(x))


def test_eligible_units_are_those_of_the_paper():
    """25 of 27 blocks of ResNet-56, 12 of 16 of ResNet-50, 10 of MobileNetV2, 9 of VGG-16's 13 convolutions."""
    resnet = trace(CifarResNet(56, 10), (3, 32, 32)).units
    assert len(resnet) == 25 and "layer2.0" not in resnet and "layer3.0" not in resnet
    assert len(trace(models.resnet50(), (3, 64, 64)).units) == 12
    assert len(trace(models.mobilenet_v2(), (3, 64, 64)).units) == 10
    vgg, shape = make("vgg")
    convs = [name for name, m in vgg.features.named_children() if hasattr(m, "conv")]
    removable = {convs.index(unit.split(".")[1]) + 1 for unit in trace(vgg, shape).units}
    assert removable == {2, 4, 6, 7, 9, 10, 11, 12, 13}


def test_more_than_there_are_is_refused(data, place):
    network = trace(CifarResNet(56, 10), (3, 32, 32))
    with pytest.raises(PruneError, match=r"pruner.units=26: this network has 25 units"):
        LayerPrune(units=26).check(network, Budget())
    with pytest.raises(PruneError, match=r"out of reach: without all of its 25"):
        LayerPrune().check(network, Budget(keep=0.01))
    flat = nn.Sequential(nn.Conv2d(3, 4, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))
    with pytest.raises(PruneError, match="no unit that could be dropped"):
        LayerPrune().check(trace(flat, (3, 8, 8)), Budget())


def test_the_budget_is_met_with_as_few_units_as_the_order_allows(data, place):
    model, shape = make("resnet-pad")
    for keep in (0.9, 0.7):
        plan = plan_of(model, shape, data, place, keep=keep)
        dense = trace(model, shape).cost("macs")
        scores = plan.notes["scores"]
        order = sorted(dropped(plan), key=scores.__getitem__)
        costs = [
            trace(apply(model, Plan(tuple(map(Drop, order[:n]))), shape), shape).cost("macs")
            for n in range(len(order) + 1)
        ]
        assert costs[-1] <= keep * dense < costs[-2]
        assert max(scores[u] for u in order) <= min(s for u, s in scores.items() if u not in order)


def test_scores_are_means_over_the_filters_of_the_first_convolution(data, place):
    model, shape = make("resnet-pad")
    network = trace(model, shape)
    plan = plan_of(model, shape, data, place, criteria=["l2"])
    for unit, score in plan.notes["scores"].items():
        weight = model.get_submodule(unit).conv1.weight.detach()
        assert score == pytest.approx((weight**2).sum((1, 2, 3)).mean().item(), rel=1e-5)
        assert [g.name for g in inner_groups(network, unit)] == [f"{unit}.conv1"]
    normal = plan_of(model, shape, data, place, criteria=["l2"], normalise=True).notes["scores"]
    weight = model.layer3[1].conv1.weight.detach()
    assert normal["layer3.1"] == pytest.approx((weight**2).mean().item(), rel=1e-5)
    bottleneck, shape = make("bottleneck")
    groups = inner_groups(trace(bottleneck, shape), "layer2.1")
    assert [g.name for g in groups] == ["layer2.1.conv1", "layer2.1.conv2"]


@pytest.mark.parametrize("criterion", [*CRITERIA, "imprint"])
def test_an_ensemble_of_one_is_that_criterion_s_order(criterion, data, place):
    model, shape = make("resnet-pad")
    alone = plan_of(model, shape, data, place, criteria=[criterion], images=64).notes["scores"]
    twice = plan_of(model, shape, data, place, criteria=[criterion, criterion], images=64).notes["scores"]
    assert sorted(alone, key=alone.__getitem__) == sorted(twice, key=twice.__getitem__)


def test_an_ensemble_adds_ranks(data, place):
    model, shape = make("resnet-pad")
    single = [plan_of(model, shape, data, place, criteria=[c]).notes["scores"] for c in ("l2", "bn_scale")]
    both = plan_of(model, shape, data, place, criteria=["l2", "bn_scale"]).notes["scores"]
    for unit in both:
        assert both[unit] == sum(sorted(s, key=s.__getitem__).index(unit) for s in single)


class Residual(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 1, bias=False)

    def forward(self, x):
        return self.conv(x.abs()) + x


class Copies(nn.Module):
    """Three units: the first and last leave their input as it is, the one between adds its absolute value."""

    def __init__(self):
        super().__init__()
        self.first, self.middle, self.last = Residual(), Residual(), Residual()
        self.fc = nn.Linear(3, 2)
        for unit, factor in ((self.first, 0.0), (self.middle, 10.0), (self.last, 0.0)):
            unit.conv.weight.data = factor * torch.eye(3)[:, :, None, None]

    def forward(self, x):
        return self.fc(self.last(self.middle(self.first(x))).mean((2, 3)))


def test_imprinting_rewards_the_unit_that_sets_classes_apart(place):
    """Class 0 is bright or dark in the first colour, class 1 in the second: only absolute values differ on average."""
    labels = torch.arange(64) % 2
    sign = 1 - 2 * (torch.arange(64) // 2 % 2)
    pixels = torch.full((64, 3, 8, 8), 128)
    pixels[torch.arange(64), labels] += 50 * sign[:, None, None]
    images = MemoryImages(pixels.to(torch.uint8), labels, Look((128 / 255,) * 3, (0.2,) * 3))
    network = trace(Copies().eval(), (3, 8, 8))
    scores = imprint(network, network.units, images, images, place, embedding=3)
    assert scores["first"] == scores["last"] == 0
    assert scores["middle"] >= 0.4  # from chance to all right


def test_latency_falls_with_every_block(place):
    """Dropping blocks of a ResNet-56 one by one: each saves at least 2% at batch 1 on average."""
    model = CifarResNet(56, 10).eval()
    units = trace(model, (3, 32, 32)).units
    smaller = {n: apply(model, Plan(tuple(map(Drop, units[:n]))), (3, 32, 32)) for n in (0, 5, 10, 15, 20, 25)}
    networks = {str(n): m for n, m in smaller.items()}
    target = Eager(batches=(1,), processes=4, rounds=32, seconds=2.0)
    session = measure(networks, (3, 32, 32), {"cpu": target})
    ratios = [session.latency[str(n)]["cpu"][0].ratio for n in smaller]
    assert all(before - after >= 5 * 0.02 for before, after in itertools.pairwise(ratios))


def test_filter_and_layer_pruning_share_their_scores(data, place):
    model, shape = make("resnet-pad")
    network = trace(model, shape)
    plan = FilterPruner(criterion="l1", normalise=False).plan(network, data, Budget(keep=0.7, floor=0.0), place, 0)
    scores = score_filters(trace(make("resnet-pad")[0], shape), network.groups.values(), "l1", data.train, place)
    kept = {edit.group: edit.keep for edit in plan.edits}
    lost = [scores[g][c] for g, keep in kept.items() for c in range(network.groups[g].size) if c not in keep]
    stayed = [np.sort(scores[g][list(keep)]) for g, keep in kept.items()]
    # All filters compared: none that went is above one that stayed, unless it was the last of its layer.
    assert max(lost) <= min(values[1] for values in stayed if len(values) > 1)


def test_iterations_lead_to_the_same_budget(data, place):
    model, shape = make("vgg")
    for criterion in ("l2", "taylor_gate"):
        pruner = FilterPruner(criterion=criterion, iterations=3, images=32)
        plan = pruner.plan(trace(copy.deepcopy(model), shape), data, Budget(keep=0.5), place, 0)
        part = trace(apply(model, plan, shape), shape).cost("macs") / trace(model, shape).cost("macs")
        assert 0.4 < part <= 0.5


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"criteria": []}, "at least one"),
        ({"criteria": ["l3"]}, "must be one of"),
        ({"units": -1}, "units"),
        ({"images": 0}, "images"),
    ],
)
def test_values_out_of_range_are_refused(settings, message):
    with pytest.raises(PruneError, match=message):
        LayerPrune(**settings)


@pytest.mark.parametrize("gone", [("features.3",), ("features.6", "features.10"), ("features.3", "features.4")])
def test_units_that_change_the_number_of_channels_go_with_a_fresh_layer_behind(gone):
    model, shape = make("vgg")
    network = trace(model, shape)
    assert network.reshaping == ("features.0", "features.3", "features.6", "features.10")[-len(network.reshaping) :]
    small = apply(model, Plan(tuple(Drop(unit) for unit in gone)), shape)
    left = trace(small, shape)
    assert left.cost("macs") < network.cost("macs") and small(images(shape)).shape == (2, 4)
    same = [
        n
        for n, p in small.state_dict().items()
        if torch.equal(p, model.state_dict()[n])
        if p.shape == model.state_dict()[n].shape
    ]
    assert "classifier.weight" in same and "features.16.conv.weight" in same


def test_width_changing_units_are_asked_for(data, place):
    model, shape = make("vgg")
    network = trace(model, shape)
    assert LayerPrune(units=10, reshaping=True).check(network, Budget()) is None
    with pytest.raises(PruneError, match="this network has 9 units to drop"):
        LayerPrune(units=10).check(network, Budget())
    for criteria in (["l2"], ["imprint"], ["random"], ["l1", "taylor_map"]):
        plan = LayerPrune(criteria, reshaping=True, images=32).plan(network, data, Budget(keep=0.3), place, 0)
        small = trace(apply(model, plan, shape), shape)
        assert small.cost("macs") <= 0.3 * network.cost("macs")
