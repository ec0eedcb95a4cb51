"""A small real run, and all that must be the same however often it was disturbed."""

import json
from pathlib import Path

from prune_cli.budget import Budget
from prune_cli.compute import Compute
from prune_cli.data import Synthetic
from prune_cli.experiment import Experiment
from prune_cli.files import read_sealed, sha256
from prune_cli.hardware.eager import Eager
from prune_cli.jobs import Job
from prune_cli.models import CifarResNet
from prune_cli.pruners.chipnet import ChipNet
from prune_cli.pruners.csgd import CSgd
from prune_cli.pruners.epruner import EPruner
from prune_cli.tracking import Tracking
from prune_cli.training.recipe import Recipe

OWN = {"epochs": 2, "batch": 16}  # of a method's own training
PRUNERS = {
    "epruner": EPruner(),
    "csgd": CSgd(Recipe(**OWN, lr=0.05)),
    "chipnet": ChipNet(Recipe(**OWN, lr=0.01, optimizer="adamw", schedule="constant")),
}


class Quick(Eager):
    """Measured like any target, but not layer by layer: that takes a second."""

    def layer_times(self, artefact, x, runs):
        return {}


def small_job(outputs, out, pruner):
    experiment = Experiment(
        dataset=Synthetic("synthetic", [0.5] * 3, [0.25] * 3, images=80, size=16),
        model=CifarResNet(depth=8, width=0.5),
        pruner=PRUNERS[pruner],
        budget=Budget(),
        train=Recipe(epochs=2, batch=16, lr=0.05),
        finetune=Recipe(epochs=2, batch=16, lr=0.01),
        hardware={"cpu": Quick(batches=(1,), processes=1, rounds=2, seconds=0.0)},
        compute=Compute(threads=1, precision="fp32"),
        names={"dataset": "synthetic", "model": "resnet8", "pruner": pruner},
        outputs=str(outputs),
        tracking=Tracking(tensorboard=False),
    )
    return Job(experiment, Path(outputs) / out, {}, ["prune-run"])


def facts(out):
    """All of a finished run that does not depend on when and how fast it was carried out."""
    result = json.loads(read_sealed(out, "result.json"))
    fits = {"train": (result["base"] or {}).get("fit") or {}, "finetune": result["finetune"]}
    return {
        "weights": sha256(read_sealed(out, "model.safetensors")),
        "plan.json": sha256(read_sealed(out, "plan.json")),
        "plan": result["plan"],
        "accuracy": result["accuracy"],
        "measures": result["measures"],
        "curves": {
            stage: [{key: value for key, value in epoch.items() if key != "seconds"} for epoch in fit.get("curve", [])]
            for stage, fit in fits.items()
        },
    }


def left_over(outputs):
    """Files and folders that only a run under way may have, locks excepted."""
    paths = [path.relative_to(outputs) for path in sorted(Path(outputs).rglob("*"))]
    passing = [p for p in paths if p.name.endswith((".tmp", ".new", ".state")) or "journal" in p.name]
    hidden = [p for p in paths if p.name.startswith(".") and not p.name.endswith(".lock") and p.name != ".hydra"]
    return sorted({str(path) for path in [*passing, *hidden]})
