"""A program with the project's configs whose jobs only say where they ran: launchers are tested without training."""

import json
import os
import sys
import time
from pathlib import Path

import hydra
from hydra.core.hydra_config import HydraConfig

from prune_cli import cli, engines
from prune_cli.files import seal, to_json
from prune_cli.host import threads_granted


def job(config):
    """Seed 13 takes its process with it, 14 raises, 7 fails; others are accurate if they keep much and learn well."""
    if config.seed == 13:
        os._exit(3)
    if config.seed == 14:
        raise RuntimeError("cannot begin")
    folder = Path(HydraConfig.get().runtime.output_dir)
    time.sleep(0.5)  # long enough for two to run side by side
    if config.seed == 7:
        (folder / "failed.json").write_text(json.dumps({"reason": "seven"}))
        return str(folder)
    accuracy = config.budget.keep - abs(config.finetune.lr - 0.01)
    summary = {"val_accuracy_finetuned": accuracy, "budget_keep": 0.5, "budget_kept": config.budget.keep}
    summary["budget_met"] = config.budget.keep <= 0.5
    seen = {"pid": os.getpid(), "threads": threads_granted(), "seed": config.seed, "cwd": os.getcwd()}
    seal(folder, {"result.json": to_json({"summary": summary, "seen": seen})})
    return str(folder)


def main():
    sys.argv[0] = "prune-run"
    engines.register()
    hydra.main(version_base="1.3", config_path=cli.conf_dir(), config_name="config")(job)()
