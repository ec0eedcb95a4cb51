"""`apply`: carry out a plan. The only place where a tensor changes its shape.

Legend: C channels of a group, K kept, O rows of a weight, I its columns.
"""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from prune_cli.channels import Axis, Network, trace
from prune_cli.channels.trace import clear_hooks
from prune_cli.errors import require
from prune_cli.models.shortcut import PadShortcut
from prune_cli.plan import Drop, Plan, Width

VECTORS = ("weight", "bias", "running_mean", "running_var")


def apply(model: nn.Module, plan: Plan, shape: tuple[int, ...]) -> nn.Module:
    """A smaller copy of the model: units dropped first, then widths cut, then `plan.fresh` initialised anew.

    Args:
        model: the dense network; it is not changed.
        plan: validated as a whole before anything is cut.
        shape: of one input sample, (channels, height, width).

    Raises:
        PruneError: the plan does not fit the network.
    """
    small = copy.deepcopy(model)
    clear_hooks(small)
    drops = [edit.unit for edit in plan.edits if isinstance(edit, Drop)]
    widths = [edit for edit in plan.edits if isinstance(edit, Width)]
    traced = trace(small, shape)
    _check_drops(traced, drops)
    for unit in [unit for unit in drops if unit in traced.units]:
        small.set_submodule(unit, nn.Identity())
    for unit in [unit for unit in drops if unit in traced.reshaping]:
        _bridge(trace(small, shape), unit)
    network = trace(small, shape)
    _check_widths(network, widths)
    _cut(network, widths)
    modules = dict(small.named_modules())
    for name in plan.fresh:
        start_anew = getattr(modules.get(name), "reset_parameters", None)
        require(start_anew, f"the plan starts {name} afresh, but the network has no such layer")
        start_anew()  # type: ignore[misc]
    trace(small, shape)  # a network that no longer runs stops here, not in the user's hands
    return small


def _check_drops(network: Network, drops: Sequence[str]) -> None:
    for unit in drops:
        require(
            unit in network.units or unit in network.reshaping,
            f"{unit} cannot be dropped: the units of this network are {', '.join(network.units) or 'none'}",
        )
    twice = [unit for unit, times in Counter(drops).items() if times > 1]
    require(not twice, f"the plan drops {', '.join(twice)} more than once")


def _bridge(network: Network, unit: str) -> None:
    """Drop a unit that changes the number of channels: its readers start afresh on what enters it."""
    (group,) = (g for g in network.groups.values() if g.writers[0].module.startswith(unit + "."))
    entering = network.model.get_submodule(group.writers[0].module)
    assert isinstance(entering, nn.Conv2d)
    for axis in group.of("read"):
        reader = network.model.get_submodule(axis.module)
        assert isinstance(reader, nn.Conv2d | nn.Linear)
        columns = entering.in_channels * len(axis.at) // group.size  # a flatten gives a channel several
        setattr(reader, "in_channels" if isinstance(reader, nn.Conv2d) else "in_features", columns)
        old = reader.weight
        reader.weight = nn.Parameter(old.new_empty(len(old), columns, *old.shape[2:]), old.requires_grad)
        reader.reset_parameters()
    network.model.set_submodule(unit, nn.Identity())


def _check_widths(network: Network, widths: Sequence[Width]) -> None:
    twice = [name for name, times in Counter(edit.group for edit in widths).items() if times > 1]
    require(not twice, f"the plan cuts {', '.join(twice)} more than once")
    for edit in widths:
        group = network.group(edit.group)
        keep = edit.keep
        require(
            keep and list(keep) == sorted(set(keep)) and keep[0] >= 0 and keep[-1] < group.size,
            f"the channels kept of {edit.group} must be ascending numbers in 0..{group.size - 1}, at least one",
        )
        empty = [axis.module for axis in group.axes if not set(axis.index) & set(keep)]
        require(not empty, f"the channels kept of {edit.group} leave {', '.join(empty)} without any")
        if edit.into is not None:
            fits = len(edit.into) == group.size and all(-1 <= slot < len(keep) for slot in edit.into)
            own = fits and all(edit.into[channel] == slot for slot, channel in enumerate(keep))
            require(own, f"`into` of {edit.group} must give each of {group.size} channels a slot, kept ones their own")


def _cut(network: Network, widths: Sequence[Width]) -> None:
    gone: dict[tuple[str, str], set[int]] = {}
    for edit in widths:
        group = network.group(edit.group)
        for axis in group.axes:
            if axis.role == "read" and edit.into is not None:
                _fold_columns(network.weight(axis.module), axis, edit, network)
            side = "columns" if axis.role == "read" else "rows"
            kept = set(edit.keep)
            gone.setdefault((axis.module, side), set()).update(
                p for p, channel in zip(axis.at, axis.index, strict=True) if channel not in kept
            )
    for (name, side), positions in gone.items():
        module = network.model.get_submodule(name)
        if isinstance(module, PadShortcut):
            _cut_pads(module, positions, _length(network, name))
        elif side == "columns":
            _cut_columns(module, positions)
        else:
            _cut_rows(module, positions)


