"""Runs become rows: mean and standard deviation over seeds, grouped by data set and dense network. Pure functions."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from prune_cli.report.found import SPLITS, Collection, Key, Run, Timing
from prune_cli.report.settings import Network, labels, network_of, titles

STAGES = ("train", "prune", "finetune", "benchmark")


@dataclass(frozen=True)
class Stat:
    """Mean, and standard deviation with n - 1 (None for one value)."""

    mean: float
    sd: float | None
    n: int


@dataclass(frozen=True)
class Ratio:
    """A row's latency on one target at one batch size, over the dense network's."""

    mean: float  # of its runs' ratios
    low: float  # the lowest and the highest end of its runs' 95% intervals
    high: float
    ms: float
    dense_ms: float
    n: int

    @property
    def equal(self) -> bool:
        """No significant difference."""
        return self.low <= 1 <= self.high


@dataclass(frozen=True)
class Row:
    """Runs that differ in nothing but the seed; or, as the first of a group, the dense networks they began with."""

    pruner: str
    label: str
    runs: tuple[Run, ...]
    accuracy: Mapping[str, Stat]  # val, test
    computed: Mapping[str, Mapping[str, Stat]]  # the same on targets that do not compute in fp32
    params: Stat  # ratio to the dense network
    macs: Stat
    params_count: float
    macs_count: float
    latency: Mapping[Key, Ratio]
    seconds: Mapping[str, Stat]
    older: int = 0  # runs left out because a newer one has the same seed

    def at(self, split: str, target: str = "") -> Stat:
        """Accuracy; on a target whose arithmetic is not fp32, as computed there."""
        return self.computed.get(target, self.accuracy).get(split, self.accuracy[split])

    @property
    def name(self) -> str:
        return f"{self.pruner} {self.label}".strip()


@dataclass(frozen=True)
class Group:
    """A table: one dense network and all that was made of it."""

    network: Network
    title: str
    dense: Row
    rows: tuple[Row, ...]
    keys: tuple[Key, ...] = field(default=())  # targets and batch sizes, as first met


@dataclass(frozen=True)
class Summary:
    groups: tuple[Group, ...]
    notes: tuple[str, ...]  # what a reader should know about these figures


def summarise(collection: Collection, names: Mapping[Path, str] | None = None) -> Summary:
    """
    Args:
        names: label of the settings by folder, where it was found among more runs than these.
    """
    runs = sorted(collection.runs, key=lambda run: (run.dataset, run.model, run.pruner, run.seed, run.created))
    names = labels(runs) if names is None else names
    groups = []
    for network, title in titles(runs).items():
        members = [run for run in runs if network_of(run) == network]
        rows: dict[tuple[str, str], list[Run]] = {}
        for run in members:
            rows.setdefault((run.pruner, names[run.folder]), []).append(run)
        made = sorted((_row(*key, same) for key, same in rows.items()), key=lambda row: (row.pruner, -row.macs.mean))
        keys = tuple(dict.fromkeys(key for row in made for key in row.latency))
        groups.append(Group(network, title, _dense(members), tuple(made), keys))
    return Summary(tuple(groups), tuple(_notes(groups)))


def stat(values: Iterable[float]) -> Stat | None:
    found = list(values)
    if not found:
        return None
    return Stat(statistics.fmean(found), statistics.stdev(found) if len(found) > 1 else None, len(found))


def _sure(values: Iterable[float]) -> Stat:
    found = stat(values)
    assert found is not None
    return found


def _row(pruner: str, label: str, same: Sequence[Run]) -> Row:
    newest = {run.seed: run for run in same}  # in order of `created`
    runs = tuple(newest.values())
    computed: dict[str, dict[str, Stat]] = {}
    for target in dict.fromkeys(target for run in runs for target in run.computed):
        there = {split: stat(run.computed[target][split] for run in runs if split in run.computed.get(target, {}))
                 for split in SPLITS}  # fmt: skip
        computed[target] = {split: found for split, found in there.items() if found}
    return Row(
        pruner=pruner,
        label=label,
        runs=runs,
        accuracy={split: _sure(run.accuracy[split] for run in runs) for split in SPLITS},
        computed=computed,
        params=_sure(run.params / run.params_dense for run in runs),
        macs=_sure(run.macs / run.macs_dense for run in runs),
        params_count=_sure(run.params for run in runs).mean,
        macs_count=_sure(run.macs for run in runs).mean,
        latency={key: _ratio([run.latency[key] for run in runs if key in run.latency])
                 for key in dict.fromkeys(key for run in runs for key in run.latency)},
        seconds={stage: _sure(run.seconds.get(stage, 0.0) for run in runs) for stage in STAGES if stage != "train"},
        older=len(same) - len(runs),
    )  # fmt: skip


def _ratio(timings: Sequence[Timing]) -> Ratio:
    return Ratio(
        mean=statistics.fmean(t.ratio for t in timings),
        low=min(t.low for t in timings),
        high=max(t.high for t in timings),
        ms=statistics.fmean(t.ms for t in timings),
        dense_ms=statistics.fmean(t.dense_ms for t in timings),
        n=len(timings),
    )


def _dense(runs: Sequence[Run]) -> Row:
    """Distinct dense networks count once each, however many runs began with them."""
    by_base: dict[str, list[Run]] = {}
    for run in runs:
        by_base.setdefault(run.base, []).append(run)
    firsts = [same[0] for same in by_base.values()]
    computed: dict[str, dict[str, Stat]] = {}
    for target in dict.fromkeys(target for run in runs for target in run.computed):
        there = {split: stat(statistics.fmean(values) for same in by_base.values() if (values := [
            run.computed[target][f"{split}_dense"] for run in same if f"{split}_dense" in run.computed.get(target, {})
        ])) for split in SPLITS}  # fmt: skip
        computed[target] = {split: found for split, found in there.items() if found}
    latency = {}
    for key in dict.fromkeys(key for run in runs for key in run.latency):
        means = [statistics.fmean(values) for same in by_base.values()
                 if (values := [run.latency[key].dense_ms for run in same if key in run.latency])]  # fmt: skip
        latency[key] = Ratio(1.0, 1.0, 1.0, statistics.fmean(means), statistics.fmean(means), len(means))
    trained = stat(run.dense_seconds for run in firsts if run.dense_seconds is not None)
    return Row(
        pruner="dense",
        label="",
        runs=tuple(firsts),
        accuracy={split: _sure(run.accuracy[f"{split}_dense"] for run in firsts) for split in SPLITS},
        computed=computed,
        params=Stat(1.0, None, len(firsts)),
        macs=Stat(1.0, None, len(firsts)),
        params_count=firsts[0].params_dense,
        macs_count=firsts[0].macs_dense,
        latency=latency,
        seconds={"train": trained} if trained else {},
    )


def _notes(groups: Sequence[Group]) -> list[str]:
    notes = []
    older = sum(row.older for group in groups for row in group.rows)
    if older:
        notes.append(f"{older} older run{'s' * (older > 1)} with the same settings and seed as a newer one: left out.")
    if groups and all(len(row.runs) == 1 for group in groups for row in group.rows):
        notes.append("Every row is a single seed: there is no spread, and a small difference may be chance.")
    for target in dict.fromkeys(key[0] for group in groups for key in group.keys):
        means = sorted({run.targets[target] for group in groups for row in group.rows for run in row.runs
                        if target in run.targets})  # fmt: skip
        if len(means) > 1:
            notes.append(f"{target} was measured in several settings, so its ratios are to be compared with care: "
                         f"{'; '.join(means)}.")  # fmt: skip
    for group in groups:
        missed = [row.name for row in group.rows if any(run.met is False for run in row.runs)]
        if missed:
            notes.append(f"{group.title}: the budget was not met by {'; '.join(missed)}.")
    return notes
