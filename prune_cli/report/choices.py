"""Which rows no other row beats, and which method wins at which cost. Both are decided on validation accuracy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from prune_cli.report.found import Key
from prune_cli.report.summary import Group, Row, Stat

BANDS = (0.75, 0.5, 0.35, 0.25)  # parts of the dense network's cost
COUNTED = ("macs", "params")


@dataclass(frozen=True)
class Measure:
    """A cost that rows are compared at: MACs, parameters, or latency on a target at a batch size."""

    name: str  # macs | params | target
    batch: int = 0

    @property
    def title(self) -> str:
        return {"macs": "MACs", "params": "parameters"}.get(self.name, f"{self.name} b{self.batch}")

    @property
    def target(self) -> str:
        return self.name if self.batch else ""

    def of(self, row: Row) -> float | None:
        """The part of the dense network's cost."""
        if self.batch:
            ratio = row.latency.get((self.name, self.batch))
            return None if ratio is None else ratio.mean
        return {"macs": row.macs, "params": row.params}[self.name].mean


@dataclass(frozen=True)
class Winner:
    """The best row of a band, and the rows of other methods that cannot be told apart from it."""

    best: Row
    ties: tuple[Row, ...]
    spread: bool  # some of the rows have several seeds


def measures(keys: Sequence[Key]) -> list[Measure]:
    return [*(Measure(name) for name in COUNTED), *(Measure(*key) for key in keys)]


def front(points: Sequence[tuple[float, float]]) -> list[int]:
    """Of (cost, gain): the positions that no other point beats in one and equals in the other, cheapest first."""
    best = float("-inf")
    found: list[int] = []
    for position in sorted(range(len(points)), key=lambda at: (points[at][0], -points[at][1])):
        cost, gain = points[position]
        if gain > best or (found and points[found[-1]] == (cost, gain)):
            found.append(position)
            best = gain
    return found


def fronts(group: Group) -> dict[Measure, list[Row]]:
    """By cost: the rows that no other row and not the dense network beats."""
    found = {}
    for measure in measures(group.keys):
        rows = [row for row in (group.dense, *group.rows) if measure.of(row) is not None]
        points = [(measure.of(row) or 0.0, row.at("val", measure.target).mean) for row in rows]
        found[measure] = [rows[at] for at in front(points) if rows[at] is not group.dense]
    return found


def winner(rows: Sequence[Row], measure: Measure, band: float) -> Winner | None:
    """The best of the rows that cost at most this part of the dense network; None if there is no such row."""
    best_of: dict[str, Row] = {}
    for row in rows:
        cost = measure.of(row)
        if cost is not None and cost <= band + 1e-9:
            rival = best_of.get(row.pruner)
            if rival is None or _val(row, measure).mean > _val(rival, measure).mean:
                best_of[row.pruner] = row
    if not best_of:
        return None
    ranked = sorted(best_of.values(), key=lambda row: -_val(row, measure).mean)
    best = ranked[0]
    ties = tuple(row for row in ranked[1:] if _tie(_val(best, measure), _val(row, measure)))
    return Winner(best, ties, any(_val(row, measure).sd is not None for row in ranked))


def _val(row: Row, measure: Measure) -> Stat:
    return row.at("val", measure.target)


def _tie(best: Stat, other: Stat) -> bool:
    """Within one standard deviation, the larger of the two; without any only what is equal ties."""
    return best.mean - other.mean <= max(best.sd or 0.0, other.sd or 0.0)
