"""Everything below a folder is found, and nothing is left out without a word."""

import json

import pytest

from prune_cli.errors import PruneError
from prune_cli.files import seal, to_json
from prune_cli.report.collect import collect
from tests.report.factory import HOST, fail, record, session, write


def test_runs_are_found_at_any_depth_but_not_in_stores_or_hidden_folders(tmp_path):
    for name in ("a", "runs/filter/b", "sweeps/x/0"):
        write(tmp_path / name)
    for name in ("bases/x", "cache/y", "jobs/z", ".half-written", "runs/.old/c"):
        write(tmp_path / name)
    assert [run.name for run in collect(tmp_path).runs] == ["a", "runs/filter/b", "sweeps/x/0"]


def test_a_folder_that_is_a_run_itself(tmp_path):
    write(tmp_path / "a")
    assert [run.name for run in collect(tmp_path / "a").runs] == ["."]


def test_what_is_damaged_or_of_another_version_is_listed_and_costs_nothing_else(tmp_path):
    write(tmp_path / "good")
    damaged = write(tmp_path / "damaged")
    (damaged / "result.json").write_text((damaged / "result.json").read_text().replace("0.91", "0.99"))
    seal(tmp_path / "older", {"result.json": to_json({"schema": 1})})
    seal(tmp_path / "list", {"result.json": b"[]"})
    seal(tmp_path / "cut", {"result.json": b'{"schema": 2, "summary"'})
    found = record().to_json()
    for name, broken in {
        "word": {**found, "summary": {**found["summary"], "test_accuracy_finetuned": "<b>"}},
        "nothing": {key: value for key, value in found.items() if key != "plan"},
        "huge": {**found, "summary": {**found["summary"], "macs_dense": 10**400}},
        "zero": {**found, "summary": {**found["summary"], "macs_dense": 0}},
        "null": {**found, "benchmarks": None},
    }.items():
        seal(tmp_path / name, {"result.json": json.dumps(broken).encode(), "plan.json": b"{}"})
    collection = collect(tmp_path)
    assert [run.name for run in collection.runs] == ["good"]
    assert "damaged" in collection.unread["damaged"] and "schema 1" in collection.unread["older"]
    assert {"list", "cut", "word", "nothing", "huge", "zero", "null"} <= set(collection.unread)


def test_a_damaged_plan_costs_the_channels_only(tmp_path):
    write(tmp_path / "a")
    (tmp_path / "a" / "plan.json").write_text("{}")
    collection = collect(tmp_path)
    assert collection.runs[0].layers == () and "damaged" in collection.unread["a/plan.json"]


def test_one_identity_is_one_run_the_newest(tmp_path):
    for day in (1, 3, 2):
        write(tmp_path / str(day), identity="0123456789ab", created=f"2026-11-0{day}T00:00:00+00:00")
    write(tmp_path / "other", identity="0123456789ac")
    assert [run.name for run in collect(tmp_path).runs] == ["3", "other"]


def test_a_failed_job_is_listed_until_it_has_a_result(tmp_path):
    fail(tmp_path / "a", reason="two\nlines \x1b[31mand colour")
    fail(write(tmp_path / "b"))
    fail(tmp_path / "c", log="../../../etc/passwd", command=None or [])
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "failed.json").write_text("[1")
    collection = collect(tmp_path)
    assert [failure.name for failure in collection.failures] == ["a", "c"]
    assert collection.failures[0].reason == "two lines [31mand colour" and collection.failures[0].log == "prune-run.log"
    assert collection.failures[0].what == "cifar10  resnet20  csgd  seed 1"
    assert collection.failures[1].log == "" and "d" in collection.unread


def test_of_several_sessions_the_latest_of_the_own_host_counts_and_others_have_names(tmp_path):
    sessions = [
        session({"cpu": {1: 0.9, 64: 0.8}}, created="2026-11-01T00:00:00+00:00"),
        session({"cpu": {1: 0.5}}, created="2026-11-05T00:00:00+00:00"),
        session({"cpu": {1: 0.6}}, created="2026-11-03T00:00:00+00:00"),
        session({"cpu": {1: 0.4}}, created="2026-11-02T00:00:00+00:00", host={**HOST, "name": "laptop"}),
    ]
    write(tmp_path / "a", sessions=sessions)
    (run,) = collect(tmp_path).runs
    ratios = {key: timing.ratio for key, timing in run.latency.items()}
    assert ratios == {("cpu", 1): 0.5, ("cpu", 64): 0.8, ("cpu @ laptop", 1): 0.4}


def test_channels_are_those_of_the_plan(tmp_path):
    edits = [{"group": "conv1", "keep": [0, 1, 2]}, {"drop": "layer1.1"}]
    write(tmp_path / "a", edits=edits)
    (run,) = collect(tmp_path).runs
    kept = {layer.name: layer.kept for layer in run.layers}
    assert kept == {"conv1": 3, "layer1.0.conv1": 16, "layer1.1.conv1": 0, "layer2.0.conv1": 32, "layer3.0.conv1": 64}
    assert run.dropped == ("layer1.1",)


def test_what_is_not_a_folder_is_refused(tmp_path):
    with pytest.raises(PruneError, match="is not a folder"):
        collect(tmp_path / "nowhere")


def test_a_failure_is_past_when_the_same_experiment_succeeded_elsewhere(tmp_path):
    seal(tmp_path / "done", {"result.json": to_json({**record().to_json(), "identity": "0123456789ab"})})
    fail(tmp_path / "failed")
    said = json.loads((tmp_path / "failed" / "failed.json").read_text())
    (tmp_path / "failed" / "failed.json").write_text(json.dumps({**said, "identity": "0123456789ab"}))
    assert collect(tmp_path).failures == ()
    (tmp_path / "failed" / "failed.json").write_text(json.dumps({**said, "identity": "ba9876543210"}))
    assert len(collect(tmp_path).failures) == 1
