"""ChipNet: the tests that methods.md asks of an honest implementation."""

import copy
import math
from dataclasses import replace

import pytest
import torch

from prune_cli.budget import Budget, cuttable, plan_of
from prune_cli.channels import METRICS, trace
from prune_cli.compute import Place
from prune_cli.data import Synthetic
from prune_cli.gates import Gates
from prune_cli.models.resnet import CifarResNet
from prune_cli.models.vgg import Vgg16
from prune_cli.pruners.chipnet import Chip, ChipNet, halfway, project, schedule
from prune_cli.surgery import apply
from prune_cli.training.fit import evaluate, fit
from prune_cli.training.recipe import Recipe
from tests.networks import TINY, make

SHAPE = (3, 32, 32)
BUILDERS = {
    "vgg": lambda: Vgg16(4, width=1 / 8),
    "resnet": lambda: CifarResNet(14, 4, "pad", width=0.5),
}


@pytest.fixture(scope="module")
def place():
    return Place(torch.device("cpu"), torch.float32, channels_last=True, threads=1)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return Synthetic("synthetic", [0.5] * 3, [0.25] * 3, images=640).load(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def trained(data, place):
    networks = {}
    for name, build in BUILDERS.items():
        torch.manual_seed(0)
        networks[name] = build()
        fit(networks[name], data, Recipe(epochs=6, batch=32, lr=0.05), place, 0)
        networks[name].cpu().eval()
    return networks


def recipe(epochs=10):
    return Recipe(epochs=epochs, batch=32, optimizer="adamw", lr=1e-3, weight_decay=1e-3, schedule="constant")


# ---- projections and schedules --------------------------------------------------------------------------


def test_the_curves():
    psi = torch.linspace(-30, 30, 201, dtype=torch.float64, requires_grad=True)
    for stage in (0, 5, 19):
        beta, gamma, _ = schedule(stage)
        _, z = project(psi, beta, gamma)
        assert z[0] < 1e-6 and z[-1] > 1 - 1e-6 and (z[1:] >= z[:-1]).all()
        (slope,) = torch.autograd.grad(z.sum(), psi)
        h = 1e-6
        finite = (project(psi + h, beta, gamma)[1] - project(psi - h, beta, gamma)[1]) / (2 * h)
        assert torch.allclose(slope, finite.detach(), atol=1e-7)
        assert project(torch.tensor(halfway(stage)), beta, gamma)[1].item() == pytest.approx(0.5, abs=1e-4)


@pytest.mark.parametrize(("epoch", "z"), [(1, 0.700), (2, 0.786), (4, 0.943), (6, 0.9965), (8, 1.000)])
def test_the_path_of_an_untouched_gate(epoch, z):
    beta, gamma, _ = schedule(epoch - 1)
    assert project(torch.zeros(1), beta, gamma)[1].item() == pytest.approx(z, abs=6e-4)


@pytest.mark.parametrize(
    ("epoch", "psi"),
    [(1, -0.82), (2, -1.16), (4, -1.86), (6, -2.48), (8, -3.03), (10, -3.53), (12, -3.99), (15, -4.62), (20, -4.28)],
)
def test_where_a_gate_is_half_open(epoch, psi):
    assert halfway(epoch - 1) == pytest.approx(psi, abs=6e-3)


def test_the_end_of_the_schedule():
    assert schedule(19) == (pytest.approx(1.38), 256.0, 60.0)
    assert schedule(0) == (1.0, 2.0, 10.0)


# ---- budgets ---------------------------------------------------------------------------------------------


def made(name, streams=True, tied=True):
    model, shape = make(name)
    network = trace(model, shape)
    return network, Gates(network, cuttable(network, streams=streams), tied=tied)


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("name", TINY)
def test_all_is_one_and_nothing_is_zero(name, metric):
    _, gates = made(name)
    alive = torch.ones(len(gates.units))
    assert gates.share(metric, torch.ones(gates.size), alive).item() == pytest.approx(1, abs=1e-6)
    assert gates.share(metric, torch.zeros(gates.size), alive).item() == pytest.approx(0, abs=1e-6)


def test_two_layers_by_hand():
    model = torch.nn.Sequential(
        torch.nn.Conv2d(3, 4, 3, padding=1), torch.nn.BatchNorm2d(4), torch.nn.ReLU(), torch.nn.MaxPool2d(2),
        torch.nn.Conv2d(4, 6, 1), torch.nn.BatchNorm2d(6), torch.nn.ReLU(),
        torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), torch.nn.Linear(6, 2),
    )  # fmt: skip
    network = trace(model, (3, 8, 8))
    gates = Gates(network, cuttable(network))
    soft, none = torch.tensor([1.0, 0.5, 0, 0, 1, 1, 1, 0.25, 0, 0]), torch.ones(0)
    one, two = 1.5, 3.25
    wanted = {
        "channels": (one + two) / 10,
        "volume": (64 * one + 16 * two) / (64 * 4 + 16 * 6),
        "params": (9 * one * 3 + two * one) / (9 * 4 * 3 + 6 * 4),
        "macs": (64 * one * (9 * 3 + 1) + 16 * two * (one + 1)) / (64 * 4 * 28 + 16 * 6 * 5),
    }
    for metric, value in wanted.items():
        assert gates.share(metric, soft, none).item() == pytest.approx(value, abs=1e-6)


