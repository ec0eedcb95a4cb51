"""Rows, means, fronts and winners."""

import statistics

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prune_cli.report.choices import Measure, front, fronts, winner
from prune_cli.report.collect import collect
from prune_cli.report.summary import stat, summarise
from tests.report.factory import SIZES, session, write


def groups_of(folder):
    return summarise(collect(folder)).groups


def rows_of(folder):
    return {row.name: row for group in groups_of(folder) for row in group.rows}


def test_rows_that_differ_in_nothing_but_the_seed_are_one(tmp_path):
    tests = [0.90, 0.92, 0.91]
    for seed, test in enumerate(tests):
        write(tmp_path / str(seed), seed=seed, test=test, ratios={"cpu": {1: 0.6 + seed / 10}})
    (row,) = rows_of(tmp_path).values()
    assert row.name == "filter keep 0.5" and len(row.runs) == 3
    assert row.accuracy["test"].mean == pytest.approx(0.91)
    assert row.accuracy["test"].sd == pytest.approx(statistics.stdev(tests))
    ratio = row.latency["cpu", 1]
    assert (ratio.mean, ratio.low, ratio.high) == pytest.approx((0.7, 0.58, 0.82))


def test_one_seed_has_no_spread(tmp_path):
    write(tmp_path / "a")
    (row,) = rows_of(tmp_path).values()
    assert row.accuracy["test"].sd is None
    assert any("single seed" in note for note in summarise(collect(tmp_path)).notes)


def test_settings_that_differ_make_rows_and_are_their_names(tmp_path):
    write(tmp_path / "a", keep=0.5, config={"pruner.criterion": "l1"})
    write(tmp_path / "b", keep=0.3, config={"pruner.criterion": "l2"})
    write(tmp_path / "c", keep=0.3, config={"pruner.criterion": "l2"}, epochs=9)
    write(tmp_path / "d", pruner="none", keep=None)
    assert set(rows_of(tmp_path)) == {
        "filter keep 0.5, criterion l1, finetune.epochs 4", "filter keep 0.3, criterion l2, finetune.epochs 4",
        "filter keep 0.3, criterion l2, finetune.epochs 9", "none",
    }  # fmt: skip


def test_a_setting_that_older_runs_do_not_know_makes_no_row(tmp_path):
    write(tmp_path / "a", seed=0)
    write(tmp_path / "b", seed=1, config={"pruner.new": True})
    assert [len(row.runs) for row in rows_of(tmp_path).values()] == [2]


def test_another_metric_is_named(tmp_path):
    write(tmp_path / "a", metric="latency", keep=0.5)
    write(tmp_path / "b", keep=0.5)
    assert set(rows_of(tmp_path)) == {"filter keep 0.5 of latency", "filter keep 0.5 of macs"}


def test_of_one_seed_run_twice_the_newest_counts_and_a_note_says_so(tmp_path):
    write(tmp_path / "a", test=0.8, created="2026-11-01T00:00:00+00:00")
    write(tmp_path / "b", test=0.9, created="2026-11-02T00:00:00+00:00")
    (row,) = rows_of(tmp_path).values()
    assert row.accuracy["test"].mean == 0.9 and row.older == 1
    assert any("older run" in note for note in summarise(collect(tmp_path)).notes)


def test_distinct_dense_networks_count_once(tmp_path):
    for name, seed, pruner, dense in (("a", 0, "filter", 0.9), ("b", 0, "random", 0.9), ("c", 1, "filter", 0.94)):
        write(tmp_path / name, seed=seed, pruner=pruner, dense=dense)
    (group,) = groups_of(tmp_path)
    assert group.dense.accuracy["test"].mean == pytest.approx(0.92) and len(group.dense.runs) == 2
    assert group.dense.latency["cpu", 1].ms == pytest.approx(2.0)
    assert group.dense.seconds["train"].mean == 300


