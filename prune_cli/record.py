"""What a run leaves behind, as types. `result.json` is the JSON of `Record`; docs/results.md describes it."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

SCHEMA = 1  # raised when a field changes its meaning or disappears


@dataclass(frozen=True)
class Epoch:
    """One line of a training curve."""

    epoch: int  # from 1
    train_loss: float  # mean over the epoch
    val_accuracy: float  # fraction
    lr: float  # at the end of the epoch
    seconds: float


@dataclass(frozen=True)
class Fit:
    """What a training did."""

    epochs: int
    seconds: float
    images_per_second: float
    val_accuracy: float  # of the last epoch, whose weights are kept
    best_val_accuracy: float
    curve: tuple[Epoch, ...] = ()


@dataclass(frozen=True)
class Accuracy:
    """Top-1, as fractions. Choices are made on `val`; `test` is read once, after all of them."""

    val: float
    test: float


@dataclass(frozen=True)
class Latency:
    """One network on one target at one batch size."""

    batch: int
    median_ms: float
    p10_ms: float
    p90_ms: float
    rounds: int
    ratio: float  # to the dense network: median over rounds of the paired ratio
    ratio_low: float  # 95% interval of that median (bootstrap over rounds)
    ratio_high: float


@dataclass(frozen=True)
class Measure:
    """What a network costs; never how good it is."""

    params: int
    macs: int  # multiply-adds of conv and linear layers, of one image
    file_bytes: int  # as model.safetensors
    peak_memory_mb: dict[str, float]  # by batch ("b64"): weights and live activations of one forward pass
    latency: dict[str, list[Latency]]  # by target


@dataclass(frozen=True)
class Base:
    """Where the dense network came from."""

    source: str  # "trained" | "store" | "checkpoint"
    path: str
    identity: str  # 12 hex digits
    fit: Fit | None  # null: never trained by this program


@dataclass(frozen=True)
class Record:
    """Everything about a finished run."""

    summary: dict[str, Any]  # flat: the row of every table
    config: dict[str, Any]
    command: list[str]
    created: str  # ISO 8601, UTC
    versions: dict[str, str]
    host: dict[str, Any]
    compute: dict[str, Any]  # device, precision, layout, threads of the training
    hardware: dict[str, dict[str, Any]]  # by target: threads, dtype, layout, rounds
    base: Base
    plan: dict[str, Any]  # as plan.json
    accuracy: dict[str, Accuracy]  # dense, cut, reestimated (if asked for), finetuned
    measures: dict[str, Measure]  # dense, pruned
    finetune: Fit | None
    seconds: dict[str, float]  # by stage
    schema: int = field(default=SCHEMA)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)
