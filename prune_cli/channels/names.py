"""Channel names: every channel of every tensor carries a number, and numbers that must agree are joined."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

Ids = np.ndarray[Any, np.dtype[np.int64]]


@dataclass(frozen=True)
class Names:
    """The names along the channel axis of one tensor."""

    ids: Ids  # (C)
    axis: int  # 1 for feature maps, -1 for what linear layers read

    def with_ids(self, ids: Ids) -> Names:
        return Names(ids, self.axis)


@dataclass
class Register:
    """Union-find over names, with the reason why some may not be cut."""

    parents: list[int] = field(default_factory=list)
    reasons: dict[int, str] = field(default_factory=dict)  # by root

    def fresh(self, count: int) -> Ids:
        start = len(self.parents)
        self.parents.extend(range(start, start + count))
        return np.arange(start, start + count)

    def root(self, name: int) -> int:
        while self.parents[name] != name:
            self.parents[name] = self.parents[self.parents[name]]
            name = self.parents[name]
        return name

    def roots(self, ids: Iterable[int]) -> Ids:
        return np.array([self.root(int(name)) for name in ids], dtype=np.int64)

    def join(self, left: Iterable[int], right: Iterable[int]) -> None:
        """Declare two lists of channels the same, one by one. The older name stays."""
        for a, b in zip(left, right, strict=True):
            low, high = sorted((self.root(int(a)), self.root(int(b))))
            if low != high:
                self.parents[high] = low
                reason = self.reasons.pop(high, None)
                if reason is not None:
                    self.reasons.setdefault(low, reason)

    def freeze(self, ids: Iterable[int], reason: str) -> None:
        for name in ids:
            self.reasons.setdefault(self.root(int(name)), reason)

    def reason(self, name: int) -> str:
        return self.reasons.get(self.root(int(name)), "")
