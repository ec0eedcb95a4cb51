"""C-SGD is the published method: its gradients, its collapse, and a cut that loses nothing."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from prune_cli.budget import Budget
from prune_cli.channels import trace
from prune_cli.errors import DivergedError, PruneError
from prune_cli.pruners.csgd import Centripetal, CSgd, alike, average_statistics, merge, remaining, row_labels, solve_eps
from prune_cli.surgery import apply
from prune_cli.training.fit import Hooks, fit
from prune_cli.training.recipe import Recipe
from tests.networks import TINY, images, make

COLLAPSE = Recipe(epochs=24, batch=8, lr=0.05, schedule="step", milestones=(22,), weight_decay=1e-4)


def pairs(network):
    """Every group in clusters of two, within the parts that can be merged at all."""
    labels = {}
    for group in network.groups.values():
        labels[group.name] = np.arange(group.size)
        for part in alike(group):
            for first, second in zip(part[::2], part[1::2], strict=False):
                labels[group.name][second] = first
    return labels


def losses(model, shape, seed=0):
    x = images(shape, next(model.parameters()).dtype, count=4)
    return F.cross_entropy(model(x), torch.arange(4))


def relative(a, b):
    return ((a - b).abs().max() / b.abs().max()).item()


def test_gradients_by_the_formula():
    """Three filters, two of them together, worked out by hand with a loop per filter."""
    model, shape = make("resnet-pad")
    network = trace(model, shape)
    labels, eta, eps = pairs(network), 0.01, 0.3
    losses(model.train(), shape).backward()
    before = {name: p.grad.clone() for name, p in model.named_parameters()}
    Centripetal(network, labels, eta, eps, share=0.1)()
    for module, rows in row_labels(network, labels).items():
        for kind in ("weight", "bias"):
            p = getattr(model.get_submodule(module), kind)
            if p is None:
                continue
            decay, pull = (eta, eps) if p.dim() > 1 else (0.0, 0.1 * eps)
            for j in range(len(p)):
                members = np.flatnonzero(rows == rows[j])
                gradient = before[f"{module}.{kind}"][members].mean(0)
                expected = gradient + decay * p[j] + pull * (p[j] - p[members].mean(0))
                assert torch.allclose(p.grad[j], expected, atol=1e-6)
    untouched = before["linear.weight"]
    assert torch.equal(model.linear.weight.grad, untouched)  # its rows are the network's output


def test_deviations_shrink_as_the_recursion_says_whatever_the_loss():
    """Plain SGD, fp64: D <- (1 - lr (eta + eps)) D to 1e-9."""
    model, shape = make("bottleneck")
    model = model.double().train()
    network = trace(model, shape)
    labels, eta, eps, lr = pairs(network), 0.01, 0.5, 0.1
    pull = Centripetal(network, labels, eta, eps, share=1.0)
    pull_on = {id(p): (0.0 if p.dim() == 1 else eta) + eps for p in pull.parameters}
    conv = model.layer1[0].conv1.weight
    rows = row_labels(network, labels)["layer1.0.conv1"]
    i, j = np.flatnonzero(rows == rows[0])[:2]
    start = (conv[i] - conv[j]).detach().clone()
    for step in range(1, 21):
        model.zero_grad()
        (losses(model, shape) * step).backward()
        pull()
        with torch.no_grad():
            for p in pull.parameters:
                p -= lr * p.grad
        expected = start * (1 - lr * pull_on[id(conv)]) ** step
        assert torch.allclose(conv[i] - conv[j], expected, atol=1e-9)


def test_cluster_means_move_as_one_shared_filter_would():
    model, shape = make("vgg")
    model = model.double().train()
    network = trace(model, shape)
    labels = pairs(network)
    losses(model, shape).backward()
    conv = model.features[4].conv.weight
    rows = row_labels(network, labels)["features.4.conv"]
    members = np.flatnonzero(rows == rows[0])
    mean, gradient = conv[members].mean(0).detach(), conv.grad[members].mean(0)
    Centripetal(network, labels, 0.02, 0.5, share=0.1)()
    assert torch.allclose(conv.grad[members].mean(0), gradient + 0.02 * mean, atol=1e-12)


def test_without_pull_and_clusters_it_is_plain_sgd(data, place):
    """eps = 0, every filter alone: SGD with the same weight decay, to fp32 rounding."""
    recipe = Recipe(epochs=1, batch=32, lr=0.05, weight_decay=1e-3, decay_norm_bias=False)
    plain, shape = make("resnet-pad")
    fit(plain, data, recipe, place, seed=0)
    model, _ = make("resnet-pad")
    network = trace(model, shape)
    alone = {name: np.arange(group.size) for name, group in network.groups.items()}
    pull = Centripetal(network, alone, recipe.weight_decay, 0.0, share=0.1)
    fit(model, data, recipe, place, seed=0, hooks=Hooks(decayed=pull.parameters, after_backward=pull))
    for a, b in zip(plain.state_dict().values(), model.state_dict().values(), strict=True):
        assert torch.allclose(a.float(), b.float(), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", TINY)
def test_collapse_then_a_cut_that_loses_nothing(name, data, place):
    """After the training filters are identical, and the merged network gives the same logits to 1e-5 relative."""
    model, shape = make(name)
    network = trace(model, shape)
    plan = CSgd(COLLAPSE, vector_share=1.0).plan(network, data, Budget(keep=0.5), place, 0)
    largest = max(p.abs().max().item() for p in model.parameters())  # fp32 knows numbers to 1e-7 of their size
    assert plan.notes["deviation"][-1] < 1e-6 * max(1.0, largest) and plan.notes["deviation"][0] > 1e-2
    x = images(shape)
    whole, small = model.eval(), apply(model, plan, shape).eval()
    assert trace(small, shape).cost("macs") <= 0.5 * network.cost("macs")
    with torch.no_grad():
        assert relative(small(x), whole(x)) < 1e-5


def test_streams_are_cut_too(data, place):
    model, shape = make("resnet-pad")
    plan = CSgd(COLLAPSE).plan(trace(model, shape), data, Budget(keep=0.5), place, 0)
    assert "conv1" in {edit.group for edit in plan.edits}  # the stream through all stages
    without = CSgd(COLLAPSE, streams=False).plan(trace(make("resnet-pad")[0], shape), data, Budget(keep=0.6), place, 0)
    assert all(edit.group.endswith(".conv1") for edit in without.edits)


def test_cutting_too_early_shows_and_less_so_later(data, place):
    changes = []
    for epochs in (1, 6, 18):
        model, shape = make("resnet-project")
        network = trace(model, shape)
        recipe = Recipe(epochs=epochs, batch=8, lr=0.05, schedule="constant", weight_decay=1e-4)
        plan = CSgd(recipe, eps=0.5, vector_share=1.0).plan(network, data, Budget(keep=0.6), place, 0)
        x = images(shape)
        with torch.no_grad():
            changes.append(relative(apply(model, plan, shape).eval()(x), model.eval()(x)))
    assert changes[0] > 10 * changes[1] > 100 * changes[2] and changes[0] > 1e-2


def test_eps_is_solved_from_the_number_of_steps():
    for steps in (50, 500):
        eps = solve_eps(COLLAPSE, steps, share=0.1)
        assert remaining(COLLAPSE, steps, 0.1 * eps) <= 1e-7 < remaining(COLLAPSE, steps, 0.05 * eps)
        assert remaining(COLLAPSE, steps, eps) <= 1e-7  # what kernels are pulled by does not overshoot
    assert solve_eps(COLLAPSE, 500, 0.1) < solve_eps(COLLAPSE, 50, 0.1)
    # The published rule of thumb: 13.8 (1 - mu) / (lr strength) steps shrink a deviation by 10^6.
    recipe = Recipe(epochs=1, lr=0.03, schedule="constant")
    assert remaining(recipe, 14744, 3.1e-3) == pytest.approx(1e-6, rel=0.3)


def test_a_short_training_never_blows_up(data, place):
    """Too few steps for identity: the strength stays where nothing overshoots, and the log says what is lost."""
    for epochs in (1, 5):
        model, shape = make("resnet-pad")
        plan = CSgd(Recipe(epochs=epochs, batch=64, lr=0.03)).plan(trace(model, shape), data, Budget(), place, 0)
        assert plan.notes["deviation"][-1] < plan.notes["deviation"][0]
    model, shape = make("resnet-pad")
    with pytest.raises(DivergedError, match="moved apart"):
        CSgd(Recipe(epochs=3, batch=32, lr=0.1), eps=90.0).plan(trace(model, shape), data, Budget(), place, 0)


@pytest.mark.parametrize("clusters, sizes", [("even", [4, 4]), ("biased", [1, 7]), ("kmeans", None)])
def test_clusters(clusters, sizes):
    points = np.random.default_rng(0).standard_normal((8, 5))
    labels = CSgd(clusters=clusters)._split(points, 2, seed=0)
    assert len(set(labels.tolist())) == 2
    if sizes:
        assert sorted(np.bincount(labels).tolist()) == sizes
    twice = np.concatenate([points[:4], points[:4]])
    assert len(set(CSgd()._split(twice, 6, seed=0).tolist())) <= 4 or clusters != "kmeans"


def test_merge_and_statistics():
    assert merge("g", np.array([0, 1, 0, 3, 1])).into == (0, 1, 0, 2, 1)
    model, shape = make("concat")
    network = trace(model, shape)
    labels = pairs(network)
    average_statistics(network, labels)
    for module, rows in row_labels(network, labels).items():
        values = getattr(model.get_submodule(module), "running_var", None)
        if values is not None:
            assert all(len(set(values[rows == row].tolist())) == 1 for row in rows)


def test_five_eighths_of_resnet56_is_the_published_cut():
    """16-32-64 to 10-20-40 cuts 60.85% of the multiply-adds."""
    from prune_cli.models.resnet import CifarResNet

    full, narrow = (trace(CifarResNet(56, 10, "project", w), (3, 32, 32)).cost("macs") for w in (1.0, 0.625))
    assert 1 - narrow / full == pytest.approx(0.60855, abs=5e-4)


def test_values_out_of_range_are_refused():
    for settings in ({"clusters": "dbscan"}, {"eps": -1}, {"vector_share": 0}, {"recipe": Recipe(optimizer="adamw")}):
        with pytest.raises(PruneError):
            CSgd(**settings)