def test_networks_of_other_cost_do_not_share_a_table(tmp_path):
    write(tmp_path / "a", model="torchvision", config={"model.name": "resnet18"}, dense_macs=10**9)
    write(tmp_path / "b", model="torchvision", config={"model.name": "mobilenet"}, dense_macs=10**8)
    assert {group.title for group in groups_of(tmp_path)} == {
        "torchvision on cifar10 (model.name resnet18, 1000M MACs)",
        "torchvision on cifar10 (model.name mobilenet, 100M MACs)",
    }


@given(st.lists(st.floats(0, 1), max_size=9))
def test_statistics(values):
    found = stat(values)
    assert (found is None) == (not values)
    if found:
        assert min(values) - 1e-9 <= found.mean <= max(values) + 1e-9
        assert (found.sd is None) == (len(values) == 1)


@given(st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)), max_size=20))
def test_a_front_is_what_nothing_beats_and_all_of_it(points):
    def beaten(p):
        return any(q[0] <= p[0] and q[1] >= p[1] and q != p for q in points)

    found = front(points)
    assert sorted(found) == [at for at, p in enumerate(points) if not beaten(p)]
    assert [points[at] for at in found] == sorted(points[at] for at in found)


def test_a_front_holds_no_row_that_the_dense_network_beats(tmp_path):
    write(tmp_path / "slow", macs=1.2, val=0.5)
    write(tmp_path / "good", pruner="random", macs=0.5, val=0.9)
    (group,) = groups_of(tmp_path)
    assert [row.pruner for row in fronts(group)[Measure("macs")]] == ["random"]


def test_winners_are_chosen_on_validation_within_their_band(tmp_path):
    write(tmp_path / "a", pruner="good", keep=0.5, val=0.92, test=0.80)
    write(tmp_path / "b", pruner="lucky", keep=0.5, val=0.90, test=0.99)
    write(tmp_path / "c", pruner="large", keep=0.7, val=0.95)
    rows = list(rows_of(tmp_path).values())
    macs = Measure("macs")
    assert winner(rows, macs, 0.75).best.pruner == "large"
    assert winner(rows, macs, 0.5).best.pruner == "good" and not winner(rows, macs, 0.5).spread
    assert winner(rows, macs, 0.5).ties == () and winner(rows, macs, 0.25) is None
    assert winner(rows, Measure("cpu", 1), 0.75).best.pruner == "large"
    assert winner(rows, Measure("cpu", 64), 0.75) is None


@pytest.mark.parametrize("gap, tie", [(0.005, True), (0.03, False)])
def test_within_one_standard_deviation_is_a_tie(tmp_path, gap, tie):
    for seed, off in enumerate((-0.01, 0.0, 0.01)):
        write(tmp_path / f"a{seed}", pruner="a", seed=seed, val=0.9 + off)
        write(tmp_path / f"b{seed}", pruner="b", seed=seed, val=0.9 + off / 2 - gap)
    won = winner(list(rows_of(tmp_path).values()), Measure("macs"), 0.5)
    assert won.best.pruner == "a" and won.spread and bool(won.ties) == tie


def test_where_arithmetic_is_not_fp32_accuracy_as_computed_there_decides(tmp_path):
    write(tmp_path / "a", pruner="a", val=0.95, sessions=[session({"int8": {1: 0.4}}, computed={"int8": (0.5, 0.5)})])
    write(tmp_path / "b", pruner="b", val=0.90, sessions=[session({"int8": {1: 0.4}}, computed={"int8": (0.8, 0.8)})])
    rows = list(rows_of(tmp_path).values())
    assert winner(rows, Measure("macs"), 0.5).best.pruner == "a"
    assert winner(rows, Measure("int8", 1), 0.5).best.pruner == "b"


def test_rows_without_some_target_are_still_rows(tmp_path):
    write(tmp_path / "a", seed=0, ratios={"cpu": {1: 0.5}})
    write(tmp_path / "b", seed=1, ratios={})
    write(tmp_path / "c", pruner="random", ratios={}, edits=[], sizes=SIZES)
    (group,) = groups_of(tmp_path)
    assert group.keys == (("cpu", 1),) and [row.latency.get(("cpu", 1)) is None for row in group.rows] == [False, True]
    assert group.rows[0].latency["cpu", 1].n == 1
