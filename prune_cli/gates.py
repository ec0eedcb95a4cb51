"""`Gates`: one number for every channel, multiplied into what leaves a network's batch-norms while it trains.

A gate is folded into the batch-norm's scale and shift, so that a closed gate silences its channel exactly and an open
one costs next to nothing.

Legend: G gates, S sets of gates, L convolutions, U units, C channels of a group.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from prune_cli.channels import Axis, Group, Layer, Network
from prune_cli.errors import PruneError


@dataclass(frozen=True)
class GateSet:
    """The gates of one group of channels, or of one of its batch-norms."""

    name: str
    group: str
    channels: tuple[int, ...]  # of the group, one for each gate
    start: int  # where they stand among all gates
    unit: str  # dropped when all of the set are closed; "" = the network cannot do without the set

    @property
    def span(self) -> slice:
        return slice(self.start, self.start + len(self.channels))


Part = tuple[Axis, GateSet]


class Gates:
    """Where the gates of a network are, and what each of them opens."""

    def __init__(self, network: Network, groups: Sequence[Group], *, tied: bool = True) -> None:
        """
        Args:
            tied: one gate for a channel wherever it goes, and a unit fades with its strongest inner gate;
                else every batch-norm has gates of its own.

        Raises:
            PruneError: not tied, and some group has not one batch-norm behind each of its convolutions.
        """
        self.tied = tied
        self._residual = tuple(unit for unit in network.units if _is_residual(network, unit))
        self.sets: list[GateSet] = []
        self.size = 0  # G
        # By module: whose rows are multiplied, whose rows are gated, whose columns are.
        self._scaled, self._written, self._read = (defaultdict[str, list[Part]](list) for _ in range(3))
        for group in groups:
            (self._tie if tied else self._untie)(network, group)
        self.units = tuple(dict.fromkeys(s.unit for s in self.sets if s.unit))
        self._index_scales(network)
        self._index_layers(network.layers)
        self._scales: Mapping[str, Tensor] = {}

    # ---- which channels of which modules ------------------------------------------------------------

    def _tie(self, network: Network, group: Group) -> None:
        inside = {_unit_of(axis.module, self._residual) for axis in group.axes}
        unit = inside.pop() if len(inside) == 1 else ""
        own = self._add(group.name, group.name, tuple(range(group.size)), unit)
        norms = [axis for axis in group.of("norm") if _is_norm(network, axis)]
        for axis in norms or group.writers:
            self._scaled[axis.module].append((axis, own))
        for axis in group.of("write", "depthwise"):
            self._written[axis.module].append((axis, own))
        for axis in group.of("read"):
            self._read[axis.module].append((axis, own))

    def _untie(self, network: Network, group: Group) -> None:
        """In the order of execution: a batch-norm gates the convolution before it and all that reads from there on."""
        last: GateSet | None = None
        writer: Axis | None = None
        for axis in group.axes:
            if axis.role in ("write", "depthwise"):
                writer = axis
            elif axis.role == "norm" and _is_norm(network, axis):
                if writer is None or writer.index != axis.index:
                    raise PruneError(f"pruner.gates=per_norm: {axis.module} does not follow one convolution; use tied")
                last = self._add(axis.module, group.name, axis.index, _unit_of(axis.module, self._residual))
                self._scaled[axis.module].append((axis, last))
                self._written[writer.module].append((writer, last))
                writer = None
            elif axis.role == "read" and last is not None:
                self._read[axis.module].append((axis, last))

    def _add(self, name: str, group: str, channels: tuple[int, ...], unit: str) -> GateSet:
        found = GateSet(name, group, channels, self.size, unit)
        self.sets.append(found)
        self.size += len(channels)
        return found

    # ---- the same as indices, so that a step takes few operations -----------------------------------

    def _index_scales(self, network: Network) -> None:
        """For every row of a scaled module: its gate (or G: always open) and, on the way out of a unit, the unit."""
        gates, exits, self._lengths = [], [], {}
        for module, parts in self._scaled.items():
            length = len(network.weight(module))
            of_gate, of_unit = torch.full((length,), self.size), torch.full((length,), len(self.units))
            for axis, own in parts:
                of_gate[list(axis.at)] = _numbers(axis, own, self.size)
                unit = _unit_of(module, self.units)
                if self.tied and unit and own.unit != unit:
                    of_unit[list(axis.at)] = self.units.index(unit)
            gates.append(of_gate)
            exits.append(of_unit)
            self._lengths[module] = length
        self._gate, self._exit = torch.cat(gates), torch.cat(exits)
        self._set = torch.cat([torch.full((len(s.channels),), i) for i, s in enumerate(self.sets)])  # (G)
        self._unit = torch.tensor([self.units.index(s.unit) if s.unit else len(self.units) for s in self.sets])  # (S)

    def _index_layers(self, layers: Iterable[Layer]) -> None:
        """How many rows and columns of each convolution the gates add up to: matrices (L, G), constants (L)."""
        gated = [layer for layer in layers if layer.module in self._written]
        # As published, linear layers are not counted; but where there is nothing else they are.
        self.layers = tuple([layer for layer in gated if layer.kind == "conv"] or gated)
        self.rows, self.columns = torch.zeros(2, len(self.layers), self.size)
        self.fixed_rows, self.fixed_columns = torch.zeros(2, len(self.layers))
        self.layer_unit = torch.full((len(self.layers),), len(self.units))
        for number, layer in enumerate(self.layers):
            for matrix, fixed, parts, full in (
                (self.rows, self.fixed_rows, self._written[layer.module], layer.rows),
                (self.columns, self.fixed_columns, self._read[layer.module], layer.columns),
            ):
                on_gates = 0
                for axis, own in parts:
                    numbers = _numbers(axis, own, self.size)
                    numbers = numbers[numbers < self.size]
                    matrix[number].index_add_(0, numbers, torch.ones(len(numbers)))
                    on_gates += len(numbers)
                fixed[number] = full - on_gates
            unit = _unit_of(layer.module, self.units)
            if self.tied and unit:
                self.layer_unit[number] = self.units.index(unit)

    @property
    def vanishing(self) -> dict[str, str]:
        """The groups that only one unit has, with the unit that may be dropped for want of them."""
        units: dict[str, set[str]] = {}
        for own in self.sets:
            units.setdefault(own.group, set()).add(own.unit)
        return {name: next(iter(found)) for name, found in units.items() if len(found) == 1 and found != {""}}

    # ---- use ----------------------------------------------------------------------------------------

    def to(self, device: torch.device) -> Gates:
        for name, value in vars(self).items():
            if isinstance(value, Tensor):
                setattr(self, name, value.to(device))
        return self

    def alive(self, z: Tensor) -> Tensor:
        """Of every unit, and of a last entry for what is in none: how far it is open (U + 1)."""
        strongest = z.new_zeros(len(self.sets)).scatter_reduce(0, self._set, z, "amax", include_self=False)
        whole = z.new_ones(len(self.units) + 1)
        found = whole.scatter_reduce(0, self._unit, strongest, "amin")
        return torch.cat([found[:-1], whole[-1:]])

    def share(self, metric: str, soft: Tensor, alive: Tensor) -> Tensor:
        """What is left of a metric, summed over gated convolutions as ChipNet does (arXiv 2102.07156, section 3.2).

        Args:
            soft: (G) how far each gate counts as open.
            alive: (U) how far each unit that may vanish is still there.
        """
        kinds = [[layer.cells, layer.kernel, layer.groups] for layer in self.layers]
        cells, kernel, groups = torch.tensor(kinds, device=soft.device).float().T

        def total(rows: Tensor, columns: Tensor) -> Tensor:
            if metric == "channels":
                return rows.sum()
            if metric == "volume":
                return (cells * rows).sum()
            products = kernel * rows * columns / groups
            return products.sum() if metric == "params" else (cells * (products + rows)).sum()

        there = torch.cat([alive, alive.new_ones(1)])[self.layer_unit]
        left = total((self.rows @ soft + self.fixed_rows) * there, self.columns @ soft + self.fixed_columns)
        return left / total(self.rows.sum(1) + self.fixed_rows, self.columns.sum(1) + self.fixed_columns)

    def let_through(self, z: Tensor) -> None:
        """Multiply every channel of the attached network by its gate from now on.

        Args:
            z: (G) in [0, 1]; gradients flow into it.
        """
        scales = torch.cat([z, z.new_ones(1)])[self._gate]
        if self.tied and self.units:
            scales = scales * self.alive(z)[self._exit]
        self._scales = dict(zip(self._lengths, torch.split(scales, list(self._lengths.values())), strict=True))

    @contextmanager
    def attached(self, model: nn.Module, opening: Callable[[], Tensor]) -> Iterator[None]:
        """While this lasts, the model's channels are multiplied by `opening()` (G), asked for before each forward."""
        self.let_through(opening())
        places = [(model.get_submodule(name), name) for name in self._lengths]
        handle = model.register_forward_pre_hook(lambda module, inputs: self.let_through(opening()))
        try:
            for module, name in places:
                for vector in ("weight", "bias"):
                    if getattr(module, vector, None) is not None:
                        parametrize.register_parametrization(module, vector, _Scale(self, name), unsafe=True)
            yield
        finally:
            handle.remove()
            for module, _ in places:
                for vector in ("weight", "bias"):
                    if parametrize.is_parametrized(module, vector):
                        parametrize.remove_parametrizations(module, vector, leave_parametrized=False)
            self._scales = {}

    def burn_in(self, model: nn.Module, z: Tensor) -> None:
        """Multiply the model's own parameters by the gates, for good."""
        self.let_through(z)
        with torch.no_grad():
            for name, scale in self._scales.items():
                module = model.get_submodule(name)
                for vector in ("weight", "bias"):
                    tensor = getattr(module, vector, None)
                    if tensor is not None:
                        tensor.mul_(scale.to(tensor.device).view(-1, *[1] * (tensor.dim() - 1)))

    def _scale_of(self, module: str) -> Tensor:
        return self._scales[module]


