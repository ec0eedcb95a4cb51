"""How much of the network may remain, and the one way of meeting it by removing the least important first."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from prune_cli.errors import require, require_choice, require_range
from prune_cli.plan import Drop, Plan, Width

if TYPE_CHECKING:
    import numpy as np

    from prune_cli.benchmark import Stopwatch
    from prune_cli.channels import Group, Network

log = logging.getLogger(__name__)
METRICS = ("channels", "volume", "params", "macs", "latency")
# A search by the stopwatch aims so far below the budget, since a measurement errs, and ends that close to it.
AIM, CLOSE, MEASUREMENTS = 0.98, 0.96, 10
Kept = dict[str, tuple[int, ...]]  # per group, the channels that stay
Candidate = Callable[[int], tuple[Kept, Sequence[str]]]


@dataclass(frozen=True)
class Budget:
    """Keep at most this part of the dense network's cost."""

    metric: str = "macs"  # channels | volume | params | macs | latency
    keep: float = 0.5  # fraction of the dense network's, in (0, 1]
    floor: float = 0.1  # of every group's channels at least this fraction stays, and one of each layer's
    round_to: int | None = None  # widths are multiples of this where the group has as many; null: as the target asks
    target: str | None = None  # latency: the hardware it is measured on, by name; null: the one there is
    batch: int = 1  # latency: of so many images at once
    stopwatch: Stopwatch | None = None  # latency: what measures it

    def __post_init__(self) -> None:
        require_choice("budget.metric", self.metric, METRICS)
        require_range("budget.keep", self.keep, 0, 1, open_low=True)
        require_range("budget.floor", self.floor, 0, 1)
        if self.round_to is not None:
            require_range("budget.round_to", self.round_to, 1, 1024, whole=True)
        require_range("budget.batch", self.batch, 1, 65536, whole=True)

    @property
    def multiple(self) -> int:
        return self.round_to or 1

    @property
    def countable(self) -> str:
        """The metric itself, or what is counted in place of a latency where only a formula will do."""
        return "macs" if self.metric == "latency" else self.metric

    def counted(self, network: Network) -> Budget:
        """The same with a metric that a formula can follow: for a latency, the MACs that even widths meet it with."""
        if self.metric == self.countable:
            return self
        import numpy as np  # not at the top: configs are checked without it

        turns = {group.name: np.arange(group.size) / group.size for group in network.groups.values()}
        counted = replace(self, metric=self.countable)
        return replace(counted, keep=counted.remaining(network, select(network, turns, self)))

    def least(self, group: Group) -> int:
        """How many channels of a group stay whatever happens."""
        wanted = max(1, math.ceil(self.floor * group.size))
        return min(group.size, math.ceil(wanted / self.multiple) * self.multiple)

    def remaining(self, network: Network, kept: Kept, dropped: Sequence[str] = ()) -> float:
        """The part of the dense network's cost that is left by these channels, without these units.

        A latency is measured on the network cut to size; the other metrics are counted.
        """
        if self.metric == "latency":
            from prune_cli.surgery import apply

            assert self.stopwatch is not None
            return self.stopwatch.ratio(apply(network.model, plan_of(kept, dropped), network.shape))
        whole = float(network.cost(self.metric))  # type: ignore[arg-type]
        require(
            whole, f"budget.metric={self.metric} counts convolutions, and this network has none: use macs or params"
        )
        if dropped:
            from prune_cli.channels import trace
            from prune_cli.surgery import apply

            small = apply(network.model, plan_of(kept, dropped), network.shape)
            return float(trace(small, network.shape).cost(self.metric)) / whole  # type: ignore[arg-type]
        return float(network.cost(self.metric, masks(network, kept))) / whole  # type: ignore[arg-type]

    def predicted(self, network: Network, kept: Kept, dropped: Sequence[str] = ()) -> float:
        """The part of the dense network's latency that its time by layer lets one expect, measuring nothing.

        A layer's time is taken to shrink as its multiply-adds do, and what belongs to no layer as the volume. Without
        times by layer, multiply-adds stand for them.
        """
        assert self.stopwatch is not None
        macs, volume = (_parts(network, metric, masks(network, kept), dropped) for metric in ("macs", "volume"))
        seconds = self.stopwatch.table or network.cost_by_layer("macs")
        total = sum(seconds.values())
        layers = {name: seconds.get(name, 0.0) for name in macs}
        rest = total - sum(layers.values())
        expected = sum(layers[name] * part for name, (part, _) in macs.items())
        return float(expected + rest * sum(share for _, share in volume.values())) / total

    def fewest(self, network: Network, candidate: Candidate, low: int, high: int) -> int:
        """The least count from `low` to `high` whose candidate meets the budget; `high` if none does.

        Args:
            candidate: by count, what is kept and which units are dropped; costs fall as counts rise.
        """

        def fits(count: int) -> bool:
            return self.remaining(network, *candidate(count)) <= self.keep

        if self.metric != "latency":
            return _first(fits, low, high)
        parts = {count: self.remaining(network, *candidate(count)) for count in (low, high)}
        if parts[low] <= self.keep or parts[high] > self.keep:
            return low if parts[low] <= self.keep else high
        # Between a candidate that is too slow and one that fits, the times by layer say where to measure next.
        moves = ""
        while high - low > 1 and len(parts) < MEASUREMENTS and parts[high] < CLOSE * self.keep:
            slow, fast = (self.predicted(network, *candidate(count)) for count in (low, high))
            step = (parts[low] - AIM * self.keep) / (parts[low] - parts[high])
            step = 0.5 if moves[-2:] in ("ss", "ff") else min(0.9, max(0.1, step))  # one end alone must not move

            def expected(count: int, wanted: float = slow + step * (fast - slow)) -> bool:
                return self.predicted(network, *candidate(count)) <= wanted

            middle = min(high - 1, max(low + 1, _first(expected, low, high)))
            parts[middle] = self.remaining(network, *candidate(middle))
            log.info("budget: %.3f of the latency expected, %.3f measured, %g asked for",
                     self.predicted(network, *candidate(middle)), parts[middle], self.keep)  # fmt: skip
            low, high = (low, middle) if parts[middle] <= self.keep else (middle, high)
            moves += "f" if parts[middle] <= self.keep else "s"
        return high

    def check(self, network: Network, groups: Iterable[Group], vanishing: Mapping[str, str] | None = None) -> None:
        """Say what can be reached by cutting these groups to their floors, and refuse a budget that cannot.

        Args:
            vanishing: groups that may go altogether, each with the unit that is dropped then.

        Raises:
            PruneError: with the range that is reachable.
        """
        reach = self._reach(network, groups, vanishing or {})
        log.info("budget: %g of %s asked for, %.3f to 1 within reach", self.keep, self.metric, reach)

    def _reach(self, network: Network, groups: Iterable[Group], vanishing: Mapping[str, str]) -> float:
        import numpy as np  # not at the top: configs are checked without it

        groups = list(groups)
        require(groups, "this network has no group of channels that the pruner may cut")
        staying = [group for group in groups if group.name not in vanishing]
        floors = {g.name: _protected(g, np.arange(g.size)[::-1], self) for g in staying}
        smallest = self.remaining(network, floors, sorted(set(vanishing.values())))
        whole = any(group.is_stream and group not in groups for group in network.groups.values())
        more = ", or cut residual streams too (pruner.streams=true, where the pruner has it)" if whole else ""
        require(
            smallest <= self.keep,
            f"budget.keep={self.keep:g} of {self.metric} is out of reach: with budget.floor={self.floor:g} and "
            f"budget.round_to={self.multiple} this pruner "
            f"reaches {math.ceil(smallest * 1000) / 1000:g} to 1 here; raise budget.keep or lower one of them{more}",
        )
        return smallest


