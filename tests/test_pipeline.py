"""A run from end to end, in process: its record, its files, and the network that comes back from them."""

import json
import os
import subprocess
import sys
from dataclasses import replace

import pytest
import torch

import prune_cli
from prune_cli.budget import Budget
from prune_cli.compute import Compute
from prune_cli.data import Synthetic
from prune_cli.errors import DivergedError, PruneError
from prune_cli.files import SUMS, read_sealed
from prune_cli.hardware.eager import Eager
from prune_cli.models import CifarResNet, Custom
from prune_cli.pipeline import Experiment, run
from prune_cli.plan import Plan
from prune_cli.pruners.epruner import EPruner
from prune_cli.pruners.layerprune import LayerPrune
from prune_cli.pruners.magnitude import Magnitude
from prune_cli.pruners.none import NoPruner
from prune_cli.table import render
from prune_cli.training.recipe import Recipe
from tests.networks import SMALL, images

CONFIG = {"budget": {"metric": "macs", "keep": 0.5}}


def experiment(folder, **changes):
    settings = {
        "dataset": Synthetic("synthetic", [0.5] * 3, [0.25] * 3, images=160),
        "model": CifarResNet(depth=8, width=0.5),
        "pruner": EPruner(),
        "budget": Budget(),
        "train": Recipe(epochs=2, batch=16, lr=0.05),
        "finetune": Recipe(epochs=1, batch=16, lr=0.01),
        "hardware": {"cpu": Eager(batches=(1, 2), processes=1, rounds=2, seconds=0.0)},
        "compute": Compute(threads=1, precision="fp32"),
        "names": {"dataset": "synthetic", "model": "resnet8", "pruner": "epruner"},
        "outputs": str(folder),
    }
    return Experiment(**{**settings, **changes})


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("outputs")
    torch.set_num_threads(1)
    return folder, run(experiment(folder), folder / "run", CONFIG)


def test_the_summary_is_the_public_contract(finished):
    folder, _ = finished
    result = json.loads((folder / "run" / "result.json").read_text())
    row = result["summary"]
    assert result["schema"] == 2
    assert {k: row[k] for k in ("dataset", "model", "pruner", "seed")} == {
        "dataset": "synthetic", "model": "resnet8", "pruner": "epruner", "seed": 0,
    }  # fmt: skip
    for stage in ("dense", "cut", "finetuned"):
        assert 0 <= row[f"test_accuracy_{stage}"] <= 1 and 0 <= row[f"val_accuracy_{stage}"] <= 1
    assert row["macs_pruned"] <= 0.5 * row["macs_dense"] and row["params_pruned"] < row["params_dense"]
    assert row["base_reused"] is False
    assert all(row[f"seconds_{stage}"] >= 0 for stage in ("train", "prune", "finetune"))
    assert row["latency_ratio/cpu/b1"] > 0 and row["latency_ratio/cpu/b2"] > 0
    assert all(not isinstance(value, dict | list) for value in row.values())
    for part in (
        "config",
        "versions",
        "host",
        "compute",
        "benchmarks",
        "base",
        "plan",
        "accuracy",
        "measures",
        "finetune",
    ):
        assert result[part]


def test_the_plan_is_the_public_contract_and_replays(finished):
    folder, _ = finished
    value = json.loads((folder / "run" / "plan.json").read_text())
    assert {e["group"] for e in value["edits"]} == {f"layer{s}.0.conv1" for s in (1, 2, 3)}
    assert all(e["keep"] == sorted(e["keep"]) for e in value["edits"])
    assert Plan.from_json(value).edits


def test_load_gives_the_pruned_network(finished):
    folder, record = finished
    model = prune_cli.load(folder / "run")
    assert type(model).__name__ == "CifarResNet" and not model.training
    assert sum(p.numel() for p in model.parameters()) == record.summary["params_pruned"]
    assert model(images(SMALL)).shape == (2, 4)


def test_load_in_another_process_gives_the_same_outputs(finished, tmp_path):
    folder, _ = finished
    code = (
        "import sys, torch, prune_cli; torch.set_num_threads(1)\n"
        "torch.save(prune_cli.load(sys.argv[1])(torch.load(sys.argv[2])), sys.argv[3])"
    )
    x = images(SMALL)
    torch.save(x, tmp_path / "x")
    subprocess.run(
        [sys.executable, "-c", code, folder / "run", tmp_path / "x", tmp_path / "y"], check=True, cwd=tmp_path
    )
    assert torch.equal(torch.load(tmp_path / "y"), prune_cli.load(folder / "run")(x))


