"""C-SGD (Ding et al., Centripetal SGD for Pruning Very Deep Convolutional Networks, arXiv 1904.03837).

The filters of a layer are clustered once. Training then gives all filters of a cluster the same averaged gradient and
pulls each towards the cluster's mean, so that they become identical; all but one can be removed, their columns added in
the next layer, and nothing is lost. Residual streams can be cut: the layer that writes a stream first (the pacesetter)
is clustered, all other layers of the stream follow.

Per filter F_j in cluster H, with weight decay eta and centripetal strength eps (section 3.2):

    G_j = 1/|H| sum_k dL/dF_k + eta F_j + eps (F_j - 1/|H| sum_k F_k)

Departures from the paper:
- Widths follow from the budget, the same part of every layer; the paper sets them by hand.
- eps is solved from the length of the training unless given, so that short trainings collapse too.
- Running batch-norm statistics are averaged over a cluster before the cut: they agree only some time after weights do.
- Channels of a zero-padded stream are clustered with those of the same stages only: others can never become identical.

Legend: C channels of a group, O rows of a weight, F numbers in a row, K clusters.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from prune_cli import team
from prune_cli.budget import Budget, cuttable, select
from prune_cli.errors import DivergedError, require, require_choice, require_range
from prune_cli.plan import Plan, Width
from prune_cli.training.recipe import Recipe

if TYPE_CHECKING:
    from torch import Tensor, nn

    from prune_cli.channels import Axis, Group, Network
    from prune_cli.compute import Place
    from prune_cli.data.splits import Data

log = logging.getLogger(__name__)
Labels = np.ndarray[Any, Any]  # (C) the cluster of each channel
COLLAPSED = 1e-7  # a deviation, as a part of the first one, at which members count as identical


@dataclass(frozen=True)
class CSgd:
    """Train filters into identical ones, then merge them."""

    recipe: Recipe = field(default_factory=Recipe)
    clusters: str = "kmeans"  # kmeans | even (consecutive runs) | biased (one large cluster, the rest alone)
    eps: float | None = None  # centripetal strength; null: as small as collapses within the recipe
    vector_share: float = 0.1  # of eps, for batch-norms and biases (published: 0.1; 1 collapses sooner)
    streams: bool = True  # cut residual streams too

    def __post_init__(self) -> None:
        require_choice("pruner.clusters", self.clusters, ("kmeans", "even", "biased"))
        if self.eps is not None:
            require_range("pruner.eps", self.eps, 0, 100)
        require_range("pruner.vector_share", self.vector_share, 0, 1, open_low=True)
        require(self.recipe.optimizer == "sgd", "pruner.recipe.optimizer: centripetal training needs sgd")

    def check(self, network: Network, budget: Budget) -> None:
        budget.check(network, cuttable(network, streams=self.streams))

    def plan(self, network: Network, data: Data, budget: Budget, place: Place, seed: int) -> Plan:
        from prune_cli.training.fit import Hooks, fit

        labels = team.agree(lambda: self._cluster(network, budget, seed))
        if all(len(set(own.tolist())) == len(own) for own in labels.values()):
            return Plan()
        steps = max(1, len(data.train) // min(self.recipe.batch, len(data.train)))
        eps = solve_eps(self.recipe, steps, self.vector_share) if self.eps is None else self.eps
        pull = Centripetal(network, labels, self.recipe.weight_decay, eps, self.vector_share)
        deviations = pull.deviations

        def report(epoch: int) -> None:
            deviations.append(pull.deviation())
            log.info("centripetal: epoch %d  eps %.3g  largest deviation %.2e", epoch, eps, deviations[-1])

        hooks = Hooks(decayed=pull.parameters, after_backward=pull, after_epoch=report, memory=pull)
        fit(network.model, data, self.recipe, place, seed, title="centripetal", hooks=hooks)
        network.model.cpu()
        if not deviations[-1] < deviations[0]:
            raise DivergedError(
                f"centripetal: filters moved apart, from {deviations[0]:.2g} to {deviations[-1]:.2g} (eps {eps:.3g}); "
                "try a lower pruner.eps or pruner.recipe.lr"
            )
        if deviations[-1] > 1e-4 * deviations[0]:
            line = "filters are not identical yet (deviation %.1e of %.1e), so the cut loses something; raise %s"
            log.warning(line, deviations[-1], deviations[0], "pruner.recipe.epochs, or repair it with finetune.epochs")
        average_statistics(network, labels)
        edits = tuple(merge(name, own) for name, own in labels.items() if len(set(own.tolist())) < len(own))
        return Plan(edits, notes={"eps": eps, "deviation": deviations})

    def _cluster(self, network: Network, budget: Budget, seed: int) -> dict[str, Labels]:
        """Clusters of every group, as many as the budget leaves channels."""
        groups = cuttable(network, streams=self.streams)
        classes = {group.name: alike(group) for group in groups}
        turns = {group.name: np.empty(group.size) for group in groups}
        for name, parts in classes.items():
            for part in parts:  # the same fraction of every part goes
                turns[name][part] = (np.arange(len(part)) + 1) / len(part)
        kept = select(network, turns, budget)
        labels = {}
        for group in groups:
            labels[group.name] = np.empty(group.size, dtype=np.int64)
            for part in classes[group.name]:
                count = max(1, len(set(part) & set(kept[group.name])))
                points = network.filters(group, _pacesetter(group, part[0])).cpu().numpy()[part]
                first = np.asarray(part)[_first_of_each(self._split(points, count, seed))]
                labels[group.name][part] = first
        return labels

    def _split(self, points: np.ndarray[Any, Any], count: int, seed: int) -> Labels:
        """Cluster numbers of filters (n, F)."""
        if self.clusters == "even":
            return np.arange(len(points)) * count // len(points)
        if self.clusters == "biased":
            return np.maximum(np.arange(len(points)) - (len(points) - count), 0)
        if count == len(points):
            return np.arange(count)
        import warnings

        from sklearn.cluster import KMeans

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # duplicate filters leave fewer clusters, which is as good
            return np.asarray(KMeans(count, n_init="auto", random_state=seed).fit(points).labels_)


def alike(group: Group) -> list[list[int]]:
    """The channels of a group, split by which layers have them: one part, but for zero-padded streams."""
    parts: dict[tuple[bool, ...], list[int]] = {}
    members = [set(axis.index) for axis in group.axes]
    for channel in range(group.size):
        parts.setdefault(tuple(channel in own for own in members), []).append(channel)
    return list(parts.values())


def _pacesetter(group: Group, channel: int) -> Axis:
    """The first layer that writes a channel."""
    return next(axis for axis in group.writers if channel in axis.index)


def _first_of_each(labels: Labels) -> Labels:
    """Every member's cluster, named after its first member."""
    first: dict[int, int] = {}
    return np.array([first.setdefault(int(label), i) for i, label in enumerate(labels)])


