"""`trace`: from a plain module to the `Network` that pruners work on, without touching the module."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping

import numpy as np
import torch
from torch import fx, nn

from prune_cli.channels.interpret import Interpreter
from prune_cli.channels.network import Axis, Group, Network, Role
from prune_cli.channels.units import find_reshaping, find_units, keep_plain
from prune_cli.errors import PruneError, require
from prune_cli.models.shortcut import PadShortcut

Channel = tuple[str, int]  # a group and a channel of it


def trace(model: nn.Module, shape: tuple[int, ...]) -> Network:
    """Read the channel groups, units and costs of a network.

    Args:
        model: any module that `torch.fx` can trace; its weights, mode and hooks stay as they are.
        shape: of one input sample, (channels, height, width).

    Raises:
        PruneError: `torch.fx` cannot follow the forward, the input does not fit, or parts of the network run
            in training only (they would be left with the old widths).
    """
    skeleton = _skeleton(model).eval()
    found = _interpret(skeleton, shape)
    _refuse_training_only_parts(skeleton, found)
    groups = _groups(found)
    with torch.no_grad():
        units = keep_plain(skeleton.eval(), find_units(found), _sample(shape))
        reshaping = keep_plain(skeleton, find_reshaping(found, units), _sample(shape))
    return Network(
        model=model,
        groups={group.name: group for group in groups if not group.frozen},
        fixed={group.name: group for group in groups if group.frozen},
        units=units,
        layers=tuple(found.layers.values()),
        shape=tuple(shape),
        reshaping=tuple(unit for unit in reshaping if _is_read_whole(unit, groups, found)),
    )


def _is_read_whole(unit: str, groups: list[Group], found: Interpreter) -> bool:
    """Do only plain layers read what the unit writes, and nothing else with it?"""
    for group in groups:
        if any(axis.module.startswith(unit + ".") for axis in group.writers):
            outside = [axis for axis in group.axes if not axis.module.startswith(unit + ".")]
            layers = [found.layers.get(axis.module) for axis in outside]
            plain = all(y and y.kind == "conv" and y.groups == 1 and y.columns == group.size for y in layers)
            return not group.frozen and plain and all(axis.role == "read" for axis in outside) and len(outside) > 0
    return False


def _refuse_training_only_parts(skeleton: nn.Module, found: Interpreter) -> None:
    reached = {node.target for node in found.values}
    idle = [n for n, m in skeleton.named_modules() if isinstance(m, nn.Conv2d | nn.Linear) and n not in reached]
    if idle:
        in_training = {node.target for node in graph_of(skeleton.train()).graph.nodes}
        extra = ", ".join(name for name in idle if name in in_training)
        require(not extra, f"{extra} run in training only: build the network without them (aux_logits=False)")


class _Tracer(fx.Tracer):
    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return isinstance(m, PadShortcut) or super().is_leaf_module(m, module_qualified_name)


def graph_of(model: nn.Module) -> fx.GraphModule:
    """The forward of a network as a graph over its own modules, which it shares.

    Raises:
        PruneError: `torch.fx` cannot follow it.
    """
    try:
        return fx.GraphModule(model, _Tracer().trace(model))
    except Exception as error:  # tracing runs the user's forward: anything can come out of it
        raise PruneError(f"torch.fx cannot trace {type(model).__name__}: {_first_line(error)}") from error


def _interpret(model: nn.Module, shape: tuple[int, ...]) -> Interpreter:
    interpreter = Interpreter(graph_of(model))
    try:
        with torch.no_grad():
            interpreter.run(_sample(shape))
    except PruneError:
        raise
    except Exception as error:
        size = "x".join(map(str, shape))
        raise PruneError(f"{type(model).__name__} cannot take an input of {size}: {_first_line(error)}") from error
    return interpreter


def _sample(shape: tuple[int, ...]) -> torch.Tensor:
    """An input without data, of two images: a batch axis is then never taken for a channel axis of length one."""
    return torch.empty(2, *shape, device="meta")


def _first_line(error: Exception) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


def _skeleton(model: nn.Module) -> nn.Module:
    """A copy without data (on the `meta` device) and without hooks, so that running it has no effect on anyone."""
    memo: dict[int, object] = {}
    for tensor in [*model.parameters(), *model.buffers()]:
        empty = torch.empty_like(tensor, device="meta")
        memo[id(tensor)] = nn.Parameter(empty, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else empty
    skeleton = copy.deepcopy(model, memo).float()  # like the input that it is run on
    clear_hooks(skeleton)
    return skeleton


def clear_hooks(model: nn.Module) -> None:
    """Remove what others have hung on the forward and backward of every module."""
    for module in model.modules():
        for hooks in ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks"):
            getattr(module, hooks).clear()


def _groups(found: Interpreter) -> list[Group]:
    """Channels that one layer writes belong together; so do those that another layer writes with any of them."""
    members = found.register
    rooted = {key: members.roots(ids) for key, ids in found.axes.items()}
    family = _families(rooted)
    channels, names = _number(rooted, family)
    axes: dict[str, list[Axis]] = {name: [] for name in names.values()}
    for (module, role), ids in rooted.items():
        for name, at, index in _split_by_group(ids, channels):
            axes[name].append(Axis(module, role, at, index))
    sizes: dict[str, int] = {}
    reasons: dict[str, str] = {}
    for root, (name, _) in channels.items():
        sizes[name] = sizes.get(name, 0) + 1
        reasons[name] = reasons.get(name) or members.reason(root)
    return [Group(name, sizes[name], tuple(axes[name]), reasons[name]) for name in axes]


def _families(rooted: Mapping[tuple[str, Role], np.ndarray]) -> dict[int, int]:
    """Channel -> smallest channel of its group."""
    parent: dict[int, int] = {}

    def top(channel: int) -> int:
        while parent.setdefault(channel, channel) != channel:
            channel = parent[channel]
        return channel

    for (_, role), ids in rooted.items():
        if role == "write":
            for channel in ids:
                low, high = sorted((top(int(ids[0])), top(int(channel))))
                parent[high] = low
    return {channel: top(channel) for channel in parent}


def _number(
    rooted: Mapping[tuple[str, Role], np.ndarray], family: Mapping[int, int]
) -> tuple[dict[int, Channel], dict[int, str]]:
    """Number the channels of each group in ascending order; name the group after its first writer."""
    names: dict[int, str] = {}
    for (module, role), ids in rooted.items():
        if role == "write":
            names.setdefault(family[int(ids[0])], module)
    # A zero-padded stream is widest in its last stage: order channels as the widest axis has them.
    widest = sorted((ids for (_, role), ids in rooted.items() if role == "write"), key=len, reverse=True)
    channels: dict[int, Channel] = {}
    counts: dict[str, int] = {}
    for ids in widest:
        for channel in map(int, ids):
            if channel not in channels:
                name = names[family[channel]]
                channels[channel] = (name, counts.get(name, 0))
                counts[name] = counts.get(name, 0) + 1
    return channels, names


def _split_by_group(
    ids: np.ndarray, channels: Mapping[int, Channel]
) -> Iterator[tuple[str, tuple[int, ...], tuple[int, ...]]]:
    """The positions of an axis, group by group. Names that nobody writes (network input) belong to none."""
    parts: dict[str, list[tuple[int, int]]] = {}
    for position, channel in enumerate(map(int, ids)):
        if channel in channels:
            name, number = channels[channel]
            parts.setdefault(name, []).append((position, number))
    for name, pairs in parts.items():
        at, index = zip(*pairs, strict=True)
        yield name, at, index
