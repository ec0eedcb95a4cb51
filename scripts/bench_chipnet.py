"""What gates cost: a gate-training step against a plain SGD step, alternating in one process.

    python scripts/bench_chipnet.py [--rounds 20] [--precision auto] [--batch 32]

ResNet-56, every channel group gated, MACs budget, AdamW for weights and gates as published.
"""

import argparse
import os

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import torch
from paired import compare, stepper

from prune_cli.budget import Budget, cuttable
from prune_cli.channels import trace
from prune_cli.compute import Compute
from prune_cli.gates import Gates
from prune_cli.models.resnet import CifarResNet
from prune_cli.pruners.chipnet import Chip


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
    sgd = torch.optim.SGD(plain.parameters(), 0.01, momentum=0.9, nesterov=True, weight_decay=1e-4)
    with gates.attached(gated, chip.opening):
        groups = [{"params": list(gated.parameters())}, {"params": [chip.psi], "weight_decay": 0.0}]
        adamw = torch.optim.AdamW(groups, 1e-3, weight_decay=1e-3)
        milliseconds, (low, median, high) = compare(
            stepper(plain, place, arguments.batch, sgd),
            stepper(gated, place, arguments.batch, adamw, lambda: 10 * chip.crispness() + 30 * chip.excess() ** 2),
            arguments.rounds,
        )
    print(f"{place.describe()}: plain step {milliseconds:.0f} ms, batch {arguments.batch}")
    print(f"gates over plain SGD {median:.3f} (quartiles {low:.3f}-{high:.3f}); bound 1.12")


if __name__ == "__main__":
    main()
