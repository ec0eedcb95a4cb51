"""The table at the end of a run."""

from __future__ import annotations

import io

from prune_cli.record import Accuracy, Measure, Record


def render(record: Record) -> str:
    """Dense, pruned and fine-tuned side by side, for a terminal of any width."""
    from rich.console import Console
    from rich.table import Table

    summary = record.summary
    budget = record.config["budget"]
    title = f"{summary['pruner']}  {summary['model']}  {summary['dataset']}  seed {summary['seed']}"
    table = Table(title=title, title_justify="left", caption_justify="left")
    dense, pruned = record.measures["dense"], record.measures["pruned"]
    table.add_column("")
    for heading in ("test", "val", "params", "MACs", *_latency_headings(dense), "file"):
        table.add_column(heading, justify="right")
    labels = {"dense": "dense", "cut": "pruned", "reestimated": "re-estimated", "finetuned": "fine-tuned"}
    for name, accuracy in record.accuracy.items():
        table.add_row(labels[name], *_accuracy(accuracy), *_cost(dense if name == "dense" else pruned, dense))
    table.caption = (
        f"budget {budget['metric']} <= {budget['keep']:g}, kept {summary['budget_kept']:.3f}"
        f"{'' if summary['budget_kept'] <= budget['keep'] else ' (not met)'}\nlatency: median ms on "
        + ", ".join(
            f"{n} ({h['threads']} thread{'s' * (h['threads'] > 1)}, {h['dtype']})" for n, h in record.hardware.items()
        )
        + ", ratio to dense with its 95% interval"
    )
    console = Console(width=130, file=io.StringIO())
    with console.capture() as captured:
        console.print(table)
    return captured.get()


def _latency_headings(dense: Measure) -> list[str]:
    return [f"{target} b{latency.batch}" for target, rows in dense.latency.items() for latency in rows]


def _accuracy(accuracy: Accuracy) -> list[str]:
    return [f"{100 * accuracy.test:.2f}%", f"{100 * accuracy.val:.2f}%"]


def _cost(cost: Measure, dense: Measure) -> list[str]:
    cells = [
        _with_ratio(short(cost.params), cost.params / dense.params),
        _with_ratio(short(cost.macs), cost.macs / dense.macs),
    ]
    for rows in cost.latency.values():
        for row in rows:
            interval = "" if cost is dense else f"\n{row.ratio:.2f} [{row.ratio_low:.2f}-{row.ratio_high:.2f}]"
            cells.append(f"{row.median_ms:.2f}{interval}")
    return [*cells, f"{cost.file_bytes / 1e6:.2f} MB"]


def _with_ratio(text: str, ratio: float) -> str:
    return text if ratio == 1 else f"{text}\n{ratio:.3f}"


def short(number: float) -> str:
    """12 345 678 as 12.35M."""
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if number >= size:
            return f"{number / size:.2f}{letter}"
    return f"{number:.0f}"
