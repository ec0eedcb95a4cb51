"""Ratios are paired, disturbed samples do not count, and intervals are as wide as repeated measurements differ."""

import numpy as np
import pytest
import torch

from prune_cli.hardware.race import Lap
from prune_cli.hardware.summary import centre, interval, summarise


def lap(wall, waited=0.0):
    wall = np.asarray(wall, dtype=float)
    return Lap(wall, wall.copy(), np.broadcast_to(waited, wall.shape), torch.zeros(1))


def test_a_slow_moment_that_meets_both_leaves_the_ratio():
    drift = np.array([1.0, 1.5, 3.0, 1.2])
    row = summarise(1, [lap(0.5 * drift)] * 3, [lap(drift)] * 3, threads=1)
    assert row.ratio == row.ratio_low == row.ratio_high == 0.5 and row.verdict == "faster"
    assert row.processes == 3 and row.rounds == 12 and row.disturbed == 0


def test_disturbed_samples_do_not_count():
    waited = np.array([0, 0, 0.5, 0])
    row = summarise(1, [lap([1, 1, 9, 1], waited)] * 2, [lap([2, 2, 2, 2])] * 2, threads=1)
    assert row.ratio == 0.5 and row.median_ms == 1 and row.rounds == 6 and row.disturbed == 0.25


def test_where_all_are_disturbed_one_thread_s_waiting_is_taken_off():
    both = [lap([4, 4, 4], 0.5)], [lap([16, 16, 16], 0.75)]
    assert summarise(1, *both, threads=1).ratio == 0.5
    assert summarise(1, *both, threads=2).ratio == 0.25  # with several threads nobody knows who waited for whom


def test_the_dense_network_is_the_measure():
    laps = [lap([1, 2, 3])]
    row = summarise(8, laps, laps, threads=1)
    assert (row.batch, row.ratio, row.ratio_low, row.ratio_high, row.verdict) == (8, 1, 1, 1, "")


def test_no_difference_is_an_answer():
    random = np.random.default_rng(0)
    row = summarise(1, *([lap(1 + 0.05 * random.random(20)) for _ in range(8)] for _ in range(2)), threads=1)
    assert row.verdict == "no significant difference" and row.ratio_low <= 1 <= row.ratio_high


@pytest.mark.parametrize("between", [0.0, 0.05])
@pytest.mark.parametrize("processes", [3, 8])
def test_the_interval_covers_the_truth(processes, between):
    """Also where processes differ more than the rounds within one."""
    random, covered = np.random.default_rng(0), 0
    for _ in range(200):
        ratios = [random.normal(random.normal(1, between), 0.02, 6) for _ in range(processes)]
        low, high = interval(ratios, draws=400)
        covered += low <= 1 <= high
    assert covered >= 184  # 190 expected


def test_a_single_process_has_the_interval_of_its_rounds():
    ratios = [np.random.default_rng(0).normal(1, 0.1, 31)]
    low, high = interval(ratios)
    assert low < centre(ratios) < high and high - low < 0.2


def test_samples_that_did_nothing_but_wait_still_give_a_ratio():
    row = summarise(1, [lap([3, 3], 1.0)] * 2, [lap([4, 4], 1.0)] * 2, threads=1)
    assert row.ratio == 0.75
