"""Folders of finished runs as the pipeline would leave them, without training anything."""

import json
from dataclasses import replace

from prune_cli.files import seal, to_json
from prune_cli.record import Accuracy, Base, Epoch, Fit, Latency, Measure, Record, Session

HOST = {"name": "bench", "cpu": "AMD EPYC", "cores": 2, "memory_gb": 25.3, "system": "Linux"}
VERSIONS = {"python": "3.11.7", "prune-cli": "0.1.0", "torch": "2.14.1"}
SIZES = {"conv1": 16, "layer1.0.conv1": 16, "layer1.1.conv1": 16, "layer2.0.conv1": 32, "layer3.0.conv1": 64}


def latency(batch, ms, ratio, half=0.02):
    low, high = ratio - half, ratio + half
    verdict = "faster" if high < 1 else "slower" if low > 1 else "no significant difference"
    return Latency(batch, ms * ratio, ms * ratio * 0.98, ms * ratio * 1.05, ms * ratio, 24, 8, 0.0, ratio, low, high,
                   verdict)  # fmt: skip


def session(ratios, created="2026-11-20T10:00:00+00:00", host=HOST, computed=None, half=0.02, dense_ms=None):
    """
    Args:
        ratios: by target, by batch size.
        computed: by target: (val, test) of the pruned network there.
    """
    dense_ms = dense_ms or {}
    pairs = {"dense": {}, "pruned": {}}
    for target, by_batch in ratios.items():
        for batch, ratio in by_batch.items():
            ms = dense_ms.get((target, batch), 2.0 * batch**0.8)
            pairs["dense"].setdefault(target, []).append(replace(latency(batch, ms, 1.0, 0.0), verdict=""))
            pairs["pruned"].setdefault(target, []).append(latency(batch, ms, ratio, half))
    hardware = {
        target: {"runtime": f"{target} 1.0", "device": "cpu", "threads": 1, "dtype": "float32", "layout": "nchw",
                 "batches": list(by_batch), "other_load": 0.0, "errors": {"dense": 0.0, "pruned": 0.0}}
        for target, by_batch in ratios.items()
    }  # fmt: skip
    accuracy = {}
    for target, (val, test) in (computed or {}).items():
        accuracy.setdefault("pruned", {})[target] = Accuracy(val, test)
        accuracy.setdefault("dense", {})[target] = Accuracy(val + 0.01, test + 0.01)
    return Session(created, host, VERSIONS, hardware, latency=pairs if ratios else {}, accuracy=accuracy)


def fit(epochs, best, start=0.1, seconds=60.0):
    curve = tuple(
        Epoch(e, 2.3 * 0.9 ** (e * 20 / epochs), start + (best - start) * (1 - 0.8 ** (e * 20 / epochs)), 0.01, 1.0)
        for e in range(1, epochs + 1)
    )
    return Fit(epochs, seconds, 1000.0, best, best, curve)


def record(
    pruner="filter", seed=0, keep=0.5, model="resnet20", dataset="cifar10", test=0.90, val=0.91, dense=0.93,
    macs=None, params=None, ratios=None, sessions=None, config=None, created="2026-11-20T10:00:00+00:00",
    command=None, metric="macs", edits=None, dense_macs=40_000_000, dense_params=270_000, epochs=4, base=None,
    seconds=None, sizes=SIZES, metric_met=True,
):  # fmt: skip
    """A run; `macs` and `params` are ratios."""
    macs = keep or 0.5 if macs is None else macs
    params = macs * 1.05 if params is None else params
    first = session({"cpu": {1: 0.7}} if ratios is None else ratios, created)
    measures = {
        "dense": Measure(dense_params, dense_macs, 4 * dense_params, {"b1": 1.0}),
        "pruned": Measure(round(params * dense_params), round(macs * dense_macs), 4 * round(params * dense_params), {}),
    }
    accuracy = {"dense": Accuracy(dense + 0.005, dense), "cut": Accuracy(val / 2, test / 2),
                "finetuned": Accuracy(val, test)}  # fmt: skip
    summary = {"dataset": dataset, "model": model, "pruner": pruner, "seed": seed}
    for split in ("val", "test"):
        summary |= {f"{split}_accuracy_{stage}": getattr(both, split) for stage, both in accuracy.items()}
    for cost in ("params", "macs"):
        summary |= {
            f"{cost}_dense": getattr(measures["dense"], cost),
            f"{cost}_pruned": getattr(measures["pruned"], cost),
        }
    summary |= {"budget_metric": metric, "budget_keep": keep, "budget_kept": macs,
                "budget_met": None if keep is None else metric_met}  # fmt: skip
    whole = {
        "budget": {"_target_": "prune_cli.budget.Budget", "metric": metric, "keep": 0.5 if keep is None else keep},
        "pruner": {"_target_": f"prune_cli.pruners.{pruner}"}, "finetune": {"epochs": epochs, "milestones": [1, 2]},
        "seed": seed, "outputs": f"outputs-{seed}", "benchmark": {"rounds": seed}, "compute": {"threads": seed + 1},
    }  # fmt: skip
    for name, value in (config or {}).items():
        section, key = name.split(".")
        whole.setdefault(section, {})[key] = value
    if edits is None:
        edits = [{"group": group, "keep": list(range(round(size * macs)))} for group, size in sizes.items()]
    argv = ["/opt/venv/bin/prune-run", f"pruner={pruner}", f"model={model}", f"budget.keep={keep}", f"seed={seed}"]
    return Record(
        summary=summary,
        config=whole,
        command=argv if command is None else command,
        created=created,
        versions=VERSIONS,
        host=HOST,
        compute={"device": "cpu"},
        base=Base("store", "bases/x", base or f"{model}{dataset}{seed}", fit(epochs * 3, dense + 0.005, seconds=300.0)),
        plan={"edits": edits, "fresh": [], "notes": {}},
        accuracy=accuracy,
        measures=measures,
        benchmarks=tuple(sessions or [first]),
        exports=(),
        finetune=fit(epochs, val, start=val / 2),
        seconds=seconds or {"train": 0.01, "prune": 4.0, "finetune": 60.0, "benchmark": 20.0},
    )


def write(folder, of=None, identity=None, sizes=SIZES, **fields):
    """Seal a run into a folder."""
    result = (of or record(sizes=sizes, **fields)).to_json()
    if identity:
        result["identity"] = identity
    seal(folder, {"plan.json": to_json({**result["plan"], "sizes": sizes}), "result.json": to_json(result)})
    return folder


def fail(folder, reason="loss is not finite", command=("prune-run", "pruner=csgd"), **fields):
    folder.mkdir(parents=True, exist_ok=True)
    told = {"schema": 1, "reason": reason, "command": list(command), "dataset": "cifar10", "model": "resnet20",
            "pruner": "csgd", "seed": 1, "log": "prune-run.log", "created": "2026-11-20T10:00:00+00:00"}  # fmt: skip
    (folder / "failed.json").write_text(json.dumps({**told, **fields}))
    (folder / "prune-run.log").write_text("...\n")
    return folder
