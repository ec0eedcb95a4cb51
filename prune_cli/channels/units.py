"""Units: sub-modules that may become the identity because their input and output have the same shape."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, fx, nn

from prune_cli.channels.interpret import PER_CHANNEL, Interpreter

ADDITIONS = frozenset("add add_ iadd".split())
ACTIVATIONS = frozenset("relu relu_ relu6 silu hardswish dropout stochastic_depth".split())


def find_units(found: Interpreter) -> tuple[str, ...]:
    """The smallest residual blocks and, outside of them, the smallest plain blocks that keep their shape.

    A residual block is left by an addition that its own input reaches unweighted (ResNet, MobileNetV2); a
    plain block is a chain around one convolution of equal input and output shape (VGG).
    """
    inside = _nodes_by_module(found)
    ends = {
        name: ends for name, ends in _ends(inside, found).items() if _shapes(ends, found)[0] == _shapes(ends, found)[1]
    }
    residual = _smallest([name for name in ends if _is_residual(inside[name], *ends[name], found)])
    chains = _smallest(
        [name for name in ends if not _touches(name, residual) and not _is_residual(inside[name], *ends[name], found)]
    )
    order = {name: position for position, name in enumerate(inside)}
    return tuple(sorted([*residual, *chains], key=order.__getitem__))


def find_reshaping(found: Interpreter, units: tuple[str, ...]) -> tuple[str, ...]:
    """The smallest blocks around one convolution that change the number of channels and nothing else of the shape."""
    inside = _nodes_by_module(found)
    names = []
    for name, ends in _ends(inside, found).items():
        before, after = _shapes(ends, found)
        widens = before[1:2] != after[1:2] and before[2:] == after[2:]
        alone = sum(_is_writer(node, found) for node in inside[name]) == 1
        if widens and alone and not _touches(name, list(units)):
            names.append(name)
    return tuple(_smallest(names))


def keep_plain(model: nn.Module, units: tuple[str, ...], x: Tensor) -> tuple[str, ...]:
    """The units whose call is one tensor in, one tensor out. DenseNet's layers take a list, which has no identity.

    The model is run once; its hooks are gone afterwards.
    """
    plain: set[str] = set()

    def watch(name: str) -> Any:
        def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
            if len(args) == 1 and not kwargs and isinstance(args[0], Tensor) and isinstance(output, Tensor):
                plain.add(name)

        return hook

    handles = [model.get_submodule(name).register_forward_hook(watch(name), with_kwargs=True) for name in units]
    try:
        if units:
            model(x)
    finally:
        for handle in handles:
            handle.remove()
    return tuple(name for name in units if name in plain)


def _nodes_by_module(found: Interpreter) -> dict[str, list[fx.Node]]:
    """The graph nodes inside each sub-module that is called once and has weighted layers of its own."""
    inside: dict[str, list[fx.Node]] = {}
    for node in found.values:
        stack: Mapping[str, Any] = node.meta.get("nn_module_stack") or {}
        for name in stack:
            if name and name != node.target:
                inside.setdefault(name, []).append(node)
    again = {name.split("@")[0] for name in inside if "@" in name}  # torch.fx writes a second call as name@1
    once = {name: nodes for name, nodes in inside.items() if name.split("@")[0] not in again}
    return {name: nodes for name, nodes in once.items() if any(_is_writer(node, found) for node in nodes)}


def _is_writer(node: fx.Node, found: Interpreter) -> bool:
    return node.op == "call_module" and (str(node.target), "write") in found.axes


def _ends(inside: Mapping[str, list[fx.Node]], found: Interpreter) -> dict[str, tuple[fx.Node, fx.Node]]:
    return {name: ends for name, nodes in inside.items() if (ends := _one_in_one_out(nodes, found))}


def _shapes(ends: tuple[fx.Node, fx.Node], found: Interpreter) -> tuple[tuple[int, ...], tuple[int, ...]]:
    first, last = (tuple(found.values[node].shape) for node in ends)
    return first, last


def _one_in_one_out(nodes: list[fx.Node], found: Interpreter) -> tuple[fx.Node, fx.Node] | None:
    """The tensor that enters and the one that leaves, if there is one of each."""
    members = set(nodes)
    entering = {s for n in nodes for s in n.all_input_nodes if s not in members and isinstance(found.values[s], Tensor)}
    leaving = {n for n in nodes if any(user not in members for user in n.users)}
    if len(entering) != 1 or len(leaving) != 1:
        return None
    (first,), (last,) = entering, leaving
    return (first, last) if isinstance(found.values[last], Tensor) else None


def _is_residual(nodes: list[fx.Node], first: fx.Node, last: fx.Node, found: Interpreter) -> bool:
    """Does the input reach the output through additions and activations alone?"""
    identity = {first}
    for node in nodes:
        sources = node.all_input_nodes
        if _is_call(node, ADDITIONS):
            passes = any(source in identity for source in sources)
        else:
            passes = bool(sources) and sources[0] in identity and _keeps_identity(node, found)
        if passes:
            identity.add(node)
    return last in identity and any(_is_call(node, ADDITIONS) for node in nodes)


def _keeps_identity(node: fx.Node, found: Interpreter) -> bool:
    if node.op == "call_module":
        module = found.submodules[str(node.target)]
        return isinstance(module, PER_CHANNEL) and not isinstance(module, nn.MaxPool2d | nn.AvgPool2d)
    return _is_call(node, ACTIVATIONS)


def _is_call(node: fx.Node, names: frozenset[str]) -> bool:
    called = getattr(node.target, "__name__", node.target) if node.op == "call_function" else node.target
    return node.op in ("call_function", "call_method") and called in names


def _touches(name: str, others: list[str]) -> bool:
    return any(_contains(name, other) or _contains(other, name) for other in others)


def _contains(outer: str, inner: str) -> bool:
    return inner == outer or inner.startswith(outer + ".")


def _smallest(names: list[str]) -> list[str]:
    return [name for name in names if not any(name != other and _contains(name, other) for other in names)]
