"""The whole configuration of a run, as one checked object, and its name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import cached_property

from prune_cli.budget import Budget
from prune_cli.compute import Compute
from prune_cli.data import Dataset
from prune_cli.errors import require, require_range
from prune_cli.export import require_kinds
from prune_cli.hardware import Hardware
from prune_cli.identity import identity
from prune_cli.models import Model
from prune_cli.pruners import Pruner
from prune_cli.tracking import Tracking
from prune_cli.training.recipe import Recipe

VERSION = 1  # raised when the same experiment comes to give another result


@dataclass(frozen=True)
class Experiment:
    """The whole configuration of a run. Ranges are checked as it is built; PyTorch is not needed for that."""

    dataset: Dataset
    model: Model
    pruner: Pruner
    budget: Budget
    train: Recipe
    finetune: Recipe
    hardware: Mapping[str, Hardware]
    compute: Compute
    names: Mapping[str, str]  # dataset, model, pruner, as chosen on the command line
    reestimate: int = 0  # training images that batch-norm statistics are estimated anew from after the cut
    export: Sequence[str] = ()  # onnx | openvino | torch_export: files that load without this package
    tracking: Tracking = field(default_factory=Tracking)  # where figures are shown while they come in
    seed: int = 0
    outputs: str = "outputs"  # holds the store of dense networks and decoded images

    def __post_init__(self) -> None:
        require_range("seed", self.seed, 0, 2**31, whole=True)
        require_range("reestimate", self.reestimate, 0, 10**7, whole=True)
        require(self.hardware, "hardware must name at least one target")
        known = self.budget.target in (None, *self.hardware)
        there = ", ".join(self.hardware)
        require(known, f"budget.target={self.budget.target}: the hardware of this run is {there}; name it there too")
        require_kinds(self.export)
        self.dataset.check()
        self.model.check()

    @cached_property
    def identity(self) -> str:
        """12 hex digits, equal for experiments that would give the same result: what data and weights are, not where.

        Not told apart: machines, versions of libraries, where results are written.
        """
        parts = {f.name: getattr(self, f.name) for f in fields(self) if f.name not in ("outputs", "tracking")}
        parts["model"] = replace(self.model, checkpoint=None)
        if hasattr(self.dataset, "root"):
            parts["dataset"] = replace(self.dataset, root=None)  # type: ignore[call-arg]
        contents = {"checkpoint": self.model.digest, "images": self.dataset.contents()}
        plan = getattr(self.pruner, "contents", "")
        return identity({**parts, **contents, "plan": plan, "result": VERSION})[1]
