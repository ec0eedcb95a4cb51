"""EPruner (Lin et al., Network Pruning Using Adaptive Exemplar Filters, arXiv 2101.07985).

The filters of a layer are points; affinity propagation on their negative squared distances elects exemplars
among them, as many as the weights suggest. Exemplars stay, the rest goes. No data is needed.

Departures from the paper:
- A budget replaces beta unless beta is given: the paper's betas do not carry over from one trained network to
  another. The search moves beta, keeps at least `budget.floor` of every layer by a lower beta there, puts exact
  duplicates aside first, and asks again, more patiently, where affinity propagation has not converged.
- With `budget.round_to` the filters that resemble no exemplar are kept too, until widths are multiples.
- `carry_bn=true` keeps the batch-norm entries of exemplars; the official code starts them afresh, and for a
  network whose pruned filters feed a linear layer (VGG) that layer too: `carry_bn=false`.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from prune_cli.budget import Budget, Kept, cuttable
from prune_cli.errors import PruneError, require, require_choice, require_range
from prune_cli.plan import Plan, Width

if TYPE_CHECKING:
    from prune_cli.channels import Axis, Network
    from prune_cli.compute import Place
    from prune_cli.data.splits import Data

log = logging.getLogger(__name__)
Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class EPruner:
    """Keep the exemplars among each layer's filters."""

    beta: float | None = None  # preference = beta * median similarity: larger keeps fewer. null: from the budget
    betas: Mapping[str, float] = field(default_factory=dict)  # by layer name (with * and ?), instead of beta
    init: str = "exemplars"  # exemplars | random_project | random: the weights that fine-tuning starts from
    carry_bn: bool = True  # false: the published start, with fresh batch-norms
    damping: float = 0.5  # scikit-learn's defaults, as published
    max_iter: int = 200
    convergence_iter: int = 15

    def __post_init__(self) -> None:
        for beta in [*self.betas.values(), *([] if self.beta is None else [self.beta])]:
            require_range("pruner.beta", beta, 0, 1e6)
        require_choice("pruner.init", self.init, ("exemplars", "random_project", "random"))
        require_range("pruner.damping", self.damping, 0.5, 0.999)
        require_range("pruner.max_iter", self.max_iter, 1, 10**6, whole=True)
        require_range("pruner.convergence_iter", self.convergence_iter, 1, 10**6, whole=True)

    @property
    def heeds_budget(self) -> bool:
        return self.beta is None

    def check(self, network: Network, budget: Budget) -> None:
        groups = cuttable(network)
        for pattern in self.betas:
            found = any(fnmatchcase(group.name, pattern) for group in groups)
            require(found, f"pruner.betas: no layer matches {pattern}; layers are {', '.join(g.name for g in groups)}")
        if self.beta is None:
            budget.check(network, groups)

    def plan(self, network: Network, data: Data, budget: Budget, place: Place, seed: int) -> Plan:
        layers = {
            group.name: _Layer(network.filters(group, group.writers[0]).numpy(), self) for group in cuttable(network)
        }
        if self.beta is None:
            kept, betas = self._search(network, layers, budget)
        else:
            betas = {name: self._override(name, self.beta) for name in layers}
            kept = {name: layer.official(betas[name]) for name, layer in layers.items()}
        if self.beta is None:
            part = budget.remaining(network, kept)
            if part < 0.9 * budget.keep:
                log.warning("exemplars leave %.3f of %s where %g was asked for: their number jumps with beta on this "
                            "network; another pruner meets it closely", part, budget.metric, budget.keep)  # fmt: skip
        notes = {"betas": betas, "not_converged": [name for name, layer in layers.items() if layer.complaints]}
        for name, layer in layers.items():
            if layer.complaints:
                log.warning("affinity propagation on %s: %s", name, "; ".join(layer.complaints))
        if self.init == "random_project":
            _project_readers(network, kept, seed)
        return Plan(tuple(Width(name, keep) for name, keep in kept.items()), self._fresh(network, kept), notes)

    def _override(self, name: str, beta: float) -> float:
        return next((own for pattern, own in self.betas.items() if fnmatchcase(name, pattern)), beta)

    # ---- a budget instead of beta -------------------------------------------------------------------

    def _search(self, network: Network, layers: Mapping[str, _Layer], budget: Budget) -> tuple[Kept, dict[str, float]]:
        """The betas whose exemplars come closest to the budget from below.

        One beta for all layers is bisected first. Counts fall with beta only nearly always, so nothing relies
        on it: every candidate is costed, and the layers then move one by one from the beta that fits to the
        one that does not, as far as the budget allows.
        """
        floors = {name: budget.least(network.groups[name]) for name in layers}

        def kept_at(betas: Mapping[str, float]) -> Kept:
            kept = {name: layer.above_floor(betas[name], floors[name]) for name, layer in layers.items()}
            return {name: layers[name].rounded(keep, budget.multiple) for name, keep in kept.items()}

        def fits(betas: Mapping[str, float]) -> bool:
            return budget.remaining(network, kept_at(betas)) <= budget.keep

        def fits_with(name: str, beta: float) -> bool:
            return fits({**betas, name: beta})

        def common(beta: float) -> dict[str, float]:
            return {name: self._override(name, beta) for name in layers}

        if fits(common(0.0)):
            return kept_at(common(0.0)), common(0.0)
        above, below = 0.0, 1.0  # too much is kept at `above`, little enough at `below`
        while not fits(common(below)):
            above, below = below, 2 * below
            if below > 1e4:
                least = budget.remaining(network, kept_at(common(below)))
                raise PruneError(
                    f"budget.keep={budget.keep:g} of {budget.metric} is out of reach: exemplars with "
                    f"budget.floor={budget.floor:g} reach {least:.3f} on this network; raise keep or lower floor"
                )
        ladder = np.linspace(above, below, 4097).tolist()
        step = budget.fewest(network, lambda n: (kept_at(common(ladder[n])), ()), 0, 4096)
        above, below = ladder[max(0, step - 1)], ladder[step]
        betas = common(below)
        if budget.metric == "latency":  # hundreds of candidates would take long to measure, and differ less than noise
            return kept_at(betas), betas
        for name in layers:
            betas[name] = _furthest(betas[name], self._override(name, above), partial(fits_with, name))
        return kept_at(betas), betas

    # ---- the weights that fine-tuning starts from ---------------------------------------------------

    def _fresh(self, network: Network, kept: Kept) -> tuple[str, ...]:
        if self.init == "random":
            return tuple(name for name, module in network.model.named_modules() if hasattr(module, "reset_parameters"))
        if self.carry_bn:
            return ()
        fresh: list[str] = []
        for name in kept:
            group = network.groups[name]
            fresh += [axis.module for axis in group.of("norm")]
            linear = {layer.module for layer in network.layers if layer.kind == "linear"}
            fresh += [axis.module for axis in group.of("read") if axis.module in linear]
            for axis in group.writers:
                bias = getattr(network.model.get_submodule(axis.module), "bias", None)
                if bias is not None:  # in front of a batch-norm a bias has no effect: zero is as fresh as any
                    bias.data.zero_()
        return tuple(dict.fromkeys(fresh))


