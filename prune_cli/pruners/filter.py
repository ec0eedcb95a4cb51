"""Filter pruning by any criterion: the twin of `layerprune`, so that both can be compared at equal cost.

The criteria and their sources stand in `prune_cli/criteria.py`; the twin is that of LayerPrune's experiments
(Elkerdawy et al., To Filter Prune, or to Layer Prune, That Is the Question, arXiv 2007.05667, section 4).

Departures from the paper: how much goes follows from the budget, where its code removes 100 filters at a time; the
iterations here share the way to the budget evenly and score anew after each, without training in between.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from prune_cli.budget import Budget, Kept, cuttable, plan_of, select
from prune_cli.criteria import CRITERIA, Scores, score_filters
from prune_cli.errors import require_choice, require_range
from prune_cli.plan import Plan

if TYPE_CHECKING:
    from prune_cli.channels import Group, Network
    from prune_cli.compute import Place
    from prune_cli.data.images import Images
    from prune_cli.data.splits import Data


@dataclass(frozen=True)
class FilterPruner:
    """The filters of least score go."""

    criterion: str = "l2"  # one of CRITERIA
    scope: str = "global"  # global: all layers compared | local: the same part of every layer
    normalise: bool = True  # global: scores divided by the layer's mean, without which widths decide
    iterations: int = 1  # score anew so often on the way to the budget
    images: int = 1024  # training images that data criteria look at
    streams: bool = False  # cut residual streams too

    def __post_init__(self) -> None:
        require_choice("pruner.criterion", self.criterion, CRITERIA)
        require_choice("pruner.scope", self.scope, ("global", "local"))
        require_range("pruner.iterations", self.iterations, 1, 1000, whole=True)
        require_range("pruner.images", self.images, 1, 10**7, whole=True)

    def check(self, network: Network, budget: Budget) -> None:
        budget.check(network, cuttable(network, streams=self.streams))

    def plan(self, network: Network, data: Data, budget: Budget, place: Place, seed: int) -> Plan:
        from prune_cli.data.splits import sample

        groups = cuttable(network, streams=self.streams)
        seen = sample(data.train, self.images, seed)
        kept: Kept = {group.name: tuple(range(group.size)) for group in groups}
        for step in range(1, self.iterations + 1):
            part = budget.keep ** (step / self.iterations)  # the same share of what remains goes each time
            kept = select(network, self._scores(network, groups, kept, seen, place), replace(budget, keep=part))
            _silence(network, groups, kept)
        return plan_of(kept)

    def _scores(self, network: Network, groups: tuple[Group, ...], kept: Kept, seen: Images, place: Place) -> Scores:
        scores = score_filters(network, groups, self.criterion, seen, place)
        for name, values in scores.items():
            if self.scope == "local":
                scores[name] = np.argsort(np.argsort(values, kind="stable")) / len(values)
            elif self.normalise:
                scores[name] = values / max(float(values.mean()), 1e-30)
            gone = np.setdiff1d(np.arange(len(values)), kept[name])
            scores[name][gone] = -1.0  # what went before goes again, first
        return scores


def _silence(network: Network, groups: tuple[Group, ...], kept: Kept) -> None:
    """Channels that went give zeros from now on, so that the next scores are those of the smaller network."""
    import torch

    with torch.no_grad():
        for group in groups:
            keep = set(kept[group.name])
            for axis in group.of("write", "depthwise", "norm"):
                module = network.model.get_submodule(axis.module)
                gone = [p for p, channel in zip(axis.at, axis.index, strict=True) if channel not in keep]
                for name in ("weight", "bias", "running_mean"):
                    tensor = getattr(module, name, None)
                    if tensor is not None:
                        tensor[gone] = 0
