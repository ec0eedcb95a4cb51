"""What centripetal gradients cost: a C-SGD step against a plain SGD step, alternating in one process.

    python scripts/bench_csgd.py [--rounds 20] [--precision auto]

ResNet-56 at batch 64, all groups clustered to 5/8 of their width.
"""

import argparse
import os

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

from collections.abc import Callable

import numpy as np
import torch
from paired import compare, stepper

from prune_cli.channels import trace
from prune_cli.compute import Compute, Place
from prune_cli.models.resnet import CifarResNet
from prune_cli.pruners.csgd import Centripetal, alike


def training(place: Place, centripetal: bool) -> Callable[[], float]:
    """A step of plain SGD, or of C-SGD."""
    torch.manual_seed(0)
    model = place.move(CifarResNet(56, 10)).train()
    network = trace(model, (3, 32, 32))
    labels = {}
    for group in network.groups.values():
        labels[group.name] = np.arange(group.size)
        for part in alike(group):
            kept = max(1, len(part) * 5 // 8)
            labels[group.name][part] = np.array(part)[np.arange(len(part)) % kept]
    pull = Centripetal(network, labels, 1e-4, 3e-3, 0.1) if centripetal else None
    decay = 0.0 if centripetal else 1e-4
    optimizer = torch.optim.SGD(model.parameters(), 0.01, momentum=0.9, nesterov=True, weight_decay=decay)
    return stepper(model, place, 64, optimizer, after_backward=pull)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--precision", default="auto")
    arguments = parser.parse_args()
    place = Compute(threads=1, precision=arguments.precision).resolve()
    milliseconds, (low, median, high) = compare(training(place, False), training(place, True), arguments.rounds)
    print(f"{place.describe()}: plain step {milliseconds:.0f} ms")
    print(f"C-SGD over SGD {median:.3f} (quartiles {low:.3f}-{high:.3f}); bound 1.03")


if __name__ == "__main__":
    main()
