"""Figures shown by other programs while they come in: TensorBoard, MLflow."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

from prune_cli.errors import require
from prune_cli.record import Epoch


class Watcher(Protocol):
    """Is told what a run does."""

    def epoch(self, stage: str, epoch: Epoch) -> None:
        """An epoch of training; one that was done before the run was interrupted is told again."""

    def end(self, summary: Mapping[str, Any]) -> None:
        """The row of every table."""


@dataclass(frozen=True)
class Tracking:
    """Which programs are told."""

    tensorboard: str | bool = "auto"  # auto: if it is installed | true | false
    mlflow: str | None = None  # where MLflow keeps its runs: sqlite:///mlflow.db, or the address of a server

    def __post_init__(self) -> None:
        known = self.tensorboard == "auto" or isinstance(self.tensorboard, bool)
        require(known, f"tracking.tensorboard must be auto, true or false: got {self.tensorboard!r}")
        wanted = self.tensorboard is not True or find_spec("tensorboard")
        require(wanted, "tracking.tensorboard=true needs a package: pip install 'prune-cli[tensorboard]'")
        there = self.mlflow is None or find_spec("mlflow")
        require(there, f"tracking.mlflow={self.mlflow} needs a package: pip install 'prune-cli[mlflow]'")

    @contextmanager
    def watchers(self, out: Path, name: str, config: Mapping[str, Any]) -> Iterator[list[Watcher]]:
        """For one run.

        Args:
            out: the run's folder, which holds TensorBoard's files.
            name: of the run.
            config: the whole of it.
        """
        with ExitStack() as stack:
            found: list[Watcher] = []
            if self.tensorboard is True or (self.tensorboard == "auto" and find_spec("tensorboard")):
                found.append(stack.enter_context(_tensorboard(out)))
            if self.mlflow is not None:
                found.append(stack.enter_context(_mlflow(self.mlflow, name, config)))
            yield found


class _TensorBoard:
    def __init__(self, writer: Any) -> None:
        self.writer = writer

    def epoch(self, stage: str, epoch: Epoch) -> None:
        for key, value in _scalars(epoch).items():
            self.writer.add_scalar(f"{stage}/{key}", value, epoch.epoch)
        self.writer.flush()

    def end(self, summary: Mapping[str, Any]) -> None:
        for key, value in _numbers(summary).items():
            self.writer.add_scalar(f"summary/{key}", value, 0)


@contextmanager
def _tensorboard(out: Path) -> Iterator[Watcher]:
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # TensorBoard looks for TensorFlow, which would be talkative
    from torch.utils.tensorboard import SummaryWriter

    with SummaryWriter(str(out)) as writer:
        yield _TensorBoard(writer)


class _Mlflow:
    def __init__(self, mlflow: Any) -> None:
        self.mlflow = mlflow

    def epoch(self, stage: str, epoch: Epoch) -> None:
        metrics = {f"{stage}/{key}": value for key, value in _scalars(epoch).items()}
        self.mlflow.log_metrics(metrics, step=epoch.epoch)

    def end(self, summary: Mapping[str, Any]) -> None:
        self.mlflow.log_metrics({f"summary/{key}": value for key, value in _numbers(summary).items()})


@contextmanager
def _mlflow(uri: str, name: str, config: Mapping[str, Any]) -> Iterator[Watcher]:
    import mlflow

    mlflow.set_tracking_uri(uri)
    mlflow.set_experiment("prune-cli")
    with mlflow.start_run(run_name=name):
        mlflow.log_params({key: str(value)[:500] for key, value in _flat(config, "")})
        yield _Mlflow(mlflow)


def _scalars(epoch: Epoch) -> dict[str, float]:
    return {"train_loss": epoch.train_loss, "val_accuracy": epoch.val_accuracy, "lr": epoch.lr}


def _numbers(summary: Mapping[str, Any]) -> dict[str, float]:
    return {key: float(value) for key, value in summary.items() if isinstance(value, int | float)}


def _flat(tree: Mapping[str, Any], path: str) -> Iterator[tuple[str, Any]]:
    for key, value in tree.items():
        where = f"{path}.{key}".lstrip(".")
        if isinstance(value, Mapping):
            yield from _flat(value, where)
        else:
            yield where, value
