"""Budgets are met from below, as closely as one portion of channels allows, and never below the floors."""

import numpy as np
import pytest

from prune_cli.budget import Budget, cuttable, select
from prune_cli.channels import METRICS, trace
from prune_cli.errors import PruneError
from tests.networks import TINY, make


def scores_of(network, streams=True, seed=0):
    random = np.random.default_rng(seed)
    return {group.name: random.random(group.size) for group in cuttable(network, streams=streams)}


@pytest.mark.parametrize("keep", [0.4, 0.7, 1.0])
@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("name", TINY)
def test_met_within_one_channel(name, metric, keep):
    model, shape = make(name)
    network = trace(model, shape)
    budget, scores = Budget(metric, keep, floor=0.0), scores_of(network)
    kept = select(network, scores, budget)
    assert budget.remaining(network, kept) <= keep
    if keep == 1:
        assert all(len(kept[g]) == network.groups[g].size for g in kept)
        return
    # Putting back the last channel removed, the best of those that went, would break the budget.
    gone = {(scores[g][c], g, c) for g in kept for c in range(network.groups[g].size) if c not in kept[g]}
    _, group, channel = max(gone)
    assert budget.remaining(network, {**kept, group: tuple(sorted((*kept[group], channel)))}) > keep


@pytest.mark.parametrize("name", TINY)
def test_floors_hold_and_the_best_stay(name):
    model, shape = make(name)
    network = trace(model, shape)
    scores = scores_of(network)
    least = Budget(keep=1, floor=0.3)
    fraction = lowest(network, Budget(keep=1e-6, floor=0.3), scores)
    kept = select(network, scores, Budget(keep=fraction, floor=0.3))
    for group in cuttable(network, streams=True):
        assert len(kept[group.name]) >= least.least(group)
        assert int(np.argmax(scores[group.name])) in kept[group.name]
        assert all(segment & set(kept[group.name]) for segment in group.segments)


def lowest(network, budget, scores):
    with pytest.raises(PruneError) as error:
        select(network, scores, budget)
    return float(str(error.value).split("reaches ")[1].split(" to 1")[0]) + 0.15


def test_out_of_reach_says_what_is_reachable():
    model, shape = make("vgg")
    network = trace(model, shape)
    with pytest.raises(PruneError, match=r"budget.keep=0.001 of macs is out of reach.*reaches 0\.\d+ to 1"):
        Budget(keep=0.001).check(network, cuttable(network))
    with pytest.raises(PruneError, match="no group of channels"):
        Budget().check(network, [])


@pytest.mark.parametrize("round_to", [2, 4])
def test_widths_are_multiples(round_to):
    model, shape = make("bottleneck")
    network = trace(model, shape)
    kept = select(network, scores_of(network), Budget(keep=0.6, round_to=round_to))
    assert all(len(keep) % round_to == 0 for keep in kept.values())
    assert any(len(kept[g]) < network.groups[g].size for g in kept)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"metric": "flops"}, "channels, volume, params, macs"),
        ({"keep": 0}, r"\(0, 1\]"),
        ({"keep": 1.5}, r"\(0, 1\]"),
        ({"keep": float("nan")}, r"\(0, 1\]"),
        ({"keep": "half"}, "number"),
        ({"keep": True}, "number"),
        ({"floor": -0.1}, "floor"),
        ({"round_to": 0}, "round_to"),
        ({"round_to": 2.5}, "whole"),
    ],
)
def test_values_out_of_range_are_refused(options, message):
    with pytest.raises(PruneError, match=message):
        Budget(**options)
