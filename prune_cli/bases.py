"""The store of trained dense networks, found again by what made them: trained once, used by every run."""

from __future__ import annotations

import json
import logging
import shutil
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from safetensors.torch import load
from torch import nn

from prune_cli import team
from prune_cli.errors import PruneError
from prune_cli.files import locked, read_sealed, seal, sync_folder, to_json, to_safetensors
from prune_cli.identity import identity
from prune_cli.journal import Journal
from prune_cli.record import Base, Epoch, Fit

log = logging.getLogger(__name__)


def get_or_train(
    store: Path, name: str, parts: Mapping[str, Any], model: nn.Module, train: Callable[[Journal], Fit]
) -> Base:
    """Fill `model` with the stored weights of this description; train it and store it if there are none.

    Processes that ask for the same network at once wait for the one that trains it; should it die, another goes on
    from the last epoch that it kept.

    Args:
        train: trains the model, and keeps in the journal how far it is.

    Raises:
        PruneError: the stored network is damaged.
    """
    text, short = identity(parts)
    entry = store / f"{name}-{short}"
    journal = Journal(store / f".{entry.name}.journal")
    with locked(store / f".{entry.name}.lock", f"another process trains {entry.name}"):
        if team.agree(entry.exists):
            fit = _read(entry, model)
            log.info(
                "dense network reused: %s (trained for %d epochs, val %.2f%%)",
                entry,
                fit.epochs,
                100 * fit.val_accuracy,
            )
            if team.is_first():
                journal.clear()  # its process may have been killed before it could
            return Base("store", str(entry), short, fit)
        fit = train(journal)
        if team.is_first():
            _write(entry, model, fit, text)
            journal.clear()
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
    for left in entry.parent.glob(f".{entry.name}.*.new"):  # by one that was killed: the lock is ours
        shutil.rmtree(left, ignore_errors=True)
    hidden = Path(tempfile.mkdtemp(prefix=f".{entry.name}.", suffix=".new", dir=entry.parent))
    try:
        note = {"fit": asdict(fit), "identity": json.loads(text)}
        seal(hidden, {"model.safetensors": to_safetensors(model.state_dict()), "base.json": to_json(note)})
        hidden.chmod(0o755)
        hidden.rename(entry)
        sync_folder(entry.parent)
    finally:
        shutil.rmtree(hidden, ignore_errors=True)