def similarities(filters: Array) -> Array:
    """s(i, j) = -|w_i - w_j|^2 for filters (C, F), as scikit-learn computes it."""
    from sklearn.metrics import euclidean_distances

    return -np.asarray(euclidean_distances(filters, squared=True))


def elect(
    similarity: Array, beta: float, damping: float = 0.5, max_iter: int = 200, convergence_iter: int = 15
) -> tuple[tuple[int, ...], str]:
    """The exemplars at one beta, ascending, and scikit-learn's complaint ("" if it has none).

    The preference of a point is beta times the median of its column, in which its similarity to itself, zero,
    takes part: the official code's rule.
    """
    from sklearn.cluster import affinity_propagation

    if len(similarity) == 1:
        return (0,), ""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        centres, _ = affinity_propagation(
            similarity,
            preference=beta * np.median(similarity, axis=0),
            damping=damping,
            max_iter=max_iter,
            convergence_iter=convergence_iter,
            random_state=0,
        )
    complaint = str(caught[0].message).split(". ")[0] if caught else ""
    if len(centres) == 0:
        return tuple(range(len(similarity))), complaint + "; all filters are kept"
    return tuple(sorted(int(centre) for centre in centres)), complaint


class _Layer:
    """The filters of one layer, and the exemplars among them at any beta."""

    def __init__(self, filters: Array, settings: EPruner) -> None:
        self.settings = settings
        self.similarity = similarities(filters)
        # Exact duplicates are the worst case of affinity propagation: they share their messages and all stay.
        self.distinct = np.sort(np.unique(filters, axis=0, return_index=True)[1])
        self.complaints: list[str] = []
        self._elected: dict[float, tuple[int, ...]] = {}
        self._unsettled: dict[float, str] = {}

    def official(self, beta: float) -> tuple[int, ...]:
        """Exactly what the official code keeps at this beta."""
        s = self.settings
        kept, complaint = elect(self.similarity, beta, s.damping, s.max_iter, s.convergence_iter)
        self.complaints = [complaint] if complaint else []
        return kept

    def above_floor(self, beta: float, floor: int) -> tuple[int, ...]:
        """The exemplars at this beta; at the largest beta that leaves `floor` of them, where this one leaves fewer."""
        floor = min(floor, len(self.distinct))
        kept = self.patient(beta)
        low, high = 0.0, beta
        for _ in range(10 if len(kept) < floor else 0):
            middle = (low + high) / 2
            low, high = (middle, high) if len(self.patient(middle)) >= floor else (low, middle)
        chosen = beta if len(kept) >= floor else low
        self.complaints = [self._unsettled[chosen]] if chosen in self._unsettled else []
        return self.patient(chosen)

    def rounded(self, kept: tuple[int, ...], multiple: int) -> tuple[int, ...]:
        """The exemplars, and the filters that resemble them least until their number is a multiple."""
        chosen = list(kept)
        while len(chosen) % multiple and len(chosen) < len(self.similarity):
            nearest = self.similarity[:, chosen].max(axis=1)
            nearest[chosen] = np.inf
            chosen.append(int(nearest.argmin()))
        return tuple(sorted(chosen))

    def patient(self, beta: float) -> tuple[int, ...]:
        """The exemplars among the distinct filters; without convergence, asked again, then all are kept."""
        if beta not in self._elected:
            s = self.settings
            distinct = self.similarity[np.ix_(self.distinct, self.distinct)]
            kept, complaint = elect(distinct, beta, s.damping, s.max_iter, s.convergence_iter)
            if complaint:
                # All three are raised together: more damping alone is taken for convergence too early.
                patience = max(1000, 5 * s.max_iter), max(50, 3 * s.convergence_iter)
                kept, complaint = elect(distinct, beta, max(0.9, s.damping), *patience)
            if complaint and beta > 0:
                self._unsettled[beta] = f"at beta {beta:.3g}: {complaint}; all filters count as exemplars there"
            if complaint or beta == 0:
                kept = tuple(range(len(self.distinct)))
            self._elected[beta] = tuple(int(self.distinct[k]) for k in kept)
        return self._elected[beta]


