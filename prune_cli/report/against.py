"""Two folders side by side: the rows that both have, with their differences, and those that only one has."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from prune_cli.report.choices import Measure
from prune_cli.report.found import SPLITS, Collection
from prune_cli.report.settings import labels, titles
from prune_cli.report.summary import Ratio, Row, Stat, summarise

Name = tuple[str, str]  # group and row


@dataclass(frozen=True)
class Change:
    """One figure of a row, in both folders."""

    what: str  # val, test: fractions; MACs and targets: ratios to the dense network
    old: float
    new: float
    within: bool | None  # the spread or the intervals; None where there is none to compare with

    @property
    def difference(self) -> float:
        return self.new - self.old

    @property
    def accuracy(self) -> bool:
        return self.what in SPLITS

    @property
    def verdict(self) -> str:
        if self.old == self.new:
            return "the same"
        if self.within is None:
            return "no spread known" if self.accuracy else "differs"
        around = "spread" if self.accuracy else "intervals"
        return f"within the {around}" if self.within else f"beyond the {around}"


@dataclass(frozen=True)
class Comparison:
    other: str  # the folder compared with
    changes: Mapping[Name, tuple[Change, ...]]
    only_old: tuple[Name, ...]
    only_new: tuple[Name, ...]


def compare(new: Collection, old: Collection) -> Comparison:
    """Settings that tell rows apart are sought among the runs of both, so that names mean the same in both."""
    both = [*new.runs, *old.runs]
    names, networks = labels(both), titles(both)
    here, there = (
        {(networks[group.network], row.name): row
         for group in summarise(side, names).groups for row in (group.dense, *group.rows)}
        for side in (new, old)
    )  # fmt: skip
    changes = {name: tuple(_changes(there[name], row)) for name, row in here.items() if name in there}
    return Comparison(
        str(old.root),
        changes,
        tuple(name for name in there if name not in here),
        tuple(name for name in here if name not in there),
    )


def _changes(old: Row, new: Row) -> list[Change]:
    changes = [_stat(split, old.accuracy[split], new.accuracy[split]) for split in SPLITS]
    if new.pruner != "dense":
        changes.append(_stat("MACs", old.macs, new.macs))
        changes += [_ratio(Measure(*key).title, old.latency[key], ratio) for key, ratio in new.latency.items()
                    if key in old.latency]  # fmt: skip
    return changes


def _stat(what: str, old: Stat, new: Stat) -> Change:
    spread = None if old.sd is None or new.sd is None else max(old.sd, new.sd)
    return Change(what, old.mean, new.mean, None if spread is None else abs(new.mean - old.mean) <= spread)


def _ratio(what: str, old: Ratio, new: Ratio) -> Change:
    return Change(what, old.mean, new.mean, old.low <= new.high and new.low <= old.high)
