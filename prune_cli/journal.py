"""`Journal`: what a run's long stages have done so far, so that a run that was killed goes on where it was.

One file per stage, replaced as a whole. Its first line is the sha256 of the rest: a line of JSON, then tensors as
safetensors.
"""

from __future__ import annotations

import json
import logging
import shutil
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prune_cli.files import sha256, slug, to_safetensors, write_bytes

if TYPE_CHECKING:
    from torch import Tensor

    from prune_cli.record import Epoch
    from prune_cli.tracking import Watcher

log = logging.getLogger(__name__)
SHARE = 0.05  # of the time that writing may take
TENSOR = "$tensor"
Value = Any  # dictionaries (with words as keys) and lists of tensors and of what JSON can hold; tuples become lists


class Journal:
    """A folder of stages under way, and those who want to be told of every epoch."""

    def __init__(self, folder: Path, watchers: Sequence[Watcher] = ()) -> None:
        self.folder, self.watchers = folder, watchers
        self._written = -float("inf")  # when a stage was last written
        self._cost = 0.0  # seconds which that took

    def elsewhere(self, folder: Path) -> Journal:
        """A journal of work that others may go on with, with the same watchers."""
        return Journal(folder, self.watchers)

    def tell(self, stage: str, epoch: Epoch) -> None:
        for watcher in self.watchers:
            watcher.epoch(stage, epoch)

    def read(self, stage: str) -> Value | None:
        """How far a stage has come; None if nothing is known of it. A damaged file is told of and counts as none."""
        path = self._path(stage)
        if not path.is_file():
            return None
        from safetensors.torch import load

        digest, _, rest = path.read_bytes().partition(b"\n")
        if digest != sha256(rest).encode():
            log.warning("%s is damaged: this stage begins anew", path)
            return None
        text, _, tensors = rest.partition(b"\n")
        return _fill(json.loads(text), load(tensors))

    def write(self, stage: str, value: Value) -> None:
        start = time.perf_counter()
        self.folder.mkdir(parents=True, exist_ok=True)
        tensors: dict[str, Tensor] = {}
        text = json.dumps(_empty(value, tensors, set()), allow_nan=False).encode()
        rest = text + b"\n" + to_safetensors(tensors)
        write_bytes(self._path(stage), sha256(rest).encode() + b"\n" + rest)
        self._written = time.perf_counter()
        self._cost = self._written - start

    def is_due(self) -> bool:
        """Has enough work been done since the last writing for another one? Epochs of a moment are not all kept."""
        return SHARE * (time.perf_counter() - self._written) >= self._cost

    def clear(self) -> None:
        """The work is done, and kept elsewhere."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _path(self, stage: str) -> Path:
        return self.folder / f"{slug(stage)}.state"


def _empty(value: Value, tensors: dict[str, Tensor], memory: set[int]) -> Value:
    """The value with references instead of tensors, which are collected, with the addresses of their memory."""
    if isinstance(value, Mapping):
        return {key: _empty(inner, tensors, memory) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_empty(inner, tensors, memory) for inner in value]
    if hasattr(value, "detach"):
        number, address = str(len(tensors)), value.untyped_storage().data_ptr()
        # Safetensors refuses memory that is shared.
        tensors[number] = value.detach().clone() if address in memory else value
        memory.add(address)
        return {TENSOR: number}
    return value


def _fill(value: Value, tensors: Mapping[str, Tensor]) -> Value:
    """The opposite."""
    if isinstance(value, list):
        return [_fill(inner, tensors) for inner in value]
    if not isinstance(value, dict):
        return value
    return tensors[value[TENSOR]] if TENSOR in value else {key: _fill(inner, tensors) for key, inner in value.items()}
