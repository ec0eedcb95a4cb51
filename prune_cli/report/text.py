"""The tables in the terminal."""

from __future__ import annotations

import shlex
import textwrap
from collections.abc import Sequence
from pathlib import PurePath

from prune_cli.report.against import Change, Comparison
from prune_cli.report.found import Collection, Key
from prune_cli.report.summary import Group, Ratio, Row, Stat, Summary
from prune_cli.table import sections, short


def command_line(words: Sequence[str]) -> str:
    """As one would type it: `prune-run pruner=filter seed=1`."""
    return shlex.join([PurePath(words[0]).name, *words[1:]]) if words else ""


def percent(value: Stat | None) -> str:
    """`91.20`, or with several seeds `91.20 +- 0.31`."""
    if value is None:
        return ""
    return f"{100 * value.mean:.2f}" + ("" if value.sd is None else f" +- {100 * value.sd:.2f}")


def ratio(value: Ratio | None) -> str:
    """`0.71`, or `0.98 =` where the interval holds 1."""
    return "" if value is None else f"{value.mean:.2f}{' =' if value.equal else ''}"


def seconds(row: Row) -> str:
    """Of training for the dense network, else of pruning and fine-tuning."""
    told = [row.seconds[stage].mean for stage in ("train", "prune", "finetune") if stage in row.seconds]
    return f"{sum(told):.0f}" if sum(told) >= 10 else f"{sum(told):.1f}" if told else ""


def latency_keys(groups: Sequence[Group]) -> list[Key]:
    return list(dict.fromkeys(key for group in groups for key in group.keys))


def tables(summary: Summary) -> str:
    """One table per data set and network, the dense network first."""
    parts = [_table(group) for group in summary.groups]
    if any(value.equal for group in summary.groups for row in group.rows for value in row.latency.values()):
        parts.append("= no significant difference to the dense network")
    return "\n\n".join([*parts, *(_wrap(note) for note in summary.notes)])


def _table(group: Group) -> str:
    keys = group.keys
    headings = ["method", "setting", "n", "test %", "val %", "params", "MACs"]
    headings += [f"{target}\nb{batch}" for target, batch in keys] + ["seconds"]
    rows = []
    for row in (group.dense, *group.rows):
        if row is group.dense:
            costs = [short(row.params_count), short(row.macs_count)]
            costs += [f"{row.latency[key].ms:.2f} ms" if key in row.latency else "" for key in keys]
        else:
            costs = [f"{row.params.mean:.3f}", f"{row.macs.mean:.3f}"]
            costs += [ratio(row.latency.get(key)) for key in keys]
        split = [percent(row.accuracy["test"]), percent(row.accuracy["val"])]
        rows.append([row.pruner, row.label, str(len(row.runs)), *split, *costs, seconds(row)])
    return sections(group.title, headings, [rows[:1], rows[1:]], words=2)


def problems(collection: Collection) -> str:
    """Failed jobs, and results that cannot be used."""
    lines = []
    if collection.failures:
        count = len(collection.failures)
        lines.append(f"{count} job{'s' * (count > 1)} failed:")
        for failure in collection.failures:
            lines.append(_wrap(f"{failure.name}: {failure.reason}", "  "))
            lines += [f"    {command_line(failure.command)}"] if failure.command else []
    if collection.unread:
        lines.append("not used, or not in full:")
        lines += [_wrap(f"{name}: {reason}", "  ") for name, reason in collection.unread.items()]
    return "\n".join(lines)


def comparison(compared: Comparison) -> str:
    """Differences to another folder: old, new, difference in points."""
    lines = [f"against {compared.other}: old > new, difference in points, within or beyond spread or intervals"]
    for title, whats, rows in compared.tables:
        shown = [[name, *(_change(changes.get(what)) for what in whats)] for name, changes in rows]
        lines += ["", sections(title, ["", *whats], [shown])]
    lines += [""] if compared.changes else ["no row is in both"]
    for where, names in ((f"only in {compared.other}", compared.only_old), ("only here", compared.only_new)):
        lines += [_wrap(f"{where}: {'; '.join(f'{group}: {name}' for group, name in names)}")] if names else []
    return "\n".join(lines)


def _change(change: Change | None) -> str:
    return "" if change is None else f"{' > '.join(change.steps)}\n{f'{change.points} {change.verdict}'.strip()}"


def _wrap(text: str, indent: str = "") -> str:
    return textwrap.fill(
        text,
        120,
        initial_indent=indent,
        subsequent_indent=f"{indent}  ",
        break_on_hyphens=False,
        break_long_words=False,
    )
