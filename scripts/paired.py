"""Two kinds of training steps timed in turn: what the scripts that compare steps share."""

import time
from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from prune_cli.compute import Place


def stepper(
    model: nn.Module,
    place: Place,
    batch: int,
    optimizer: torch.optim.Optimizer,
    penalty: Callable[[], Tensor] | None = None,
    after_backward: Callable[[], None] | None = None,
) -> Callable[[], float]:
    """A function that trains one step on a fixed batch of 32x32 images and returns its seconds."""
    x, y = place.images(torch.randn(batch, 3, 32, 32)), torch.randint(0, 10, (batch,), device=place.device)

    def step() -> float:
        start = time.perf_counter()
        with place.autocast():
            logits = model(x)
        loss = F.cross_entropy(logits.float(), y)
        if penalty:
            loss = loss + penalty()
        optimizer.zero_grad()
        loss.backward()
        if after_backward:
            after_backward()
        optimizer.step()
        loss.item()
        return time.perf_counter() - start

    return step


def compare(plain: Callable[[], float], other: Callable[[], float], rounds: int) -> tuple[float, np.ndarray]:
    """Milliseconds of a plain step (median), and the other's ratio to it: lower quartile, median, upper quartile."""
    for _ in range(3):
        plain(), other()
    pairs = [(plain(), other()) for _ in range(rounds)]
    return 1000 * float(np.median([a for a, _ in pairs])), np.percentile([b / a for a, b in pairs], [25, 50, 75])
