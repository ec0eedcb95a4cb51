"""Linear filter ensembles, after Sandor et al. (Pruning CNN's with linear filter ensembles, arXiv 2001.08142).

A filter matters as much as it changes the empirical loss, not only when all other filters are there, but on average
over many random choices of them. Random masks are drawn, the loss of the masked network is recorded, and a linear
additive model is fitted; its coefficients rank the filters:

    y(m) = theta_0 + sum_j theta_j m_j + e,    m in {0, 1}^d

Reconstructed: the abstract states masks, additive model, empirical loss and ranking. How masks are drawn, how many, the
fit, and the alternation of pruning and fine-tuning stand in no source at hand; they are our choices:
- by default the masks of one layer at a time vary (`mode=layer`), each with the same number of filters on;
- the least keep probability of 0.5, 0.7 and 0.9 at which masked networks still do better than half way from chance to
  the whole network; 0.9, 0.95 and 0.98 where all layers vary at once (`mode=network`);
- ridge regression whose strength is found by leave-one-out cross-validation; R2 on masks that were held out;
- layers are compared by importance per unit of the budget's cost.

Legend: n masks, d filters that a mask switches, C channels of a group.
"""

from __future__ import annotations

import logging
import math
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from prune_cli import team
from prune_cli.budget import Budget, Kept, cuttable, plan_of, select
from prune_cli.errors import require, require_choice, require_range
from prune_cli.plan import Plan
from prune_cli.training.recipe import Recipe

if TYPE_CHECKING:
    from prune_cli.channels import Group, Network
    from prune_cli.compute import Place
    from prune_cli.data.splits import Data
    from prune_cli.masked import MaskedNetwork, Performance

log = logging.getLogger(__name__)
Array = np.ndarray[Any, Any]
PROBABILITIES = {"layer": (0.5, 0.7, 0.9), "network": (0.9, 0.95, 0.98)}
PILOT = 10  # masks that a keep probability is judged by


