"""Runs a traced network on channel names: one rule per kind of operation, and a stop for all others."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from torch import Tensor, fx, nn
from torch.nn.utils import parametrize

from prune_cli.channels.names import Ids, Names, Register
from prune_cli.channels.network import Layer, Role
from prune_cli.models.shortcut import PadShortcut

PER_CHANNEL = (  # modules that treat every channel alike and keep the channel axis where it is
    nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.ELU, nn.GELU, nn.SiLU, nn.Hardswish, nn.Hardsigmoid, nn.Hardtanh, nn.Sigmoid,
    nn.Tanh, nn.Mish, nn.Softplus, nn.Identity, nn.Dropout, nn.Dropout2d, nn.MaxPool2d, nn.AvgPool2d,
    nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool2d, nn.LPPool2d, nn.ZeroPad2d, nn.ReflectionPad2d, nn.ReplicationPad2d,
    nn.Upsample,
)  # fmt: skip
PER_CHANNEL_CALLS = frozenset(
    "relu relu_ relu6 leaky_relu elu gelu silu hardswish hardsigmoid hardtanh sigmoid tanh mish softplus dropout "
    "dropout2d dropout_ max_pool2d avg_pool2d adaptive_avg_pool2d adaptive_max_pool2d interpolate stochastic_depth "
    "contiguous clone detach float half bfloat16 to neg abs".split()
)
TWO_OPERANDS = frozenset("add add_ iadd sub sub_ isub mul mul_ imul truediv div div_".split())
VECTORS = {"weight": "learnable", "bias": "learnable", "running_mean": "statistic", "running_var": "statistic"}


class Interpreter(fx.Interpreter):
    """Executes the graph on `meta` tensors for the shapes, and beside every value keeps its channel names."""

    def __init__(self, graph: fx.GraphModule) -> None:
        super().__init__(graph)
        self.register = Register()
        self.values: dict[fx.Node, Any] = {}  # what each node gave: meta tensors, sizes
        self.names: dict[fx.Node, Any] = {}  # Names, or a tuple of them, or None for what carries no channels
        self.axes: dict[tuple[str, Role], Ids] = {}  # the names along a module's axis
        self.layers: dict[str, Layer] = {}

    def run_node(self, n: fx.Node) -> Any:
        value = self.values[n] = super().run_node(n)
        self.names[n] = getattr(self, f"_{n.op}")(n, value)
        return value

    # ---- kinds of node ------------------------------------------------------------------------------

    def _placeholder(self, node: fx.Node, value: Any) -> Names | None:
        return self._fixed(value, "network input")

    def _get_attr(self, node: fx.Node, value: Any) -> Names | None:
        return self._fixed(value, f"read as a bare tensor {node.target}")

    def _output(self, node: fx.Node, value: Any) -> None:
        for names in self._operands(node):
            self.register.freeze(names.ids, "network output")

    def _call_module(self, node: fx.Node, value: Any) -> Any:
        target = str(node.target)
        module = self.submodules[target]
        source = next(self._operands(node), None)
        if source is None or parametrize.is_parametrized(module):
            return self._unknown(node, value)
        if isinstance(module, nn.Conv2d) and source.axis == 1:
            return self._conv(target, module, source, value)
        if isinstance(module, nn.Linear) and self._is_last_axis(node, source):
            return self._linear(target, module, source, value)
        if isinstance(module, nn.BatchNorm2d | nn.BatchNorm1d) and source.axis == 1:
            return self._norm(target, module, source)
        if isinstance(module, nn.PReLU) and source.axis == 1 and module.num_parameters == len(source.ids):
            return self._norm(target, module, source)
        if isinstance(module, PadShortcut):
            return self._pad(target, module, source)
        if isinstance(module, PER_CHANNEL) or (isinstance(module, nn.PReLU) and module.num_parameters == 1):
            return source
        if isinstance(module, nn.Flatten):
            return self._flatten(node, source, value)
        return self._unknown(node, value)

    def _call_method(self, node: fx.Node, value: Any) -> Any:
        return self._call(node, value, str(node.target))

    def _call_function(self, node: fx.Node, value: Any) -> Any:
        return self._call(node, value, getattr(node.target, "__name__", str(node.target)))

    def _call(self, node: fx.Node, value: Any, call: str) -> Any:
        operands = list(self._operands(node))
        if not operands or not _holds_tensors(value):
            return None
        if call == "getitem" and isinstance(parts := self.names[node.all_input_nodes[0]], tuple):
            return parts[node.args[1]] if isinstance(node.args[1], int) else self._unknown(node, value)
        if call in TWO_OPERANDS:
            return self._combine(node, operands, value)
        if call in ("cat", "concat") and _argument(node, 1, "dim", 0) in (1, 1 - value.dim()):
            return self._concatenate(node, operands, value)
        if call in ("flatten", "view", "reshape"):
            return self._flatten(node, operands[0], value, sizes=() if call == "flatten" else _sizes(node))
        if call in ("chunk", "split") and isinstance(value, tuple | list):
            return self._split(node, operands[0], value)
        if call in PER_CHANNEL_CALLS or (
            call in ("mean", "getitem", "squeeze", "pad") and self._is_spatial(node, call)
        ):
            return operands[0]
        return self._unknown(node, value)

    # ---- layers with weights ------------------------------------------------------------------------

    def _conv(self, target: str, conv: nn.Conv2d, source: Names, value: Tensor) -> Names:
        kernel, cells, bias = math.prod(conv.kernel_size), math.prod(value.shape[2:]), int(conv.bias is not None)
        if conv.groups > 1 and conv.groups == conv.in_channels:
            ids = np.repeat(source.ids, conv.out_channels // conv.in_channels)
            self._count(Layer(target, "conv", conv.out_channels, 1, kernel, cells, 1, bias))
            return source.with_ids(self._along(target, "depthwise", ids))
        # Cutting the j-th channel of every block of a grouped conv together keeps the blocks equal.
        blocks = source.ids.reshape(conv.groups, -1)
        for block in blocks[1:]:
            self.register.join(blocks[0], block)
        self._along(target, "read", source.ids)
        self._count(Layer(target, "conv", conv.out_channels, conv.in_channels, kernel, cells, conv.groups, bias))
        return source.with_ids(self._written(target, conv.out_channels, conv.groups))

    def _linear(self, target: str, linear: nn.Linear, source: Names, value: Tensor) -> Names:
        cells, bias = math.prod(value.shape[1:-1]), int(linear.bias is not None)
        self._along(target, "read", source.ids)
        self._count(Layer(target, "linear", linear.out_features, linear.in_features, 1, cells, 1, bias))
        return Names(self._written(target, linear.out_features, 1), -1 if value.dim() > 2 else 1)

    def _norm(self, target: str, norm: nn.Module, source: Names) -> Names:
        vectors = sum(getattr(norm, name, None) is not None for name, kind in VECTORS.items() if kind == "learnable")
        if target not in self.layers:
            self._count(Layer(target, "norm", len(source.ids), vectors=vectors))
        return source.with_ids(self._along(target, "norm", source.ids))

    def _pad(self, target: str, shortcut: PadShortcut, source: Names) -> Names:
        if (target, "pad") in self.axes:
            return source.with_ids(self.axes[target, "pad"])
        before, after = self.register.fresh(shortcut.before), self.register.fresh(shortcut.after)
        return source.with_ids(self._along(target, "pad", np.concatenate([before, source.ids, after])))

    def _written(self, target: str, rows: int, blocks: int) -> Ids:
        """New names for what a layer writes; a layer that is called twice writes the same channels again."""
        if (target, "write") not in self.axes:
            self.axes[target, "write"] = np.tile(self.register.fresh(rows // blocks), blocks)
        return self.axes[target, "write"]

    def _along(self, target: str, role: Role, ids: Ids) -> Ids:
        """Record the names along a module's axis; two calls of one module make their names agree."""
        self.register.join(self.axes.setdefault((target, role), ids), ids)
        return ids

    def _count(self, layer: Layer) -> None:
        if layer.module in self.layers:  # called again: the same weights work on more cells
            first = self.layers[layer.module]
            layer = Layer(**{**vars(layer), "cells": first.cells + layer.cells})
        self.layers[layer.module] = layer

    # ---- operations without weights -----------------------------------------------------------------

    def _combine(self, node: fx.Node, operands: Sequence[Names], value: Tensor) -> Any:
        width = value.shape[1] if operands[0].axis == 1 else value.shape[-1]
        full = [names for names in operands if len(names.ids) == width]
        if not full or len({names.axis for names in full}) > 1 or any(_has_no_batch(node, self.values, value)):
            return self._unknown(node, value)
        for names in operands:
            if len(names.ids) == width:
                self.register.join(full[0].ids, names.ids)
            else:  # one channel that is broadcast over all of them
                self.register.freeze(names.ids, f"broadcast over channels at {node.name}")
        return full[0]

    def _concatenate(self, node: fx.Node, operands: Sequence[Names], value: Tensor) -> Any:
        if any(names.axis != 1 for names in operands) or sum(len(n.ids) for n in operands) != value.shape[1]:
            return self._unknown(node, value)
        return Names(np.concatenate([names.ids for names in operands]), 1)

    def _flatten(self, node: fx.Node, source: Names, value: Tensor, sizes: Sequence[Any] = ()) -> Any:
        before = self.values[node.all_input_nodes[0]]
        whole = source.axis == 1 and value.dim() == 2 and value.shape[0] == before.shape[0]
        if not whole or any(isinstance(size, int) and size not in (-1, 1) for size in sizes[1:]):
            return self._unknown(node, value, "a reshape with a fixed number of channels")
        return Names(np.repeat(source.ids, value.shape[1] // len(source.ids)), 1)

    def _split(self, node: fx.Node, source: Names, parts: Sequence[Tensor]) -> Any:
        if _argument(node, 2, "dim", 0) != 1 or source.axis != 1:
            return self._unknown(node, parts)
        self.register.freeze(source.ids, f"split by position at {node.name}")
        ends = np.cumsum([part.shape[1] for part in parts])[:-1]
        return tuple(source.with_ids(ids) for ids in np.split(source.ids, ends))

    def _is_spatial(self, node: fx.Node, call: str) -> bool:
        """Does this call leave the channel axis alone? (It reduces, slices or pads pixels only.)"""
        before = self.values[node.all_input_nodes[0]]
        if call == "getitem":
            index = node.args[1] if isinstance(node.args[1], tuple) else (node.args[1],)
            return all(type(i) is slice for i in index) and index[:2] == (slice(None),) * len(index[:2])
        if call == "pad":
            widths = _argument(node, 1, "pad", ())
            return isinstance(widths, Sequence) and len(widths) <= 2 * (before.dim() - 2)
        dims = _argument(node, 1, "dim", None)
        dims = (dims,) if isinstance(dims, int) else dims
        if not dims or not all(isinstance(d, int) for d in dims):
            return False
        return before.dim() > 2 and all(d % before.dim() > 1 for d in dims)

    def _is_last_axis(self, node: fx.Node, source: Names) -> bool:
        return source.axis == -1 or bool(self.values[node.all_input_nodes[0]].dim() == 2)

    # ---- what we do not know ------------------------------------------------------------------------

    def _operands(self, node: fx.Node) -> Iterator[Names]:
        for source in node.all_input_nodes:
            names = self.names.get(source)
            yield from [n for n in names if n is not None] if isinstance(names, tuple) else [names] if names else []

    def _unknown(self, node: fx.Node, value: Any, why: str = "") -> Any:
        """Freeze what goes in and out: nothing is guessed."""
        module = node.op == "call_module"
        kind = (
            type(self.submodules[str(node.target)]).__name__
            if module
            else getattr(node.target, "__name__", node.target)
        )
        reason = f"touched by {why or f'unknown op {kind}'} at {node.target if module else node.name}"
        for names in self._operands(node):
            self.register.freeze(names.ids, reason)
        return self._fixed(value, reason)

    def _fixed(self, value: Any, reason: str) -> Any:
        if isinstance(value, tuple | list):
            return tuple(self._fixed(part, reason) for part in value)
        if not isinstance(value, Tensor) or value.dim() < 2:
            return None
        axis = 1 if value.dim() in (2, 4) else -1
        ids = self.register.fresh(value.shape[axis])
        self.register.freeze(ids, reason)
        return Names(ids, axis)


def _argument(node: fx.Node, position: int, name: str, default: Any) -> Any:
    return node.args[position] if len(node.args) > position else node.kwargs.get(name, default)


def _sizes(node: fx.Node) -> Sequence[Any]:
    """The shape asked for by a view or reshape, as written."""
    sizes = node.args[1:]
    return sizes[0] if len(sizes) == 1 and isinstance(sizes[0], Sequence) else sizes


def _holds_tensors(value: Any) -> bool:
    return isinstance(value, Tensor) or (isinstance(value, tuple | list) and any(isinstance(v, Tensor) for v in value))


def _has_no_batch(node: fx.Node, values: Mapping[fx.Node, Any], result: Tensor) -> Iterator[bool]:
    """Operands whose axes do not line up with the result's, so that axis 1 means something else."""
    for source in node.all_input_nodes:
        operand = values[source]
        yield isinstance(operand, Tensor) and operand.dim() not in (0, result.dim())
