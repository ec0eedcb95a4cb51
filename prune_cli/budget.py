"""How much of the network may remain, and the one way of meeting it by removing the least important first."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from prune_cli.errors import require, require_choice, require_range

if TYPE_CHECKING:
    from prune_cli.channels import Group, Network

METRICS = ("channels", "volume", "params", "macs")
Kept = dict[str, tuple[int, ...]]  # per group, the channels that stay


@dataclass(frozen=True)
class Budget:
    """Keep at most this part of the dense network's cost."""

    metric: str = "macs"  # channels | volume | params | macs
    keep: float = 0.5  # fraction of the dense network's, in (0, 1]
    floor: float = 0.1  # of every group's channels at least this fraction stays, and one of each layer's
    round_to: int = 1  # widths are multiples of this where the group has as many

    def __post_init__(self) -> None:
        require_choice("budget.metric", self.metric, METRICS)
        require_range("budget.keep", self.keep, 0, 1, open_low=True)
        require_range("budget.floor", self.floor, 0, 1)
        require_range("budget.round_to", self.round_to, 1, 1024, whole=True)

    def least(self, group: Group) -> int:
        """How many channels of a group stay whatever happens."""
        wanted = max(1, math.ceil(self.floor * group.size))
        return min(group.size, math.ceil(wanted / self.round_to) * self.round_to)

    def limit(self, network: Network) -> float:
        """The cost that may remain."""
        return float(self.keep * network.cost(self.metric))  # type: ignore[arg-type]

    def cost(self, network: Network, kept: Kept) -> float:
        return float(network.cost(self.metric, masks(network, kept)))  # type: ignore[arg-type]

    def check(self, network: Network, groups: Iterable[Group]) -> None:
        """Refuse a budget that cutting these groups to their floors would not meet.

        Raises:
            PruneError: with the range that is reachable.
        """
        groups = list(groups)
        require(groups, "this network has no group of channels that the pruner may cut")
        smallest = self.cost(network, {g.name: _protected(g, np.arange(g.size)[::-1], self) for g in groups})
        whole = any(group.is_stream and group not in groups for group in network.groups.values())
        more = ", or cut residual streams too (pruner.streams=true, where the pruner has it)" if whole else ""
        fraction = smallest / network.cost(self.metric)  # type: ignore[arg-type]
        require(
            smallest <= self.limit(network),
            f"budget.keep={self.keep:g} of {self.metric} is out of reach: with budget.floor={self.floor:g} this pruner "
            f"reaches {math.ceil(fraction * 1000) / 1000:g} to 1 here; raise budget.keep or lower budget.floor{more}",
        )


def cuttable(network: Network, *, streams: bool = False) -> tuple[Group, ...]:
    """The groups that a filter pruner may cut: without residual streams unless asked for."""
    return tuple(group for group in network.groups.values() if streams or not group.is_stream)


def masks(network: Network, kept: Kept) -> dict[str, np.ndarray[Any, Any]]:
    """Per group a 0/1 vector (C), as `Network.cost` takes them."""
    found = {}
    for name, channels in kept.items():
        found[name] = np.zeros(network.groups[name].size)
        found[name][list(channels)] = 1
    return found


def select(network: Network, scores: Mapping[str, np.ndarray[Any, Any]], budget: Budget) -> Kept:
    """Remove channels in ascending order of score, over all groups, until the budget is met.

    Args:
        scores: per group to be cut, a number for each channel (C), comparable between groups.

    Raises:
        PruneError: everything down to the floors is not enough.
    """
    groups = [network.group(name) for name in scores]
    budget.check(network, groups)
    steps = sorted((step for group in groups for step in _steps(group, scores[group.name], budget)), key=lambda s: s[0])
    limit = budget.limit(network)

    def kept(count: int) -> Kept:
        gone: dict[str, set[int]] = {}
        for _, name, channels in steps[:count]:
            gone.setdefault(name, set()).update(channels)
        return {g.name: tuple(c for c in range(g.size) if c not in gone.get(g.name, ())) for g in groups}

    low, high = 0, len(steps)  # the fewest steps that meet the limit: the cost falls with every step
    while low < high:
        middle = (low + high) // 2
        if budget.cost(network, kept(middle)) <= limit:
            high = middle
        else:
            low = middle + 1
    require(
        budget.cost(network, kept(low)) <= limit, f"budget.keep={budget.keep:g} of {budget.metric} is out of reach here"
    )
    return kept(low)


def _steps(group: Group, scores: np.ndarray[Any, Any], budget: Budget) -> list[tuple[float, str, tuple[int, ...]]]:
    """What may be removed from a group, least important first, in portions that keep its width a multiple."""
    order = np.argsort(scores, kind="stable")
    protected = set(_protected(group, order, budget))
    removable = [int(channel) for channel in order if int(channel) not in protected]
    steps = []
    first = group.size % budget.round_to or budget.round_to
    while removable:
        portion, removable = removable[:first], removable[first:]
        if len(portion) < first:
            break
        steps.append((float(scores[portion].max()), group.name, tuple(portion)))
        first = budget.round_to
    return steps


def _protected(group: Group, order: np.ndarray[Any, Any], budget: Budget) -> tuple[int, ...]:
    """The most important channels up to the floor, and the most important one of every layer's part."""
    best = [int(channel) for channel in order[::-1]]
    chosen = set(best[: budget.least(group)])
    for segment in group.segments:
        if not segment & chosen:
            chosen.add(next(channel for channel in best if channel in segment))
    return tuple(sorted(chosen))
