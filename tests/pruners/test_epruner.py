"""EPruner is the published method: the checks of its paper and of its official code."""

import itertools
import os
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch

from prune_cli.budget import Budget
from prune_cli.channels import trace
from prune_cli.errors import PruneError
from prune_cli.models import CifarResNet
from prune_cli.pruners.epruner import EPruner, _Layer, elect, similarities
from prune_cli.surgery import apply
from tests.networks import REAL, TINY, images, make, zeroed

BETAS = (0.3, 0.5, 0.76)


def reference(similarity, preference, damping=0.5, max_iter=200, convergence_iter=15):
    """Affinity propagation written from the formulas, as a second opinion on scikit-learn's."""
    s = similarity.astype(float).copy()
    n = len(s)
    s[np.diag_indices(n)] = preference
    s += (np.finfo(float).eps * s + np.finfo(float).tiny * 100) * np.random.RandomState(0).standard_normal((n, n))
    r, a, history = np.zeros((n, n)), np.zeros((n, n)), []
    for _ in range(max_iter):
        total = a + s
        first = total.argmax(1)
        best = total[range(n), first].copy()
        total[range(n), first] = -np.inf
        new = s - best[:, None]
        new[range(n), first] = s[range(n), first] - total.max(1)
        r = damping * r + (1 - damping) * new
        positive = np.maximum(r, 0)
        positive[np.diag_indices(n)] = r.diagonal()
        new = positive.sum(0) - positive
        diagonal = new.diagonal().copy()
        new = np.minimum(new, 0)
        new[np.diag_indices(n)] = diagonal
        a = damping * a + (1 - damping) * new
        history = [*history, tuple(np.flatnonzero(r.diagonal() + a.diagonal() > 0))][-convergence_iter:]
        if len(history) == convergence_iter and len(set(history)) == 1 and history[0]:
            break
    centres = np.array(history[-1])
    nearest = centres[s[:, centres].argmax(1)]
    nearest[centres] = centres
    return tuple(sorted(members_medoid(s, np.flatnonzero(nearest == centre)) for centre in centres))


def members_medoid(s, members):
    return int(members[s[np.ix_(members, members)].sum(0).argmax()])


def plan_of(model, shape, data=None, keep=0.5, seed=0, **settings):
    network = trace(model, shape)
    return network, EPruner(**settings).plan(network, data, Budget(keep=keep), None, seed)


def widths(plan):
    return {edit.group: edit.keep for edit in plan.edits}


# ---- affinity propagation itself --------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("kind", ["random", "clustered"])
def test_elects_as_the_formulas_say(kind, seed):
    random = np.random.default_rng(seed)
    points = random.standard_normal((40, 27))
    if kind == "clustered":
        points = random.standard_normal((6, 27))[np.arange(40) % 6] + 0.3 * points
    s = similarities(points)
    for beta in (0.3, 0.6, 1.0):
        kept, complaint = elect(s, beta)
        if not complaint:
            assert kept == reference(s, beta * np.median(s, axis=0))


@pytest.mark.parametrize("beta", [0.01, 0.1, 0.5, 1.0, 1.5])
def test_planted_blobs_give_one_exemplar_each(beta):
    random = np.random.default_rng(0)
    blob = np.repeat(np.arange(8), 8)
    points = 100 * random.standard_normal((8, 18))[blob] + 0.01 * random.standard_normal((64, 18))
    kept, _ = elect(similarities(points), beta)
    assert sorted(blob[list(kept)]) == list(range(8))


def test_beta_zero_keeps_all_and_counts_fall_over_a_coarse_grid():
    model, shape = make("vgg")
    counts = [sum(map(len, widths(plan_of(model, shape, beta=b)[1]).values())) for b in (0.0, 0.5, 1.0, 2.0, 8.0)]
    assert counts[0] == sum(group.size for group in trace(model, shape).groups.values())
    assert all(later <= earlier for earlier, later in itertools.pairwise(counts)) and counts[-1] < counts[0]


def test_scale_changes_nothing_and_permutation_permutes():
    points = np.random.default_rng(0).standard_normal((32, 27)).astype(np.float32)
    kept, _ = elect(similarities(points), 1.2)
    assert 1 < len(kept) < 32
    assert elect(similarities(4 * points), 1.2)[0] == kept
    order = np.random.default_rng(1).permutation(32)
    assert sorted(order[list(elect(similarities(points[order]), 1.2)[0])]) == list(kept)


