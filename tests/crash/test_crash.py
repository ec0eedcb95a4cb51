"""A run that is ended at any call that changes a file goes on to the same bits, and leaves nothing lying about."""

from collections import Counter

import pytest

from tests.crash.points import EXIT, crash, points_of, unsynced
from tests.crash.small import PRUNERS


def check(told, points):
    """The properties of every crash, and of the order of calls of the runs that were not disturbed."""
    for run in told:
        calls = run["calls"]
        assert unsynced(calls) == []
        # Nothing was made that the shim has not seen being made.
        unseen = set(run["made"]) - {path for call in calls for path in call[1:]}
        assert unseen == set()
    for point in points:
        assert point["code"] == EXIT, point
        assert point["resumed"] == 0 and point["same"], point
        assert point["left"] == [] and not point["repeated"], point


def test_a_sample_of_crash_points(tmp_path):
    every = {"epruner": 19, "csgd": 29, "chipnet": 29}
    told, points = crash(tmp_path, every, first=7)
    assert len(points) >= 18 and {point["pruner"] for point in points} == set(PRUNERS)
    check(told, points)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("pruner", PRUNERS)
def test_every_crash_point(tmp_path, pruner):
    told, points = crash(tmp_path, {pruner: 1})
    (run,) = told
    assert len(points) == len(points_of(run["calls"])) >= 100
    kinds = Counter(call for call, *_ in run["calls"])
    print(f"\n{pruner}: {len(points)} crash points, all resumed to the same bits; calls: {dict(kinds)}")  # noqa: T201
    check(told, points)


def test_what_was_not_synced_before_it_was_renamed_is_noticed():
    written = [["open", "/a.tmp", ""], ["write", "/a.tmp", ""]]
    rename, sync = ["rename", "/a.tmp", "/a"], ["fsync", "/a.tmp", ""]
    assert unsynced([*written, sync, rename]) == []
    assert unsynced([*written, rename, sync]) == unsynced([sync, *written, rename]) == [("/a.tmp", "/a")]
    folder = [["write", "/d.new/a", ""], ["rename", "/d.new", "/d"]]
    assert unsynced(folder) == [("/d.new/a", "/d")]
