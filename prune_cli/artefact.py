"""A pruned network on disk: weights as safetensors, architecture as JSON. Nothing is ever unpickled."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prune_cli import models
from prune_cli.errors import PruneError, require
from prune_cli.files import read_sealed
from prune_cli.plan import Plan

if TYPE_CHECKING:
    from torch import nn

KINDS = {
    kind.__name__: kind for kind in (models.Vgg16, models.Mlp, models.CifarResNet, models.Torchvision, models.Custom)
}


def architecture(model: models.Model, classes: Sequence[str], shape: tuple[int, ...], plan: Plan) -> dict[str, Any]:
    """How to build the network again: the dense one, then the plan."""
    fields = {name: value for name, value in asdict(model).items() if name not in ("checkpoint", "weights")}
    return {
        "schema": 1,
        "model": {"kind": type(model).__name__, **fields},
        "classes": list(classes),
        "shape": list(shape),
        "plan": plan.to_json(),
    }


def load(run_dir: str | Path, trust: Sequence[str] = ()) -> nn.Module:
    """The pruned, fine-tuned network of a finished run, in eval mode on the CPU.

    Args:
        run_dir: the folder that holds `architecture.json` and `model.safetensors`.
        trust: packages whose classes may be imported, for runs with `model._target_=...`.

    Raises:
        PruneError: a file is missing or damaged, or the network's class is not in a trusted package.
    """
    from safetensors.torch import load as from_safetensors

    from prune_cli.surgery import apply

    folder = Path(run_dir)
    require((folder / "result.json").is_file(), f"{folder} is not the folder of a finished run: it has no result.json")
    spec = json.loads(read_sealed(folder, "architecture.json"))
    weights = from_safetensors(read_sealed(folder, "model.safetensors"))
    dense = _model(spec["model"], trust).build(len(spec["classes"]))
    small = apply(dense, Plan.from_json(spec["plan"]), tuple(spec["shape"]))
    try:
        small.load_state_dict(weights)
    except RuntimeError as error:
        raise PruneError(
            f"{folder}: the weights do not fit the architecture: {str(error).splitlines()[-1].strip()}"
        ) from error
    return small.eval()


def load_dense(run_dir: str | Path, trust: Sequence[str] = ()) -> tuple[nn.Module, bool]:
    """The dense network that a run began with, and whether it has its weights, or fresh ones as they are lost."""
    import torch

    from prune_cli.models.checkpoint import load_checkpoint

    folder = Path(run_dir)
    spec = json.loads(read_sealed(folder, "architecture.json"))
    base = json.loads(read_sealed(folder, "result.json"))["base"]
    torch.manual_seed(0)
    dense = _model(spec["model"], trust).build(len(spec["classes"]))
    path = Path(base["path"])
    path = path / "model.safetensors" if path.is_dir() else path
    if path.is_file():
        load_checkpoint(dense, path)
    return dense.eval(), path.is_file()


def _model(spec: dict[str, Any], trust: Sequence[str]) -> models.Model:
    fields = dict(spec)
    kind = KINDS.get(fields.pop("kind", ""))
    require(kind, f"architecture.json names an unknown kind of network: {spec.get('kind')!r}")
    if kind is models.Custom:
        package = str(fields.get("target", "")).split(".")[0]
        require(
            package in trust, f"this run uses {fields.get('target')}: load it with trust=({package!r},) if you trust it"
        )
    return kind(**fields)  # type: ignore[misc]