def test_jittered_twins_keep_one_of_each_pair(data):
    """Duplicates up to 1e-3: one of each pair; exact ones, the worst case of affinity propagation, too."""
    random = np.random.default_rng(0)
    half = random.standard_normal((32, 27))
    twins = np.concatenate([half, half + 1e-3 * random.standard_normal((32, 27))])
    kept, _ = elect(similarities(twins), 0.3)
    assert sorted(k % 32 for k in kept) == list(range(32))


def test_exact_duplicates_are_set_aside_by_the_search():
    model, shape = make("vgg")
    with torch.no_grad():
        for unit in model.features:
            if hasattr(unit, "conv"):
                unit.conv.weight[1::2] = unit.conv.weight[::2]
    network, plan = plan_of(model, shape, keep=0.9)
    for name, keep in widths(plan).items():
        rows = network.model.get_submodule(name).weight[list(keep)].flatten(1)
        assert len(torch.unique(rows, dim=0)) == len(keep)


# ---- the plan ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("settings", [{"beta": 0.9}, {"keep": 0.6}])
@pytest.mark.parametrize("name", TINY)
def test_kept_rows_are_rows_of_the_original(name, settings):
    model, shape = make(name)
    network, plan = plan_of(model, shape, **settings)
    small = apply(model, plan, shape)
    assert plan.edits
    for group, keep in widths(plan).items():
        assert keep and list(keep) == sorted(set(keep))
        originals = {
            row.numpy().tobytes() for row in network.filters(network.groups[group], network.groups[group].writers[0])
        }
        if all(len(axis.at) == network.groups[group].size for axis in network.groups[group].axes):
            assert small.get_submodule(group).out_channels == len(keep)
        assert len(originals) >= len(keep)


def test_carry_bn_equals_the_masked_network():
    model, shape = make("resnet-pad")
    network, plan = plan_of(model, shape, keep=0.6)
    x = images(shape, torch.float64)
    small, silent = apply(model, plan, shape).double(), zeroed(network, widths(plan)).double()
    assert torch.allclose(small(x), silent(x), atol=1e-5)


def test_published_start_resets_the_listed_norms_and_nothing_else():
    model, shape = make("resnet-pad")
    network, carried = plan_of(model, shape, keep=0.6)
    _, published = plan_of(model, shape, keep=0.6, carry_bn=False)
    first, second = (apply(network.model, plan, shape).state_dict() for plan in (carried, published))
    changed = {name for name in first if not torch.equal(first[name], second[name])}
    norms = {f"layer{s}.{b}.bn1" for s in (1, 2, 3) for b in (0, 1)}
    assert changed == {f"{n}.{v}" for n in norms for v in ("weight", "bias", "running_mean", "running_var")}
    for norm in norms:
        values = [second[f"{norm}.{v}"] for v in ("weight", "bias", "running_mean", "running_var")]
        assert [set(v.tolist()) for v in values] == [{1.0}, {0.0}, {0.0}, {1.0}]


def test_published_start_of_vgg_has_a_fresh_classifier_too():
    model, shape = make("vgg")
    _, plan = plan_of(model, shape, keep=0.6, carry_bn=False)
    assert "classifier" in plan.fresh and sum(name.endswith(".bn") for name in plan.fresh) == 13


def test_three_starts_of_the_same_structure():
    _model, shape = make("resnet-pad")
    plans = {
        init: plan_of(*make("resnet-pad"), keep=0.6, init=init) for init in ("exemplars", "random_project", "random")
    }
    assert len({str(widths(plan)) for _, plan in plans.values()}) == 1
    states = {init: apply(network.model, plan, shape).state_dict() for init, (network, plan) in plans.items()}
    same = {init: {n for n, t in s.items() if torch.equal(t, states["exemplars"][n])} for init, s in states.items()}
    convs = {n for n in states["random"] if n.endswith("conv1.weight") or n.endswith("conv2.weight")}
    assert convs.isdisjoint(same["random"])
    changed = set(states["exemplars"]) - same["random_project"]
    assert changed and all(name.endswith("conv2.weight") for name in changed)  # the readers only


def test_floor_belongs_to_the_search():
    model, shape = make("vgg")
    network, plan = plan_of(model, shape, keep=0.35)
    for name, keep in widths(plan).items():
        assert len(keep) >= Budget().least(network.groups[name])
    _, by_hand = plan_of(model, shape, beta=1e5)
    assert min(map(len, widths(by_hand).values())) == 1  # beta by hand is the official rule: no floor


