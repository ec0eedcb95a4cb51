"""Does a sweep survive being killed?  python scripts/kill_sweep.py [kills] [seed]

Five pruners, three budgets and two seeds on digits with a small ResNet: once undisturbed, once killed (SIGKILL) at
random moments and called again each time, once more when all is done. Printed: dense networks trained, jobs whose
accuracies, costs or weights differ, and seconds.
"""

import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

SWEEP = [
    "-m", "pruner=epruner,layerprune,lfe,csgd,chipnet", "budget.keep=0.7,0.5,0.3", "seed=0,1",
    "model=resnet20", "model.width=0.25", "dataset=digits", "pruner_recipe=null", "train.epochs=3", "finetune.epochs=2",
    "compute.threads=1", "benchmark.processes=2", "benchmark.rounds=4", "benchmark.seconds=0.2",
]  # fmt: skip


def start(folder: Path, sweep: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "prune_cli", *SWEEP, f"hydra.sweep.dir={sweep}"]
    with open(folder / "log", "a") as log:
        return subprocess.Popen(command, cwd=folder, stdout=log, stderr=log, text=True)


def table(folder: Path) -> dict[str, dict[str, object]]:
    """By identity: all of the summary that is not measured in seconds, and the sum of the weights' file."""
    rows = {}
    for path in folder.rglob("result.json"):
        result = json.loads(path.read_text())
        sums = (path.parent / "SHA256SUMS").read_text().splitlines()
        row = {k: v for k, v in result["summary"].items() if not k.startswith(("seconds_", "latency_", "base_"))}
        rows[result["identity"]] = {**row, "weights": next(line for line in sums if line.endswith("model.safetensors"))}
    return rows


def main(kills: int, seed: int) -> None:
    chance = random.Random(seed)
    with tempfile.TemporaryDirectory() as name:
        quiet, killed = Path(name) / "quiet", Path(name) / "killed"
        quiet.mkdir()
        killed.mkdir()
        began = time.perf_counter()
        code = start(quiet, "sweep").wait()
        whole = time.perf_counter() - began
        wanted = table(quiet)
        bases = [entry for entry in os.listdir(quiet / "outputs" / "bases") if not entry.startswith(".")]
        print(f"undisturbed: {len(wanted)} jobs, {len(bases)} dense networks trained, {whole:.0f} s, exit code {code}")
        for kill in range(kills):
            process = start(killed, f"sweep{kill}")
            time.sleep(chance.uniform(2, 1.5 * whole / kills))
            process.send_signal(signal.SIGKILL)
            print(f"killed, {process.wait()}: {len(table(killed))} jobs are done", flush=True)
        code = start(killed, "last").wait()
        found = table(killed / "last")
        differ = [key for key in wanted if found.get(key) != wanted[key]]
        bases = [entry for entry in os.listdir(killed / "outputs" / "bases") if not entry.startswith(".")]
        print(f"called again: {len(found)} jobs, {len(differ)} differ, {len(bases)} dense networks, exit code {code}")
        began = time.perf_counter()
        code = start(killed, "again").wait()
        again = table(killed / "again")
        print(f"and again: {len(again)} jobs, {time.perf_counter() - began:.1f} s, exit code {code}, "
              f"{sum(again.get(key) != row for key, row in wanted.items())} differ")  # fmt: skip


if __name__ == "__main__":
    given = [int(word) for word in sys.argv[1:]]
    main(*given, *(5, 0)[len(given) :])
