"""A config from a stranger must not run code: which classes a config tree may name, and how it becomes objects."""

from __future__ import annotations

import importlib
from collections.abc import Collection, Iterator, Mapping
from dataclasses import is_dataclass
from typing import Any

from prune_cli.errors import PruneError, require

LOGGING_STREAMS = ("ext://sys.stdout", "ext://sys.stderr")


def check_targets(tree: Any, trusted: Collection[str]) -> None:
    """Look at every `_target_` of a config tree before anything is built.

    Args:
        tree: plain dictionaries and lists, interpolations resolved.
        trusted: packages that the user named with `trust=[...]` on the command line.

    Raises:
        PruneError: a target is neither a description of this program nor in a trusted package.
    """
    for path, target in _targets(tree, ""):
        if is_ours(target):
            _ours(target)
            continue
        package = target.split(".")[0] if isinstance(target, str) else ""
        require(
            package in trusted,
            f"{path}={target} would run code from outside of prune_cli: "
            f"say trust=[{package or 'package'}] on the command line if you trust it",
        )


def check_engine(tree: Any) -> None:
    """The same for Hydra's own part of the config, which it builds itself: only Hydra's classes and plain logging.

    Raises:
        PruneError: something else is named.
    """
    for path, target in _targets(tree, "hydra"):
        known = isinstance(target, str) and target.split(".")[0] in ("hydra", "hydra_plugins")
        require(known, f"{path}={target} is not one of Hydra's own classes")
    for part in ("job_logging", "hydra_logging"):
        for path, key, value in _leaves(tree.get(part) or {}, f"hydra.{part}"):
            text = str(value)
            foreign = key == "()" or (text.startswith("ext://") and text not in LOGGING_STREAMS)
            foreign = foreign or (key == "class" and not text.startswith(("logging.", "rich.logging.", "colorlog.")))
            require(not foreign, f"{path}={value} would run code while logging is set up")


def is_ours(target: object) -> bool:
    return isinstance(target, str) and target.startswith("prune_cli.")


def build(node: Any, path: str = "") -> Any:
    """Turn a checked tree into objects: a mapping with `_target_` becomes that class, built from the rest.

    Raises:
        PruneError: an option is unknown or has a value that its class refuses; the message begins with its path.
    """
    if isinstance(node, list):
        return [build(value, f"{path}[{i}]") for i, value in enumerate(node)]
    if not isinstance(node, Mapping):
        return node
    values = {str(key): build(value, f"{path}.{key}".lstrip(".")) for key, value in node.items()}
    if "_target_" not in values:
        return values
    target = values.pop("_target_")
    made = _ours(target) if is_ours(target) else _foreign(target)
    try:
        return made(**values)
    except PruneError as error:
        text = str(error)
        raise PruneError(text if not path or text.startswith(path) else f"{path}.{text}") from error
    except TypeError as error:
        raise PruneError(f"{path or target}: {str(error).replace('.__init__()', '')}") from error


def _ours(target: str) -> Any:
    module, _, name = target.rpartition(".")
    try:
        found = getattr(importlib.import_module(module), name, None)
    except ImportError:
        found = None
    described = isinstance(found, type) and is_dataclass(found) and found.__module__.split(".")[0] == "prune_cli"
    require(described, f"_target_={target} is not a description of this program")
    return found


def _foreign(target: str) -> Any:
    from prune_cli.models import find_class

    return find_class(target)


def _targets(tree: Any, path: str) -> Iterator[tuple[str, Any]]:
    for where, key, value in _leaves(tree, path):
        if key == "_target_":
            yield where, value


def _leaves(tree: Any, path: str) -> Iterator[tuple[str, str, Any]]:
    """Path, key and value of everything in a tree that is not itself a mapping or list; `_target_` in any case."""
    pairs = tree.items() if isinstance(tree, Mapping) else enumerate(tree) if isinstance(tree, list) else ()
    for key, value in pairs:
        where = f"{path}.{key}".lstrip(".")
        if key == "_target_" or not isinstance(value, Mapping | list):
            yield where, str(key), value
        else:
            yield from _leaves(value, where)