def merge(name: str, labels: Labels) -> Width:
    """Keep the first of each cluster; the readers add the others to it."""
    keep = sorted(set(labels.tolist()))
    return Width(name, tuple(keep), tuple(keep.index(label) for label in labels.tolist()))


class Centripetal:
    """Rewrites the gradients of all clustered tensors; rows of equal length are done in one operation."""

    def __init__(self, network: Network, labels: Mapping[str, Labels], eta: float, eps: float, share: float) -> None:
        rows: dict[tuple[bool, int], list[tuple[nn.Parameter, Labels]]] = {}
        for module, own in row_labels(network, labels).items():
            for name in ("weight", "bias"):
                tensor = getattr(network.model.get_submodule(module), name, None)
                if tensor is not None:
                    vector = tensor.dim() == 1
                    rows.setdefault((vector, tensor[0].numel()), []).append((tensor, own))
        self.bundles = [
            _Bundle(tensors, 0.0 if vector else eta, eps * share if vector else eps)
            for (vector, _), tensors in rows.items()
        ]
        self.parameters = [tensor for bundle in self.bundles for tensor in bundle.tensors]
        self.deviations = [self.deviation()]  # at the start, and after every epoch

    def remember(self) -> dict[str, Any]:
        return {"deviations": self.deviations}

    def recall(self, value: dict[str, Any]) -> None:
        self.deviations[:] = value["deviations"]

    def __call__(self) -> None:
        for bundle in self.bundles:
            bundle.transform()

    def deviation(self) -> float:
        """The largest distance of any entry from its cluster's mean."""
        return max(bundle.deviation() for bundle in self.bundles)


