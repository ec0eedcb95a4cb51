"""The report as one HTML file: the tables in HTML, the plots drawn by its script from one block of JSON."""

from __future__ import annotations

import base64
import hashlib
import json
import os
from collections import Counter
from collections.abc import Mapping
from datetime import datetime, timezone
from pathlib import Path
from typing import Any
from urllib.parse import quote

from prune_cli.report.against import Comparison
from prune_cli.report.choices import BANDS, measures, winner
from prune_cli.report.found import SPLITS, Collection, Run
from prune_cli.report.summary import Group, Ratio, Row, Stat, Summary
from prune_cli.report.text import command_line
from prune_cli.table import short

SCRIPTS = ("svg.js", "plots.js", "page.js")
# Okabe and Ito's palette without black and yellow, then four more that stay apart from it; the script pairs each with
# a shape of its own.
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#8a5fbf", "#8c8c2b", "#8f8f8f", "#a05a3c")
HERE = Path(__file__).parent


def to_html(collection: Collection, summary: Summary, into: Path, compared: Comparison | None = None) -> bytes:
    """
    Args:
        into: the folder that the page will lie in; links to runs are relative to it.
    """
    from jinja2 import Environment, StrictUndefined
    from markupsafe import Markup

    methods = dict.fromkeys(row.pruner for group in summary.groups for row in group.rows)
    colours = {method: COLOURS[at % len(COLOURS)] for at, method in enumerate(sorted(methods))}
    script = "".join((HERE / name).read_text() for name in SCRIPTS)
    shape = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    shape.filters |= {
        "link": lambda folder: _link(folder, into), "command": command_line, "short": short,
        "percent": lambda value: f"{100 * value:.2f}", "spread": _spread,
    }  # fmt: skip
    page = shape.from_string((HERE / "page.html.j2").read_text()).render(
        root=_name(collection.root),
        written=datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
        collection=collection,
        summary=summary,
        groups=list(enumerate(summary.groups)),
        winners=[_winners(group) for group in summary.groups],
        bands=BANDS,
        single=all(len(row.runs) == 1 for group in summary.groups for row in group.rows),
        made=_made(collection),
        targets=_targets(collection),
        colours=colours,
        compared=compared,
        style=Markup((HERE / "page.css").read_text()),
        script=Markup(script),
        digest=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        data=Markup(_inert(_data(summary, colours))),
    )
    return page.encode("utf-8", "replace")


def _inert(data: Any) -> str:
    """JSON in which nothing can end its element."""
    text = json.dumps(data, allow_nan=False, separators=(",", ":"))
    return text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")


def _link(path: Path, into: Path) -> str:
    """Relative, so that a folder can be moved as a whole; quoted, so that a name is never a scheme."""
    relative = os.path.relpath(path, into)
    return "./" + quote(os.fsencode(relative.replace(os.sep, "/")))


def _name(root: Path) -> str:
    return root.name or root.resolve().name or str(root)


def _spread(value: Stat) -> str:
    return "" if value.sd is None else f"{100 * value.sd:.2f}"


def _made(collection: Collection) -> list[str]:
    """Which hosts and versions, and how many runs each made."""
    shown = ("prune-cli", "torch", "python", "onnxruntime", "openvino")
    counts = Counter(
        f"{run.host}; {', '.join(f'{p} {run.versions[p]}' for p in shown if p in run.versions)}"
        for run in collection.runs
    )
    return [f"{what}: {count} run{'s' * (count > 1)}" for what, count in counts.most_common()]


def _targets(collection: Collection) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for run in collection.runs:
        for target, meaning in run.targets.items():
            if meaning not in found.setdefault(target, []):
                found[target].append(meaning)
    return found


def _winners(group: Group) -> list[tuple[str, str, list[Any]]]:
    return [
        (measure.title, measure.target, [winner(group.rows, measure, band) for band in BANDS])
        for measure in measures(group.keys)
    ]


def _data(summary: Summary, colours: Mapping[str, str]) -> dict[str, Any]:
    """What the script draws; figures with as many digits as a plot can show."""
    runs: list[dict[str, Any]] = []
    groups = [_group(group, runs) for group in summary.groups]
    methods = [{"name": name, "colour": colour} for name, colour in colours.items()]
    return {"methods": methods, "groups": groups, "runs": runs}


def _group(group: Group, runs: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "title": group.title,
        "keys": [[f"{target}/b{batch}", f"{target}, batch {batch}", target] for target, batch in group.keys],
        "rows": [_row(row, runs, dense=row is group.dense) for row in (group.dense, *group.rows)],
    }


def _row(row: Row, runs: list[dict[str, Any]], dense: bool) -> dict[str, Any]:
    first = len(runs)
    if not dense:
        runs += [_run(run, row) for run in row.runs]
    return {
        "method": row.pruner,
        "label": row.label,
        "dense": dense,
        "n": len(row.runs),
        "accuracy": {split: _stat(row.accuracy[split]) for split in SPLITS},
        "computed": {target: {split: _stat(value) for split, value in both.items()}
                     for target, both in row.computed.items()},
        "params": _stat(row.params),
        "macs": _stat(row.macs),
        "latency": {f"{target}/b{batch}": _ratio(value) for (target, batch), value in row.latency.items()},
        "seconds": {stage: _round(value.mean) for stage, value in row.seconds.items()},
        "command": "" if dense else command_line(row.runs[0].command),
        "runs": list(range(first, len(runs))),
    }  # fmt: skip


def _run(run: Run, row: Row) -> dict[str, Any]:
    return {
        "method": row.pruner,
        "title": f"{row.name}, seed {run.seed}",
        "layers": [[layer.name, layer.kept, layer.size] for layer in run.layers],
        "dropped": list(run.dropped),
        "curves": {name: [[epoch, *map(_round, values)] for epoch, *values in curve]
                   for name, curve in run.curves.items()},
        "cut": _round(run.accuracy["val_cut"]),
        "params": _round(run.params / run.params_dense),
        "macs": _round(run.macs / run.macs_dense),
    }  # fmt: skip


def _stat(value: Stat) -> list[float | None]:
    return [_round(value.mean), None if value.sd is None else _round(value.sd)]


def _ratio(value: Ratio) -> list[float]:
    return [_round(x) for x in (value.mean, value.low, value.high, value.ms, value.dense_ms)] + [value.n]


def _round(value: float) -> float:
    return float(f"{value:.5g}")