@dataclass(frozen=True)
class FilterEnsembles:
    """Filters of least contribution to the additive model go."""

    mode: str = "layer"  # layer: the filters of one layer vary, all others stay on | network: all vary at once
    target: str = "loss"  # loss | accuracy: what the linear model explains
    images: int | None = None  # training images that every mask is tried on; null: 2 of each class, at least 32
    masks: int | None = None  # of each fit; null: masks_per_filter * d, at least 200
    masks_per_filter: float = 2.0
    keep_probability: float | None = None  # of a filter being on; null: by rule
    draw: str = "fixed"  # fixed: the same number of filters on in every mask | independent: each by itself
    ridge: float | None = None  # strength of the penalty on theta; null: by cross-validation; 0: least squares
    scope: str = "global"  # global: all layers compared by importance per cost | local: the same part of every layer
    iterations: int = 1  # prune and fine-tune so often; the last fine-tuning is the run's own
    recipe: Recipe = field(default_factory=lambda: Recipe(epochs=2, lr=0.01))  # of fine-tuning between iterations
    streams: bool = False  # cut residual streams too

    def __post_init__(self) -> None:
        require_choice("pruner.mode", self.mode, ("layer", "network"))
        require_choice("pruner.target", self.target, ("loss", "accuracy"))
        if self.images is not None:
            require_range("pruner.images", self.images, 1, 10**7, whole=True)
        if self.masks is not None:
            require_range("pruner.masks", self.masks, 10, 10**7, whole=True)
        require_range("pruner.masks_per_filter", self.masks_per_filter, 0.1, 1000)
        if self.keep_probability is not None:
            require_range("pruner.keep_probability", self.keep_probability, 0.01, 0.999)
        require_choice("pruner.draw", self.draw, ("fixed", "independent"))
        if self.ridge is not None:
            require_range("pruner.ridge", self.ridge, 0, 1e9)
        require_choice("pruner.scope", self.scope, ("global", "local"))
        require_range("pruner.iterations", self.iterations, 1, 1000, whole=True)

    def check(self, network: Network, budget: Budget) -> None:
        groups = cuttable(network, streams=self.streams)
        budget.check(network, groups)
        for d in [group.size for group in groups] if self.mode == "layer" else [sum(group.size for group in groups)]:
            enough = self.ridge != 0 or self._count(d) >= 1.5 * d
            require(enough, f"pruner.ridge=0 needs 1.5 masks per filter: {self._count(d)} masks for {d} filters; "
                            "raise pruner.masks or pruner.masks_per_filter, or leave pruner.ridge at null")  # fmt: skip

    def plan(self, network: Network, data: Data, budget: Budget, place: Place, seed: int) -> Plan:
        from prune_cli.channels import trace
        from prune_cli.surgery import apply, write_back
        from prune_cli.training.fit import fit

        if budget.keep == 1:
            return Plan()
        groups = cuttable(network, streams=self.streams)
        kept: Kept = {group.name: tuple(range(group.size)) for group in groups}
        notes: list[dict[str, Any]] = []
        for step in range(1, self.iterations + 1):
            small = apply(network.model, plan_of(kept), network.shape)
            if step > 1:
                fit(small, data, self.recipe, place, seed + step, title=f"between iterations {step - 1} and {step}")
                write_back(network.model, plan_of(kept), small.cpu(), network.shape)
            importance, note = self._known(place, step) or self._importance(
                trace(small, network.shape), list(kept), data, place, seed + step
            )
            self._keep(place, step, importance, note)
            notes.append(note)
            part = budget.keep ** (step / self.iterations)  # the same share of what remains goes each time
            scores = self._scores(network, groups, kept, importance, budget)
            kept = select(network, scores, replace(budget, keep=part))
        return replace(plan_of(kept), notes={"reconstructed": True, "iterations": notes})

    def _known(self, place: Place, step: int) -> tuple[dict[str, Array], dict[str, Any]] | None:
        """What an iteration found before the run was interrupted."""
        known = place.journal.read(f"masks {step}") if place.journal else None
        return known and ({name: tensor.numpy() for name, tensor in known["importance"].items()}, known["note"])

    def _keep(self, place: Place, step: int, importance: Mapping[str, Array], note: dict[str, Any]) -> None:
        import torch

        if place.journal and team.is_first():
            found = {name: torch.from_numpy(own) for name, own in importance.items()}
            place.journal.write(f"masks {step}", {"importance": found, "note": note})

    # ---- what a filter contributes ------------------------------------------------------------------

    def _importance(
        self, network: Network, names: list[str], data: Data, place: Place, seed: int
    ) -> tuple[dict[str, Array], dict[str, Any]]:
        """By group (C): how much the loss falls, or the accuracy rises, when a filter is switched on."""
        from tqdm import tqdm

        from prune_cli.data.splits import sample
        from prune_cli.masked import MaskedNetwork

        random = np.random.default_rng(seed)
        images = self.images or max(32, 2 * len(data.classes))
        masked = MaskedNetwork(network, sample(data.train, images, seed), place)
        groups = [network.groups[name] for name in names if network.groups[name].size > 1]
        whole = masked.measure({groups[0].name: np.ones((1, groups[0].size), dtype=bool)})
        halfway = (float(whole.accuracy[0]) + 1 / len(data.classes)) / 2
        importance: dict[str, Array] = {name: np.full(network.groups[name].size, np.inf) for name in names}
        note: dict[str, Any] = {"masks": {}, "keep_probability": {}, "r2": {}}
        parts = [[group] for group in groups] if self.mode == "layer" else [groups]
        for part in tqdm(parts, desc="masks", unit="layer", leave=False, disable=not sys.stderr.isatty()):
            p = self._probability(masked, part, halfway, random)
            d = sum(group.size for group in part)
            masks = self._draw(self._count(d), d, p, random)
            y = self._target(masked.measure(_by_group(masks, part)), len(data.classes))
            theta, r2 = fit_additive(masks, y, self.ridge)
            importance |= _by_group(-theta if self.target == "loss" else theta, part)
            name = part[0].name if self.mode == "layer" else "network"
            note["masks"][name], note["keep_probability"][name], note["r2"][name] = len(masks), p, round(r2, 4)
        found = list(note["r2"].values())
        log.info(
            "additive model: %d fits, R2 on held-out masks %.2f (lowest %.2f)", len(found), np.median(found), min(found)
        )
        if np.median(found) < 0.1:
            log.warning(
                "the additive model explains little: try more pruner.images, or a higher pruner.keep_probability"
            )
        return importance, note

    def _count(self, d: int) -> int:
        return self.masks or max(200, math.ceil(self.masks_per_filter * d))

    def _probability(
        self, masked: MaskedNetwork, part: list[Group], halfway: float, random: np.random.Generator
    ) -> float:
        """The least keep probability of the rule at which masked networks are still worth something."""
        if self.keep_probability is not None:
            return self.keep_probability
        *low, highest = PROBABILITIES[self.mode]
        for p in low:
            pilot = self._draw(PILOT, sum(group.size for group in part), p, random)
            if masked.measure(_by_group(pilot, part)).accuracy.mean() > halfway:
                return p
        return highest

    def _draw(self, n: int, d: int, p: float, random: np.random.Generator) -> Array:
        """Masks (n, d) of bool."""
        if self.draw == "independent":
            return random.random((n, d)) < p
        on = min(d - 1, max(1, round(p * d)))
        return random.random((n, d)).argsort(1) < on

    def _target(self, found: Performance, classes: int) -> Array:
        """What the model explains (n). Losses are clipped: a few huge ones would own the fit."""
        return found.accuracy if self.target == "accuracy" else np.minimum(found.loss, 2 * math.log(classes))

    def _scores(
        self, network: Network, groups: tuple[Group, ...], kept: Kept, importance: Mapping[str, Array], budget: Budget
    ) -> dict[str, Array]:
        """By group of the whole network (C): the order in which channels go; those gone already go first."""
        costs = _marginal_costs(network, groups, budget)
        scores = {}
        for group in groups:
            own, cost = importance[group.name], costs[group.name][list(kept[group.name])]
            if self.scope == "local":
                rank = np.argsort(np.argsort(own, kind="stable")) / len(own)
            else:  # a filter that does harm goes the sooner, the more it costs
                rank = np.where(own > 0, own / cost, own * cost)
            scores[group.name] = np.full(group.size, -np.inf)
            scores[group.name][list(kept[group.name])] = rank
        return scores