@pytest.mark.parametrize("file", ["model.safetensors", "architecture.json"])
def test_load_notices_damage(finished, tmp_path, file):
    import shutil

    shutil.copytree(finished[0] / "run", tmp_path / "run")
    path = tmp_path / "run" / file
    data = bytearray(path.read_bytes())
    data[-3] ^= 1
    path.write_bytes(data)
    with pytest.raises(PruneError, match="damaged"):
        prune_cli.load(tmp_path / "run")
    with pytest.raises(PruneError, match="not the folder of a finished run"):
        prune_cli.load(tmp_path / "nowhere")


def test_every_file_is_sealed(finished):
    folder = finished[0] / "run"
    names = {"model.safetensors", "architecture.json", "plan.json", "table.txt", "result.json"}
    assert {p.name for p in folder.iterdir()} == {*names, SUMS}
    assert all(read_sealed(folder, name) for name in names)


def test_a_second_run_reuses_the_base_and_gives_the_same_numbers(finished, tmp_path):
    folder, first = finished
    second = run(experiment(folder), tmp_path / "again", CONFIG)
    assert second.summary["base_reused"] is True and second.base.source == "store"
    same = [k for k in first.summary if "accuracy" in k or "params" in k or "macs" in k]
    assert {k: first.summary[k] for k in same} == {k: second.summary[k] for k in same}
    weights = [read_sealed(d, "model.safetensors") for d in (folder / "run", tmp_path / "again")]
    assert weights[0] == weights[1] and first.plan == second.plan


def test_the_pruner_and_the_budget_do_not_make_another_base(finished, tmp_path):
    folder, _ = finished
    other = experiment(folder, pruner=Magnitude(), budget=Budget(keep=0.7), finetune=Recipe(epochs=0))
    assert run(other, tmp_path / "other", CONFIG).summary["base_reused"]
    assert not run(replace(other, seed=1), tmp_path / "seed", CONFIG).summary["base_reused"]


def test_no_pruning_is_the_dense_network(finished, tmp_path):
    folder, first = finished
    record = run(experiment(folder, pruner=NoPruner(), finetune=Recipe(epochs=0)), tmp_path / "none", CONFIG)
    assert record.accuracy["dense"] == record.accuracy["cut"] == record.accuracy["finetuned"] == first.accuracy["dense"]
    assert record.measures["dense"].macs == record.measures["pruned"].macs
    assert record.summary["budget_keep"] is record.summary["budget_met"] is None
    assert "not met" not in render(record) and "kept 1.000 of macs" in render(record)


def test_the_table_shows_it_all(finished):
    _, record = finished
    text = render(record)
    for word in (
        "dense",
        "pruned",
        "fine-tuned",
        "params",
        "MACs",
        "cpu (torch",
        "1 thread",
        "MB",
        "test",
        "val",
        "ratio",
        "95% interval",
        "convolutions keep",
    ):
        assert word in text


def test_a_checkpoint_is_the_dense_network(tmp_path, finished):
    _folder, _ = finished
    torch.manual_seed(5)
    trained = CifarResNet(depth=8, width=0.5).build(4)
    torch.save(trained.state_dict(), tmp_path / "weights.pth")
    model = CifarResNet(depth=8, width=0.5, checkpoint=str(tmp_path / "weights.pth"))
    given = run(experiment(tmp_path, model=model, train=Recipe(epochs=0)), tmp_path / "given", CONFIG)
    assert given.base.source == "checkpoint" and given.summary["base_reused"] and not (tmp_path / "bases").exists()
    more = run(experiment(tmp_path, model=model), tmp_path / "more", CONFIG)
    assert more.base.source == "trained" and more.base.identity != finished[1].base.identity


def test_an_unreachable_budget_stops_before_training(tmp_path):
    with pytest.raises(PruneError, match="out of reach"):
        run(experiment(tmp_path, budget=Budget(keep=0.001)), tmp_path / "run", CONFIG)
    assert not (tmp_path / "bases").exists() and not (tmp_path / "run").exists()


def test_divergence_loses_nothing(tmp_path, finished):
    folder, _ = finished
    before = {p: p.read_bytes() for p in folder.rglob("*") if p.is_file() and p.suffix != ".lock"}
    wild = Recipe(epochs=1, batch=16, lr=999.0, weight_decay=10.0, schedule="constant")
    with pytest.raises(DivergedError, match="fine-tuning: the loss was"):
        run(experiment(folder, finetune=wild), folder / "run", CONFIG)
    assert before == {p: p.read_bytes() for p in folder.rglob("*") if p.is_file() and p.suffix != ".lock"}


