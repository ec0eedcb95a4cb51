"""ChipNet (Tiwari et al., ChipNet: Budget-Aware Pruning with Heaviside Continuous Approximations, arXiv 2102.07156).

Every channel is multiplied by a gate z, trained with the weights. A logistic curve and a smooth step make z of a free
variable psi; both grow steeper, a crispness loss pushes gates to 0 or 1, a budget loss to as many ones as allowed:

    z1 = 1 / (1 + exp(-beta psi))            z = 1 - exp(-gamma z1) + z1 exp(-gamma)
    loss = CE + 10 mean (z - z1)^2 + 30 (V - V0)^2,   V from the soft counts n = sum sigmoid(kappa (z - 1/2))

At the end channels with the lowest psi go until the rebuilt network meets the budget.

Departures from the paper:
- `gates=tied` (default): one gate for a channel of a residual stream, as only that can be cut away; a block whose inner
  gates close fades out and is dropped. `gates=per_norm` gates every batch-norm by itself, as published; a channel that
  some branch still writes stays, silent in the others.
- `hold=true` (default): crispness weighs more from stage to stage; after a quarter of the training the gates that the
  budget would keep count as open and decided ones as 0 or 1, while gradients pass as if not. As published (false) small
  gates stay in use, since the next batch-norm scales them up again, and the cut breaks the network.
- The schedule of 20 epochs is stretched over `recipe.epochs`, and psi learns faster if the run has too few steps.
- The threshold is exact; the official one may miss the budget by a step. With `hold=false` gates below one half stay
  shut, budget or not.

Legend: G gates, L gated convolutions, C channels of a group.
"""

from __future__ import annotations

import copy
import logging
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from prune_cli.budget import Budget, Kept, cuttable, plan_of, select
from prune_cli.errors import require_choice, require_range
from prune_cli.plan import Plan
from prune_cli.training.recipe import Recipe

if TYPE_CHECKING:
    from torch import Tensor

    from prune_cli.channels import Network
    from prune_cli.compute import Place
    from prune_cli.data.splits import Data
    from prune_cli.gates import Gates

log = logging.getLogger(__name__)
Array = np.ndarray[Any, Any]
STAGES = 20  # the published number of epochs, at the end of each of which the curves grow steeper
JOURNEY = 20.0  # steps times rate that psi needs at least to leave the middle and stay away
HOLD = 5  # from this stage on `hold` is heeded
CRISP = 0.05  # a gate this close to 0 or 1 is decided


