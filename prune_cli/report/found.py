"""What can be found below a folder, as types."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

SPLITS = ("val", "test")
Key = tuple[str, int]  # target and batch size
Curve = tuple[tuple[int, float, float], ...]  # epoch, training loss, validation accuracy


@dataclass(frozen=True)
class Timing:
    """A run's latency on one target at one batch size, next to its dense network's."""

    ms: float
    dense_ms: float
    ratio: float
    low: float  # 95% interval of the ratio
    high: float


@dataclass(frozen=True)
class Layer:
    """A group of channels."""

    name: str
    kept: int
    size: int


@dataclass(frozen=True)
class Run:
    """A finished run."""

    folder: Path
    name: str  # the folder as seen from where the report begins
    created: str
    dataset: str
    model: str
    pruner: str
    seed: int
    keep: float | None  # of the budget; None where the method was told what to cut
    metric: str
    met: bool | None
    settings: Mapping[str, str]  # the config, flat: budget.keep -> 0.5
    command: tuple[str, ...]
    accuracy: Mapping[str, float]  # val_dense, val_cut, val, and the same of test
    computed: Mapping[str, Mapping[str, float]]  # the same on targets that do not compute in fp32
    params: int
    params_dense: int
    macs: int
    macs_dense: int
    base: str
    latency: Mapping[Key, Timing]
    targets: Mapping[str, str]  # what a target's figures mean
    seconds: Mapping[str, float]
    dense_seconds: float | None  # of training the dense network, also when that was long ago
    layers: tuple[Layer, ...]
    dropped: tuple[str, ...]
    curves: Mapping[str, Curve]  # train, finetune
    host: str
    versions: Mapping[str, str]


@dataclass(frozen=True)
class Failure:
    """A job that ended without a result."""

    folder: Path
    name: str
    what: str  # dataset, model, pruner and seed, as far as they are known
    reason: str
    command: tuple[str, ...]
    log: str  # a file in the folder, "" if there is none
    created: str


@dataclass(frozen=True)
class Collection:
    root: Path
    runs: tuple[Run, ...]
    failures: tuple[Failure, ...]
    unread: Mapping[str, str]  # folders whose results cannot be used, and why
