"""What a run leaves behind, as types. `result.json` is the JSON of `Record`; docs/results.md describes it."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace
from typing import Any

SCHEMA = 2  # raised when a field changes its meaning or disappears


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
    cpu_ms: float  # processor time of a call, of all threads together
    rounds: int
    processes: int  # that the rounds are spread over
    disturbed: float  # part of the samples in which the processor was taken away; they do not count
    ratio: float  # to the dense network: mean over processes of the median of paired ratios
    ratio_low: float  # 95% interval of that (bootstrap over processes and rounds)
    ratio_high: float
    verdict: str  # "faster" | "slower" | "no significant difference"; "" for the dense network


@dataclass(frozen=True)
class LayerTime:
    """Where the time goes: one layer, dense against pruned, on one target at one batch size."""

    layer: str  # name of the module; "" for all that belongs to none, such as additions and changes of layout
    dense_ms: float
    pruned_ms: float  # 0: it is gone
    dense_macs: int
    pruned_macs: int


@dataclass(frozen=True)
class Export:
    """The network in a form that loads without this package."""

    kind: str  # onnx | openvino | torch_export
    files: list[str]
    bytes: int
    error: float  # against eager PyTorch: norm of the difference of outputs over norm of the outputs


@dataclass(frozen=True)
class Measure:
    """What a network costs; never how good it is."""

    params: int
    macs: int  # multiply-adds of conv and linear layers, of one image
    file_bytes: int  # as model.safetensors
    peak_memory_mb: dict[str, float]  # by batch ("b64"): weights and live activations of one forward pass


@dataclass
class Session:
    """What was measured at one time on one machine. Networks of a run are called `dense` and `pruned`."""

    created: str  # ISO 8601, UTC
    host: dict[str, Any]
    versions: dict[str, str]
    hardware: dict[str, dict[str, Any]] = field(default_factory=dict)  # by target: what its figures mean
    missing: dict[str, str] = field(default_factory=dict)  # targets that are not there: why, and what to do
    failed: dict[str, str] = field(default_factory=dict)  # targets that are there: what went wrong
    latency: dict[str, dict[str, list[Latency]]] = field(default_factory=dict)  # by network, by target
    accuracy: dict[str, dict[str, Accuracy]] = field(default_factory=dict)  # the same, where arithmetic is not fp32
    layers: dict[str, dict[str, dict[str, list[LayerTime]]]] = field(default_factory=dict)  # and by batch ("b1")

    def between(self, dense: str, pruned: str) -> Session:
        """The part that is about two of the networks, under the names of a run."""
        names = {"dense": dense, "pruned": pruned}
        latency, accuracy, layers = (
            {new: whole[old] for new, old in names.items() if old in whole}
            for whole in (self.latency, self.accuracy, self.layers)
        )
        return replace(self, latency=latency, accuracy=accuracy, layers=layers)  # type: ignore[arg-type]


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
    base: Base
    plan: dict[str, Any]  # as plan.json
    accuracy: dict[str, Accuracy]  # dense, cut, reestimated (if asked for), finetuned
    measures: dict[str, Measure]  # dense, pruned
    benchmarks: tuple[Session, ...]  # that of the run itself, then those of prune-bench
    exports: tuple[Export, ...]
    finetune: Fit | None
    seconds: dict[str, float]  # by stage
    identity: str = ""  # 12 hex digits: of the experiment (`pipeline.Experiment.identity`)
    schema: int = field(default=SCHEMA)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)
