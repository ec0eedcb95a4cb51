"""What tells the rows of one method apart: the settings that differ between its runs, seeds aside."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from prune_cli.report.found import Run

# How a run is measured and where it is written does not make it another method.
ASIDE = (
    "seed",
    "outputs",
    "hydra",
    "benchmark",
    "compute",
    "hardware",
    "export",
    "trust",
    "dataset.root",
    "rerun",
    "tracking",
)


Network = tuple[str, str, int, int]  # data set, model, the dense network's MACs and parameters


def network_of(run: Run) -> Network:
    """Runs that may stand in one table: the same data, and a dense network of the same cost."""
    return run.dataset, run.model, run.macs_dense, run.params_dense


def titles(runs: Sequence[Run]) -> dict[Network, str]:
    """Short names of the dense networks; where one model has several, what differs in its config, or its cost."""
    found = {}
    for key in dict.fromkeys(map(network_of, runs)):
        rivals = [run for run in runs if (run.dataset, run.model) == key[:2]]
        title = f"{key[1]} on {key[0]}"
        if len({network_of(run) for run in rivals}) > 1:
            differing = [name for name in _differing(rivals) if name.startswith(("model.", "dataset."))]
            (first, *_) = (run for run in rivals if network_of(run) == key)
            parts = [f"{_short(name)} {first.settings[name]}" for name in differing if name in first.settings]
            title += f" ({', '.join([*parts, f'{key[2] / 1e6:.4g}M MACs'])})"
        found[key] = title
    return found


def labels(runs: Sequence[Run]) -> dict[Path, str]:
    """By folder: the budget, and every setting that differs between runs of the same network and method."""
    found = {}
    for key in dict.fromkeys((network_of(run), run.pruner) for run in runs):
        same = [run for run in runs if (network_of(run), run.pruner) == key]
        plain = {run.metric for run in same if run.keep is not None} <= {"macs"}
        names = _differing(same)
        for run in same:
            budget = [] if run.keep is None else [f"keep {run.keep:g}" + ("" if plain else f" of {run.metric}")]
            others = [f"{_short(name)} {run.settings[name]}" for name in names
                      if name in run.settings and not _told_by_budget(name, run)]  # fmt: skip
            found[run.folder] = ", ".join([*budget, *others])
    return found


def _differing(runs: Sequence[Run]) -> list[str]:
    """Settings with several values. One that some runs do not have, as they are older, does not differ by that."""
    values: dict[str, set[str]] = {}
    for run in runs:
        for name, value in run.settings.items():
            if not any(name == aside or name.startswith(f"{aside}.") for aside in ASIDE):
                values.setdefault(name, set()).add(value)
    return [name for name, several in values.items() if len(several) > 1 and not name.endswith("_target_")]


def _told_by_budget(name: str, run: Run) -> bool:
    """The budget's keep and metric begin the label; nothing of it matters to a method that was told what to cut."""
    return name.startswith("budget.") and (run.keep is None or name in ("budget.keep", "budget.metric"))


def _short(name: str) -> str:
    for section in ("pruner.", "budget."):
        if name.startswith(section):
            return name.removeprefix(section)
    return name
