"""How much a filter matters: one number per channel of every group, by a criterion of the literature.

The criteria are those of LayerPrune's code (arXiv 2007.05667, section 3.1 and its references); `a` is the output of
the batch-norm behind a filter, a gate is a factor of one on it, L the cross-entropy of a batch:

| name | of filter j | needs |
| --- | --- | --- |
| `l2` | sum of w^2 | weights |
| `l1` | sum of |w| | weights |
| `bn_scale` | |gamma_j| | weights |
| `taylor_weight` | sum of (w dL/dw)^2 | labelled images |
| `taylor_gate` | (dL/dgate_j)^2 | labelled images |
| `taylor_map` | mean of |a dL/da|, then the layer's vector divided by its length | labelled images |

Data criteria are averaged over batches. The official code trains on while it scores; here the weights are frozen and
batch-norm uses its running statistics.

Legend: N images, C channels of a group, P positions on a tensor axis.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from torch import Tensor

    from prune_cli.channels import Axis, Group, Network
    from prune_cli.compute import Place
    from prune_cli.data.images import Images

CRITERIA = ("l2", "l1", "bn_scale", "taylor_weight", "taylor_gate", "taylor_map")
Scores = dict[str, np.ndarray[Any, Any]]  # per group (C)


def score_filters(
    network: Network, groups: Iterable[Group], criterion: str, images: Images, place: Place, size: int = 128
) -> Scores:
    """Score every channel of the groups; the weights, mode and hooks of the model stay as they are.

    Args:
        criterion: one of `CRITERIA`.
        images: for the criteria that need data, in batches of `size`.
    """
    groups = list(groups)
    if criterion in ("l1", "l2"):
        power = int(criterion[1])
        return {g.name: _rows(network, g, lambda module: module.weight.detach().abs() ** power) for g in groups}
    if criterion == "bn_scale":
        return {g.name: _norm_scale(network, g) for g in groups}
    total: Scores = {g.name: np.zeros(g.size) for g in groups}
    batches = 0
    for scores in _data_scores(network, groups, criterion, images, place, size):
        batches += 1
        for name, values in scores.items():
            total[name] += values
    return {name: values / batches for name, values in total.items()}


def _rows(network: Network, group: Group, values: Callable[[Any], Tensor]) -> np.ndarray[Any, Any]:
    """Sum the entries of every row that writes a channel (C)."""
    found = np.zeros(group.size)
    for axis in group.writers:
        rows = values(network.model.get_submodule(axis.module)).flatten(1).sum(1).double().cpu().numpy()  # (P)
        np.add.at(found, list(axis.index), rows[list(axis.at)])
    return found


def _norm_scale(network: Network, group: Group) -> np.ndarray[Any, Any]:
    found = np.zeros(group.size)
    for axis in group.of("norm"):
        weight = network.weight(axis.module).detach().abs().double().cpu().numpy()
        np.add.at(found, list(axis.index), weight[list(axis.at)])
    return found


def _data_scores(
    network: Network, groups: list[Group], criterion: str, images: Images, place: Place, size: int
) -> Iterator[Scores]:
    """One set of scores per batch."""
    import torch
    import torch.nn.functional as F

    model = place.move(network.model)
    was_training = model.training
    model.eval()
    taps = {group.name: _tap(network, group) for group in groups}
    tapped = sorted({axis.module for axis in taps.values()})
    try:
        for x, y in images.batches(size, place):
            with inputs_and_outputs_of(network, tapped) as flows:
                loss = F.cross_entropy(model(x), y)
            maps = {name: flows[name, "output"] for name in tapped}
            if criterion == "taylor_weight":
                writers = _writers(network, groups)
                grads = torch.autograd.grad(loss, [m.weight for m in writers])
                moved = {m: (m.weight.detach() * g) ** 2 for m, g in zip(writers, grads, strict=True)}
                yield {g.name: _rows(network, g, moved.__getitem__) for g in groups}
            else:
                grads = torch.autograd.grad(loss, [*maps.values()])
                change = {
                    name: (a * g).detach() for (name, a), g in zip(maps.items(), grads, strict=True)
                }  # (N, P, ...)
                yield {g.name: _map_scores(change[taps[g.name].module], taps[g.name], g, criterion) for g in groups}
    finally:
        model.train(was_training)
        model.cpu()


def _writers(network: Network, groups: list[Group]) -> list[Any]:
    return [network.model.get_submodule(name) for name in dict.fromkeys(a.module for g in groups for a in g.writers)]


def _tap(network: Network, group: Group) -> Axis:
    """Where a gate on the group would sit: behind the batch-norm of its own, else behind its last writer."""
    own = [axis for axis in group.of("norm") if axis.at == tuple(range(len(axis.at))) and _covers(network, axis)]
    return (own or list(group.writers))[-1]


def _covers(network: Network, axis: Axis) -> bool:
    return len(network.weight(axis.module)) == len(axis.at)


def _map_scores(change: Tensor, tap: Axis, group: Group, criterion: str) -> np.ndarray[Any, Any]:
    """`change` is a * dL/da (N, P, H, W) or (N, P); the loss is a mean over the batch, so a sum over N is its total."""
    change = change.double()
    found = np.zeros(group.size)
    if criterion == "taylor_gate":
        gates = change.flatten(2).sum((0, 2)) if change.dim() > 2 else change.sum(0)
        np.add.at(found, list(tap.index), gates.cpu().numpy()[list(tap.at)])
        return found**2
    per_channel = change.abs().transpose(0, 1).flatten(1).mean(1)
    np.add.at(found, list(tap.index), per_channel.cpu().numpy()[list(tap.at)])
    return found / max(float(np.linalg.norm(found)), 1e-30)


@contextmanager
def inputs_and_outputs_of(network: Network, modules: Iterable[str]) -> Iterator[Mapping[tuple[str, str], Tensor]]:
    """What enters and leaves the modules, by (module, "input" | "output")."""
    maps: dict[tuple[str, str], Tensor] = {}

    def keep(name: str) -> Callable[[Any, Any, Tensor], None]:
        def hook(module: Any, inputs: Any, output: Tensor) -> None:
            maps[name, "input"], maps[name, "output"] = inputs[0], output

        return hook

    handles = [network.model.get_submodule(name).register_forward_hook(keep(name)) for name in modules]
    try:
        yield maps
    finally:
        for handle in handles:
            handle.remove()
