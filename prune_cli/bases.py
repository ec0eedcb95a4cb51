"""The store of trained dense networks, found again by what made them: trained once, used by every run."""

from __future__ import annotations

import json
import logging
import shutil
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import asdict, fields, is_dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock
from safetensors.torch import load
from torch import nn

from prune_cli.errors import PruneError
from prune_cli.files import read_sealed, seal, sha256, sync_folder, to_json, to_safetensors
from prune_cli.record import Base, Epoch, Fit

log = logging.getLogger(__name__)
VERSION = 1  # raised when the same description comes to mean another training


def identity(parts: Mapping[str, Any]) -> tuple[str, str]:
    """The canonical text of a description and its short hash. Fields at their defaults are left out.

    So a new option whose default changes nothing leaves every stored network valid.
    """
    text = json.dumps({"version": VERSION, **{k: _plain(v) for k, v in parts.items()}}, sort_keys=True, allow_nan=False)
    return text, sha256(text.encode())[:12]


def _plain(value: Any) -> Any:
    if is_dataclass(value) and not isinstance(value, type):
        changed = {f.name: getattr(value, f.name) for f in fields(value) if getattr(value, f.name) != f.default}
        return {"is": type(value).__name__, **{name: _plain(v) for name, v in changed.items()}}
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    return [_plain(v) for v in value] if isinstance(value, list | tuple) else value


def get_or_train(store: Path, name: str, parts: Mapping[str, Any], model: nn.Module, train: Callable[[], Fit]) -> Base:
    """Fill `model` with the stored weights of this description; train it and store it if there are none.

    Processes that ask for the same network at once wait for the one that trains it.

    Raises:
        PruneError: the stored network is damaged.
    """
    text, short = identity(parts)
    entry = store / f"{name}-{short}"
    store.mkdir(parents=True, exist_ok=True)
    with FileLock(store / f".{entry.name}.lock"):
        if entry.exists():
            fit = _read(entry, model)
            log.info(
                "dense network reused: %s (trained for %d epochs, val %.2f%%)",
                entry,
                fit.epochs,
                100 * fit.val_accuracy,
            )
            return Base("store", str(entry), short, fit)
        fit = train()
        _write(entry, model, fit, text)
        return Base("trained", str(entry), short, fit)


def _read(entry: Path, model: nn.Module) -> Fit:
    weights = load(read_sealed(entry, "model.safetensors"))
    note = json.loads(read_sealed(entry, "base.json"))
    try:
        model.load_state_dict(weights)
        curve = tuple(Epoch(**epoch) for epoch in note["fit"].pop("curve"))
        return Fit(**note["fit"], curve=curve)
    except (RuntimeError, KeyError, TypeError) as error:
        raise PruneError(
            f"{entry} is of another version of this program ({type(error).__name__}): remove it to train it again"
        ) from error


def _write(entry: Path, model: nn.Module, fit: Fit, text: str) -> None:
    """A folder appears whole: it is filled under another name and renamed."""
    hidden = Path(tempfile.mkdtemp(prefix=f".{entry.name}.", dir=entry.parent))
    try:
        note = {"fit": asdict(fit), "identity": json.loads(text)}
        seal(hidden, {"model.safetensors": to_safetensors(model.state_dict()), "base.json": to_json(note)})
        hidden.chmod(0o755)
        hidden.rename(entry)
        sync_folder(entry.parent)
    finally:
        shutil.rmtree(hidden, ignore_errors=True)