def _furthest(fitting: float, other: float, fits: Callable[[float], bool]) -> float:
    """Move one layer's beta from one that fits towards one that may not, as far as the budget allows."""
    if fits(other):
        return other
    for _ in range(6):
        middle = (fitting + other) / 2
        fitting, other = (middle, other) if fits(middle) else (fitting, middle)
    return fitting


def _project_readers(network: Network, kept: Kept, seed: int) -> None:
    """Published variant `random_project`: the next layer's kernel, randomly projected to the exemplars' columns."""
    blocks = {layer.module: layer.groups for layer in network.layers}
    for name, keep in kept.items():
        for axis in network.groups[name].of("read"):
            if blocks[axis.module] == 1:
                _project(network, axis, set(keep), seed)


def _project(network: Network, axis: Axis, keep: set[int], seed: int) -> None:
    import torch
    from sklearn.random_projection import SparseRandomProjection

    weight = network.weight(axis.module)  # (O, I, ...)
    staying = [p for p, channel in zip(axis.at, axis.index, strict=True) if channel in keep]
    if len(staying) == len(axis.at):
        return
    columns = weight.detach()[:, list(axis.at)]  # (O, P, ...)
    cells = columns[0, 0].numel()
    projection = SparseRandomProjection(len(staying) * cells, random_state=seed)
    projected = projection.fit_transform(columns.flatten(1).numpy())  # (O, K * cells)
    with torch.no_grad():
        weight[:, staying] = (
            torch.from_numpy(np.asarray(projected)).to(weight.dtype).view(len(weight), len(staying), *weight.shape[2:])
        )
