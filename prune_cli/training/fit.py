"""`fit` and `evaluate`: the only training loop of the program."""

from __future__ import annotations

import itertools
import logging
import math
import sys
import time
from collections.abc import Callable, Iterable
from contextlib import nullcontext
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from prune_cli.compute import Place
from prune_cli.data.images import Images
from prune_cli.data.splits import Data
from prune_cli.errors import DivergedError
from prune_cli.record import Epoch, Fit
from prune_cli.training.recipe import Recipe

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Hooks:
    """All the ways in which a method may touch training."""

    parameters: Iterable[dict[str, object]] = ()  # extra parameter groups for the optimiser
    decayed: Iterable[nn.Parameter] = ()  # whose weight decay the method does itself
    penalty: Callable[[], Tensor] | None = None  # added to the loss
    after_backward: Callable[[], None] | None = None  # rewrite gradients
    after_step: Callable[[int], None] | None = None  # with the number of steps done
    after_epoch: Callable[[int], None] | None = None  # with the number of epochs done


def fit(
    model: nn.Module,
    data: Data,
    recipe: Recipe,
    place: Place,
    seed: int,
    *,
    title: str = "training",
    hooks: Hooks | None = None,
    teacher: nn.Module | None = None,
) -> Fit:
    """Train the model in place; the weights of the last epoch stay.

    Args:
        seed: of order and augmentation: batch order is a function of (seed, epoch).
        teacher: the dense network, used if the recipe asks for distillation.

    Raises:
        DivergedError: the loss was not finite.
    """
    hooks = hooks or Hooks()
    place.move(model)
    optimizer = _optimizer(model, recipe, hooks)
    batch = min(recipe.batch, len(data.train))
    steps = max(1, len(data.train) // batch)
    if teacher is not None and recipe.distillation:
        place.move(teacher).eval()
    loss_of = _Loss(recipe, teacher, place)
    curve: list[Epoch] = []
    start = time.perf_counter()
    counter = itertools.count(1)
    bar = tqdm(total=recipe.epochs * steps, desc=title, unit="step", leave=False, disable=not sys.stderr.isatty())
    with bar, nullcontext() if bar.disable else logging_redirect_tqdm():
        for epoch in range(recipe.epochs):
            began = time.perf_counter()
            model.train()
            total = 0.0
            for number, (x, y) in enumerate(data.train.batches(batch, place, shuffle=_order_seed(seed, epoch))):
                for group in optimizer.param_groups:
                    group["lr"] = group["peak"] * recipe.rate(epoch + number / steps)
                step = next(counter)
                total += _step(model, x, y, optimizer, loss_of, place, hooks, step, title)
                bar.update()
            if hooks.after_epoch:
                hooks.after_epoch(epoch + 1)
            accuracy = evaluate(model, data.val, place)
            lr, seconds = optimizer.param_groups[0]["lr"], time.perf_counter() - began
            curve.append(Epoch(epoch + 1, total / steps, accuracy, lr, round(seconds, 3)))
            remaining = (time.perf_counter() - start) / (epoch + 1) * (recipe.epochs - epoch - 1)
            speed, left = steps * batch / seconds, clock(remaining)
            line = "%s: epoch %d/%d  loss %.4f  val %.2f%%  %.0f img/s  %s left"
            log.info(line, title, epoch + 1, recipe.epochs, total / steps, 100 * accuracy, speed, left)
    seconds = time.perf_counter() - start
    if not curve:
        accuracy = evaluate(model, data.val, place)
        return Fit(0, 0.0, 0.0, accuracy, accuracy)
    best = max(e.val_accuracy for e in curve)
    speed = recipe.epochs * steps * batch / seconds
    return Fit(recipe.epochs, round(seconds, 3), round(speed, 1), curve[-1].val_accuracy, best, tuple(curve))


def evaluate(model: nn.Module, images: Images, place: Place, batch: int = 256) -> float:
    """Top-1 accuracy as a fraction, in eval mode; the mode is put back afterwards."""
    was_training = model.training
    place.move(model).eval()
    right = torch.zeros((), dtype=torch.int64, device=place.device)
    with torch.inference_mode(), place.autocast():
        for x, y in images.batches(batch, place):
            right += (model(x).argmax(1) == y).sum()
    model.train(was_training)
    return right.item() / len(images)


def clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}m{rest:02d}s" if minutes else f"{rest}s"


@dataclass
class _Loss:
    """Cross-entropy, in part (`recipe.distillation`) against the teacher's softened answers."""

    recipe: Recipe
    teacher: nn.Module | None
    place: Place

    def __call__(self, x: Tensor, logits: Tensor, y: Tensor) -> Tensor:
        hard = F.cross_entropy(logits, y)
        share, t = self.recipe.distillation, self.recipe.temperature
        if share == 0 or self.teacher is None:
            return hard
        with torch.no_grad(), self.place.autocast():
            wanted = self.teacher(x).float()
        soft = F.kl_div(
            F.log_softmax(logits / t, 1), F.log_softmax(wanted / t, 1), reduction="batchmean", log_target=True
        )
        return (1 - share) * hard + share * t**2 * soft


def _step(
    model: nn.Module, x: Tensor, y: Tensor, optimizer: torch.optim.Optimizer, loss_of: _Loss,
    place: Place, hooks: Hooks, step: int, title: str,
) -> float:  # fmt: skip
    with place.autocast():
        logits = model(x)
    loss = loss_of(x, logits.float(), y)
    if hooks.penalty:
        loss = loss + hooks.penalty()
    value = loss.item()
    if not math.isfinite(value):
        raise DivergedError(
            f"{title}: the loss was {value} at step {step} (lr {optimizer.param_groups[0]['lr']:.3g}); "
            "try a lower lr, warmup, or compute.precision=fp32"
        )
    optimizer.zero_grad(set_to_none=True)
    loss.backward()  # type: ignore[no-untyped-call]
    if hooks.after_backward:
        hooks.after_backward()
    optimizer.step()
    if hooks.after_step:
        hooks.after_step(step)
    return value


def _optimizer(model: nn.Module, recipe: Recipe, hooks: Hooks) -> torch.optim.Optimizer:
    trained = [p for p in model.parameters() if p.requires_grad]
    own = {id(p) for p in hooks.decayed}
    spared = [p for p in trained if id(p) in own or (p.dim() <= 1 and not recipe.decay_norm_bias)]
    decayed = [p for p in trained if id(p) not in own and (p.dim() > 1 or recipe.decay_norm_bias)]
    groups: list[dict[str, object]] = [{"params": decayed, "weight_decay": recipe.weight_decay}]
    groups += [{"params": spared, "weight_decay": 0.0}] if spared else []
    groups += hooks.parameters
    if recipe.optimizer == "sgd":
        optimizer: torch.optim.Optimizer = torch.optim.SGD(groups, recipe.lr, recipe.momentum, nesterov=recipe.nesterov)
    else:
        optimizer = torch.optim.AdamW(groups, recipe.lr)
    for group in optimizer.param_groups:
        group["peak"] = group["lr"]
    return optimizer


def _order_seed(seed: int, epoch: int) -> int:
    return (seed * 1_000_003 + epoch * 7_919) % 2**63
