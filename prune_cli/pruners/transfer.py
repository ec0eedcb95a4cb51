"""Mask transfer (section 4.4 of ChipNet, arXiv 2102.07156): the plan of another run, on this network.

The other run may have used another data set, seed or method; only the structure must be the same. By default this
run's trained network is cut; `fresh=true` starts the cut network from fresh weights, as published.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from prune_cli.errors import PruneError, require
from prune_cli.files import sha256
from prune_cli.plan import Drop, Plan

if TYPE_CHECKING:
    from prune_cli.budget import Budget
    from prune_cli.channels import Network
    from prune_cli.compute import Place
    from prune_cli.data.splits import Data


@dataclass(frozen=True)
class Transfer:
    """Apply what another run has decided."""

    plan_of: str | None  # the folder of the other run, or its plan.json
    fresh: bool = False  # true: all weights start anew

    heeds_budget: ClassVar[bool] = False

    @property
    def contents(self) -> str:
        """sha256 of the plan: another one gives another result, whatever its path."""
        return sha256(self._path().read_bytes())

    def check(self, network: Network, budget: Budget) -> None:
        from prune_cli.surgery import apply

        plan, sizes = self._read()
        for name, size in sizes.items():
            here = network.groups[name].size if name in network.groups else 0
            there = f"was made for a network with {size} channels in {name}; this one has {here or 'no such group'}"
            require(here == size, f"plan={self.plan_of} {there}")
        try:
            apply(network.model, plan, network.shape)
        except PruneError as error:
            raise PruneError(f"plan={self.plan_of} does not fit this network: {error}") from error

    def plan(self, network: Network, data: Data, budget: Budget, place: Place, seed: int) -> Plan:
        plan, _ = self._read()
        if not self.fresh:
            return replace(plan, notes={"from": self.plan_of})
        gone = tuple(f"{edit.unit}." for edit in plan.edits if isinstance(edit, Drop))
        layers = [name for name, module in network.model.named_modules() if hasattr(module, "reset_parameters")]
        every = tuple(name for name in layers if not f"{name}.".startswith(gone))
        return replace(plan, fresh=every, notes={"from": self.plan_of})

    def _read(self) -> tuple[Plan, dict[str, int]]:
        """The plan, and how many channels the groups of its network have, if the file says so.

        Raises:
            PruneError: there is no plan, or it cannot be read.
        """
        path = self._path()
        try:
            value = json.loads(path.read_text())
            return Plan.from_json(value), {str(name): int(size) for name, size in value.get("sizes", {}).items()}
        except (OSError, ValueError, TypeError, AttributeError, PruneError) as error:
            raise PruneError(f"plan={self.plan_of} cannot be read: {error}") from error

    def _path(self) -> Path:
        require(self.plan_of, "pruner=transfer needs plan=RUN_DIR, the folder of a finished run whose plan is wanted")
        path = Path(str(self.plan_of)).expanduser()
        path = path / "plan.json" if path.is_dir() else path
        require(path.is_file(), f"plan={self.plan_of}: no plan.json there; name the folder of a finished run")
        return path
