"""Mask transfer (section 4.4 of ChipNet, arXiv 2102.07156): the plan of another run, on this network.

The other run may have used another data set, seed or method; only the structure must be the same. By default this
run's trained network is cut; `fresh=true` starts the cut network from fresh weights, as published.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from prune_cli.errors import PruneError, require
from prune_cli.plan import Plan

if TYPE_CHECKING:
    from prune_cli.budget import Budget
    from prune_cli.channels import Network
    from prune_cli.compute import Place
    from prune_cli.data.splits import Data


@dataclass(frozen=True)
class Transfer:
    """Apply what another run has decided."""

    plan_of: str  # the folder of the other run, or its plan.json
    fresh: bool = False  # true: all weights start anew

    def __post_init__(self) -> None:
        self._read()

    def check(self, network: Network, budget: Budget) -> None:
        from prune_cli.surgery import apply

        try:
            apply(network.model, self._read(), network.shape)
        except PruneError as error:
            raise PruneError(f"plan={self.plan_of} does not fit this network: {error}") from error

    def plan(self, network: Network, data: Data, budget: Budget, place: Place, seed: int) -> Plan:
        plan = self._read()
        if not self.fresh:
            return replace(plan, notes={"from": self.plan_of})
        every = tuple(name for name, module in network.model.named_modules() if hasattr(module, "reset_parameters"))
        return replace(plan, fresh=every, notes={"from": self.plan_of})

    def _read(self) -> Plan:
        """
        Raises:
            PruneError: there is no plan, or it cannot be read.
        """
        path = Path(self.plan_of).expanduser()
        path = path / "plan.json" if path.is_dir() else path
        require(path.is_file(), f"plan={self.plan_of}: no plan.json there; name the folder of a finished run")
        try:
            return Plan.from_json(json.loads(path.read_text()))
        except (OSError, ValueError) as error:
            raise PruneError(f"plan={self.plan_of} cannot be read: {error}") from error
