"""Counts and memory are those that can be worked out by hand."""

import pytest
import torch
from torch import nn

from prune_cli.costs import cost_of, count_macs, macs_by_layer
from tests.networks import make


def test_counts_and_memory_by_hand():
    model = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 2, 1))
    row = cost_of(model, (3, 10, 10), (1, 4))
    assert row.params == 3 * 8 * 9 + 8 + 8 * 2 + 2
    assert row.macs == 100 * (3 * 8 * 9 + 8 * 2)
    assert row.file_bytes > 4 * row.params
    weights, image, hidden, output = 4 * row.params, 4 * 300, 4 * 800, 4 * 200
    most = weights + image + 2 * hidden  # the convolution's output and the ReLU's live side by side
    assert row.peak_memory_mb["b1"] == pytest.approx(most / 1e6, abs=output / 1e6)
    assert row.peak_memory_mb["b4"] == pytest.approx((weights + 4 * (most - weights)) / 1e6, abs=4 * output / 1e6)


def test_layers_add_up_and_the_network_is_not_changed():
    model, shape = make("resnet-pad")
    before = {k: v.clone() for k, v in model.state_dict().items()}
    assert sum(macs_by_layer(model, shape).values()) == count_macs(model, shape)
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())