def test_the_user_s_class_needs_trust_to_load(tmp_path, monkeypatch):
    (tmp_path / "usersnet.py").write_text(
        "from prune_cli.models.resnet import CifarResNet\n"
        "class Net(CifarResNet):\n"
        "    def __init__(self, num_classes, width=0.5): super().__init__(8, num_classes, width=width)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    model = Custom(target="usersnet.Net", arguments={"width": 0.25})
    run(experiment(tmp_path, model=model), tmp_path / "run", CONFIG)
    with pytest.raises(PruneError, match=r"trust=\('usersnet',\)"):
        prune_cli.load(tmp_path / "run")
    assert type(prune_cli.load(tmp_path / "run", trust=["usersnet"])).__name__ == "Net"


def test_a_full_disk_is_one_line_and_keeps_what_was_there(tmp_path):
    """A file system of 300 kB in a namespace of its own, where the machine allows that."""
    code = (
        "import os; from pathlib import Path; from prune_cli.files import write_bytes\n"
        "write_bytes(Path('old'), bytes(1000))\n"
        "try: write_bytes(Path('old'), bytes(10**6))\n"
        "except Exception as e: print(type(e).__name__, e, len(Path('old').read_bytes()), os.listdir('.'))"
    )
    command = f'mount -t tmpfs -o size=300k none {tmp_path} && cd {tmp_path} && {sys.executable} -c "$CODE"'
    done = subprocess.run(
        ["unshare", "-rm", "sh", "-c", command],
        env={**os.environ, "CODE": code},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        pytest.skip(f"no namespaces here: {done.stderr.strip()}")
    assert "PruneError cannot write old (1000000 bytes): No space left on device 1000 ['old']" in done.stdout
    assert os.listdir(tmp_path) == []


def test_a_network_of_other_classes_is_refused_before_training(tmp_path):
    wrong = Custom(target="tests.test_pipeline.TenClasses")
    with pytest.raises(PruneError, match=r"gives \(10,\) for an image, but synthetic has 4 classes"):
        run(experiment(tmp_path, model=wrong), tmp_path / "run", CONFIG)
    assert not (tmp_path / "bases").exists()


class TenClasses(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.fc = torch.nn.Conv2d(3, 4, 3), torch.nn.Linear(4, 10)

    def forward(self, x):
        return self.fc(self.conv(x).mean((2, 3)))


def test_statistics_are_estimated_anew_if_asked_for(finished, tmp_path):
    folder, without = finished
    record = run(experiment(folder, reestimate=64), tmp_path / "run", CONFIG)
    assert list(record.accuracy) == ["dense", "cut", "reestimated", "finetuned"]
    assert list(without.accuracy) == ["dense", "cut", "finetuned"]
    assert record.accuracy["cut"] == without.accuracy["cut"]
    assert "re-estimated" in render(record) and "test_accuracy_reestimated" in record.summary


def test_a_latency_budget_is_met_as_measured(finished, tmp_path):
    folder, _ = finished
    hardware = {"cpu": Eager(batches=(1,), processes=3, rounds=20, seconds=0.2)}
    budget = Budget("latency", 0.85, floor=0.0, batch=1)
    changes = {
        "budget": budget,
        "hardware": hardware,
        "pruner": LayerPrune(),
        "model": CifarResNet(depth=20, width=0.5),
    }
    record = run(experiment(folder, **changes, train=Recipe(epochs=1, batch=32)), tmp_path / "run", CONFIG)
    assert record.summary["budget_kept"] == record.summary["latency_ratio/cpu/b1"]
    assert 0.5 < record.summary["budget_kept"] < 1
    assert 1 <= len(record.plan["edits"]) < 7


def test_an_unknown_target_is_refused(tmp_path):
    with pytest.raises(PruneError, match="the hardware of this run is cpu"):
        experiment(tmp_path, budget=Budget("latency", target="phone"))


def test_every_kind_of_network_can_be_loaded_again():
    from prune_cli import artefact, models

    kinds = {kind for kind in vars(models).values() if isinstance(kind, type) and issubclass(kind, models.Model)}
    assert set(artefact.KINDS.values()) == kinds - {models.Model}


class Refuses(Eager):
    def load(self, artefact, batch):
        raise RuntimeError("operator not supported")


def test_a_target_that_fails_costs_neither_the_run_nor_the_other_targets(finished, tmp_path):
    quick = Eager(batches=(1,), processes=1, rounds=2, seconds=0.0)
    hardware = {"phone": Refuses(batches=(1,), processes=1), "cpu": quick}
    record = run(experiment(finished[0], hardware=hardware, export=["torch_export"]), tmp_path / "run", CONFIG)
    assert record.benchmarks[0].failed == {"phone": "RuntimeError: operator not supported"}
    assert list(record.benchmarks[0].latency["pruned"]) == ["cpu"]
    assert "phone FAILED: RuntimeError" in render(record) and "model.pt2" in render(record)
    assert prune_cli.load(tmp_path / "run") is not None and (tmp_path / "run" / "model.pt2").is_file()
