"""Finished runs are measured again side by side and exported, and their records tell of it."""

import json
import shutil
from dataclasses import replace

import pytest
import torch

import prune_cli
from prune_cli.errors import PruneError
from prune_cli.files import amend, read_sealed, to_json
from prune_cli.hardware.eager import Eager
from prune_cli.hardware.onnx_runtime import OnnxRuntime
from prune_cli.models import CifarResNet
from prune_cli.pipeline import run
from prune_cli.pruners.layerprune import LayerPrune
from prune_cli.pruners.none import NoPruner
from prune_cli.remeasure import export_run, read, remeasure
from prune_cli.training.recipe import Recipe
from tests.test_pipeline import CONFIG, experiment

QUICK = Eager(batches=(1, 2), processes=2, rounds=4, seconds=0.0)
DATASET = {
    "_target_": "prune_cli.data.Synthetic", "name": "synthetic", "mean": [0.5] * 3, "std": [0.25] * 3, "images": 160,
}  # fmt: skip


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """Two runs of one dense network, and one of another that was not cut."""
    folder = tmp_path_factory.mktemp("outputs")
    torch.set_num_threads(1)
    config = {**CONFIG, "dataset": DATASET, "outputs": str(folder)}
    once = {"train": Recipe(epochs=1, batch=32), "finetune": Recipe(epochs=0)}
    deeper = CifarResNet(depth=14, width=0.5)
    names = {"dataset": "synthetic", "model": "resnet14", "pruner": "layerprune"}
    run(experiment(folder, **once, model=deeper, names={**names, "pruner": "epruner"}), folder / "epruner", config)
    run(experiment(folder, **once, model=deeper, pruner=LayerPrune(units=2), names=names), folder / "layers", config)
    rival = {**names, "model": "resnet8", "pruner": "none"}
    run(experiment(folder, **once, pruner=NoPruner(), names=rival), folder / "rival", config)
    return folder


@pytest.fixture
def runs(finished, tmp_path):
    for name in ("epruner", "layers", "rival"):
        shutil.copytree(finished / name, tmp_path / name)
    return [read(tmp_path / name) for name in ("epruner", "layers", "rival")]


def record(of):
    return json.loads(read_sealed(of.folder, "result.json"))


def test_one_table_holds_them_all_and_their_records_grow(runs):
    table, failed = remeasure(runs, {"cpu": QUICK})
    lines = [line for line in table.splitlines() if line.strip()]
    assert not failed
    heads = [line for line in lines if line.strip().startswith("resnet")][:4]
    assert [line.split()[:2] for line in heads] == [
        ["resnet14", "dense"], ["resnet14", "epruner"], ["resnet14", "layerprune"], ["resnet8", "none"],
    ]  # fmt: skip
    for run_ in runs:
        first, second = record(run_)["benchmarks"]
        assert second["created"] >= first["created"] and second["host"]["cores"] >= 1
        assert [row["batch"] for row in second["latency"]["pruned"]["cpu"]] == [1, 2]
    assert record(runs[2])["benchmarks"][1]["latency"]["pruned"]["cpu"][0]["ratio"] == 1
    assert record(runs[1])["benchmarks"][1]["latency"]["pruned"]["cpu"][0]["ratio"] != 1
    again, _ = remeasure(runs[:1], {"cpu": QUICK})
    assert "resnet14 epruner" in again and len(record(runs[0])["benchmarks"]) == 3


def test_equal_runs_are_told_apart_by_their_folders(runs, tmp_path):
    shutil.copytree(runs[0].folder, tmp_path / "copy")
    table, _ = remeasure([runs[0], read(tmp_path / "copy")], {"cpu": QUICK})
    assert "macs 0.5 epruner" in table and "macs 0.5 copy" in table
    shutil.copytree(runs[0].folder, tmp_path / "deep" / "copy")
    same = [read(tmp_path / "copy"), read(tmp_path / "deep" / "copy")]
    assert len([line for line in remeasure(same, {"cpu": QUICK})[0].splitlines() if "deep/copy" in line]) >= 1


def test_a_dense_network_whose_weights_are_lost_is_timed_and_not_judged(runs, tmp_path):
    result = record(runs[0])
    result["base"]["path"] = "gone"
    amend(runs[0].folder, {"result.json": to_json(result)})
    bf16 = replace(QUICK, dtype="bfloat16", batches=(1,))
    _, failed = remeasure([read(runs[0].folder)], {"bf16": bf16})
    session = record(runs[0])["benchmarks"][-1]
    assert not failed and set(session["latency"]) == {"dense", "pruned"} and set(session["accuracy"]) == {"pruned"}


def test_quantised_networks_are_judged_on_the_data_of_the_run(runs):
    target = OnnxRuntime(dtype="int8", batches=(1,), processes=1, rounds=2, seconds=0.0)
    if target.missing():
        pytest.skip(target.missing())
    _, failed = remeasure(runs[:2], {"int8": target})
    accuracy = record(runs[0])["benchmarks"][1]["accuracy"]
    assert not failed and 0 <= accuracy["pruned"]["int8"]["test"] <= 1 and "dense" in accuracy


def test_without_its_data_nothing_is_quantised_and_the_rest_is_measured(runs):
    target = OnnxRuntime(dtype="int8", batches=(1,), processes=1, rounds=2, seconds=0.0)
    if target.missing():
        pytest.skip(target.missing())
    gone = {**runs[0].result, "config": {**runs[0].result["config"], "dataset": {"_target_": "prune_cli.data.Nothing"}}}
    table, failed = remeasure([replace(runs[0], result=gone)], {"cpu": QUICK, "int8": target})
    assert "needs images" in failed["int8"] and "int8 FAILED" in table and "95" not in failed
    assert list(record(runs[0])["benchmarks"][1]["latency"]["pruned"]) == ["cpu"]


def test_exports_lie_beside_the_run_and_stand_in_its_record(runs):
    (made,) = export_run(runs[0], ["torch_export"])
    module = torch.export.load(runs[0].folder / "model.pt2").module()
    x = torch.randn(4, 3, 32, 32)
    assert torch.allclose(module(x), prune_cli.load(runs[0].folder)(x), atol=1e-5)
    assert [e["kind"] for e in record(runs[0])["exports"]] == ["torch_export"] and made.bytes > 1000
    export_run(runs[0], ["torch_export"])
    assert len(record(runs[0])["exports"]) == 1 and read_sealed(runs[0].folder, "model.pt2")


def test_what_is_not_a_run_or_of_another_version_is_refused(runs, tmp_path):
    with pytest.raises(PruneError, match="is not the folder of a finished run"):
        read(tmp_path)
    result = {**record(runs[0]), "schema": 1}
    amend(runs[0].folder, {"result.json": to_json(result)})
    with pytest.raises(PruneError, match="another version"):
        read(runs[0].folder)
