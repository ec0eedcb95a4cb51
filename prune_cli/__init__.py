"""Structured pruning of CNNs by five published methods, measured on the hardware that they ship on."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from prune_cli.errors import PruneError

if TYPE_CHECKING:
    from torch import nn

__version__ = "0.1.0"
__all__ = ["PruneError", "__version__", "load"]


def load(run_dir: str | Path, trust: Sequence[str] = ()) -> nn.Module:
    """The pruned network of a finished run as a plain module, in eval mode on the CPU.

    Args:
        run_dir: the folder of the run.
        trust: packages whose classes may be imported, for runs with `model._target_=...`.

    Raises:
        PruneError: a file is missing or damaged, or the network's class is not in a trusted package.
    """
    from prune_cli import artefact

    return artefact.load(run_dir, trust)