def _fold_columns(weight: Tensor, axis: Axis, edit: Width, network: Network) -> None:
    """Add the columns of merged channels to those of the channels that they are merged into.

    A channel may have several columns (cells of a flatten, blocks of a grouped conv): the n-th one is added
    to the n-th one.
    """
    assert edit.into is not None
    columns = _occurrences(axis)
    blocks = _blocks(network, axis.module)
    with torch.no_grad():
        for channel, slot in enumerate(edit.into):
            if slot < 0 or edit.keep[slot] == channel or channel not in columns:
                continue
            for source, target in zip(columns[channel], columns[edit.keep[slot]], strict=True):
                rows, source_column = _block_of(weight, source, blocks)
                target_rows, target_column = _block_of(weight, target, blocks)
                assert rows == target_rows
                weight[rows, target_column] += weight[rows, source_column]


def _occurrences(axis: Axis) -> dict[int, list[int]]:
    found: dict[int, list[int]] = {}
    for position, channel in zip(axis.at, axis.index, strict=True):
        found.setdefault(channel, []).append(position)
    return found


def _blocks(network: Network, module: str) -> int:
    return next(layer.groups for layer in network.layers if layer.module == module)


def _block_of(weight: Tensor, column: int, blocks: int) -> tuple[slice, int]:
    """The rows that read an input channel, and its column there: weights of grouped convs are (O, I / blocks, ...)."""
    rows, columns = weight.shape[0] // blocks, weight.shape[1]
    block = column // columns
    return slice(block * rows, (block + 1) * rows), column % columns


def _length(network: Network, module: str) -> int:
    """How many channels a `PadShortcut` gives: all of them are named in its axes."""
    groups = [*network.groups.values(), *network.fixed.values()]
    return 1 + max(axis.at[-1] for group in groups for axis in group.axes if axis.module == module)


def _cut_pads(shortcut: PadShortcut, gone: set[int], length: int) -> None:
    """Channels between the two pads are the input's own and go with the input; the pads are ours to shorten."""
    first = sum(position < shortcut.before for position in gone)
    last = sum(position >= length - shortcut.after for position in gone)
    shortcut.before -= first
    shortcut.after -= last


def _cut_rows(module: nn.Module, gone: set[int]) -> None:
    """Fewer rows of a conv or linear layer (all of a depthwise one), or entries of a norm."""
    attribute = next(
        a for a in ("out_channels", "out_features", "num_features", "num_parameters") if hasattr(module, a)
    )
    rows = _kept(int(getattr(module, attribute)), gone)
    if isinstance(module, nn.Conv2d) and 1 < module.groups == module.in_channels:
        module.in_channels = module.groups = len(rows) * module.in_channels // module.out_channels
    for name in VECTORS:
        _select(module, name, rows, 0)
    setattr(module, attribute, len(rows))


def _cut_columns(module: nn.Module, gone: set[int]) -> None:
    assert isinstance(module, nn.Conv2d | nn.Linear)
    if isinstance(module, nn.Linear):
        columns = _kept(module.in_features, gone)
        _select(module, "weight", columns, 1)
        module.in_features = len(columns)
        return
    # A grouped conv loses the same columns in each block; those of the first block say which.
    width = module.in_channels // module.groups
    columns = _kept(width, {p for p in gone if p < width})
    _select(module, "weight", columns, 1)
    module.in_channels = len(columns) * module.groups


def _kept(size: int, gone: set[int]) -> Tensor:
    return torch.tensor([position for position in range(size) if position not in gone])


def _select(module: nn.Module, name: str, kept: Tensor, dim: int) -> None:
    tensor = getattr(module, name, None)
    if not isinstance(tensor, Tensor) or tensor.dim() <= dim:
        return
    chosen = tensor.detach().index_select(dim, kept.to(tensor.device))
    is_parameter = isinstance(tensor, nn.Parameter)
    setattr(module, name, nn.Parameter(chosen, tensor.requires_grad) if is_parameter else chosen)


def write_back(model: nn.Module, plan: Plan, small: nn.Module, shape: tuple[int, ...]) -> None:
    """Put the weights of `small`, which `plan` made from the model, back where they came from in the model.

    The plan may only choose channels: what is merged or dropped has no place of its own to go back to.
    """
    numbered = copy.deepcopy(model).double()  # every entry is its own position: surgery itself says where it ends up
    for tensor in numbered.state_dict().values():
        tensor.copy_(torch.arange(tensor.numel()).view_as(tensor))
    positions = apply(numbered, plan, shape).state_dict()
    new = small.state_dict()
    for name, tensor in model.state_dict().items():
        tensor.view(-1)[positions[name].long().view(-1)] = new[name].to(tensor.device).reshape(-1)