def test_betas_by_layer():
    model, shape = make("vgg")
    _, plan = plan_of(model, shape, beta=0.0, betas={"features.1[1-6].conv": 3.0})
    network = trace(model, shape)
    late = {
        name
        for name in network.groups
        if name.startswith("features.1") and name != "features.1.conv" and "10" not in name
    }
    for name, keep in widths(plan).items():
        assert (len(keep) < network.groups[name].size) == (name in late)
    assert plan.notes["betas"]["features.11.conv"] == 3.0
    with pytest.raises(PruneError, match="no layer matches"):
        EPruner(betas={"nothing.*": 1.0}).check(network, Budget())


def test_no_convergence_is_retried_then_kept_whole_and_reported():
    model, shape = make("vgg")
    _, by_hand = plan_of(model, shape, beta=1.5, max_iter=2)
    assert by_hand.notes["not_converged"]
    network, searched = plan_of(model, shape, keep=0.6, max_iter=2)
    assert Budget().remaining(network, widths(searched)) <= 0.6


def test_equal_filters_do_not_stop_it():
    model, shape = make("vgg")
    with torch.no_grad():
        model.features[0].conv.weight[:] = model.features[0].conv.weight[:1]
        torch.nn.init.orthogonal_(model.features[1].conv.weight)
    _, plan = plan_of(model, shape, keep=0.7)
    assert len(widths(plan)["features.0.conv"]) == 1
    _, by_hand = plan_of(model, shape, beta=0.7)
    assert "features.0.conv" in by_hand.notes["not_converged"]


@pytest.mark.parametrize(
    "settings", [{"beta": -1}, {"beta": float("inf")}, {"damping": 0.2}, {"init": "zeros"}, {"max_iter": 0}]
)
def test_values_out_of_range_are_refused(settings):
    with pytest.raises(PruneError):
        EPruner(**settings)


# ---- the official code on a public checkpoint -------------------------------------------------------


def official(weight, beta):
    """What the official code does with one layer: median of squared distances, then scikit-learn's class."""
    from sklearn.cluster import AffinityPropagation
    from sklearn.metrics import euclidean_distances

    points = weight.reshape(len(weight), -1)
    preference = beta * np.median(-euclidean_distances(points, squared=True), axis=0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return AffinityPropagation(preference=preference, random_state=0).fit(points).cluster_centers_indices_


@pytest.mark.parametrize("name", ["resnet-pad", "bottleneck"])
@pytest.mark.parametrize("beta", BETAS)
def test_equals_the_official_rule_on_small_networks(name, beta):
    model, shape = make(name)
    _, plan = plan_of(model, shape, beta=beta)
    for group, keep in widths(plan).items():
        assert list(keep) == sorted(official(model.get_submodule(group).weight.detach().numpy(), beta))


@pytest.mark.parametrize("beta", BETAS)
def test_equals_the_official_rule_on_a_trained_resnet56(beta):
    checkpoint = Path(os.environ.get("PRUNE_CLI_CHECKPOINTS", "../shared/checkpoints")) / "resnet56-4bfd9763.th"
    if not checkpoint.exists():
        pytest.skip("needs resnet56-4bfd9763.th of akamaster/pytorch_resnet_cifar10 in PRUNE_CLI_CHECKPOINTS")
    model = CifarResNet(checkpoint=str(checkpoint), depth=56).pretrained(10)
    _, plan = plan_of(model, (3, 32, 32), beta=beta)
    kept = widths(plan)
    assert len(kept) == 27 and all(name.endswith("conv1") for name in kept)
    for name, keep in kept.items():
        assert list(keep) == sorted(official(model.get_submodule(name).weight.detach().numpy(), beta))
    assert sum(map(len, kept.values())) == {0.3: 953, 0.5: 600, 0.76: 60}[beta]


@pytest.mark.parametrize("multiple", [4, 8])
def test_rounded_widths_keep_every_exemplar(multiple):
    model, shape = REAL["resnet20"][0](), (3, 32, 32)
    network = trace(model, shape)
    budget = Budget(keep=0.6, round_to=multiple)
    plan = EPruner().plan(network, None, budget, None, 0)
    kept = widths(plan)
    assert all(len(keep) % multiple == 0 for keep in kept.values())
    assert budget.remaining(network, kept) <= 0.6
    layer = _Layer(
        network.filters(network.groups["layer3.2.conv1"], network.groups["layer3.2.conv1"].writers[0]).numpy(),
        EPruner(),
    )
    few = layer.patient(0.8)
    more = layer.rounded(few, multiple)
    assert set(few) <= set(more) and len(more) - len(few) < multiple