class _Scale(nn.Module):
    """Rows of a tensor times their gates."""

    def __init__(self, gates: Gates, module: str) -> None:
        super().__init__()
        # A function, not an attribute: the gates are no part of the network.
        self.scale: Callable[[], Tensor] = lambda: gates._scale_of(module)

    def forward(self, tensor: Tensor) -> Tensor:
        return tensor * self.scale().view(-1, *[1] * (tensor.dim() - 1))


def _numbers(axis: Axis, own: GateSet, none: int) -> Tensor:
    """The gate of every position of an axis (P); `none` where the set has no such channel."""
    place = {channel: own.start + number for number, channel in enumerate(own.channels)}
    return torch.tensor([place.get(channel, none) for channel in axis.index])


def _unit_of(module: str, units: Iterable[str]) -> str:
    return next((unit for unit in units if module.startswith(unit + ".")), "")


def _is_residual(network: Network, unit: str) -> bool:
    """Is the unit still the identity when its inner channels are silent? What it writes, others write too."""
    for group in network.groups.values():
        written = [axis for axis in group.writers if _unit_of(axis.module, [unit])]
        inner = all(_unit_of(axis.module, [unit]) for axis in group.axes)
        if written and not inner and len(written) == len(group.writers):
            return False
    return not any(_unit_of(axis.module, [unit]) for group in network.fixed.values() for axis in group.writers)


def _is_norm(network: Network, axis: Axis) -> bool:
    return hasattr(network.model.get_submodule(axis.module), "running_mean")
