"""LayerPrune (Elkerdawy et al., To Filter Prune, or to Layer Prune, That Is the Question, arXiv 2007.05667).

A unit (residual block, VGG convolution) is scored by the mean of its filters' scores, or by how much better class
means tell classes apart behind it than before it (imprinting). The units of least score become identities, in one
shot: depth, and with it latency, falls.

Departures from the paper:
- Data criteria look at frozen weights with running batch-norm statistics; the official code trains on while it scores.
- Imprinting reads accuracies off the validation split; the official code reads them off the test set.
- A unit that changes the number of channels (VGG) is not removed, as it is not known what the paper does with it; with
  `reshaping=true` it may go, and the layer behind it starts from fresh weights of the width that is there.
- `normalise=true` (off) compares the criterion per weight, since sums favour wide layers; `ensemble` adds ranks.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from prune_cli.budget import Budget
from prune_cli.criteria import CRITERIA, inputs_and_outputs_of, score_filters
from prune_cli.errors import require, require_choice, require_range
from prune_cli.plan import Drop, Plan

if TYPE_CHECKING:
    from torch import Tensor

    from prune_cli.channels import Group, Network
    from prune_cli.compute import Place
    from prune_cli.data.images import Images
    from prune_cli.data.splits import Data

log = logging.getLogger(__name__)
CHOICES = (*CRITERIA, "imprint", "random")
Scores = dict[str, float]  # by unit


@dataclass(frozen=True)
class LayerPrune:
    """Remove the units of least score."""

    criteria: Sequence[str] = ("l2",)  # several: their ranks are added
    units: int | None = None  # remove so many; null: until the budget is met
    normalise: bool = False  # divide weight criteria by the number of weights of a filter
    reshaping: bool = False  # units that change the number of channels may go too
    images: int = 4096  # training images that data criteria and imprinting look at
    embedding: int = 2048  # imprinting: maps are pooled to about so many numbers (2048: CIFAR ResNets; 512: VGG)

    def __post_init__(self) -> None:
        if isinstance(self.criteria, str):  # one name, without brackets
            object.__setattr__(self, "criteria", (self.criteria,))
        require(self.criteria, "pruner.criteria must name at least one criterion")
        for criterion in self.criteria:
            require_choice("pruner.criteria", criterion, CHOICES)
        if self.units is not None:
            require_range("pruner.units", self.units, 0, 10**4, whole=True)
        require_range("pruner.images", self.images, 1, 10**7, whole=True)
        require_range("pruner.embedding", self.embedding, 1, 10**6, whole=True)

    @property
    def heeds_budget(self) -> bool:
        return self.units is None

    def check(self, network: Network, budget: Budget) -> None:
        available = len(self._units(network))
        require(available, "this network has no unit that could be dropped: none keeps its shape")
        if self.units is not None:
            require(self.units <= available, f"pruner.units={self.units}: this network has {available} units to drop")
            return
        part = budget.remaining(network, {}, self._units(network))
        log.info("budget: %g of %s asked for, %.3f to 1 within reach", budget.keep, budget.metric, part)
        require(
            part <= budget.keep,
            f"budget.keep={budget.keep:g} of {budget.metric} is out of reach: without all of its {available} "
            f"removable units this network keeps {part:.3f}; raise budget.keep",
        )

    def plan(self, network: Network, data: Data, budget: Budget, place: Place, seed: int) -> Plan:
        self.check(network, budget)
        scores = self._scores(network, data, place, seed)
        order = sorted(self._units(network), key=scores.__getitem__)
        count = self.units
        if count is None:
            count = budget.fewest(network, lambda n: ({}, order[:n]), 0, len(order))
        gone = set(order[:count])
        log.info("dropped %d of %d units: %s", count, len(order), ", ".join(order[:count]) or "none")
        return Plan(tuple(Drop(unit) for unit in self._units(network) if unit in gone), notes={"scores": scores})

    def _units(self, network: Network) -> tuple[str, ...]:
        return network.units + (network.reshaping if self.reshaping else ())

    # ---- scores of units ----------------------------------------------------------------------------

    def _scores(self, network: Network, data: Data, place: Place, seed: int) -> Scores:
        from prune_cli.data.splits import sample

        seen = sample(data.train, self.images, seed)
        single = [self._by(criterion, network, seen, data.val, place, seed) for criterion in self.criteria]
        if len(single) == 1:
            return single[0]
        ranks = [{unit: rank for rank, unit in enumerate(sorted(s, key=s.__getitem__))} for s in single]
        return {unit: float(sum(rank[unit] for rank in ranks)) for unit in self._units(network)}

    def _by(self, criterion: str, network: Network, seen: Images, val: Images, place: Place, seed: int) -> Scores:
        if criterion == "random":
            units = self._units(network)
            return dict(zip(units, np.random.default_rng(seed).random(len(units)).tolist(), strict=True))
        if criterion == "imprint":
            return imprint(network, self._units(network), seen, val, place, self.embedding)
        inside = {unit: inner_groups(network, unit) for unit in self._units(network)}
        groups = [group for groups in inside.values() for group in groups]
        scores = score_filters(network, groups, criterion, seen, place)
        if self.normalise and criterion in ("l1", "l2", "taylor_weight"):
            for group in groups:
                scores[group.name] = scores[group.name] / network.weight(group.writers[0].module)[0].numel()
        return {u: float(np.mean([scores[g.name].mean() for g in groups])) for u, groups in inside.items()}


def inner_groups(network: Network, unit: str) -> tuple[Group, ...]:
    """The groups that only layers of the unit write: conv1 of a basic block, conv1 and conv2 of a bottleneck.

    A unit without any of its own (a projection on the stream) is scored by all that it writes.
    """
    written = [g for g in network.groups.values() if any(_in(axis.module, unit) for axis in g.writers)]
    own = [g for g in written if all(_in(axis.module, unit) for axis in g.writers)]
    return tuple(own or written)


def imprint(network: Network, units: Sequence[str], seen: Images, val: Images, place: Place, embedding: int) -> Scores:
    """Accuracy of class-mean proxies at a unit's output minus that at its input.

    Proxies are the directions of the class means of pooled maps over `seen`; accuracy is measured on `val`.
    """
    import torch.nn.functional as F

    sums: dict[tuple[str, str], Tensor] = {}  # per unit and side: (classes, F)
    right: dict[tuple[str, str], int] = {}
    for key, e, y in _embeddings(network, units, seen, place, embedding):
        total = sums.get(key, e.new_zeros(0, e.shape[1]))
        new = max(0, 1 + int(y.max()) - len(total))  # classes not met before
        sums[key] = F.pad(total, (0, 0, 0, new)).index_add(0, y, e)
    proxies = {key: F.normalize(total, dim=1) for key, total in sums.items()}
    for key, e, y in _embeddings(network, units, val, place, embedding):
        right[key] = right.get(key, 0) + int(((e @ proxies[key].T).argmax(1) == y).sum())
    return {unit: (right[unit, "output"] - right[unit, "input"]) / len(val) for unit in units}


def _embeddings(
    network: Network, units: Sequence[str], images: Images, place: Place, embedding: int
) -> Iterator[tuple[tuple[str, str], Tensor, Tensor]]:
    """For every batch and every side of every unit: its key, pooled maps (N, F), labels (N)."""
    import torch

    model = place.move(network.model)
    was_training = model.training
    model.eval()
    try:
        for x, y in images.batches(128, place):
            with inputs_and_outputs_of(network, units) as maps, torch.no_grad(), place.autocast():
                model(x)
            for key, a in maps.items():
                yield key, _embed(a, embedding), y
    finally:
        model.train(was_training)
        model.cpu()


def _embed(a: Tensor, embedding: int) -> Tensor:
    """Maps (N, C, H, W) pooled to s x s, s = round(sqrt(T / C)), as vectors (N, C s^2)."""
    import torch.nn.functional as F

    side = min(a.shape[2], max(1, round((embedding / a.shape[1]) ** 0.5)))
    return F.adaptive_avg_pool2d(a.float(), side).flatten(1)


def _in(module: str, unit: str) -> bool:
    return module.startswith(unit + ".")
