"""What a pruner decides, as data: which channels stay, which are merged, which units go.

A plan prints, compares, survives JSON and can be replayed on any copy of the dense network. It holds no tensor.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from prune_cli.errors import PruneError, require


@dataclass(frozen=True)
class Width:
    """Keep some channels of a group and, if asked, add the others to them in whatever reads the group."""

    group: str
    keep: tuple[int, ...]  # (K) surviving channels, ascending
    into: tuple[int, ...] | None = None  # (C) slot in `keep` that each old channel is added to, -1 = nowhere


@dataclass(frozen=True)
class Drop:
    """A unit, whose input and output have the same shape, becomes the identity."""

    unit: str


Edit = Width | Drop


@dataclass(frozen=True)
class Plan:
    """The edits, the modules that start afresh after them, and figures about the decision worth keeping."""

    edits: tuple[Edit, ...] = ()
    fresh: tuple[str, ...] = ()  # modules whose parameters are initialised anew after the cut
    notes: Mapping[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        lines = [f"drop  {e.unit}" if isinstance(e, Drop) else _width_line(e) for e in self.edits]
        lines += [f"fresh {name}" for name in self.fresh]
        return "\n".join(lines) or "no edits"

    def to_json(self) -> dict[str, Any]:
        """The public form: `{"edits": [{"group", "keep"[, "into"]} | {"drop"}], "fresh": [...], "notes": {...}}`."""
        return {
            "edits": [_edit_to_json(edit) for edit in self.edits],
            "fresh": list(self.fresh),
            "notes": dict(self.notes),
        }

    @staticmethod
    def from_json(value: Any) -> Plan:
        """Read back what `to_json` gave.

        Raises:
            PruneError: the value is not a plan.
        """
        require(isinstance(value, dict) and isinstance(value.get("edits"), list), "not a plan: it has no list of edits")
        try:
            edits = tuple(_edit_from_json(edit) for edit in value["edits"])
            fresh = tuple(str(name) for name in value.get("fresh", ()))
        except (KeyError, TypeError, ValueError) as error:
            raise PruneError(f"not a plan: an edit cannot be read ({error!r})") from error
        return Plan(edits, fresh, value.get("notes", {}))


def _width_line(edit: Width) -> str:
    verb = "keep " if edit.into is None else "merge"
    return f"{verb} {edit.group}: {len(edit.keep)} channels {_ranges(edit.keep)}"


def _ranges(numbers: tuple[int, ...]) -> str:
    """`(0, 1, 2, 5)` as `0-2 5`."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    return " ".join(f"{run[0]}-{run[-1]}" if len(run) > 1 else str(run[0]) for run in runs)


def _edit_to_json(edit: Edit) -> dict[str, Any]:
    if isinstance(edit, Drop):
        return {"drop": edit.unit}
    merged = {} if edit.into is None else {"into": list(edit.into)}
    return {"group": edit.group, "keep": list(edit.keep), **merged}


def _edit_from_json(value: dict[str, Any]) -> Edit:
    if "drop" in value:
        return Drop(str(value["drop"]))
    into = value.get("into")
    return Width(str(value["group"]), _whole(value["keep"]), None if into is None else _whole(into))


def _whole(numbers: Any) -> tuple[int, ...]:
    if any(type(number) is not int for number in numbers):
        raise ValueError("channel numbers must be whole")
    return tuple(numbers)
