"""Latencies are paired, ratios are right, memory and counts are those that can be worked out by hand."""

import time

import pytest
import torch
from torch import nn

from prune_cli.benchmark import Hardware, Stopwatch, _interval_of_median, measure
from prune_cli.errors import PruneError
from tests.networks import make

QUICK = Hardware(batches=(1, 4), rounds=6, seconds=0.05)


def test_a_network_is_as_fast_as_itself_and_is_not_changed():
    model, shape = make("vgg")
    model.train()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    rows = measure({"dense": model, "same": model}, shape, Hardware(rounds=40, seconds=0.3))
    for dense, same in zip(rows["dense"].latency["cpu"], rows["same"].latency["cpu"], strict=True):
        assert dense.ratio == dense.ratio_low == dense.ratio_high == 1
        assert 0.7 < same.ratio < 1.4 and same.ratio_low <= same.ratio <= same.ratio_high
        assert same.p10_ms <= same.median_ms <= same.p90_ms and same.rounds >= 40
    assert model.training and all(torch.equal(before[k], v) for k, v in model.state_dict().items())


class Sleeps(nn.Module):
    def __init__(self, seconds):
        super().__init__()
        self.seconds, self.fc = seconds, nn.Conv2d(3, 2, 1)

    def forward(self, x):
        time.sleep(self.seconds)
        return self.fc(x)


def test_ratios_are_those_of_the_times():
    rows = measure({"dense": Sleeps(0.02), "pruned": Sleeps(0.01)}, (3, 8, 8), QUICK)
    for latency in rows["pruned"].latency["cpu"]:
        assert latency.ratio == pytest.approx(0.5, abs=0.1) and latency.median_ms == pytest.approx(10, abs=4)


def test_counts_and_memory_by_hand():
    model = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 2, 1))
    row = measure({"dense": model}, (3, 10, 10), QUICK)["dense"]
    assert row.params == 3 * 8 * 9 + 8 + 8 * 2 + 2
    assert row.macs == 100 * (3 * 8 * 9 + 8 * 2)
    assert row.file_bytes > 4 * row.params
    weights, image, hidden, output = 4 * row.params, 4 * 300, 4 * 800, 4 * 200
    most = weights + image + 2 * hidden  # the convolution's output and the ReLU's live side by side
    assert row.peak_memory_mb["b1"] == pytest.approx(most / 1e6, abs=output / 1e6)
    assert row.peak_memory_mb["b4"] == pytest.approx((weights + 4 * (most - weights)) / 1e6, abs=4 * output / 1e6)


def test_threads_are_put_back():
    torch.set_num_threads(1)
    measure({"dense": nn.Conv2d(3, 2, 1)}, (3, 8, 8), Hardware(threads=2, batches=(1,), rounds=2, seconds=0))
    assert torch.get_num_threads() == 1


@pytest.mark.parametrize("dtype, layout", [("bfloat16", "channels_last"), ("float32", "channels_last")])
def test_other_forms_run(dtype, layout):
    model, shape = make("vgg")
    rows = measure({"dense": model}, shape, Hardware(dtype=dtype, layout=layout, batches=(2,), rounds=2, seconds=0))
    assert rows["dense"].latency["cpu"][0].median_ms > 0


def test_the_interval_covers_the_median():
    import numpy as np

    random, covered = np.random.default_rng(0), 0
    for _ in range(100):
        low, high = _interval_of_median(random.normal(1, 0.1, 31))
        covered += low <= 1 <= high
    assert covered >= 88  # 95 expected


def test_bad_settings_are_refused():
    for options in ({"batches": ()}, {"batches": (0,)}, {"rounds": 1}, {"dtype": "int8"}, {"seconds": float("nan")}):
        with pytest.raises(PruneError):
            Hardware(**options)


def test_a_stopwatch_tells_the_part_of_the_dense_latency_and_times_equal_shapes_once():
    watch = Stopwatch(Sleeps(0.02), (3, 8, 8), QUICK, batch=1)
    assert watch.ratio(Sleeps(0.02)) == 1.0
    faster = Sleeps(0.01)
    faster.fc = nn.Conv2d(3, 1, 1)
    assert watch.ratio(faster) == pytest.approx(0.5, abs=0.1)
    again = Sleeps(0.5)
    again.fc = nn.Conv2d(3, 1, 1)
    assert watch.ratio(again) == watch.ratio(faster)