@dataclass(frozen=True)
class ChipNet:
    """Train gates under a budget; channels whose gates close go."""

    recipe: Recipe = field(default_factory=lambda: Recipe(
        epochs=20, batch=32, optimizer="adamw", lr=1e-3, weight_decay=1e-3, schedule="constant"
    ))  # fmt: skip
    gates: str = "tied"  # tied | per_norm
    crispness: float = 10.0  # weight of the crispness loss
    pressure: float = 30.0  # weight of the budget loss
    gate_lr: float | None = None  # of psi; null: the recipe's, or more if steps are few
    hold: bool = True  # count gates as open or shut as the budget will have them; false: as published
    streams: bool = True  # gate residual streams too

    def __post_init__(self) -> None:
        require_choice("pruner.gates", self.gates, ("tied", "per_norm"))
        require_range("pruner.crispness", self.crispness, 0, 1e6)
        require_range("pruner.pressure", self.pressure, 0, 1e6)
        if self.gate_lr is not None:
            require_range("pruner.gate_lr", self.gate_lr, 0, 100, open_low=True)
        require_range("pruner.recipe.epochs", self.recipe.epochs, 1, 10**5, whole=True)

    def check(self, network: Network, budget: Budget) -> None:
        budget.check(network, cuttable(network, streams=self.streams), self._gates(network).vanishing)

    def plan(self, network: Network, data: Data, budget: Budget, place: Place, seed: int) -> Plan:
        import torch

        from prune_cli.channels import trace
        from prune_cli.training.fit import Hooks, evaluate, fit

        if budget.keep == 1:
            return Plan()
        bare = trace(copy.deepcopy(network.model), network.shape)  # costs are asked of it while the other has gates
        gates = self._gates(bare)
        steps = self.recipe.epochs * max(1, len(data.train) // min(self.recipe.batch, len(data.train)))
        rate = self.gate_lr or (self.recipe.lr if steps * self.recipe.lr >= JOURNEY else 3 * JOURNEY / steps)
        chip = Chip(gates, bare, budget.counted(bare), steps, place, seed, self.hold)
        history = chip.history

        def judge(epoch: int) -> None:
            with torch.no_grad():
                chip.opening()  # with psi as it is after the last step
            choice = chip.choice or chip.choose()
            with chip.decided(choice):
                hard = evaluate(network.model, data.val, place)
            crisp, soft, out = chip.crisp(), float(chip.remaining()), len(choice.dropped)
            history.append({"crisp": crisp, "crispness_loss": float(chip.crispness()), "soft_remaining": soft,
                            "hard_accuracy": hard, "units_out": out})  # fmt: skip
            log.info("gates: epoch %d  decided %.1f%%  soft %s %.3f  hard val %.2f%%  units out %d",
                     epoch, 100 * crisp, chip.budget.metric, soft, 100 * hard, out)  # fmt: skip
            rank = (crisp >= 0.99, hard)
            if chip.best is None or rank >= chip.best.rank:
                state = {name: tensor.clone() for name, tensor in network.model.state_dict().items()}
                chip.best = Best(rank, state, choice, chip.psi.detach().clone())

        with gates.attached(network.model, chip.opening):
            hooks = Hooks(
                parameters=[{"params": [chip.psi], "lr": rate, "weight_decay": 0.0}],
                penalty=lambda: self._sharpness(chip.stage) * chip.crispness() + self.pressure * chip.excess() ** 2,
                after_step=chip.advance,
                after_epoch=judge,
                memory=chip,
            )
            trained = fit(network.model, data, self.recipe, place, seed, title="gates", hooks=hooks)
            assert chip.best is not None
            (crisp, _), choice, psi = chip.best.rank, chip.best.choice, chip.best.psi
            network.model.load_state_dict(chip.best.state)
        network.model.cpu()
        for note, epoch in zip(history, trained.curve, strict=True):
            note["soft_accuracy"] = epoch.val_accuracy
        if not crisp:
            log.warning("not all gates are decided (%.1f%%): raise pruner.recipe.epochs or pruner.crispness",
                        100 * history[-1]["crisp"])  # fmt: skip
        if budget.metric == "latency":  # what is open now was chosen by a formula: the last word is measured
            choice = chip.choose(budget, psi, among=choice)
        gates.to(torch.device("cpu")).burn_in(network.model, choice.open.cpu())
        return replace(plan_of(choice.kept, choice.dropped), notes={"epochs": history, "gate_lr": rate})

    def _sharpness(self, stage: int) -> float:
        return self.crispness * (schedule(stage)[1] / schedule(0)[1] if self.hold else 1)

    def _gates(self, network: Network) -> Gates:
        from prune_cli.gates import Gates

        return Gates(network, cuttable(network, streams=self.streams), tied=self.gates == "tied")


@dataclass(frozen=True)
class Choice:
    """What the gates amount to."""

    kept: Kept
    dropped: list[str]  # units
    open: Tensor  # (G) 0 or 1


@dataclass(frozen=True)
class Best:
    """The epoch whose gates and weights the pruned network will have."""

    rank: tuple[bool, float]  # are the gates decided, and how good is the network that they decide on
    state: dict[str, Tensor]
    choice: Choice
    psi: Tensor  # (G)


class Chip:
    """The gate variables of a network, their curves, losses and threshold."""

    def __init__(
        self, gates: Gates, network: Network, budget: Budget, steps: int, place: Place, seed: int, hold: bool
    ) -> None:
        import torch

        self.gates, self.network, self.budget = gates.to(place.device), network, budget
        self.steps, self.hold = steps, hold
        start = 0.01 * torch.rand(gates.size, generator=torch.Generator().manual_seed(seed))
        self.psi = start.to(place.device).requires_grad_()  # (G)
        self.stage = self.done = 0
        self.choice: Choice | None = None  # that is held
        self.best: Best | None = None
        self.history: list[dict[str, float]] = []
        self._shown: Tensor | None = None

    def remember(self) -> dict[str, Any]:
        """All but psi, which the optimiser has."""
        best = self.best and {**vars(self.best), "choice": vars(self.best.choice)}
        held = self.choice and vars(self.choice)
        return {"stage": self.stage, "done": self.done, "history": self.history, "held": held, "best": best}

    def recall(self, value: dict[str, Any]) -> None:
        self.stage, self.done = value["stage"], value["done"]
        self.history[:] = value["history"]
        self.choice = value["held"] and self._choice(**value["held"])
        if value["best"]:
            best = {**value["best"], "choice": self._choice(**value["best"]["choice"])}
            self.best = Best(**{**best, "rank": tuple(best["rank"]), "psi": best["psi"].to(self.psi.device)})

    def _choice(self, kept: dict[str, list[int]], dropped: list[str], open: Tensor) -> Choice:
        return Choice({name: tuple(own) for name, own in kept.items()}, dropped, open.to(self.psi.device))

    # ---- curves and their schedule (section 3) -------------------------------------------------------

    def opening(self) -> Tensor:
        """The gates (G) as the network sees them."""
        import torch

        if self._shown is not None:
            return self._shown
        stage = STAGES * self.done // self.steps
        if torch.is_grad_enabled() and stage != self.stage:  # the first training step of a stage
            self.stage = stage
            self.choice = self.choose() if self.hold and stage >= HOLD else None
        self._logistic, self._smooth = project(self.psi, *schedule(self.stage)[:2])
        seen = self._smooth
        if self.choice is not None:
            decided = torch.where(seen < CRISP, 0.0, torch.where(seen > 1 - CRISP, 1.0, seen))
            seen = seen + (torch.maximum(decided, self.choice.open) - seen).detach()
        self._seen = seen
        return seen

    @contextmanager
    def decided(self, choice: Choice) -> Iterator[None]:
        """While this lasts, gates are open or shut as chosen."""
        self._shown = choice.open
        try:
            yield
        finally:
            self._shown = None

    def advance(self, step: int) -> None:
        self.done = step

    # ---- losses ---------------------------------------------------------------------------------------

    def crispness(self) -> Tensor:
        return ((self._smooth - self._logistic) ** 2).mean()

    def excess(self) -> Tensor:
        return self.remaining() - self.budget.keep

    def remaining(self) -> Tensor:
        """V: the soft part of the budget's metric that is left."""
        kappa = schedule(self.stage)[2]
        soft, alive = ((kappa * (z - 0.5)).sigmoid() for z in (self._seen, self.gates.alive(self._seen)[:-1]))
        return self.gates.share(self.budget.metric, soft, alive)

    def crisp(self) -> float:
        """The part of the gates that is decided."""
        z = self._seen.detach()
        return float(((z < CRISP) | (z > 1 - CRISP)).float().mean())

    # ---- threshold (section 3.3) ----------------------------------------------------------------------

    def choose(self, budget: Budget | None = None, psi: Tensor | None = None, among: Choice | None = None) -> Choice:
        """Shut gates, lowest psi first, until the budget is met; none that `among` has shut stays open."""
        import torch

        values = (self.psi if psi is None else psi).detach().double().cpu().numpy()
        shut = -np.inf if self.hold else halfway(self.stage)
        if among is not None:
            values, shut = values + 1e6 * among.open.cpu().numpy(), 5e5
        scores: dict[str, Array] = {}
        for own in self.gates.sets:  # a channel is as important as the strongest of its gates
            group = scores.setdefault(own.group, np.full(self.network.groups[own.group].size, -np.inf))
            np.maximum.at(group, list(own.channels), values[own.span])
        vanishing = self.gates.vanishing
        kept = select(self.network, scores, budget or self.budget, vanishing=vanishing, shut=shut)
        gone = [scores[name][sorted(set(range(len(scores[name]))) - set(keep))] for name, keep in kept.items()]
        cut = max(shut, np.concatenate(gone).max(initial=-np.inf))
        open_ = np.zeros(self.gates.size)
        for own in self.gates.sets:
            strongest = values[own.span] >= scores[own.group][list(own.channels)]
            open_[own.span] = np.isin(own.channels, kept[own.group]) & (strongest | (values[own.span] > cut))
        dropped = {own.unit for own in self.gates.sets if own.unit and not open_[own.span].any()}
        for own in self.gates.sets:
            if own.unit in dropped:
                open_[own.span] = 0
        staying = {name: keep for name, keep in kept.items() if vanishing.get(name) not in dropped}
        return Choice(staying, sorted(dropped), torch.from_numpy(open_).float().to(self.psi.device))


def project(psi: Tensor, beta: float, gamma: float) -> tuple[Tensor, Tensor]:
    """The logistic z1 and the smooth step z, each of the shape of psi (equations 2 and 3)."""
    z1 = (beta * psi).sigmoid()
    return z1, 1 - (-gamma * z1).exp() + z1 * math.exp(-gamma)


def schedule(stage: int) -> tuple[float, float, float]:
    """beta, gamma and kappa of a stage, which is a published epoch, from 0."""
    return min(1 + 0.02 * stage, 6.0), min(2 * 2 ** (stage / 2), 256.0), min(10.0 + 5 * stage, 60.0)


def halfway(stage: int) -> float:
    """The psi at which z is one half: below it a gate is shut."""
    beta, gamma, _ = schedule(stage)
    low, high = 0.0, 1.0  # of z1
    for _ in range(60):
        z1 = (low + high) / 2
        low, high = (low, z1) if 1 - math.exp(-gamma * z1) + z1 * math.exp(-gamma) > 0.5 else (z1, high)
    return math.log(low / (1 - low)) / beta