def plan_of(kept: Kept, dropped: Sequence[str] = ()) -> Plan:
    """The plan that leaves these channels and drops these units; groups inside dropped units go with them."""
    return Plan((*(Drop(unit) for unit in dropped), *(Width(name, keep) for name, keep in kept.items() if keep)))


def cuttable(network: Network, *, streams: bool = False) -> tuple[Group, ...]:
    """The groups that a filter pruner may cut: without residual streams unless asked for."""
    return tuple(group for group in network.groups.values() if streams or not group.is_stream)


def masks(network: Network, kept: Kept) -> dict[str, np.ndarray[Any, Any]]:
    """Per group a 0/1 vector (C), as `Network.cost` takes them."""
    import numpy as np  # not at the top: configs are checked without it

    found = {}
    for name, channels in kept.items():
        found[name] = np.zeros(network.groups[name].size)
        found[name][list(channels)] = 1
    return found


def _parts(
    network: Network, metric: Any, kept: Mapping[str, Any], dropped: Sequence[str]
) -> dict[str, tuple[float, float]]:
    """By layer: what part of its own cost is left, and what part of the whole network's that is."""
    whole, left = network.cost_by_layer(metric), network.cost_by_layer(metric, kept)
    total = sum(whole.values())
    gone = {name for name in whole if any(f"{name}.".startswith(f"{unit}.") for unit in dropped)}
    remains = {name: 0.0 if name in gone else left[name] for name in whole if whole[name]}
    return {name: (cost / whole[name], cost / total) for name, cost in remains.items()}


