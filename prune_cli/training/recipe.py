"""How a network is trained, as data. Importing this module does not load PyTorch."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from prune_cli.errors import require, require_choice, require_range


@dataclass(frozen=True)
class Recipe:
    """Optimiser and schedule; everything in epochs."""

    epochs: int = 30
    batch: int = 128
    optimizer: str = "sgd"  # sgd (with momentum) | adamw
    lr: float = 0.1  # the highest that the schedule reaches
    momentum: float = 0.9  # sgd only
    nesterov: bool = True  # sgd only
    weight_decay: float = 5e-4
    decay_norm_bias: bool = True  # false: no weight decay on norms and biases
    schedule: str = "onecycle"  # onecycle | cosine | step | constant
    warmup: float = 0.0  # epochs of linear warm-up (not with onecycle, which has its own)
    milestones: Sequence[float] = ()  # step: epochs at which the rate falls
    gamma: float = 0.1  # step: by this factor
    distillation: float = 0.0  # share of the loss that follows the dense network (Hinton et al., arXiv 1503.02531)
    temperature: float = 4.0  # of the soft targets in distillation

    def __post_init__(self) -> None:
        require_range("epochs", self.epochs, 0, 10**5, whole=True)
        require_range("batch", self.batch, 2, 10**6, whole=True)
        require_choice("optimizer", self.optimizer, ("sgd", "adamw"))
        require_range("lr", self.lr, 0, 1e3, open_low=True)
        require_range("momentum", self.momentum, 0, 0.9999)
        require(not self.nesterov or self.optimizer != "sgd" or self.momentum > 0, "nesterov needs momentum above 0")
        require_range("weight_decay", self.weight_decay, 0, 10)
        require_choice("schedule", self.schedule, ("onecycle", "cosine", "step", "constant"))
        require_range("warmup", self.warmup, 0, 10**5)
        require(
            self.warmup == 0 or self.schedule != "onecycle",
            "warmup does not go with schedule=onecycle, which has its own",
        )
        require_range("gamma", self.gamma, 0, 1, open_low=True)
        require_range("distillation", self.distillation, 0, 1)
        require_range("temperature", self.temperature, 0, 100, open_low=True)
        for milestone in self.milestones:
            require_range("milestones", milestone, 0, 10**5)

    def rate(self, epoch: float) -> float:
        """The learning rate as a fraction of `lr`, at a moment (in epochs, fractions allowed) of the training."""
        if self.epochs == 0:
            return 1.0
        if self.schedule == "onecycle":
            peak = 0.3 * self.epochs
            return (
                _ease(1 / 25, 1, epoch / peak)
                if epoch < peak
                else _ease(1, 1e-4, (epoch - peak) / (self.epochs - peak))
            )
        warm = min(1.0, (epoch + 1e-12) / self.warmup) if self.warmup else 1.0
        if self.schedule == "cosine":
            done = max(0.0, epoch - self.warmup) / max(1e-9, self.epochs - self.warmup)
            return warm * _ease(1, 0, done)
        if self.schedule == "step":
            return warm * self.gamma ** sum(epoch >= milestone for milestone in self.milestones)
        return warm


def _ease(start: float, end: float, part: float) -> float:
    """From start to end along half a cosine."""
    return end + (start - end) * (1 + math.cos(math.pi * min(1.0, part))) / 2
