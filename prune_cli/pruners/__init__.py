"""The methods. Each is one file: a frozen dataclass of its settings, with `check` and `plan`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from prune_cli.budget import Budget
    from prune_cli.channels import Network
    from prune_cli.compute import Place
    from prune_cli.data.splits import Data
    from prune_cli.plan import Plan


class Pruner(Protocol):
    """Decides what to cut. Never resizes a tensor itself: that is what the plan is for.

    A method that is told what to cut, and so does not look at the budget, says so with `heeds_budget = False`.
    """

    def check(self, network: Network, budget: Budget) -> None:
        """Before any training: refuse a budget that this method cannot meet on this network (`PruneError`)."""

    def plan(self, network: Network, data: Data, budget: Budget, place: Place, seed: int) -> Plan:
        """The decision. `network.model` is a private copy on the CPU: it may be trained or changed in place."""
