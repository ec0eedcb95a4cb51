"""`fit` and `evaluate`: the only training loop of the program."""

from __future__ import annotations

import itertools
import logging
import math
import signal
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from prune_cli import team
from prune_cli.compute import Place
from prune_cli.data.images import Images
from prune_cli.data.splits import Data
from prune_cli.errors import DivergedError
from prune_cli.interruption import Interrupted, asked, undisturbed
from prune_cli.record import Epoch, Fit
from prune_cli.training.between import Memory, Moment, capture, restore
from prune_cli.training.recipe import Recipe

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Hooks:
    """All the ways in which a method may touch training."""

    parameters: Sequence[dict[str, Any]] = ()  # extra parameter groups for the optimiser
    decayed: Iterable[nn.Parameter] = ()  # whose weight decay the method does itself
    penalty: Callable[[], Tensor] | None = None  # added to the loss
    after_backward: Callable[[], None] | None = None  # rewrite gradients
    after_step: Callable[[int], None] | None = None  # with the number of steps done
    after_epoch: Callable[[int], None] | None = None  # with the number of epochs done
    memory: Memory | None = None  # what else a training that was interrupted needs to go on


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

    Goes on from where a training of this title in the place's journal was interrupted, if there is one.

    Args:
        seed: of order and augmentation: batch order is a function of (seed, epoch).
        title: names the training, in lines and in the journal.
        teacher: the dense network, used if the recipe asks for distillation.

    Raises:
        DivergedError: the loss was not finite.
        Interrupted: the program was asked to stop; the training is kept up to the last step.
    """
    batch = min(recipe.batch, len(data.train))
    training = _Training(model, recipe, place, hooks or Hooks(), title, teacher, max(1, len(data.train) // batch))
    training.resume()
    now = training.now
    called, in_team = team.share(model, batch, title)
    part = (team.rank(), team.size())
    quiet = not sys.stderr.isatty() or team.rank() > 0
    bar = tqdm(total=recipe.epochs * training.steps, initial=training.done, desc=title, unit="step", leave=False,
               disable=quiet)  # fmt: skip
    with bar, nullcontext() if bar.disable else logging_redirect_tqdm(), in_team:
        for epoch in range(now.epoch, recipe.epochs):
            model.train()
            batches = data.train.batches(batch, place, _order_seed(seed, epoch), part)
            for x, y in itertools.islice(batches, now.steps, None):
                training.step(called, x, y)
                bar.update()
            training.end_epoch(epoch, data, batch)
    return training.result(data, batch)


class _Training:
    """One call of `fit`: what it needs at every step, and how far it has come."""

    def __init__(
        self, model: nn.Module, recipe: Recipe, place: Place, hooks: Hooks, title: str, teacher: nn.Module | None,
        steps: int,
    ) -> None:  # fmt: skip
        place.move(model)
        if teacher is not None and recipe.distillation:
            place.move(teacher).eval()
        self.model, self.recipe, self.place, self.hooks, self.title = model, recipe, place, hooks, title
        self.optimizer = _optimizer(model, recipe, hooks)
        self.loss_of = _Loss(recipe, teacher, place)
        self.steps = steps  # of an epoch
        self.now = Moment()
        self.began = time.perf_counter()
        self.before = 0.0  # seconds that went into it before it was interrupted

    @property
    def done(self) -> int:
        return self.now.epoch * self.steps + self.now.steps

    def resume(self) -> None:
        state = self.place.journal.read(self.title) if self.place.journal else None
        if state is None:
            return
        self.now = restore(state, self.model, self.optimizer, self.place, self.hooks.memory, self.title)
        self.before = self.now.seconds
        for epoch in self.now.curve:
            self._tell(epoch)
        if self.now.epoch < self.recipe.epochs:
            log.info("%s: goes on after epoch %d, step %d", self.title, self.now.epoch, self.now.steps)

    def step(self, called: nn.Module, x: Tensor, y: Tensor) -> None:
        """One step of the optimiser, which no signal interrupts half way."""
        rate = self.recipe.rate(self.now.epoch + self.now.steps / self.steps)
        for group in self.optimizer.param_groups:
            group["lr"] = group["peak"] * rate
        with undisturbed():
            value = _step(called, x, y, self.optimizer, self.loss_of, self.place, self.hooks, self.done + 1, self.title)
            self.now.steps += 1
            self.now.total += value
            if self.hooks.after_step:
                self.hooks.after_step(self.done)
            stop = team.total_of([asked() or 0], self.place.device)[0]
            if stop:
                self._keep()
        if stop:
            raise Interrupted(asked() or signal.SIGTERM)

    def end_epoch(self, epoch: int, data: Data, batch: int) -> None:
        if self.hooks.after_epoch:
            self.hooks.after_epoch(epoch + 1)
        accuracy = evaluate(self.model, data.val, self.place)
        loss, peak = self.now.total / self.steps, self.optimizer.param_groups[0]["peak"]
        lr = peak * self.recipe.rate(epoch + (self.steps - 1) / self.steps)  # of the last step, also if it was resumed
        seconds = self._seconds() - sum(e.seconds for e in self.now.curve)
        with undisturbed():
            self.now.curve.append(Epoch(epoch + 1, loss, accuracy, lr, round(seconds, 3)))
            self.now.epoch, self.now.steps, self.now.total = epoch + 1, 0, 0.0
            if self.place.journal and (self.place.journal.is_due() or epoch + 1 == self.recipe.epochs):
                self._keep()
        self._tell(self.now.curve[-1])
        left = self._seconds() / (epoch + 1) * (self.recipe.epochs - epoch - 1)
        log.info("%s: epoch %d/%d  loss %.4f  val %.2f%%  %.0f img/s  %s left", self.title, epoch + 1,
                 self.recipe.epochs, loss, 100 * accuracy, self.steps * batch / seconds, clock(left))  # fmt: skip

    def result(self, data: Data, batch: int) -> Fit:
        curve = self.now.curve
        if not curve:
            accuracy = evaluate(self.model, data.val, self.place)
            return Fit(0, 0.0, 0.0, accuracy, accuracy)
        seconds = max(sum(epoch.seconds for epoch in curve), 1e-9)
        speed = self.recipe.epochs * self.steps * batch / seconds
        best = max(epoch.val_accuracy for epoch in curve)
        return Fit(self.recipe.epochs, round(seconds, 3), round(speed, 1), curve[-1].val_accuracy, best, tuple(curve))

    def _seconds(self) -> float:
        return self.before + time.perf_counter() - self.began

    def _tell(self, epoch: Epoch) -> None:
        if self.place.journal:
            self.place.journal.tell(self.title, epoch)

    def _keep(self) -> None:
        if self.place.journal and team.rank() == 0:
            self.now.seconds = self._seconds()
            state = capture(self.now, self.model, self.optimizer, self.place, self.hooks.memory)
            self.place.journal.write(self.title, state)


def evaluate(model: nn.Module, images: Images, place: Place, batch: int = 256) -> float:
    """Top-1 accuracy as a fraction, in eval mode; the mode is put back afterwards."""
    was_training = model.training
    place.move(model).eval()
    own = images.take(np.arange(team.rank(), len(images), team.size())) if team.size() > 1 else images
    right = torch.zeros((), dtype=torch.int64, device=place.device)
    with torch.inference_mode(), place.autocast():
        for x, y in own.batches(batch, place):
            right += (model(x).argmax(1) == y).sum()
    model.train(was_training)
    return team.total_of([right.item()], place.device)[0] / len(images)


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
    (value,) = team.mean([loss.item()], place.device)
    if not math.isfinite(value):
        raise DivergedError(
            f"{title}: the loss was {value} at step {step} (lr {optimizer.param_groups[0]['lr']:.3g}); "
            "try a lower lr, warmup, or compute.precision=fp32"
        )
    optimizer.zero_grad(set_to_none=True)
    loss.backward()  # type: ignore[no-untyped-call]
    team.average_gradients([p for group in hooks.parameters for p in group["params"]])
    if hooks.after_backward:
        hooks.after_backward()
    optimizer.step()
    return value


def _optimizer(model: nn.Module, recipe: Recipe, hooks: Hooks) -> torch.optim.Optimizer:
    trained = [p for p in model.parameters() if p.requires_grad]
    own = {id(p) for p in hooks.decayed}
    spared = [p for p in trained if id(p) in own or (p.dim() <= 1 and not recipe.decay_norm_bias)]
    decayed = [p for p in trained if id(p) not in own and (p.dim() > 1 or recipe.decay_norm_bias)]
    groups: list[dict[str, Any]] = [{"params": decayed, "weight_decay": recipe.weight_decay}]
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