def test_params_are_those_of_the_convolutions():
    network, gates = made("vgg")
    convs = [m for m in network.model.modules() if isinstance(m, torch.nn.Conv2d)]
    kept = {g.name: tuple(range(g.size // 2)) for g in network.groups.values()}
    soft = torch.cat([(torch.arange(len(s.channels)) < len(s.channels) // 2).float() for s in gates.sets])
    small = apply(network.model, plan_of(kept), network.shape)
    left = sum(m.weight.numel() for m in small.modules() if isinstance(m, torch.nn.Conv2d))
    found = gates.share("params", soft, torch.ones(0)).item()
    assert found == pytest.approx(left / sum(m.weight.numel() for m in convs), abs=1e-6)


# ---- the method ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "metric", "keep"), [("vgg", "params", 0.4), ("vgg", "volume", 0.6), ("resnet", "macs", 0.5)]
)
def test_gates_end_crisp_on_budget_and_as_good_as_they_seemed(name, metric, keep, trained, data, place):
    model = copy.deepcopy(trained[name])
    network, budget = trace(model, data.shape), Budget(metric, keep)
    plan = ChipNet(recipe()).plan(network, data, budget, place, 0)
    notes = plan.notes["epochs"]
    chosen = max((n for n in notes if n["crisp"] >= 0.99), key=lambda n: n["hard_accuracy"])
    assert notes[-1]["crisp"] >= 0.99 and notes[-1]["crispness_loss"] < 1e-2
    assert chosen["soft_remaining"] == pytest.approx(keep, abs=0.02)
    small = apply(model, plan, data.shape)
    left = trace(small, data.shape).cost(metric) / trace(trained[name], data.shape).cost(metric)
    assert keep - 0.05 < left <= keep
    assert abs(chosen["soft_accuracy"] - chosen["hard_accuracy"]) < 0.01
    assert evaluate(small, data.val, place) == pytest.approx(chosen["hard_accuracy"], abs=0.02)
    assert evaluate(small, data.test, place) > 0.6  # four classes


def test_an_extreme_budget_ends_crisp_with_every_layer_alive_or_its_block_gone(trained, data, place):
    model = copy.deepcopy(trained["resnet"])
    budget = Budget("channels", 0.0625 * 2, floor=0.0)  # of a network of half width: 6.25% of the published one
    network = trace(model, data.shape)
    plan = ChipNet(recipe(5)).plan(network, data, budget, place, 0)
    assert plan.notes["epochs"][-1]["crisp"] >= 0.99
    small = trace(apply(model, plan, data.shape), data.shape)
    assert small.cost("channels") <= budget.keep * network.cost("channels")
    assert all(module.weight.shape[0] > 0 for module in small.model.modules() if isinstance(module, torch.nn.Conv2d))


def test_the_published_form_meets_the_budget_too(trained, data, place):
    model = copy.deepcopy(trained["resnet"])
    network = trace(model, data.shape)
    plan = ChipNet(recipe(3), gates="per_norm", hold=False).plan(network, data, Budget("params", 0.5), place, 0)
    small = apply(model, plan, data.shape)
    assert trace(small, data.shape).cost("params") <= 0.5 * network.cost("params")


@pytest.mark.parametrize("hold", [True, False])
def test_dead_channels_go_first(hold, trained, data, place):
    model = copy.deepcopy(trained["vgg"])
    network = trace(model, data.shape)
    group = network.groups["features.7.conv"]
    dead = list(range(0, group.size, 2))
    with torch.no_grad():
        for axis in group.of("read"):
            network.weight(axis.module)[:, [p for p, c in zip(axis.at, axis.index, strict=True) if c in dead]] = 0
    for parameter in model.parameters():
        parameter.requires_grad_(False)  # the weights stay dead
    short = replace(recipe(5), batch=8)
    plan = ChipNet(short, hold=hold).plan(network, data, Budget("channels", 0.6), place, 0)
    kept = next(set(edit.keep) for edit in plan.edits if edit.group == group.name)
    gone = set(range(group.size)) - kept
    assert len(gone & set(dead)) >= 0.8 * len(dead)


def test_psi_moves_only_where_it_should_at_the_start(data, place):
    network, gates = made("vgg")
    chip = Chip(gates, network, Budget(keep=0.5), 100, place, 0, True)
    chip.opening()
    assert chip.psi.min() >= 0 and chip.psi.max() <= 0.01 and len(chip.psi.unique()) > gates.size / 2
    chip.excess().backward()
    assert (chip.psi.grad > 0).all()  # every gate costs something
    assert chip.remaining().item() > 0.7 and math.isclose(schedule(0)[2], 10)
