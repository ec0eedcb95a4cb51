"""The story of one run: load, check, train or reuse, decide, cut, fine-tune, measure, write."""

from __future__ import annotations

import copy
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from prune_cli import host
from prune_cli.errors import PruneError, require
from prune_cli.experiment import Experiment
from prune_cli.export import export
from prune_cli.files import seal, sha256, slug, to_json, to_safetensors
from prune_cli.journal import Journal
from prune_cli.plan import Plan
from prune_cli.record import Accuracy, Base, Fit, Measure, Record, Session

if TYPE_CHECKING:
    from torch import nn

    from prune_cli.channels import Network
    from prune_cli.compute import Place
    from prune_cli.data.splits import Data

log = logging.getLogger(__name__)
Result = TypeVar("Result")
STAGES = ("train", "prune", "finetune", "benchmark")


def run(
    experiment: Experiment,
    out: Path,
    config: Mapping[str, Any],
    *,
    journal: Journal | None = None,
    command: Sequence[str] = (),
) -> Record:
    """Carry out an experiment and write its record into `out`.

    Args:
        journal: keeps how far the run is, so that one that was interrupted goes on.
        command: what asked for it, word by word, for the record.

    Raises:
        PruneError: something that the user can mend; before any training if it can be known then.
        Interrupted: the program was asked to stop.
    """
    import torch

    from prune_cli import latency, team
    from prune_cli.artefact import architecture
    from prune_cli.channels import trace
    from prune_cli.costs import cost_of
    from prune_cli.table import render
    from prune_cli.training.fit import evaluate, fit
    from prune_cli.training.statistics import reestimate

    e, clock = experiment, _Clock()
    latency.check(e.hardware, e.budget)
    place = _place(e, journal)
    data = team.agree(lambda: e.dataset.load(Path(e.outputs) / "cache"))
    _seed(e.seed, "train")
    dense = e.model.pretrained(len(data.classes))
    _check_outputs(dense, data)
    e = replace(e, budget=latency.measurable(e.budget, e.hardware, dense, data, e.seed))
    e.pruner.check(trace(dense, data.shape), e.budget)

    base = clock.time("train", lambda: _base(e, data, dense, place))
    dense.cpu().eval()
    if base.fit is not None and base.fit.epochs and base.fit.val_accuracy < 1.5 / len(data.classes):
        log.warning("the dense network is hardly better than chance (val %.2f%%): train.lr may be too high, or "
                    "train.epochs too few", 100 * base.fit.val_accuracy)  # fmt: skip
    _seed(e.seed, "prune")
    network = trace(copy.deepcopy(dense), data.shape)
    plan, small = _decide(e, network, data, place, clock)

    stages = {"dense": dense, "cut": copy.deepcopy(small)}
    if e.reestimate:
        reestimate(small, data.train, place, e.reestimate, e.seed)
        stages["reestimated"] = copy.deepcopy(small)
    _seed(e.seed, "finetune")
    tuned = fit(small, data, e.finetune, place, e.seed + 1, title="fine-tuning", teacher=dense)
    clock.seconds["finetune"] = tuned.seconds
    stages["finetuned"] = small
    exact = replace(place, dtype=torch.float32)  # the networks are saved in fp32, so that is what is judged
    accuracy = {n: Accuracy(evaluate(m, data.val, exact), evaluate(m, data.test, exact)) for n, m in stages.items()}
    dense, small = dense.cpu().eval(), small.cpu().eval()

    networks = {"dense": dense, "pruned": small}
    session = clock.time(
        "benchmark", lambda: team.agree(lambda: latency.measure_on(e.hardware, networks, data, e.seed))
    )
    batches = sorted({batch for target in e.hardware.values() for batch in target.batches})
    measures = {name: cost_of(model, data.shape, batches) for name, model in networks.items()}
    heeded = getattr(e.pruner, "heeds_budget", True)
    budget = latency.outcome(e.budget, heeded, network, plan, small, session)
    try:
        contents, exports = team.agree(lambda: export(small, data.shape, e.export))
    except PruneError as error:  # what took hours is written first
        contents, exports, session.failed["export"] = {}, [], str(error)
    record = Record(
        summary={**_summary(e, base, accuracy, measures, session, clock), **budget},
        config=dict(config),
        command=list(command),
        created=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        versions=host.versions(),
        host=host.describe(),
        compute=place.describe(),
        base=base,
        plan=plan.to_json(),
        accuracy=accuracy,
        measures=measures,
        benchmarks=(session,),
        exports=tuple(exports),
        finetune=tuned,
        seconds=clock.seconds,
        identity=experiment.identity,
    )
    if team.is_first():
        seal(out, {
            "model.safetensors": to_safetensors(small.state_dict()),
            "architecture.json": to_json(architecture(e.model, data.classes, data.shape, plan)),
            "plan.json": to_json({**plan.to_json(), "sizes": {g.name: g.size for g in network.groups.values()}}),
            "table.txt": f"{render(record)}\n".encode(),
            **contents,
            "result.json": to_json(record.to_json()),  # last: where it is, the run is complete
        })  # fmt: skip
    return record


