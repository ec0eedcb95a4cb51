"""Tables for the terminal: that of a run, and that of many networks side by side."""

from __future__ import annotations

import io
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from prune_cli.record import Accuracy, Latency, LayerTime, Measure, Record, Session

STAGES = {"dense": "dense", "cut": "pruned", "reestimated": "re-estimated", "finetuned": "fine-tuned"}


def render(record: Record) -> str:
    """A run: accuracy and size by stage, then latency by target."""
    summary = record.summary
    title = f"{summary['pruner']}  {summary['model']}  {summary['dataset']}  seed {summary['seed']}"
    dense, pruned = record.measures["dense"], record.measures["pruned"]
    stages = _table(title, "", "test", "val", "params", "", "MACs", "", "file", "")
    for name, accuracy in record.accuracy.items():
        stages.add_row(STAGES[name], *_accuracy(accuracy), *_costs(dense if name == "dense" else pruned, dense))
    asked = (
        "" if summary["budget_keep"] is None else f"budget {summary['budget_metric']} <= {summary['budget_keep']:g}, "
    )
    met = " (not met)" if summary["budget_met"] is False else ""
    stages.caption = f"{asked}kept {summary['budget_kept']:.3f} of {summary['budget_metric']}{met}"
    session = record.benchmarks[0]
    files = [f"{', '.join(e.files)}: {e.bytes / 1e6:.2f} MB, outputs differ from PyTorch's by {e.error:.0e}"
             for e in record.exports]  # fmt: skip
    return "\n".join([_text(stages), _text(_latencies(session)), *_wrapped([*files, *_notes(session)])])


def _latencies(session: Session) -> Any:
    """One line per target and batch size: dense against pruned."""
    table = _table("", "latency, ms", "batch", "dense", "pruned", "ratio", "95% interval", "")
    for target, rows in session.latency.get("pruned", {}).items():
        name = f"{target} ({_setting(session.hardware[target])})"
        for dense, pruned in zip(session.latency["dense"][target], rows, strict=True):
            interval = f"{pruned.ratio_low:.2f}-{pruned.ratio_high:.2f}"
            table.add_row(name, str(dense.batch), f"{dense.median_ms:.2f}", f"{pruned.median_ms:.2f}",
                          f"{pruned.ratio:.2f}", interval, pruned.verdict)  # fmt: skip
            name = ""
    return table


def _notes(session: Session) -> list[str]:
    """Accuracy where arithmetic is not fp32, where time went, and what was not measured."""
    lines = []
    for target in session.accuracy.get("pruned", {}):
        dense, pruned = (session.accuracy[network][target] for network in ("dense", "pruned"))
        lines.append(f"{target}: as computed there, test is {_percent(dense)} dense, {_percent(pruned)} pruned")
    for target, by_batch in session.layers.get("pruned", {}).items():
        lines += [f"{target} {batch}: {where_time_goes(layers)}" for batch, layers in by_batch.items()]
    lines += [f"{target} was not measured: {reason}" for target, reason in session.missing.items()]
    return lines + [f"{target} FAILED: {reason}" for target, reason in session.failed.items()]


def where_time_goes(layers: Sequence[LayerTime], count: int = 3) -> str:
    """In words: how the time of layers with multiply-adds fell, how the rest did, and which layers lag behind most."""
    heavy = [layer for layer in layers if layer.dense_macs and layer.dense_ms]
    if not heavy:
        return "the runtime does not tell its layers apart"
    rest = [layer for layer in layers if not layer.dense_macs]
    macs = sum(layer.pruned_macs for layer in heavy) / sum(layer.dense_macs for layer in heavy)
    before, after = sum(layer.dense_ms for layer in heavy), sum(layer.pruned_ms for layer in heavy)
    text = f"convolutions keep {macs:.2f} of their MACs and {after / before:.2f} of their time"
    whole = sum(layer.dense_ms for layer in layers)
    others = sum(layer.dense_ms for layer in rest)
    if others > 0.02 * whole:
        text += f"; all else, {100 * others / whole:.0f}% of the dense time, {_part(rest, others):.2f} of its time"
    lag = {layer: layer.pruned_ms - layer.dense_ms * layer.pruned_macs / layer.dense_macs for layer in heavy}
    worst = sorted((layer for layer in heavy if lag[layer] > 0.005 * whole), key=lag.__getitem__, reverse=True)[:count]
    named = (f"{y.layer} (MACs {y.pruned_macs / y.dense_macs:.2f}, time {y.pruned_ms / y.dense_ms:.2f})" for y in worst)
    return text + ("; furthest behind: " + ", ".join(named) if worst else "")


def _part(layers: Sequence[LayerTime], whole: float) -> float:
    return sum(layer.pruned_ms for layer in layers) / whole


