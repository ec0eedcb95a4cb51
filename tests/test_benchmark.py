"""Networks side by side: equal ones are equal, ratios are those of the times, what is wrong is told."""

import time
from dataclasses import dataclass, replace

import pytest
import torch
from torch import nn

from prune_cli.benchmark import Stopwatch, measure
from prune_cli.errors import PruneError
from prune_cli.hardware.eager import Eager
from prune_cli.record import Accuracy
from tests.networks import make

QUICK = Eager(batches=(1, 4), processes=2, rounds=6, seconds=0.05)


class Sleeps(nn.Module):
    def __init__(self, seconds):
        super().__init__()
        self.seconds, self.fc = seconds, nn.Conv2d(3, 2, 1)

    def forward(self, x):
        time.sleep(self.seconds)
        return self.fc(x)


@dataclass(frozen=True)
class Absent(Eager):
    def missing(self):
        return "it is not there"


@dataclass(frozen=True)
class Wrong(Eager):
    """Gives other outputs than PyTorch."""

    def outputs(self, y):
        return super().outputs(y) * 1.001


@dataclass(frozen=True)
class Refuses(Eager):
    def load(self, artefact, batch):
        raise RuntimeError("operator not supported\nat line 17")


def test_a_network_is_as_fast_as_itself_and_is_not_changed():
    model, shape = make("vgg")
    model.train()
    model.eval()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    target = Eager(batches=(1,), processes=6, rounds=60, seconds=0.6)
    session = measure({"dense": model, "same": model}, shape, {"cpu": target})
    (dense,), (same,) = session.latency["dense"]["cpu"], session.latency["same"]["cpu"]
    assert dense.ratio == dense.ratio_low == dense.ratio_high == 1 and dense.verdict == ""
    assert 0.8 < same.ratio < 1.25 and same.ratio_low <= same.ratio <= same.ratio_high
    assert same.p10_ms <= same.median_ms <= same.p90_ms and same.processes == 6 and same.cpu_ms > 0
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())


def test_ratios_are_those_of_the_times_and_layers_say_where_they_are_spent():
    session = measure({"dense": Sleeps(0.02), "pruned": Sleeps(0.01)}, (3, 8, 8), {"cpu": QUICK})
    for latency in session.latency["pruned"]["cpu"]:
        assert latency.ratio == pytest.approx(0.5, abs=0.1) and latency.median_ms == pytest.approx(10, abs=4)
        assert latency.cpu_ms < 5  # asleep, it uses no processor
    layers = {layer.layer: layer for layer in session.layers["pruned"]["cpu"]["b4"]}
    assert layers[""].dense_ms == pytest.approx(20, abs=5) and layers[""].pruned_ms == pytest.approx(10, abs=5)
    assert layers["fc"].dense_macs == 3 * 2 * 64 and layers["fc"].dense_ms < 5
    assert session.hardware["cpu"]["runtime"].startswith("torch ") and session.hardware["cpu"]["errors"]["dense"] == 0


def test_each_network_has_its_own_dense_one():
    networks = {"a": Sleeps(0.01), "b": Sleeps(0.02), "small a": Sleeps(0.005), "small b": Sleeps(0.016)}
    of = {"a": "a", "b": "b", "small a": "a", "small b": "b"}
    target = replace(QUICK, batches=(1,))
    session = measure(networks, (3, 8, 8), {"cpu": target}, of)
    ratios = {name: rows["cpu"][0].ratio for name, rows in session.latency.items()}
    assert ratios == pytest.approx({"a": 1, "b": 1, "small a": 0.5, "small b": 0.8}, abs=0.1)
    part = session.between("b", "small b")
    assert part.latency["pruned"] == session.latency["small b"] and set(part.layers) == {"pruned"}


def test_what_is_not_there_or_goes_wrong_is_told_and_the_others_are_measured():
    model, shape = make("vgg")
    targets = {"absent": Absent(), "wrong": Wrong(batches=(1,), processes=1), "refuses": Refuses(), "cpu": QUICK}
    session = measure({"dense": model}, shape, targets)
    assert session.missing == {"absent": "it is not there"}
    assert "dense gives other outputs than PyTorch" in session.failed["wrong"]
    assert "bound 0.0001" in session.failed["wrong"]
    assert session.failed["refuses"] == "RuntimeError: operator not supported"
    assert list(session.latency["dense"]) == ["cpu"]


def test_accuracy_is_told_where_arithmetic_is_not_fp32():
    model, shape = make("vgg")
    bf16 = replace(QUICK, dtype="bfloat16", batches=(1,))
    seen = []

    def judge(network):
        seen.append(network(torch.zeros(3, *shape)).shape)
        return Accuracy(0.5, 0.25)

    session = measure({"dense": model}, shape, {"cpu": replace(QUICK, batches=(1,)), "bf16": bf16}, judge=judge)
    assert session.accuracy == {"dense": {"bf16": Accuracy(0.5, 0.25)}} and seen == [(3, 4)]


def test_a_stopwatch_tells_the_part_of_the_dense_latency_and_times_equal_shapes_once():
    watch = Stopwatch(Sleeps(0.02), (3, 8, 8), QUICK, batch=1)
    assert watch.ratio(Sleeps(0.02)) == 1.0
    faster = Sleeps(0.01)
    faster.fc = nn.Conv2d(3, 1, 1)
    assert watch.ratio(faster) == pytest.approx(0.5, abs=0.1)
    again = Sleeps(0.5)
    again.fc = nn.Conv2d(3, 1, 1)
    assert watch.ratio(again) == watch.ratio(faster)
    assert watch.table[""] == pytest.approx(0.02, abs=0.005) and watch.table["fc"] > 0


def test_a_stopwatch_that_cannot_be_trusted_stops():
    model, shape = make("vgg")
    watch = Stopwatch(model, shape, Wrong(processes=1), batch=1)
    model.classifier = nn.Linear(model.classifier.in_features, 3)
    with pytest.raises(PruneError, match="other outputs"):
        watch.ratio(model)
