"""No pruning: the dense network as a row of the table."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from prune_cli.plan import Plan

if TYPE_CHECKING:
    from prune_cli.budget import Budget
    from prune_cli.channels import Network
    from prune_cli.compute import Place
    from prune_cli.data.splits import Data


@dataclass(frozen=True)
class NoPruner:
    """Keeps everything, whatever the budget says."""

    heeds_budget: ClassVar[bool] = False

    def check(self, network: Network, budget: Budget) -> None:
        pass

    def plan(self, network: Network, data: Data, budget: Budget, place: Place, seed: int) -> Plan:
        return Plan()
