"""A network trained by a team of processes is the one that a single process trains, up to rounding."""

import json
import os
import subprocess
import sys

import pytest
import torch

from prune_cli import team
from tests.conftest import ROOT

# The same training in every process: run by torchrun on two of them, and by plain Python on one.
TRAIN = """
import sys, torch
from dataclasses import replace
from prune_cli import team
from prune_cli.budget import Budget
from prune_cli.channels import trace
from prune_cli.compute import Place
from prune_cli.data import Synthetic
from prune_cli.models import CifarResNet
from prune_cli.pruners.chipnet import ChipNet
from prune_cli.pruners.csgd import CSgd
from prune_cli.surgery import apply
from prune_cli.training.fit import evaluate, fit
from prune_cli.training.recipe import Recipe

method, out = sys.argv[1:]
torch.set_num_threads(1)
place = Place(torch.device("cpu"), torch.float32, channels_last=True, threads=1)
team.assemble(place.device)
data = Synthetic("synthetic", [0.5] * 3, [0.25] * 3, images=160, crop=2, flip=True).load(None)
torch.manual_seed(0)
model = CifarResNet(depth=8, width=0.5).build(4)
recipe = Recipe(epochs=1, batch=16, lr=0.01)
if method == "plain":
    fit(model, data, recipe, place, 0)
else:
    own = replace(recipe, optimizer="adamw", lr=1e-3) if method == "chipnet" else recipe
    pruner = {"chipnet": ChipNet, "csgd": CSgd}[method](recipe=own)
    network = trace(model, data.shape)
    plan = pruner.plan(network, data, Budget(keep=0.6), place, 0)
    model = apply(network.model.cpu(), plan, data.shape)
accuracy = evaluate(model, data.val, place)
if team.is_first():
    torch.save({"weights": model.state_dict(), "accuracy": accuracy}, out)
team.disband()
"""


def torchrun(*arguments, cwd, processes=2):
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    done = subprocess.run(
        [*launch, *arguments], cwd=cwd, capture_output=True, text=True, check=False, timeout=250,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    return done


@pytest.mark.parametrize("method", ["plain", "csgd", "chipnet"])
def test_two_processes_train_the_network_that_one_trains(tmp_path, method):
    (tmp_path / "train.py").write_text(TRAIN)
    alone = [sys.executable, "train.py", method, "one.pt"]
    subprocess.run(alone, cwd=tmp_path, check=True, env={**os.environ, "PYTHONPATH": str(ROOT)}, timeout=250)
    done = torchrun("train.py", method, "two.pt", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    one, two = (torch.load(tmp_path / name) for name in ("one.pt", "two.pt"))
    assert one["accuracy"] == two["accuracy"]
    assert {k: v.shape for k, v in one["weights"].items()} == {k: v.shape for k, v in two["weights"].items()}
    for name, weight in one["weights"].items():
        assert torch.allclose(two["weights"][name], weight, rtol=1e-3, atol=1e-4), name


def test_a_run_under_torchrun_leaves_one_result(tmp_path):
    tiny = ["experiment=smoke", "dataset=synthetic", "train.epochs=1", "compute.threads=1", "train.batch=16",
            "finetune.batch=16", "hydra.run.dir=run", "hardware=[cpu,cpu_bf16]"]  # fmt: skip
    done = torchrun("-m", "prune_cli", *tiny, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    (result,) = tmp_path.rglob("result.json")
    assert json.loads(result.read_text())["compute"]["processes"] == 2
    assert {path.name for path in tmp_path.iterdir()} == {"run", "outputs"}
    assert done.stdout.count("results: ") == 1


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["train.batch=15"], "batches of 15 images cannot be divided among 2 processes"),
        (["-m", "seed=0,1"], "torchrun trains one run on many processes"),
    ],
)
def test_what_a_team_cannot_do_is_one_line(tmp_path, arguments, message):
    done = torchrun("-m", "prune_cli", *arguments, "experiment=smoke", "dataset=synthetic", cwd=tmp_path)
    assert done.returncode != 0 and message in done.stderr


def test_without_torchrun_a_team_has_one_member():
    cpu = torch.device("cpu")
    assert (team.size(), team.rank(), team.is_first()) == (1, 0, True)
    assert team.agree(lambda: 7) == 7 and team.mean([1.5], cpu) == [1.5]
