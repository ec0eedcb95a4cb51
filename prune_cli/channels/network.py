"""A network as a pruner sees it: named groups of channels, units that may go, and what both cost.

Legend: C channels of a group, P slices of one tensor axis, O rows (output channels), I columns of a weight.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from prune_cli.errors import PruneError

Role = Literal["write", "depthwise", "norm", "read", "pad"]
Metric = Literal["channels", "volume", "params", "macs"]
METRICS: tuple[Metric, ...] = ("channels", "volume", "params", "macs")


@dataclass(frozen=True)
class Axis:
    """The part of one tensor axis that runs over a group's channels.

    Roles: `write` conv and linear rows; `depthwise` the rows of a depthwise conv, whose input and output
    channels are the same; `norm` batch-norm and PReLU vectors; `read` conv and linear columns; `pad` the
    output of a `PadShortcut`.
    """

    module: str
    role: Role
    at: tuple[int, ...]  # (P) positions on the tensor axis, ascending
    index: tuple[int, ...]  # (P) the group's channel at each position; repeats after a flatten or in grouped convs


@dataclass(frozen=True)
class Group:
    """Channels that must be kept or removed together, layer by layer; named after the first layer to write them."""

    name: str
    size: int  # C
    axes: tuple[Axis, ...]
    frozen: str = ""  # why it may not be resized; "" = it may

    def of(self, *roles: Role) -> tuple[Axis, ...]:
        return tuple(axis for axis in self.axes if axis.role in roles)

    @property
    def writers(self) -> tuple[Axis, ...]:
        return self.of("write")

    @property
    def is_stream(self) -> bool:
        """Several layers add into it: a residual stream."""
        return len(self.writers) > 1

    @cached_property
    def segments(self) -> tuple[frozenset[int], ...]:
        """Sets of channels of which one at least must stay, else some layer would be left with none."""
        return tuple(dict.fromkeys(frozenset(axis.index) for axis in self.axes))


@dataclass(frozen=True)
class Layer:
    """What a weighted layer costs, as a function of how many of its rows and columns remain."""

    module: str
    kind: Literal["conv", "linear", "norm"]
    rows: int  # O, or the channels of a norm
    columns: int = 1  # I: the input channels of all the groups of a grouped conv; 1 for depthwise and norm
    kernel: int = 1  # weights per (row, column)
    cells: int = 1  # output positions per sample
    groups: int = 1  # blocks of a grouped conv; 1 for depthwise, whose rows read one column each
    vectors: int = 0  # further parameters per row: bias, batch-norm weight


@dataclass(frozen=True)
class Network:
    """The traced network. The model may be trained in place; only `surgery` may change its structure."""

    model: nn.Module
    groups: Mapping[str, Group]  # may be resized
    fixed: Mapping[str, Group]  # may not, each with its reason
    units: tuple[str, ...]  # sub-modules that may become the identity, in order of execution
    layers: tuple[Layer, ...]
    shape: tuple[int, ...]  # of one input sample: channels, height, width
    reshaping: tuple[
        str, ...
    ] = ()  # sub-modules that may go if the layers that read them start afresh, narrower or wider

    def group(self, name: str) -> Group:
        """A group that may be resized, by name.

        Raises:
            PruneError: there is none of that name, or it is fixed (with the reason).
        """
        if name in self.groups:
            return self.groups[name]
        if name in self.fixed:
            raise PruneError(f"group {name} cannot be resized: {self.fixed[name].frozen}")
        raise PruneError(f"the network has no group {name}: its groups are {', '.join(self.groups) or 'none'}")

    def filters(self, group: Group, axis: Axis) -> Tensor:
        """The weights of a `write` axis as one point per channel of the group (C, F).

        Channels that the layer does not write (a zero-padded stream has such) are rows of zeros.
        """
        weight = self.weight(axis.module).detach()  # (O, I, ...)
        channels = sorted(set(axis.index))
        order = sorted(range(len(axis.at)), key=lambda p: (axis.index[p], p))
        rows = weight[torch.tensor(axis.at)[order]].reshape(len(channels), -1)
        points = rows.new_zeros(group.size, rows.shape[1])
        points[torch.tensor(channels)] = rows
        return points

    def weight(self, module: str) -> Tensor:
        weight = self.model.get_submodule(module).weight
        assert isinstance(weight, Tensor)
        return weight

    def cost(self, metric: Metric, kept: Mapping[str, Any] | None = None) -> Any:
        """Multiply-adds, parameters, output volume or channels of what `kept` leaves.

        Args:
            metric: `macs` and `params` count conv and linear layers (fvcore's rule), `params` every other
                parameter too; `channels` and `volume` (channels times pixels) count conv outputs.
            kept: per group a vector (C) of 0/1, or of gates in [0, 1]; absent groups stay whole. Tensors that
                require gradients give a differentiable cost, of one sample.
        """
        return self._constant[metric] + sum(self.cost_by_layer(metric, kept).values())

    def cost_by_layer(self, metric: Metric, kept: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """The same by module, without parameters that belong to no layer."""
        return {layer.module: self._layer_cost(metric, layer, kept or {}) for layer in self.layers}

    def _layer_cost(self, metric: Metric, layer: Layer, kept: Mapping[str, Any]) -> Any:
        if layer.kind != "conv" and metric in ("channels", "volume"):
            return 0
        rows = self._width(layer.module, "rows", layer.rows, kept)
        if metric == "channels":
            return rows
        if metric == "volume":
            return rows * layer.cells
        if layer.kind == "norm":
            return rows * layer.vectors if metric == "params" else 0
        columns = self._width(layer.module, "columns", layer.columns, kept) / layer.groups
        products = rows * columns * layer.kernel
        return products * layer.cells if metric == "macs" else products + rows * layer.vectors

    def _width(self, module: str, side: str, full: int, kept: Mapping[str, Any]) -> Any:
        width: Any = full
        for group, index in self._index.get((module, side), ()):
            if group in kept:
                width = width - len(index) + kept[group][index].sum()
        return width

    @cached_property
    def _index(self) -> dict[tuple[str, str], list[tuple[str, np.ndarray[Any, Any]]]]:
        """Per side of a layer: which channels of which groups stand along it."""
        sides = {"write": "rows", "depthwise": "rows", "norm": "rows", "read": "columns"}
        found: dict[tuple[str, str], list[tuple[str, np.ndarray[Any, Any]]]] = {}
        for group in self.groups.values():
            for axis in group.of("write", "depthwise", "norm", "read"):
                entry = (group.name, np.asarray(axis.index))
                found.setdefault((axis.module, sides[axis.role]), []).append(entry)
        return found

    @cached_property
    def _constant(self) -> dict[Metric, int]:
        """Parameters that belong to no layer that we know; they never change."""
        total = sum(p.numel() for p in self.model.parameters())
        known = sum(self._layer_cost("params", layer, {}) for layer in self.layers)
        return {"channels": 0, "volume": 0, "params": total - round(known), "macs": 0}
