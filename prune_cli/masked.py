"""`MaskedNetwork`: how a trained network does with channels switched off, thousands of times over.

What makes it fast: all that lies before the first reader of a switched channel is computed once; the columns that
would read it are really cut out of the readers; batch-norms are folded; batches are small enough for the cache.

Legend: n masks, C channels of a group, I columns of a weight, N images.
"""

from __future__ import annotations

import copy
import operator
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn
from torch.fx.experimental.optimization import fuse

from prune_cli.channels import Axis, Network, graph_of

if TYPE_CHECKING:
    from prune_cli.compute import Place
    from prune_cli.data.images import Images

Array = np.ndarray[Any, Any]
Masks = Mapping[str, Array]  # per group (n, C) of bool: which channels are on
Step = tuple[fx.Node, list[fx.Node]]  # what to compute, and what is no longer needed after it


@dataclass(frozen=True)
class Performance:
    """Of every mask, over all images: mean cross-entropy, and top-1 accuracy as a fraction (n)."""

    loss: Array
    accuracy: Array


class MaskedNetwork:
    """A frozen copy of a network, in eval mode and the precision of `place`, with the images that it is tried on.

    A channel is off when nothing reads it: the outcome is that of the network without it.
    """

    def __init__(self, network: Network, images: Images, place: Place, batch: int = 128) -> None:
        """`batch`: images per call."""
        folded = fuse(graph_of(copy.deepcopy(network.model).cpu().eval()), inplace=True, no_trace=True)
        assert isinstance(folded, fx.GraphModule)
        _never_in_place(folded)
        place.move(folded.to(place.dtype))
        self.images, self.place, self.batch = images, place, batch
        self.nodes = tuple(folded.graph.nodes)
        self.tensors = dict(folded.named_parameters()) | dict(folded.named_buffers())
        self.modules = dict(folded.named_modules())
        self.readers: dict[str, list[tuple[str, Axis]]] = {}
        for group in network.groups.values():
            for axis in group.of("read"):
                self.readers.setdefault(axis.module, []).append((group.name, axis))

    def measure(self, masks: Masks) -> Performance:
        """Try every mask on all images; groups without masks stay whole."""
        count = len(next(iter(masks.values())))
        totals = torch.zeros(2, count, dtype=torch.float64, device=self.place.device)
        switched = [module for module, parts in self.readers.items() if any(group in masks for group, _ in parts)]
        columns = {module: self._columns(module, masks, count) for module in switched}
        before, after = self._split(set(switched))
        with torch.inference_mode():
            for x, y in self.images.batches(self.batch, self.place):
                cache = self._run(before, {}, x, {})
                for number in range(count):
                    kept = {module: found[number] for module, found in columns.items()}
                    logits = self._run(after, dict(cache), x, kept)[self.nodes[-1]].float()
                    totals[0, number] += F.cross_entropy(logits, y, reduction="sum")
                    totals[1, number] += (logits.argmax(1) == y).sum()
        loss, accuracy = (totals / len(self.images)).cpu().numpy()
        return Performance(loss, accuracy)

    def _columns(self, module: str, masks: Masks, count: int) -> Array:
        """Which columns of a reader each mask leaves (n, I)."""
        reader = self.modules[module]
        assert isinstance(reader, nn.Conv2d | nn.Linear)
        on = np.ones((count, reader.in_channels if isinstance(reader, nn.Conv2d) else reader.in_features), dtype=bool)
        for group, axis in self.readers[module]:
            if group in masks:
                on[:, list(axis.at)] = masks[group][:, list(axis.index)]
        return on

    def _split(self, switched: set[str]) -> tuple[list[Step], list[Step]]:
        """What no mask can change, and all the rest."""
        late: set[fx.Node] = set()
        for node in self.nodes:
            reads = node.op == "call_module" and node.target in switched
            if reads or node.op == "output" or any(source in late for source in node.all_input_nodes):
                late.add(node)
        before = [node for node in self.nodes if node not in late]
        after = [node for node in self.nodes if node in late]
        return _steps(before, needed=after), _steps(after, needed=[after[-1]])

    def _run(self, steps: list[Step], values: dict[fx.Node, Any], x: Tensor, kept: Mapping[str, Array]) -> Any:
        for node, done in steps:
            values[node] = self._value(node, values, x, kept)
            for old in done:
                del values[old]
        return values

    def _value(self, node: fx.Node, values: dict[fx.Node, Any], x: Tensor, kept: Mapping[str, Array]) -> Any:
        if node.op == "placeholder":
            return x.to(self.place.dtype)
        if node.op == "get_attr":
            return self.tensors[str(node.target)]
        arguments: Any
        arguments, options = fx.map_arg((node.args, node.kwargs), values.__getitem__)
        if node.op == "output":
            return arguments[0]
        if node.op == "call_module":
            module = self.modules[str(node.target)]
            on = kept.get(str(node.target))
            return module(*arguments, **options) if on is None else _read(module, arguments[0], on)
        if node.op == "call_method":
            return getattr(arguments[0], str(node.target))(*arguments[1:], **options)
        assert callable(node.target)
        return node.target(*arguments, **options)


def _steps(nodes: list[fx.Node], needed: list[fx.Node]) -> list[Step]:
    """With each node, the nodes of this list whose values it is the last to use."""
    keep = {source for node in needed for source in [node, *node.all_input_nodes]}
    last = {source: node for node in nodes for source in node.all_input_nodes}
    own = set(nodes) - keep
    return [(node, [s for s in dict.fromkeys(node.all_input_nodes) if s in own and last[s] is node]) for node in nodes]


def _read(module: nn.Module, x: Tensor, on: Array) -> Tensor:
    """The output of a reader from the columns that are on (I)."""
    assert isinstance(module, nn.Conv2d | nn.Linear)
    if on.all():
        return module(x)
    if not on.any() or (isinstance(module, nn.Conv2d) and module.groups > 1):  # zeros where nothing can be cut out
        zeros = torch.from_numpy(on).to(x.device, x.dtype)
        return module(x * zeros.view(-1, *[1] * (x.dim() - 2)))
    columns = torch.from_numpy(np.flatnonzero(on)).to(x.device)
    weight = module.weight.index_select(1, columns)
    if isinstance(module, nn.Linear):
        return F.linear(x.index_select(1, columns), weight, module.bias)
    # Through its channels-last view, so that the layout stays.
    part = x.permute(0, 2, 3, 1).index_select(3, columns).permute(0, 3, 1, 2)
    return module._conv_forward(part, weight, module.bias)  # with the module's own stride and kind of padding


def _never_in_place(graph: fx.GraphModule) -> None:
    """Kept values must not change under those who use them again."""
    for module in graph.modules():
        if hasattr(module, "inplace"):
            module.inplace = False  # type: ignore[assignment]
    for node in graph.graph.nodes:
        if node.kwargs.get("inplace"):
            node.kwargs = {**node.kwargs, "inplace": False}
        if node.target is operator.iadd:
            node.target = operator.add
        if node.op == "call_method" and str(node.target) in ("add_", "relu_", "mul_"):
            node.target = str(node.target).removesuffix("_")
