"""Does a repeated measurement give the ratio again?  python scripts/bench_repeat.py [repeats]

ResNet-56 against itself, and against narrower (0.7 of all widths) and shallower (26 of 56 layers) ones, both at half
its multiply-adds, at batch 1: on a quiet machine, then with another process that keeps one processor busy. Printed per
network: the ratios, their spread, and the share of ordered pairs of repeats in which one's ratio lies in the other's
interval.
"""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import multiprocessing
import sys
import tempfile
from itertools import permutations
from pathlib import Path

import numpy as np

from prune_cli.benchmark import Contest
from prune_cli.hardware.eager import Eager
from prune_cli.hardware.onnx_runtime import OnnxRuntime
from prune_cli.models import CifarResNet

TARGETS = {"cpu": Eager(batches=(1,)), "onnxruntime": OnnxRuntime(batches=(1,))}
NETWORKS = {"dense": (56, 1.0), "the same": (56, 1.0), "width 0.7": (56, 0.7), "half the blocks": (26, 1.0)}


def spin(parent: int) -> None:
    while os.getppid() == parent:
        pass


def report(title: str, contest: Contest, repeats: int) -> None:
    heats = [contest.run() for _ in range(repeats)]
    loads = [max(heat.other_load for process in run for heat in process.values()) for run in heats]
    print(f"{contest.name}, {title}: others kept {min(loads):.1f} to {max(loads):.1f} processors busy")
    for name in list(NETWORKS)[1:]:
        rows = [contest.latency(run, name, "dense")[0] for run in heats]
        inside = [a.ratio_low <= b.ratio <= a.ratio_high for a, b in permutations(rows, 2)]
        ratios = np.array([row.ratio for row in rows])
        half = np.median([row.ratio_high - row.ratio_low for row in rows]) / 2
        print(f"  {name}: " + " ".join(f"{ratio:.3f}" for ratio in ratios))
        print(f"    median {np.median(ratios):.3f}, from {ratios.min():.3f} to {ratios.max():.3f}, median interval "
              f"+-{half:.3f}, {100 * np.mean(inside):.0f}% of pairs inside, disturbed samples "
              f"{100 * np.mean([row.disturbed for row in rows]):.1f}%", flush=True)  # fmt: skip


def main(repeats: int) -> None:
    with tempfile.TemporaryDirectory() as workshop:
        contests = [Contest(name, target, (3, 32, 32), Path(workshop)) for name, target in TARGETS.items()]
        for contest in contests:
            for name, (depth, width) in NETWORKS.items():
                contest.enter(name, CifarResNet(depth=depth, width=width).build(10).eval())
            report("quiet", contest, repeats)
        other = multiprocessing.get_context("spawn").Process(target=spin, args=(os.getpid(),), daemon=True)
        other.start()
        for contest in contests:
            report("one processor busy", contest, repeats)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 10)
