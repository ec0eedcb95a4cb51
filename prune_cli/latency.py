"""What a run, or prune-bench, asks of its targets: whether they are there, a budget's stopwatch, figures at the end."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from prune_cli import benchmark
from prune_cli.budget import Budget
from prune_cli.errors import require
from prune_cli.hardware import Hardware
from prune_cli.plan import Drop, Plan, Width
from prune_cli.record import Accuracy, Session
from prune_cli.training.fit import evaluate

if TYPE_CHECKING:
    from torch import Tensor, nn

    from prune_cli.channels import Network
    from prune_cli.compute import Place
    from prune_cli.data.splits import Data

log = logging.getLogger(__name__)


def check(targets: Mapping[str, Hardware], budget: Budget) -> None:
    """Refuse what could not be measured at all, or not where the budget asks for it; tell what will be missing.

    Raises:
        PruneError: with the reason of each target.
    """
    missing = {name: target.missing() for name, target in targets.items()}
    there = [name for name, reason in missing.items() if not reason]
    require(there, "; ".join(f"hardware={name} is not there: {reason}" for name, reason in missing.items()))
    if budget.metric == "latency" and budget.target is not None:
        require(budget.target in there, f"budget.target={budget.target} is not there: {missing[budget.target]}")


def measurable(budget: Budget, targets: Mapping[str, Hardware], dense: nn.Module, data: Data, seed: int) -> Budget:
    """The budget, with what measures it if it is a latency."""
    if budget.metric != "latency":
        return budget
    name = budget.target or next(name for name, target in targets.items() if not target.missing())
    target = targets[name]
    stopwatch = benchmark.Stopwatch(dense, data.shape, target, budget.batch, calibration(data, targets, seed))
    round_to = target.round_to if budget.round_to is None else budget.round_to
    return replace(budget, target=name, round_to=round_to, stopwatch=stopwatch)


def measure_on(targets: Mapping[str, Hardware], networks: Mapping[str, nn.Module], data: Data, seed: int) -> Session:
    """All networks on all targets, compared with the first; accuracy where arithmetic is not fp32."""
    images = calibration(data, targets, seed)
    return benchmark.measure(networks, data.shape, targets, calibration=images, judge=judging(data))


def judging(data: Data) -> Callable[[nn.Module], Accuracy]:
    """What tells the accuracy of a network on the CPU."""
    place = _cpu()
    return lambda model: Accuracy(evaluate(model, data.val, place), evaluate(model, data.test, place))


def calibration(data: Data, targets: Mapping[str, Hardware], seed: int) -> Tensor | None:
    """Training images (N, C, H, W) for the targets that quantise; none if there is no such target."""
    import torch

    from prune_cli.data.splits import sample

    count = max((target.calibrates for target in targets.values() if not target.missing()), default=0)
    if not count:
        return None
    return torch.cat([x for x, _ in sample(data.train, count, seed).batches(256, _cpu())])


def _cpu() -> Place:
    import torch

    from prune_cli.compute import Place

    return Place(torch.device("cpu"), torch.float32, False, torch.get_num_threads())


def outcome(
    budget: Budget, heeded: bool, network: Network, plan: Plan, small: nn.Module, session: Session
) -> dict[str, Any]:
    """What came of the budget, for the summary; a latency as expected, as searched, and as measured at the end.

    Args:
        heeded: whether the method looked at the budget; if not, only what is left is told.
    """
    from prune_cli.channels import trace

    row: dict[str, Any] = {"budget_metric": budget.metric, "budget_keep": budget.keep if heeded else None}
    if budget.metric == "latency":
        assert budget.stopwatch is not None
        kept = {edit.group: edit.keep for edit in plan.edits if isinstance(edit, Width)}
        dropped = [edit.unit for edit in plan.edits if isinstance(edit, Drop)]
        rows = session.latency.get("pruned", {}).get(str(budget.target), [])
        searched = budget.stopwatch.ratio(small)
        row["budget_target"] = f"{budget.target}/b{budget.batch}"
        row["budget_expected"] = budget.predicted(network, kept, dropped)
        row["budget_searched"] = searched
        again = [(latency.ratio, latency.ratio_low) for latency in rows if latency.batch == budget.batch]
        reached, surely = again[0] if again else (searched, searched)
    else:
        left, whole = (float(net.cost(budget.metric)) for net in (trace(small, network.shape), network))  # type: ignore[arg-type]
        reached = surely = left / whole
    row |= {"budget_kept": reached, "budget_met": surely <= budget.keep if heeded else None}
    if heeded and (not row["budget_met"] or reached < 0.9 * budget.keep):
        log.warning("budget: %.3f of %s is left, %g was asked for", reached, budget.metric, budget.keep)
    return row