def _place(e: Experiment, journal: Journal | None) -> Place:
    """Where the run computes. One that goes on has as many threads as it began with: they decide the last digits."""
    from prune_cli import team

    begun = journal.read("place") if journal and e.compute.threads == "auto" else None
    place = replace(replace(e.compute, threads=begun["threads"]) if begun else e.compute).resolve()
    if journal and not begun and team.is_first():
        journal.write("place", {"threads": place.threads})
    return replace(place, journal=journal)


def _base(e: Experiment, data: Data, dense: nn.Module, place: Place) -> Base:
    """Train the dense network, take it from the store, or leave the checkpoint as it is."""
    from prune_cli.bases import get_or_train
    from prune_cli.training.fit import fit

    digest = e.model.digest
    if e.train.epochs == 0 and digest:
        log.info("dense network: %s, not trained again", e.model.checkpoint)
        return Base("checkpoint", str(Path(str(e.model.checkpoint)).expanduser()), digest[:12], None)
    if digest:
        log.info("dense network: %s, trained on", e.model.checkpoint)
    parts = {
        "data": data.fingerprint,
        "augmentation": [e.dataset.crop, e.dataset.flip, list(e.dataset.mean), list(e.dataset.std)],
        "model": replace(e.model, checkpoint=None),
        "checkpoint": digest,
        "recipe": e.train,
        "seed": e.seed,
        "precision": str(place.dtype),
    }

    def train(journal: Journal) -> Fit:
        own = replace(place, journal=journal if place.journal is None else place.journal.elsewhere(journal.folder))
        return fit(dense, data, e.train, own, e.seed, title="training")

    name = slug(f"{e.names['model']}-{e.names['dataset']}-seed{e.seed}")
    return get_or_train(Path(e.outputs) / "bases", name, parts, dense, train)


def _decide(e: Experiment, network: Network, data: Data, place: Place, clock: _Clock) -> tuple[Plan, nn.Module]:
    """The pruner's plan and the network cut by it; decided once, also if the run is interrupted later."""
    from prune_cli import team
    from prune_cli.surgery import apply

    known = place.journal.read("plan") if place.journal else None
    if known:
        plan = Plan.from_json(known["plan"])
        small = apply(network.model, plan, data.shape)
        small.load_state_dict(known["weights"])
        clock.seconds["prune"] = known["seconds"]
        log.info("pruned before: %d edits", len(plan.edits))
        return plan, small
    plan = clock.time("prune", lambda: e.pruner.plan(network, data, e.budget, place, e.seed))
    plan = team.agree(lambda: plan)
    small = apply(network.model.cpu(), plan, data.shape)
    log.info("pruned: %d edits, %.1f s", len(plan.edits), clock.seconds["prune"])
    if place.journal and team.is_first():
        seconds, weights = clock.seconds["prune"], small.state_dict()
        place.journal.write("plan", {"plan": plan.to_json(), "weights": weights, "seconds": seconds})
    return plan, small


def _check_outputs(dense: nn.Module, data: Data) -> None:
    """A network with other classes than the data would train, and mean nothing."""
    import torch

    with torch.no_grad():
        outputs = dense.eval()(torch.zeros(1, *data.shape))
    fits = isinstance(outputs, torch.Tensor) and outputs.shape == (1, len(data.classes))
    given = tuple(outputs.shape)[1:] if isinstance(outputs, torch.Tensor) else type(outputs).__name__
    require(fits, f"the network gives {given} for an image, but {data.name} has {len(data.classes)} classes")


def _summary(
    e: Experiment,
    base: Base,
    accuracy: Mapping[str, Accuracy],
    measures: Mapping[str, Measure],
    session: Session,
    clock: _Clock,
) -> dict[str, Any]:
    """The row of every table: flat, and a public contract (docs/results.md)."""
    dense, pruned = measures["dense"], measures["pruned"]
    row: dict[str, Any] = {**e.names, "seed": e.seed}
    for split in ("val", "test"):
        row |= {f"{split}_accuracy_{stage}": getattr(accuracy[stage], split) for stage in accuracy}
    for cost in ("params", "macs", "file_bytes"):
        row |= {f"{cost}_dense": getattr(dense, cost), f"{cost}_pruned": getattr(pruned, cost)}
    row |= {"macs_ratio": pruned.macs / dense.macs, "params_ratio": pruned.params / dense.params}
    for target, rows in session.latency.get("pruned", {}).items():
        row |= {f"latency_ratio/{target}/b{latency.batch}": latency.ratio for latency in rows}
    for target, reached in session.accuracy.get("pruned", {}).items():
        row |= {f"{split}_accuracy/{target}": getattr(reached, split) for split in ("val", "test")}
    return {**row, "base_reused": base.source != "trained", **{f"seconds_{s}": clock.seconds[s] for s in STAGES}}


class _Clock:
    """Wall seconds by stage."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    def time(self, stage: str, work: Callable[[], Result]) -> Result:
        start = time.perf_counter()
        result = work()
        self.seconds[stage] = round(time.perf_counter() - start, 3)
        return result


def _seed(seed: int, stage: str) -> None:
    """Each stage draws from its own stream: a reused dense network must not change what follows."""
    import torch

    torch.manual_seed(int(sha256(f"{seed} {stage}".encode())[:15], 16))
