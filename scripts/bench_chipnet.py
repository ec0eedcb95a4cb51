"""What gates cost: a gate-training step against a plain SGD step, alternating in one process.

    python scripts/bench_chipnet.py [--rounds 20] [--precision auto] [--batch 32]

ResNet-56, every channel group gated, MACs budget, AdamW for weights and gates as published.
"""

import argparse
import os

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import time
from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F

from prune_cli.budget import Budget, cuttable
from prune_cli.channels import trace
from prune_cli.compute import Compute, Place
from prune_cli.gates import Gates
from prune_cli.models.resnet import CifarResNet
from prune_cli.pruners.chipnet import Chip


def stepper(place: Place, batch: int, penalty: Callable[[], torch.Tensor] | None, chip: Chip | None, model) -> Callable:
    """A function that trains one step and returns its seconds."""
    if chip is None:
        optimizer = torch.optim.SGD(model.parameters(), 0.01, momentum=0.9, nesterov=True, weight_decay=1e-4)
    else:
        groups = [{"params": list(model.parameters())}, {"params": [chip.psi], "weight_decay": 0.0}]
        optimizer = torch.optim.AdamW(groups, 1e-3, weight_decay=1e-3)
    x, y = place.images(torch.randn(batch, 3, 32, 32)), torch.randint(0, 10, (batch,), device=place.device)

    def step() -> float:
        start = time.perf_counter()
        with place.autocast():
            logits = model(x)
        loss = F.cross_entropy(logits.float(), y)
        if penalty is not None:
            loss = loss + penalty()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        loss.item()
        return time.perf_counter() - start

    return step


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--batch", type=int, default=32)
    arguments = parser.parse_args()
    place = Compute(threads=1, precision=arguments.precision).resolve()
    torch.manual_seed(0)
    plain, gated = (place.move(CifarResNet(56, 10)).train() for _ in range(2))
    network = trace(CifarResNet(56, 10), (3, 32, 32))
    gates = Gates(network, cuttable(network, streams=True))
    chip = Chip(gates, network, Budget(), 10**6, place, 0, True)
    with gates.attached(gated, chip.opening):
        both = (
            stepper(place, arguments.batch, None, None, plain),
            stepper(place, arguments.batch, lambda: 10 * chip.crispness() + 30 * chip.excess() ** 2, chip, gated),
        )
        for _ in range(3):
            both[0](), both[1]()
        rounds = [(both[0](), both[1]()) for _ in range(arguments.rounds)]
    low, median, high = np.percentile([b / a for a, b in rounds], [25, 50, 75])
    print(f"{place.describe()}: plain step {1000 * np.median([a for a, _ in rounds]):.0f} ms, batch {arguments.batch}")
    print(f"gates over plain SGD {median:.3f} (quartiles {low:.3f}-{high:.3f}); bound 1.12")


if __name__ == "__main__":
    main()
