"""The tables as files: Markdown for people, CSV for programs."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Sequence
from typing import Any

from prune_cli.report.against import Change, Comparison
from prune_cli.report.choices import BANDS, Measure, fronts, measures, winner
from prune_cli.report.found import SPLITS, Collection
from prune_cli.report.summary import STAGES, Group, Stat, Summary
from prune_cli.report.text import command_line, latency_keys, percent, ratio, seconds
from prune_cli.table import short


def to_csv(summary: Summary) -> bytes:
    """One line per row of the tables, at full precision; fractions are fractions, empty is not known."""
    keys = latency_keys(summary.groups)
    computed = list(dict.fromkeys(target for group in summary.groups for row in group.rows for target in row.computed))
    out = io.StringIO()
    writer: csv.DictWriter[str] | None = None
    for group in summary.groups:
        best = fronts(group)
        for row in (group.dense, *group.rows):
            line: dict[str, Any] = {"dataset": group.network[0], "model": group.network[1], "network": group.title,
                                    "pruner": row.pruner, "setting": row.label, "n": len(row.runs),
                                    "seeds": " ".join(str(run.seed) for run in row.runs)}  # fmt: skip
            for split in SPLITS:
                line |= _spread(f"{split}_accuracy", row.accuracy[split])
            line |= {"params": row.params_count, **_spread("params_ratio", row.params)}
            line |= {"macs": row.macs_count, **_spread("macs_ratio", row.macs)}
            for key in keys:
                found, name = row.latency.get(key), f"{key[0]}/b{key[1]}"
                for field in ("mean", "low", "high"):
                    label = f"latency_ratio/{name}" + ("" if field == "mean" else f"_{field}")
                    line[label] = getattr(found, field, None)
                line[f"latency_ms/{name}"] = None if found is None else found.ms
            for target in computed:
                for split in SPLITS:
                    line |= _spread(f"{split}_accuracy/{target}", row.computed.get(target, {}).get(split))
            line |= {f"seconds_{s}": row.seconds[s].mean if s in row.seconds else None for s in STAGES}
            line["front"] = " ".join(_slug(measure) for measure, rows in best.items() if any(r is row for r in rows))
            line["folders"] = " ".join(run.name for run in row.runs)
            line["command"] = "" if row is group.dense else command_line(row.runs[0].command)
            if writer is None:
                writer = csv.DictWriter(out, list(line), lineterminator="\n")
                writer.writeheader()
            writer.writerow(line)
    return out.getvalue().encode("utf-8", "replace")


def _spread(name: str, value: Stat | None) -> dict[str, float | None]:
    return {name: value.mean if value else None, f"{name}_sd": value.sd if value else None}


def _slug(measure: Measure) -> str:
    return f"{measure.name}/b{measure.batch}" if measure.batch else measure.name


def to_markdown(collection: Collection, summary: Summary, compared: Comparison | None = None) -> bytes:
    lines = ["# Pruning report", ""]
    for group in summary.groups:
        lines += [f"## {escape(group.title)}", "", *_rows(group), "", *_winners(group), ""]
    if summary.groups:
        lines += ["Accuracies are percent, mean ± standard deviation over n seeds. Params, MACs and latency are parts "
                  "of the dense network's; = is no significant difference to it. Seconds are those of pruning and "
                  "fine-tuning (of training for the dense network). The best is chosen on validation.", ""]  # fmt: skip
    lines += [f"- {escape(note)}" for note in summary.notes] + [""] * bool(summary.notes)
    if collection.failures:
        rows = [[f.name, f.what, f.reason, _code(command_line(f.command))]
                for f in collection.failures]  # fmt: skip
        lines += ["## Failed jobs", "", *table(["folder", "job", "reason", "command"], rows, words=4), ""]
    if collection.unread:
        unread = [list(item) for item in collection.unread.items()]
        lines += ["## Not used, or not in full", "", *table(["folder", "reason"], unread, words=2), ""]
    if compared:
        lines += _compared(compared)
    return "\n".join(lines).encode("utf-8", "replace")


def _rows(group: Group) -> list[str]:
    headings = ["method", "setting", "n", "test", "val", "params", "MACs"]
    headings += [f"{target} b{batch}" for target, batch in group.keys] + ["seconds"]
    rows = []
    for row in (group.dense, *group.rows):
        costs = [f"{row.params.mean:.3f}", f"{row.macs.mean:.3f}", *(ratio(row.latency.get(key)) for key in group.keys)]
        if row is group.dense:
            costs = [short(row.params_count), short(row.macs_count)]
            costs += [f"{row.latency[key].ms:.2f} ms" if key in row.latency else "" for key in group.keys]
        accuracy = [percent(row.accuracy[split]).replace("+-", "±") for split in ("test", "val")]
        rows.append([row.pruner, row.label, str(len(row.runs)), *accuracy, *costs, seconds(row)])
    return table(headings, rows, words=2)


def _winners(group: Group) -> list[str]:
    rows = []
    for measure in measures(group.keys):
        cells = []
        for band in BANDS:
            won = winner(group.rows, measure, band)
            test = "" if won is None else f" ({percent(won.best.at('test', measure.target))} test)"
            names = [] if won is None else [won.best.name + test, *(row.name for row in won.ties)]
            cells.append(" = ".join(names) or "-")
        rows.append([measure.title, *(cell.replace("+-", "±") for cell in cells)])
    return table(["best at most", *(f"{band:g} of it" for band in BANDS)], rows, words=5)


def _compared(compared: Comparison) -> list[str]:
    lines = [f"## Against {escape(compared.other)}", "", "Old > new, difference in points: within or beyond the spread "
             "of seeds (accuracy) or the 95% intervals (latency).", ""]  # fmt: skip
    for title, whats, rows in compared.tables:
        shown = [[name, *(_change(changes.get(what)) for what in whats)] for name, changes in rows]
        lines += [*table([title, *whats], shown, words=1), ""]
    for where, names in (("Only there", compared.only_old), ("Only here", compared.only_new)):
        lines += [f"- {where}: {escape('; '.join(f'{group}: {name}' for group, name in names))}"] if names else []
    return [*lines, ""]


def _change(change: Change | None) -> str:
    return (
        ""
        if change is None
        else ", ".join(part for part in (" > ".join(change.steps), change.points, change.verdict) if part)
    )


def table(headings: Sequence[str], rows: Sequence[Sequence[str]], words: int) -> list[str]:
    """A table of GitHub's Markdown; the first `words` columns are text."""
    rules = [":--" if position < words else "--:" for position in range(len(headings))]
    lines = [[escape(heading) for heading in headings], rules]
    lines += [[cell if isinstance(cell, Code) else escape(cell) for cell in row] for row in rows]
    return [f"| {' | '.join(cells)} |" for cells in lines]


def escape(text: str) -> str:
    """Names and reasons as they are, whatever they hold."""
    return re.sub(r"([\\`*_\[\]<>|#~])", r"\\\1", text)


class Code(str):
    """Markdown already."""


def _code(text: str) -> str:
    """In backticks, more of them than the text holds in a row; a table's bars need a backslash even there."""
    if not text:
        return ""
    fence = "`" * (max((len(run) for run in re.findall("`+", text)), default=0) + 1)
    space = " " if "`" in text else ""
    return Code(f"{fence}{space}{text}{space}{fence}".replace("|", "\\|").replace("\n", " "))
