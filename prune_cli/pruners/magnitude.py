"""Smallest filters first (Li et al., Pruning Filters for Efficient ConvNets, arXiv 1608.08710, section 3.1).

Departures from the paper: the part kept of every layer follows from the budget, where the paper sets it layer
by layer after a study of sensitivity; `norm=l2` and `scope=global` are common variants that it does not use.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from prune_cli.budget import Budget, cuttable, plan_of, select
from prune_cli.errors import require_choice
from prune_cli.plan import Plan

if TYPE_CHECKING:
    from prune_cli.channels import Group, Network
    from prune_cli.compute import Place
    from prune_cli.data.splits import Data


@dataclass(frozen=True)
class Magnitude:
    """The filters of least norm go; where several layers write a channel, their norms are added."""

    norm: str = "l1"  # l1 | l2
    scope: str = "local"  # local: the same fraction of every layer; global: all layers compared by norm / layer mean
    streams: bool = False  # cut residual streams too

    def __post_init__(self) -> None:
        require_choice("pruner.norm", self.norm, ("l1", "l2"))
        require_choice("pruner.scope", self.scope, ("local", "global"))

    def check(self, network: Network, budget: Budget) -> None:
        budget.check(network, cuttable(network, streams=self.streams))

    def plan(self, network: Network, data: Data, budget: Budget, place: Place, seed: int) -> Plan:
        groups = cuttable(network, streams=self.streams)
        kept = select(network, {group.name: self._scores(network, group) for group in groups}, budget)
        return plan_of(kept)

    def _scores(self, network: Network, group: Group) -> np.ndarray[Any, Any]:
        order = 1 if self.norm == "l1" else 2
        norms = sum(network.filters(group, axis).norm(order, dim=1).numpy() for axis in group.writers)  # (C)
        if self.scope == "global":
            return np.asarray(norms / norms.mean())
        return np.argsort(np.argsort(norms, kind="stable")) / group.size  # rank within the layer
