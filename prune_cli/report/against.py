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
    def accuracy(self) -> bool:
        return self.what in SPLITS

    @property
    def steps(self) -> tuple[str, str]:
        """Old and new: accuracies in percent, ratios as they are."""
        scale, digits = (100, 2) if self.accuracy else (1, 3)
        return f"{scale * self.old:.{digits}f}", f"{scale * self.new:.{digits}f}"

    @property
    def points(self) -> str:
        return (
            "" if self.old == self.new else f"{round(100 * (self.new - self.old), 2) + 0.0:+.2f}"
        )  # + 0.0: never -0.00

    @property
    def verdict(self) -> str:
        """Whether the difference lies within the spread or the intervals; nothing where there is neither."""
        if self.old == self.new:
            return "same"
        return "" if self.within is None else "within" if self.within else "beyond"


@dataclass(frozen=True)
class Comparison:
    other: str  # the folder compared with
    changes: Mapping[Name, Mapping[str, Change]]  # by what
    only_old: tuple[Name, ...]
    only_new: tuple[Name, ...]

    @property
    def tables(self) -> list[tuple[str, list[str], list[tuple[str, Mapping[str, Change]]]]]:
        """Per group: its title, what is compared, and by row the changes."""
        found = []
        for title in dict.fromkeys(group for group, _ in self.changes):
            rows = [(name, changes) for (group, name), changes in self.changes.items() if group == title]
            found.append((title, list(dict.fromkeys(what for _, changes in rows for what in changes)), rows))
        return found


def compare(new: Collection, old: Collection) -> Comparison:
    """Settings that tell rows apart are sought among the runs of both, so that names mean the same in both."""
    both = [*new.runs, *old.runs]
    names, networks = labels(both), titles(both)
    here, there = (
        {(networks[group.network], row.name): row
         for group in summarise(side, names).groups for row in (group.dense, *group.rows)}
        for side in (new, old)
    )  # fmt: skip
    changes = {name: {change.what: change for change in _changes(there[name], row)}
               for name, row in here.items() if name in there}  # fmt: skip
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