@dataclass(frozen=True)
class Row:
    """A network in a table of many."""

    name: str
    test: float | None  # accuracy, where it is known
    measure: Measure
    latency: Mapping[str, Sequence[Latency]]  # by target


def compare(groups: Mapping[str, Sequence[Row]], session: Session) -> str:
    """Many networks, grouped by their dense one, which comes first: latency in ms, its ratio, 95% interval."""
    targets = [(target, batch) for target, h in session.hardware.items() for batch in h["batches"]]
    headings = [f"{target}\nb{batch}" for target, batch in targets]
    table = _table("", "", "test", "params", "MACs", *headings)
    for rows in groups.values():
        dense = rows[0].measure
        for row in rows:
            cells = [_latency(latency) for target in session.hardware for latency in row.latency[target]]
            ratios = (row.measure.params / dense.params, row.measure.macs / dense.macs)
            counts = [short(count) if row is rows[0] else f"{ratio:.3f}"
                      for count, ratio in zip((row.measure.params, row.measure.macs), ratios, strict=True)]  # fmt: skip
            test = "" if row.test is None else f"{100 * row.test:.2f}%"
            table.add_row(row.name, test, *counts, *cells)
        table.add_section()
    lines = [f"{target}: {_setting(h)}" for target, h in session.hardware.items()]
    lines += [f"{target} was not measured: {reason}" for target, reason in session.missing.items()]
    lines += [f"{target} FAILED: {reason}" for target, reason in session.failed.items()]
    for network, by_target in session.layers.items():
        for target, by_batch in by_target.items():
            lines += [f"{network}, {target} {b}: {where_time_goes(layers)}" for b, layers in by_batch.items()]
    return "\n".join([_text(table), *_wrapped(lines)])


def _wrapped(lines: Sequence[str]) -> list[str]:
    return [textwrap.fill(line, 120, subsequent_indent="  ", break_on_hyphens=False) for line in lines]


def _latency(latency: Latency) -> str:
    """Three short lines, so that many targets fit beside each other."""
    if not latency.verdict:
        return f"{latency.median_ms:.2f}"
    equal = " =" if latency.verdict.startswith("no") else ""
    return f"{latency.median_ms:.2f}\n{latency.ratio:.2f}{equal}\n{latency.ratio_low:.2f}-{latency.ratio_high:.2f}"


def _setting(hardware: Mapping[str, Any]) -> str:
    threads = f"{hardware['threads']} thread{'s' * (hardware['threads'] > 1)}"
    layout = "" if hardware["layout"] == "nchw" else f", {hardware['layout']}"
    return f"{hardware['runtime']}, {threads}, {hardware['dtype']}{layout}"


def _accuracy(accuracy: Accuracy) -> list[str]:
    return [_percent(accuracy), f"{100 * accuracy.val:.2f}%"]


def _percent(accuracy: Accuracy) -> str:
    return f"{100 * accuracy.test:.2f}%"


def _costs(cost: Measure, dense: Measure) -> list[str]:
    cells = []
    for field, shown in (("params", short(cost.params)), ("macs", short(cost.macs)),
                         ("file_bytes", f"{cost.file_bytes / 1e6:.2f} MB")):  # fmt: skip
        ratio = getattr(cost, field) / getattr(dense, field)
        cells += [shown, "" if cost is dense else f"{ratio:.3f}"]
    return cells


def short(number: float) -> str:
    """12 345 678 as 12.35M."""
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if number >= size:
            return f"{number / size:.2f}{letter}"
    return f"{number:.0f}"


def sections(title: str, headings: Sequence[str], parts: Sequence[Sequence[Sequence[str]]], words: int = 1) -> str:
    """A table in parts with a line between them; the first `words` columns are text. Cells are shown as they are."""
    from rich.text import Text

    table = _table(title, *headings)
    for position, column in enumerate(table.columns):
        column.justify = "left" if position < words else "right"
    for rows in parts:
        for cells in rows:
            table.add_row(*(Text(cell) for cell in cells))
        table.add_section()
    return _text(table).rstrip()


def _table(title: str, *headings: str) -> Any:
    """The first column is text, the others are numbers."""
    from rich import box
    from rich.table import Table

    table = Table(title=title or None, title_justify="left", caption_justify="left", box=box.SIMPLE_HEAD)
    for position, heading in enumerate(headings):
        table.add_column(heading, justify="right" if position else "left", no_wrap=True)
    return table


def _text(table: Any) -> str:
    from rich.console import Console

    console = Console(width=400, file=io.StringIO())
    with console.capture() as captured:
        console.print(table)
    return "\n".join(line.rstrip() for line in captured.get().strip("\n").splitlines())
