"""Random filters: the baseline that every method has to beat."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from prune_cli.budget import Budget, cuttable, plan_of, select
from prune_cli.plan import Plan

if TYPE_CHECKING:
    from prune_cli.channels import Network
    from prune_cli.compute import Place
    from prune_cli.data.splits import Data


@dataclass(frozen=True)
class RandomFilters:
    """The same fraction of every layer's filters, chosen by the seed of the run."""

    streams: bool = False  # cut residual streams too

    def check(self, network: Network, budget: Budget) -> None:
        budget.check(network, cuttable(network, streams=self.streams))

    def plan(self, network: Network, data: Data, budget: Budget, place: Place, seed: int) -> Plan:
        random = np.random.default_rng(seed)
        groups = cuttable(network, streams=self.streams)
        scores = {group.name: random.permutation(group.size) / group.size for group in groups}
        kept = select(network, scores, budget)
        return plan_of(kept)
