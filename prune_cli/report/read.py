"""A run's record becomes a `Run`, every field checked: whoever uses it need not doubt it."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from prune_cli.errors import PruneError, require
from prune_cli.files import read_sealed
from prune_cli.record import SCHEMA
from prune_cli.report.found import SPLITS, Curve, Key, Layer, Run, Timing


def run_of(folder: Path, name: str, unread: dict[str, str]) -> tuple[str, Run]:
    """A finished run and what identifies it, wherever it is linked to.

    Args:
        name: of the folder, as it is shown.
        unread: is told of files without which the run can be used all the same.

    Raises:
        PruneError, ValueError, KeyError, TypeError, AttributeError: the record is damaged, or not one of this version.
    """
    result = json.loads(read_sealed(folder, "result.json"), parse_constant=_refuse)
    schema = result.get("schema")
    require(schema == SCHEMA, f"written by another version of this program (schema {schema}, not {SCHEMA})")
    summary, plan, base = result["summary"], result["plan"], result["base"]
    layers, dropped = _layers(folder, plan, name, unread)
    sessions = sorted(result["benchmarks"][1:], key=lambda session: str(session["created"]))
    sessions = [*result["benchmarks"][:1], *sessions]
    latency, targets, computed = _benchmarks(sessions)
    keep = summary["budget_keep"]
    fit = base.get("fit") or {}
    ends = {"dense": "_dense", "cut": "_cut", "finetuned": ""}
    accuracy = {
        f"{split}{end}": _number(summary[f"{split}_accuracy_{stage}"])
        for split in SPLITS
        for stage, end in ends.items()
    }
    run = Run(
        folder=folder,
        name=name,
        created=line(result["created"]),
        dataset=line(summary["dataset"]),
        model=line(summary["model"]),
        pruner=line(summary["pruner"]),
        seed=_whole(summary["seed"]),
        keep=None if keep is None else _number(keep),
        metric=line(summary["budget_metric"]),
        met=summary["budget_met"],
        settings=dict(_flat(result["config"])),
        command=words(result["command"]),
        accuracy=accuracy,
        computed=computed,
        **{f"{cost}{end}": _whole(summary[f"{cost}_{network}"])
           for cost in ("params", "macs") for network, end in (("dense", "_dense"), ("pruned", ""))},
        base=str(base["identity"]),
        latency=latency,
        targets=targets,
        seconds={line(stage): _number(seconds) for stage, seconds in result["seconds"].items()},
        dense_seconds=_number(fit["seconds"]) if fit else None,
        layers=layers,
        dropped=dropped,
        curves={"train": _curve(fit), "finetune": _curve(result["finetune"] or {})},
        host=_host(result["host"]),
        versions={str(package): line(version) for package, version in result["versions"].items()},
    )  # fmt: skip
    require(run.params_dense > 0 and run.macs_dense > 0, "its dense network costs nothing")
    return str(result.get("identity") or folder.resolve()), run


def _benchmarks(
    sessions: list[dict[str, Any]],
) -> tuple[dict[Key, Timing], dict[str, str], dict[str, dict[str, float]]]:
    """The latest figures of each target and batch; other hosts than the run's own are targets of their own."""
    latency: dict[Key, Timing] = {}
    targets: dict[str, str] = {}
    computed: dict[str, dict[str, float]] = {}
    own = sessions[0]["host"].get("name") if sessions else None
    for session in sessions:
        host = session["host"].get("name")
        there = "" if host == own else f" @ {line(host)}"
        pairs = session["latency"]
        for target, rows in pairs.get("pruned", {}).items():
            name = line(target) + there
            hardware = session["hardware"][target]
            targets[name] = ", ".join(
                [line(hardware["runtime"]), f"{hardware['threads']} thread{'s' * (hardware['threads'] != 1)}",
                 line(hardware["dtype"]), line(hardware["layout"]), _host(session["host"])]
            )  # fmt: skip
            dense = {_whole(row["batch"]): row for row in pairs["dense"][target]}
            for row in rows:
                figures = [row["median_ms"], dense[_whole(row["batch"])]["median_ms"]]
                figures += [row["ratio"], row["ratio_low"], row["ratio_high"]]
                latency[name, _whole(row["batch"])] = Timing(*map(_number, figures))
        for target in session["accuracy"].get("pruned", {}):
            found = {f"{split}{end}": _number(session["accuracy"][network][target][split])
                     for network, end in (("pruned", ""), ("dense", "_dense"))
                     if target in session["accuracy"].get(network, {}) for split in SPLITS}  # fmt: skip
            computed[line(target) + there] = found
    return latency, targets, computed


def _layers(
    folder: Path, plan: Mapping[str, Any], name: str, unread: dict[str, str]
) -> tuple[tuple[Layer, ...], tuple[str, ...]]:
    """Channels by group. Without a readable plan.json only the groups that were cut are known, and not how wide."""
    kept = {str(edit["group"]): len(edit["keep"]) for edit in plan["edits"] if "group" in edit}
    dropped = tuple(line(edit["drop"]) for edit in plan["edits"] if "drop" in edit)
    try:
        sizes = json.loads(read_sealed(folder, "plan.json"))["sizes"]
        layers = []
        for group, size in sizes.items():
            gone = any(group == unit or group.startswith(f"{unit}.") for unit in dropped)
            layers.append(Layer(line(group), 0 if gone else kept.get(group, _whole(size)), _whole(size)))
    except (PruneError, ValueError, KeyError, TypeError, AttributeError) as error:
        unread[f"{name}/plan.json"] = line(f"the run counts, its channels by layer are not shown: {error}")
        return (), dropped
    return tuple(layers), dropped


def _curve(fit: Mapping[str, Any]) -> Curve:
    return tuple(
        (_whole(e["epoch"]), _number(e["train_loss"]), _number(e["val_accuracy"])) for e in fit.get("curve", ())
    )


def _host(host: Mapping[str, Any]) -> str:
    cores = host.get("cores")
    parts = [host.get("name"), host.get("cpu"), f"{cores} core{'s' * (cores != 1)}" if cores else None]
    return line(", ".join(str(part) for part in parts if part))


def _flat(config: Any, path: str = "") -> Iterator[tuple[str, str]]:
    if isinstance(config, Mapping):
        for key, value in config.items():
            yield from _flat(value, f"{path}.{key}" if path else str(key))
    elif isinstance(config, list):
        yield path, f"[{','.join(str(value) for value in config)}]"
    else:
        yield path, "null" if config is None else str(config).lower() if isinstance(config, bool) else line(config)


def _number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError(f"{value!r} is not a number")
    return float(value)


def _whole(value: Any) -> int:
    if type(value) is not int or not 0 <= value < 2**62:
        raise ValueError(f"{value!r} is not a whole number")
    return value


def words(value: Any) -> tuple[str, ...]:
    """A command."""
    return tuple(str(word) for word in value) if isinstance(value, list) else ()


def _refuse(word: str) -> None:
    raise ValueError(f"{word} is not a number")


def line(text: Any) -> str:
    """As one line that any terminal and any file can show."""
    whole = " ".join(str(text).split())
    return shown("".join(letter for letter in whole if letter.isprintable() or letter == " "))


def shown(path: str) -> str:
    return os.fsencode(path).decode("utf-8", "replace") if any("\ud800" <= c <= "\udfff" for c in path) else path