def fit_additive(masks: Array, y: Array, ridge: float | None = None) -> tuple[Array, float]:
    """The coefficients theta (d) of the additive model, and its R2 on a fifth of the masks that did not take part.

    The coefficients themselves are fitted to all masks. The constant is not penalised.

    Args:
        masks: (n, d) of bool. y: (n).
        ridge: null: leave-one-out cross-validation chooses; 0: least squares.
    """
    from sklearn.linear_model import LinearRegression, Ridge, RidgeCV

    if ridge is None:
        model = RidgeCV(alphas=np.logspace(-11, 4, 61))
    else:
        model = Ridge(alpha=ridge) if ridge else LinearRegression()
    x = masks.astype(np.float64)
    held = max(2, len(x) // 5)
    with np.errstate(divide="ignore", invalid="ignore"):  # an alpha that fits all masks exactly leaves nothing out
        r2 = model.fit(x[held:], y[held:]).score(x[:held], y[:held]) if np.ptp(y[:held]) > 0 else 0.0
        return np.asarray(model.fit(x, y).coef_), float(r2)


def _by_group(values: Array, part: list[Group]) -> dict[str, Array]:
    """Numbers of all filters (..., d), split by group (..., C)."""
    ends = np.cumsum([group.size for group in part])[:-1]
    return {group.name: own for group, own in zip(part, np.split(values, ends, axis=-1), strict=True)}


def _marginal_costs(network: Network, groups: tuple[Group, ...], budget: Budget) -> dict[str, Array]:
    """What one channel more costs in the whole network, by group (C)."""
    import torch

    ones = {group.name: torch.ones(group.size, dtype=torch.float64, requires_grad=True) for group in groups}
    network.cost(budget.countable, ones).backward()  # type: ignore[arg-type]
    return {name: gates.grad.numpy() for name, gates in ones.items() if gates.grad is not None}
