"""Trained weights from files, read without running any code that they may hold."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from prune_cli.errors import PruneError, require


def load_checkpoint(model: nn.Module, path: Path) -> None:
    """Copy the weights of `path` into the model.

    A dictionary with a `state_dict` or `model` entry is opened; the prefix `module.` of DataParallel is removed.

    Raises:
        PruneError: the file cannot be read safely, or its tensors are not those of the model.
    """
    tensors = _tensors(_read(path), path)
    own = model.state_dict()
    missing = [name for name in own if name not in tensors and not name.endswith("num_batches_tracked")]
    extra = [name for name in tensors if name not in own]
    require(
        not missing,
        f"{path} is of another network: it lacks {_some(missing)}{' and has ' + _some(extra) if extra else ''}",
    )
    require(not extra, f"{path} is of another network: it also has {_some(extra)}")
    for name, tensor in tensors.items():
        given, wanted = tuple(tensor.shape), tuple(own[name].shape)
        require(
            given == wanted,
            f"{path} does not fit: {name} is {given}, the model (with its classes and width) needs {wanted}",
        )
        require(bool(torch.isfinite(tensor).all()), f"{path} is spoilt: {name} holds values that are not finite")
    model.load_state_dict(tensors, strict=False)


def _read(path: Path) -> Any:
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # damaged files raise anything; so does a pickle that asks for code
        raise PruneError(
            f"{path} cannot be read as plain weights ({type(error).__name__}): "
            "save model.state_dict(), with torch.save or as safetensors"
        ) from error


def _tensors(value: Any, path: Path) -> dict[str, Tensor]:
    for entry in ("state_dict", "model"):
        if isinstance(value, Mapping) and isinstance(value.get(entry), Mapping):
            value = value[entry]
    plain = isinstance(value, Mapping) and all(isinstance(v, Tensor) for v in value.values())
    require(plain and value, f"{path} holds no state dict (names to tensors)")
    return {str(name).removeprefix("module."): tensor for name, tensor in value.items()}


def _some(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
