"""Linear filter ensembles: the tests that methods.md asks of an honest implementation, on small networks."""

import copy

import numpy as np
import pytest
import torch
from sklearn.linear_model import LinearRegression
from torch import nn

from prune_cli.budget import Budget, cuttable, select
from prune_cli.channels import trace
from prune_cli.data.splits import sample
from prune_cli.errors import PruneError
from prune_cli.masked import MaskedNetwork
from prune_cli.plan import Plan, Width
from prune_cli.pruners.lfe import FilterEnsembles, fit_additive
from prune_cli.surgery import apply, write_back
from prune_cli.training.fit import evaluate, fit
from prune_cli.training.recipe import Recipe
from tests.networks import TINY, make

HIDDEN = 24


class Toy(nn.Module):
    """One hidden layer over the pixels, so that a filter is a hidden neuron."""

    def __init__(self, classes=4):
        super().__init__()
        self.conv = nn.Conv2d(3, HIDDEN, 3, 2, 1)
        self.bn = nn.BatchNorm2d(HIDDEN)
        self.linear = nn.Linear(HIDDEN, classes)

    def forward(self, x):
        return self.linear(torch.flatten(nn.functional.adaptive_avg_pool2d(torch.relu(self.bn(self.conv(x))), 1), 1))


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A small network that has learned the synthetic images."""
    from prune_cli.compute import Place
    from prune_cli.data import Synthetic

    torch.manual_seed(0)
    torch.set_num_threads(1)
    data = Synthetic("synthetic", [0.5] * 3, [0.25] * 3, images=320).load(tmp_path_factory.mktemp("data"))
    place = Place(torch.device("cpu"), torch.float32, channels_last=False, threads=1)
    model = Toy(len(data.classes))
    fit(model, data, Recipe(epochs=15, batch=32, lr=0.1), place, 0)
    return model.eval(), data


def importance(model, data, place, seed=0, **settings):
    method = FilterEnsembles(images=64, **settings)
    network = trace(model, data.shape)
    return method._importance(network, [g.name for g in cuttable(network)], data, place, seed)


@pytest.mark.parametrize("ridge", [None, 0.0])
@pytest.mark.parametrize("draw", ["fixed", "independent"])
def test_planted_weights_are_found_exactly(draw, ridge):
    random = np.random.default_rng(0)
    theta = random.normal(size=16)
    masks = FilterEnsembles(draw=draw)._draw(120, 16, 0.5, random)
    found, r2 = fit_additive(masks, 3 + masks @ theta, ridge)
    if draw == "fixed":  # every mask has as many filters on: their common part cannot be told from the constant
        found, theta = found - found.mean(), theta - theta.mean()
    assert np.abs(found - theta).max() < (1e-8 if ridge == 0 else 1e-6)
    assert r2 == pytest.approx(1)


def test_noise_alone_explains_nothing():
    random = np.random.default_rng(0)
    masks = random.random((400, 32)) < 0.5
    y = masks @ random.normal(size=32)
    assert fit_additive(masks, y)[1] > 0.99
    assert np.mean([fit_additive(masks, random.permutation(y))[1] for _ in range(10)]) < 0.05


def test_masks_that_leave_one_out_give_the_loss_changes(trained, place):
    model, data = trained
    network = trace(model, data.shape)
    masked = MaskedNetwork(network, sample(data.train, 64, 0), place)
    masks = np.vstack([np.ones((1, HIDDEN), dtype=bool), ~np.eye(HIDDEN, dtype=bool)])
    y = masked.measure({"conv": masks}).loss
    theta = LinearRegression().fit(masks.astype(float), y).coef_
    assert np.abs(-theta - (y[1:] - y[0])).max() < 1e-9


def test_a_dead_filter_is_worth_nothing_and_an_essential_one_most(trained, place):
    model, data = trained
    model = copy.deepcopy(model)
    with torch.no_grad():
        model.linear.weight[:, 3] = 0
        model.linear.weight[:, 7] *= 12
    runs = np.array([importance(model, data, place, seed, masks=240)[0]["conv"] for seed in range(6)])
    error = runs.std(axis=0, ddof=1).max()
    assert abs(runs[0][3] - 0) < 3 * error
    assert np.abs(runs.mean(axis=0)).argmax() == 7


def test_same_seed_same_theta_and_more_masks_less_spread(trained, place):
    model, data = trained
    first, again = (importance(model, data, place, 5, masks=60)[0]["conv"] for _ in range(2))
    assert np.array_equal(first, again)
    network = trace(model, data.shape)
    masked = MaskedNetwork(network, sample(data.train, 64, 0), place)

    def spread(count):
        thetas = []
        for seed in range(30):
            masks = FilterEnsembles()._draw(count, HIDDEN, 0.7, np.random.default_rng(seed))
            thetas.append(fit_additive(masks, masked.measure({"conv": masks}).loss, 1e-3)[0])
        return np.std(thetas, axis=0).mean()

    assert spread(100) / spread(200) == pytest.approx(2**0.5, rel=0.2)


def test_the_fit_is_reported(trained, place):
    model, data = trained
    network = trace(model, data.shape)
    plan = FilterEnsembles(images=64, keep_probability=0.9).plan(network, data, Budget(keep=0.6), place, 0)
    (note,) = plan.notes["iterations"]
    assert plan.notes["reconstructed"] and note["masks"] == {"conv": 200}
    assert 0.3 < note["r2"]["conv"] <= 1 and note["keep_probability"] == {"conv": 0.9}


def test_cutting_what_ranks_lowest_loses_least(trained, place):
    model, data = trained
    network = trace(model, data.shape)
    lost = {"lowest": [], "random": [], "highest": []}
    for seed in range(5):
        scores = importance(model, data, place, seed)[0]["conv"]
        random = np.random.default_rng(seed).permutation(HIDDEN).astype(float)
        for name, order in (("lowest", scores), ("random", random), ("highest", -scores)):
            kept = select(network, {"conv": order}, Budget(keep=0.5))
            small = apply(model, Plan((Width("conv", kept["conv"]),)), data.shape)
            lost[name].append(1 - evaluate(small, data.val, place))
    assert np.mean(lost["lowest"]) < np.mean(lost["random"]) < np.mean(lost["highest"])


@pytest.mark.parametrize("target", ["loss", "accuracy"])
@pytest.mark.parametrize("mode", ["layer", "network"])
def test_modes_and_targets_meet_the_budget(mode, target, data, place):
    model, shape = make("resnet-pad")
    network = trace(model, shape)
    plan = FilterEnsembles(mode=mode, target=target, images=16, masks=20).plan(
        network, data, Budget(keep=0.7), place, 0
    )
    kept = {edit.group: edit.keep for edit in plan.edits}
    assert Budget().remaining(network, kept) <= 0.7
    fits = plan.notes["iterations"][0]["r2"]
    assert len(fits) == (1 if mode == "network" else len(cuttable(network)))


def test_iterations_train_between_cuts_and_only_what_is_left(data, place):
    model, shape = make("vgg")
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    method = FilterEnsembles(images=16, masks=20, iterations=2, recipe=Recipe(epochs=1, batch=32, lr=0.01))
    network = trace(model, shape)
    plan = method.plan(network, data, Budget(keep=0.5), place, 0)
    assert len(plan.notes["iterations"]) == 2
    first, second = before["features.0.conv.weight"], model.features[0].conv.weight
    changed = [not torch.equal(a, b) for a, b in zip(first, second, strict=True)]
    assert any(changed)
    assert Budget().remaining(network, {e.group: e.keep for e in plan.edits}) <= 0.5


@pytest.mark.parametrize("name", TINY)
def test_weights_go_back_where_they_came_from(name):
    model, shape = make(name)
    network = trace(model, shape)
    kept = select(
        network, {g.name: np.arange(g.size) / g.size for g in cuttable(network, streams=True)}, Budget(keep=0.6)
    )
    plan = Plan(tuple(Width(*item) for item in kept.items()))
    small = apply(model, plan, shape)
    with torch.no_grad():
        for tensor in small.parameters():
            tensor.add_(1)
    write_back(model, plan, small, shape)
    again = apply(model, plan, shape).state_dict()
    assert all(torch.equal(again[key], tensor) for key, tensor in small.state_dict().items())


def test_too_few_masks_for_least_squares_are_refused():
    model, shape = make("vgg")
    network = trace(model, shape)
    with pytest.raises(PruneError, match=r"needs 1\.5 masks per filter"):
        FilterEnsembles(ridge=0, masks=20).check(network, Budget())
    FilterEnsembles(ridge=0, masks=200).check(network, Budget())


def test_the_keep_probability_is_the_least_that_works(trained, place):
    model, data = trained
    network = trace(model, data.shape)
    masked = MaskedNetwork(network, sample(data.train, 64, 0), place)
    method, part = FilterEnsembles(), list(cuttable(network))
    chosen = [method._probability(masked, part, h, np.random.default_rng(0)) for h in (-1.0, 0.65, 2.0)]
    assert chosen == [0.5, 0.7, 0.9]