def select(
    network: Network,
    scores: Mapping[str, np.ndarray[Any, Any]],
    budget: Budget,
    *,
    vanishing: Mapping[str, str] | None = None,
    shut: float = -math.inf,
) -> Kept:
    """Remove channels in ascending order of score, over all groups, until the budget is met.

    Args:
        scores: per group to be cut, a number for each channel (C), comparable between groups.
        vanishing: groups that may go altogether (`()` in the result), each with the unit that is dropped then.
        shut: channels that score less go whether the budget asks for it or not, down to the floors.

    Raises:
        PruneError: everything down to the floors is not enough.
    """
    groups, vanishing = [network.group(name) for name in scores], vanishing or {}
    budget._reach(network, groups, vanishing)
    found = (step for group in groups for step in _steps(group, scores[group.name], budget, group.name in vanishing))
    steps = sorted(found, key=lambda step: step[0])

    def kept(count: int) -> Kept:
        gone: dict[str, set[int]] = {}
        for _, name, channels in steps[:count]:
            gone.setdefault(name, set()).update(channels)
        return {g.name: tuple(c for c in range(g.size) if c not in gone.get(g.name, ())) for g in groups}

    def candidate(count: int) -> tuple[Kept, list[str]]:
        found = kept(count)
        units = {unit for name, unit in vanishing.items() if not found[name]}
        return {name: keep for name, keep in found.items() if vanishing.get(name) not in units}, sorted(units)

    # The fewest steps that fit: the cost falls with every step.
    count = budget.fewest(network, candidate, sum(score < shut for score, _, _ in steps), len(steps))
    require(
        budget.remaining(network, *candidate(count)) <= budget.keep,
        f"budget.keep={budget.keep:g} of {budget.metric} is out of reach here",
    )
    return kept(count)


def _first(holds: Callable[[int], bool], low: int, high: int) -> int:
    """The least number from `low` to `high` for which it holds, if it holds for all above it; else `high`."""
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if holds(middle) else (middle + 1, high)
    return low


def _steps(
    group: Group, scores: np.ndarray[Any, Any], budget: Budget, vanishes: bool
) -> list[tuple[float, str, tuple[int, ...]]]:
    """What may be removed from a group, least important first, in portions that keep its width a multiple."""
    import numpy as np  # not at the top: configs are checked without it

    order = np.argsort(scores, kind="stable")
    staying = set() if vanishes else set(_protected(group, order, budget))
    removable = [int(channel) for channel in order if int(channel) not in staying]
    steps = []
    first = group.size % budget.multiple or budget.multiple
    while removable:
        portion, removable = removable[:first], removable[first:]
        if len(portion) < first:
            break
        steps.append((float(scores[portion].max()), group.name, tuple(portion)))
        first = budget.multiple
    return steps


def _protected(group: Group, order: np.ndarray[Any, Any], budget: Budget) -> tuple[int, ...]:
    """The most important channels up to the floor, and the most important one of every layer's part."""
    best = [int(channel) for channel in order[::-1]]
    chosen = set(best[: budget.least(group)])
    for segment in group.segments:
        if not segment & chosen:
            chosen.add(next(channel for channel in best if channel in segment))
    return tuple(sorted(chosen))