class _Bundle:
    """Tensors whose rows have F numbers each, stacked to one matrix (O, F)."""

    def __init__(self, tensors: list[tuple[nn.Parameter, Labels]], eta: float, eps: float) -> None:
        import torch

        self.tensors = [tensor for tensor, _ in tensors]
        self.eta, self.eps = eta, eps
        offset, ids = 0, []
        for _, own in tensors:
            ids.append(own + offset)
            offset += int(own.max()) + 1
        _, dense = np.unique(np.concatenate(ids), return_inverse=True)
        self.labels = torch.from_numpy(dense)  # (O)
        self.counts = torch.bincount(self.labels)[:, None].float()  # (K, 1)

    def _stack(self, tensors: list[Tensor]) -> Tensor:
        import torch

        return torch.cat([t.detach().reshape(len(t), -1) for t in tensors])  # (O, F)

    def _means(self, rows: Tensor) -> Tensor:
        """Of every row, the mean of its cluster (O, F)."""
        if self.labels.device != rows.device:
            self.labels, self.counts = self.labels.to(rows.device), self.counts.to(rows.device)
        sums = rows.new_zeros(len(self.counts), rows.shape[1]).index_add_(0, self.labels, rows)
        return (sums / self.counts).index_select(0, self.labels)

    def transform(self) -> None:
        import torch

        weights = self._stack([*self.tensors])
        gradients = [tensor.grad for tensor in self.tensors if tensor.grad is not None]
        # mean(g) - eps mean(w) = mean(g - eps w): one mean does for both terms.
        pulled = self._stack(gradients).sub_(weights, alpha=self.eps)
        result = self._means(pulled).add_(weights, alpha=self.eta + self.eps)
        parts = torch.split(result, [len(tensor) for tensor in self.tensors])
        torch._foreach_copy_(gradients, [part.view_as(g) for part, g in zip(parts, gradients, strict=True)])

    def deviation(self) -> float:
        weights = self._stack([*self.tensors])
        return float((weights - self._means(weights)).abs().max())


def row_labels(network: Network, labels: Mapping[str, Labels]) -> dict[str, Labels]:
    """Per module whose rows belong to clustered groups: the cluster of each of its rows (O), unclustered rows alone."""
    found: dict[str, Labels] = {}
    for number, (name, own) in enumerate(labels.items()):
        for axis in network.groups[name].of("write", "depthwise", "norm"):
            rows = found.setdefault(axis.module, -1 - np.arange(len(network.weight(axis.module))))
            seen: dict[int, int] = {}
            for position, channel in zip(axis.at, axis.index, strict=True):
                turn = seen[channel] = seen.get(channel, -1) + 1  # the n-th row of a channel goes with the n-th
                rows[position] = ((number + 1) << 40) + (turn << 20) + int(own[channel])
    return {module: np.unique(rows, return_inverse=True)[1] for module, rows in found.items()}


def average_statistics(network: Network, labels: Mapping[str, Labels]) -> None:
    """Give the members of a cluster the same running mean and variance."""
    import torch

    for module, own in row_labels(network, labels).items():
        for name in ("running_mean", "running_var"):
            values = getattr(network.model.get_submodule(module), name, None)
            if values is not None:
                ids = torch.from_numpy(own)
                means = values.new_zeros(int(ids.max()) + 1).index_add_(0, ids, values) / torch.bincount(ids)
                values.copy_(means[ids])


def solve_eps(recipe: Recipe, steps: int, share: float) -> float:
    """The least strength at which vectors, which are pulled by a share of it, collapse within the recipe.

    Deviations obey the optimiser's own recursion, whatever the loss: it is followed step by step. If no strength
    suffices, the one that comes closest is taken, and the run says so.
    """

    def left(eps: float) -> float:
        """What stays of the slower pull, and whether the stronger one overshoots."""
        return max(remaining(recipe, steps, eps * share), remaining(recipe, steps, eps + recipe.weight_decay))

    grid = [10.0**k for k in np.linspace(-6, 2, 81)]
    best = min(grid, key=left)
    if left(best) > COLLAPSED:
        log.warning("%d steps are too few for filters to become identical: %.1e of their distance stays; "
                    "raise pruner.recipe.epochs or lr", recipe.epochs * steps, left(best))  # fmt: skip
        return float(best)
    return next(eps for eps in grid if left(eps) <= COLLAPSED)


def remaining(recipe: Recipe, steps: int, strength: float) -> float:
    """The part of a deviation that the recipe leaves under a pull of this strength (SGD with momentum)."""
    deviation, momentum, most = 1.0, 0.0, 1.0
    for number in range(recipe.epochs * steps):
        pull = strength * deviation
        momentum = pull if number == 0 else recipe.momentum * momentum + pull
        step = pull + recipe.momentum * momentum if recipe.nesterov else momentum
        deviation -= recipe.lr * recipe.rate(number / steps) * step
        most = max(most, abs(deviation))
        if most > 1e3:  # the pull is too strong: it overshoots
            return most
    return max(abs(deviation), abs(recipe.lr * momentum))
