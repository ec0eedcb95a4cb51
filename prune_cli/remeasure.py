"""Finished runs measured again, side by side, on this or another machine, without training; and exported afterwards."""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prune_cli import artefact, benchmark
from prune_cli.costs import cost_of
from prune_cli.data import Dataset
from prune_cli.errors import PruneError, require
from prune_cli.export import KINDS, export, require_kinds
from prune_cli.files import amend, read_sealed, to_json
from prune_cli.hardware import Hardware
from prune_cli.record import SCHEMA, Export, Session
from prune_cli.table import Row, compare
from prune_cli.trust import build, check_targets

if TYPE_CHECKING:
    from torch import nn

    from prune_cli.data.splits import Data

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Finished:
    """A run that was read from its folder."""

    folder: Path
    result: dict[str, Any]
    shape: tuple[int, ...]
    dense_key: str  # equal for runs that began with the same network
    pruned: nn.Module
    trust: tuple[str, ...]

    @property
    def uncut(self) -> bool:
        return not self.result["plan"]["edits"]

    @property
    def label(self) -> str:
        row = self.result["summary"]
        asked = "" if row["budget_keep"] is None else f" {row['budget_metric']} {row['budget_keep']:g}"
        return f"{row['model']} {row['pruner']}{asked}"


def read(folder: Path, trust: Sequence[str] = ()) -> Finished:
    """
    Raises:
        PruneError: it is not the folder of a finished run, or damaged, or of another version.
    """
    pruned = artefact.load(folder, trust)
    result = json.loads(read_sealed(folder, "result.json"))
    require(result["schema"] == SCHEMA, f"{folder} was written by another version of this program: run it again")
    spec = json.loads(read_sealed(folder, "architecture.json"))
    key = json.dumps([spec["model"], spec["classes"], result["base"]["identity"]], sort_keys=True)
    return Finished(folder, result, tuple(spec["shape"]), key, pruned, tuple(trust))


def remeasure(runs: Sequence[Finished], targets: Mapping[str, Hardware]) -> tuple[str, dict[str, str]]:
    """Measure all runs with their dense networks in turn, and add the figures to their records.

    Returns:
        The table, and by target what went wrong.
    """
    tables: list[str] = []
    failed: dict[str, str] = {}
    for shape in dict.fromkeys(run.shape for run in runs):
        table, session = _together([run for run in runs if run.shape == shape], shape, targets)
        tables.append(table)
        failed |= session.failed
    return "\n\n".join(tables), failed


def _together(runs: Sequence[Finished], shape: tuple[int, ...], targets: Mapping[str, Hardware]) -> tuple[str, Session]:
    names = _names(runs)
    networks: dict[str, nn.Module] = {}
    dense_of: dict[str, str] = {}
    groups: dict[str, list[Finished]] = {}
    lost: list[str] = []  # dense networks without their weights
    for run in sorted(runs, key=lambda run: [r.dense_key for r in runs].index(run.dense_key)):
        name = names[run.folder]
        dense = name if run.uncut else f"{run.result['summary']['model']} dense {run.result['base']['identity'][:6]}"
        if not run.uncut and dense not in networks:
            networks[dense], found = artefact.load_dense(run.folder, run.trust)
            dense_of[dense] = dense
            if not found:
                lost.append(dense)
                log.info("%s: its weights are not here; fresh ones take the same time", dense)
        networks[name], dense_of[name] = run.pruned, dense
        groups.setdefault(dense, []).append(run)
    session = benchmark.measure(networks, shape, targets, dense_of, *_images(runs, targets))
    for dense in lost:
        session.accuracy.pop(dense, None)
    batches = sorted({batch for target in targets.values() for batch in target.batches})
    rows = {}
    for dense, members in groups.items():
        shown = dict.fromkeys([dense, *(names[run.folder] for run in members)])
        measures = {name: cost_of(networks[name], shape, batches) for name in shown}
        test = {names[r.folder]: r.result["accuracy"]["finetuned"]["test"] for r in members}
        test.setdefault(dense, members[0].result["accuracy"]["dense"]["test"])
        rows[dense] = [Row(name, test[name], cost, session.latency.get(name, {})) for name, cost in measures.items()]
    for run in runs:
        _append(run, session.between(dense_of[names[run.folder]], names[run.folder]))
    return compare(rows, session), session


def _names(runs: Sequence[Finished]) -> dict[Path, str]:
    """Short names; where several runs would share one, their folders tell them apart."""
    names = {run.folder: run.label for run in runs}
    for which in ("name", "path"):
        shared = [name for name, count in Counter(names.values()).items() if count > 1]
        for run in runs:
            if names[run.folder] in shared:
                names[run.folder] = f"{run.label} {run.folder.name if which == 'name' else run.folder}"
    return names


def _images(runs: Sequence[Finished], targets: Mapping[str, Hardware]) -> tuple[Any, Any]:
    """What quantising targets look at, and what tells accuracy where arithmetic is not fp32.

    Both come from the data set of these runs, if all have the same and it is here; otherwise there are none.
    """
    from prune_cli.latency import calibration, judging

    if not any(target.lossy and not target.missing() for target in targets.values()):
        return None, None
    configs = [run.result["config"]["dataset"] for run in runs]
    if any(config != configs[0] for config in configs):
        log.warning("these runs have different data sets: nothing is quantised; measure them apart")
        return None, None
    try:
        data = _data(configs[0], runs[0].result["config"]["outputs"])
    except (PruneError, OSError) as error:
        log.warning("the data set of these runs is not here: nothing is quantised (%s)", error)
        return None, None
    return calibration(data, targets, runs[0].result["summary"]["seed"]), judging(data)


def _data(config: Mapping[str, Any], outputs: str) -> Data:
    check_targets(config, ())
    dataset = build(config, "dataset")
    require(isinstance(dataset, Dataset), "the run's config describes no data set")
    dataset.check()
    return dataset.load(Path(outputs) / "cache")


def _append(run: Finished, session: Session) -> None:
    result = json.loads(read_sealed(run.folder, "result.json"))
    result["benchmarks"].append(asdict(session))
    amend(run.folder, {"result.json": to_json(result)})


def export_run(run: Finished, kinds: Sequence[str]) -> list[Export]:
    """Write a finished run's network in other forms beside it.

    Raises:
        PruneError: a kind needs a package that is not installed, or gives other outputs than PyTorch.
    """
    kinds = kinds or KINDS
    require_kinds(kinds)
    contents, exports = export(run.pruned, run.shape, kinds)
    result = json.loads(read_sealed(run.folder, "result.json"))
    others = [old for old in result["exports"] if old["kind"] not in kinds]
    result["exports"] = [*others, *(asdict(e) for e in exports)]
    amend(run.folder, {**contents, "result.json": to_json(result)})
    return exports
