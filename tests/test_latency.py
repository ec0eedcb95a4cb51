"""Budgets in latency: found with few measurements, whatever the targets' quirks; what is not there is refused early."""

import math
from types import SimpleNamespace

import numpy as np
import pytest

from prune_cli import latency
from prune_cli.budget import MEASUREMENTS, Budget, cuttable, masks, plan_of, select
from prune_cli.channels import trace
from prune_cli.errors import PruneError
from prune_cli.hardware.eager import Eager
from prune_cli.record import Session
from prune_cli.surgery import apply
from tests.networks import SMALL, make


class Quirky:
    """A stopwatch whose latency is a part that never falls, and the rest in blocks of channels, with noise."""

    def __init__(self, network, block=1, fixed=0.0, noise=0.0):
        self.block, self.fixed, self.noise = block, fixed, noise
        self.random, self.asked = np.random.default_rng(0), 0
        self.whole = self._cost(network.model)
        self.table = {}

    def _cost(self, model):
        layers = [module for module in model.modules() if getattr(module, "weight", None) is not None]
        widths = (module.weight.shape for module in layers if module.weight.ndim > 1)
        return sum(math.prod(math.ceil(size / self.block) for size in shape[:2]) for shape in widths)

    def ratio(self, model):
        self.asked += 1
        true = self.fixed + (1 - self.fixed) * self._cost(model) / self.whole
        return true * (1 + self.noise * self.random.standard_normal())


def found(keep, name="vgg", **quirks):
    model, shape = make(name)
    network = trace(model, shape)
    watch = Quirky(network, **quirks)
    random = np.random.default_rng(1)
    scores = {group.name: random.random(group.size) for group in cuttable(network)}
    budget = Budget("latency", keep, floor=0.0, stopwatch=watch)
    kept = select(network, scores, budget)
    watch.noise = 0.0
    return watch.asked, watch.ratio(apply(model, plan_of(kept), shape)), budget, network, kept


@pytest.mark.parametrize("keep", [0.8, 0.5, 0.3])
@pytest.mark.parametrize("quirks", [{}, {"fixed": 0.2}, {"noise": 0.01}, {"block": 2, "fixed": 0.1}])
def test_few_measurements_find_it(keep, quirks):
    asked, ratio, *_ = found(keep, **quirks)
    assert 0.9 * keep <= ratio <= 1.03 * keep
    assert asked <= MEASUREMENTS + 3


def test_what_is_expected_is_what_is_measured_where_time_goes_with_multiply_adds():
    model, shape = make("vgg")
    network = trace(model, shape)
    dense = network.cost("macs")

    class Counted:
        table = network.cost_by_layer("macs")

        def ratio(self, model):
            return trace(model, shape).cost("macs") / dense

    budget = Budget("latency", 0.5, stopwatch=Counted())
    kept = {group.name: tuple(range(group.size // 2)) for group in cuttable(network)}
    assert budget.predicted(network, kept) == pytest.approx(budget.remaining(network, kept))
    model, shape = make("resnet-pad")
    network = trace(model, shape)
    dense = network.cost("macs")
    Counted.table = network.cost_by_layer("macs")
    dropped = network.units[:2]
    assert budget.predicted(network, {}, dropped) == pytest.approx(budget.remaining(network, {}, dropped))


def test_time_of_no_layer_shrinks_with_the_volume():
    model, shape = make("vgg")
    network = trace(model, shape)

    budget = Budget("latency", 0.5, stopwatch=SimpleNamespace(table={"": 1.0}))
    kept = {group.name: tuple(range(group.size // 2)) for group in cuttable(network)}
    part = network.cost("volume", masks(network, kept)) / network.cost("volume")
    assert budget.predicted(network, kept) == pytest.approx(part)


class Absent(Eager):
    def missing(self):
        return "it is not there"


def test_a_run_that_could_not_be_measured_is_refused():
    targets = {"cpu": Eager(), "phone": Absent()}
    latency.check(targets, Budget())
    latency.check(targets, Budget("latency", target="cpu"))
    with pytest.raises(PruneError, match=r"budget\.target=phone is not there: it is not there"):
        latency.check(targets, Budget("latency", target="phone"))
    with pytest.raises(PruneError, match="hardware=phone is not there: it is not there"):
        latency.check({"phone": Absent()}, Budget())


def test_the_target_says_which_widths_it_likes(data):
    model, _ = make("vgg")
    targets = {"phone": Absent(), "cpu": Eager(round_to=4, batches=(1,), processes=1, seconds=0.0)}
    budget = latency.measurable(Budget("latency"), targets, model, data, 0)
    assert (budget.target, budget.multiple) == ("cpu", 4)
    assert latency.measurable(Budget("latency", round_to=2), targets, model, data, 0).multiple == 2
    assert latency.measurable(Budget(), targets, model, data, 0).multiple == 1


def test_the_outcome_is_expected_searched_and_measured():
    _, _, budget, network, kept = found(0.5, fixed=0.2)
    plan = plan_of(kept)
    row = latency.outcome(budget, True, network, plan, apply(network.model, plan, SMALL), Session("", {}, {}))
    assert row["budget_met"] and row["budget_searched"] == row["budget_kept"] <= 0.5
    assert 0 < row["budget_expected"] < row["budget_kept"]  # a fixed part is not in a table of multiply-adds
