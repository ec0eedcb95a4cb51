"""Names for things by what made them: equal descriptions have equal names, on every machine."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import Any

from prune_cli.files import sha256

VERSION = 1  # raised when the same description comes to mean something else


def identity(parts: Mapping[str, Any]) -> tuple[str, str]:
    """The canonical text of a description and its short hash. Fields at their defaults are left out.

    So a new option whose default changes nothing leaves every stored network valid.
    """
    text = json.dumps({"version": VERSION, **{k: _plain(v) for k, v in parts.items()}}, sort_keys=True, allow_nan=False)
    return text, sha256(text.encode())[:12]


def _plain(value: Any) -> Any:
    if is_dataclass(value) and not isinstance(value, type):
        changed = {f.name: getattr(value, f.name) for f in fields(value) if getattr(value, f.name) != f.default}
        return {"is": type(value).__name__, **{name: _plain(v) for name, v in changed.items()}}
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    return [_plain(v) for v in value] if isinstance(value, list | tuple) else value
