"""Networks side by side on every target: converted, checked against PyTorch, timed in turn, layer by layer."""

from __future__ import annotations

import logging
import os
import shutil
import tempfile
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from datetime import datetime, timezone
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from prune_cli import host, team
from prune_cli.costs import macs_by_layer
from prune_cli.errors import PruneError, require
from prune_cli.export import distance
from prune_cli.files import locked, slug
from prune_cli.hardware import Hardware, example
from prune_cli.hardware.process import Parcel, fresh
from prune_cli.hardware.race import Heat, run, unpack
from prune_cli.hardware.summary import summarise
from prune_cli.record import Accuracy, Latency, LayerTime, Session

if TYPE_CHECKING:
    from torch import Tensor, nn

    from prune_cli.hardware import Artefact

Result = TypeVar("Result")
Seconds = dict[str, float]  # by layer
log = logging.getLogger(__name__)
BUSY = 0.1  # part of the machine that others may keep busy before it is worth a warning
LAYER_SECONDS, LAYER_TURNS, LAYER_PROCESSES = 0.3, 3, 2  # attribution to layers, per network and batch size


def measure(
    networks: Mapping[str, nn.Module],
    shape: tuple[int, ...],
    targets: Mapping[str, Hardware],
    dense_of: Mapping[str, str] | None = None,
    calibration: Tensor | None = None,
    judge: Callable[[nn.Module], Accuracy] | None = None,
) -> Session:
    """Latency of every network on every target. A target that goes wrong is told of, and costs no other its figures.

    Args:
        networks: by name, in fp32 and eval mode on the CPU; they are not changed.
        shape: of one input sample, (channels, height, width).
        dense_of: the network that each one is compared with; by default the first.
        calibration: images (N, C, H, W) for targets that quantise.
        judge: tells the accuracy of networks on targets whose arithmetic is not fp32.
    """
    dense_of = dense_of or dict.fromkeys(networks, next(iter(networks)))
    session = Session(datetime.now(timezone.utc).isoformat(timespec="seconds"), host.describe(), host.versions())
    macs = {name: macs_by_layer(model, shape) for name, model in networks.items()}
    session.missing = {name: reason for name, target in targets.items() if (reason := target.missing())}
    with tempfile.TemporaryDirectory(prefix="prune-cli-") as workshop:
        for name in [name for name in targets if name not in session.missing]:
            log.info("measuring latency on %s", name)
            contest = Contest(name, targets[name], shape, Path(workshop), calibration)
            try:
                for network, model in networks.items():
                    contest.enter(network, model)
                _fill(session, name, contest, dense_of, macs)
                if judge is not None and targets[name].lossy:
                    for network in networks:
                        with _one_line():
                            session.accuracy.setdefault(network, {})[name] = judge(contest.deployed(network))
            except PruneError as error:
                log.error("%s: %s", name, error)
                session.failed[name] = str(error)
    return session


def _fill(
    session: Session, target: str, contest: Contest, dense_of: Mapping[str, str], macs: Mapping[str, dict[str, int]]
) -> None:
    heats = contest.run()
    load = float(np.mean([heat.other_load for process in heats for heat in process.values()]))
    if load > BUSY * host.cores():
        log.warning("%s: other programs kept %.1f of %d processors busy meanwhile; repeat on a quiet machine for "
                    "sharper figures", target, load, host.cores())  # fmt: skip
    session.hardware[target] = {
        **contest.target.describe(), "other_load": round(load, 2), "errors": contest.errors,
    }  # fmt: skip
    for network, dense in dense_of.items():
        session.latency.setdefault(network, {})[target] = contest.latency(heats, network, dense)
    for network, dense in dense_of.items():
        times = contest.layers(network, dense) if network != dense else {}
        if times:
            session.layers.setdefault(network, {})[target] = {
                batch: _by_layer(own, other, macs[network], macs[dense]) for batch, (own, other) in times.items()
            }


class Contest:
    """Networks that are compared on one target.

    Files lie in `workshop/<network>/<target>`; what several targets use, one folder up.
    """

    def __init__(
        self, name: str, target: Hardware, shape: tuple[int, ...], workshop: Path, calibration: Tensor | None = None
    ) -> None:
        self.name, self.target, self.shape, self.calibration = name, target, shape, calibration
        self.workshop = workshop
        self.entrants: dict[str, Parcel | Path] = {}
        self.expected: dict[str, dict[int, Tensor]] = {}
        self.errors: dict[str, float] = {}  # by network: how far its outputs are from eager PyTorch's
        self.converts = type(target).convert is not Hardware.convert

    def enter(self, name: str, model: nn.Module) -> None:
        """Convert a network for the target, in a process of its own."""
        import torch

        with torch.inference_mode():
            self.expected[name] = {b: model(example(b, self.shape)) for b in self.target.batches}
        parcel = Parcel(model)
        if not self.converts:
            self.entrants[name] = parcel
            return
        folder = self.workshop / slug(name) / self.name
        folder.mkdir(parents=True)
        made = self._in_process(convert, parcel, self.shape, folder, self.calibration)
        assert isinstance(made, Path)
        self.entrants[name] = made

    def run(self) -> list[dict[int, Heat]]:
        """Time all networks in turn: for every fresh process, by batch size.

        Raises:
            PruneError: an output is not that of eager PyTorch, or a process died.
        """
        with _alone():
            heats = [self._in_process(run, self.entrants, self.shape) for _ in range(self.target.processes)]
        for name, expected in self.expected.items():
            gaps = [distance(heats[0][batch].laps[name].outputs, y) for batch, y in expected.items()]
            self.errors[name] = max(gaps)
            require(
                self.errors[name] <= self.target.bound,
                f"{name} gives other outputs than PyTorch in fp32: they differ by {self.errors[name]:.1e} of their "
                f"norm, bound {self.target.bound:g}",
            )
        return heats

    def latency(self, heats: Sequence[dict[int, Heat]], name: str, dense: str) -> list[Latency]:
        """By batch size."""
        rows = []
        for batch in self.target.batches:
            own, other = ([heat[batch].laps[n] for heat in heats] for n in (name, dense))
            rows.append(summarise(batch, own, own if name == dense else other, self.target.threads))
        return rows

    def layers(self, name: str, dense: str) -> dict[str, tuple[Seconds, Seconds]]:
        """Seconds by layer of a network and of its dense one, by batch size ("b1"); empty if the target cannot tell."""
        pair, processes = {n: self.entrants[n] for n in (name, dense)}, min(LAYER_PROCESSES, self.target.processes)
        found = {}
        for batch in self.target.batches:
            with _alone():
                runs = [self._in_process(layer_times, pair, self.shape, batch) for _ in range(processes)]
            if all(run[name] and run[dense] for run in runs):
                found[f"b{batch}"] = _mean([run[name] for run in runs]), _mean([run[dense] for run in runs])
        return found

    def deployed(self, name: str) -> nn.Module:
        """The network as the target computes it, for images (N, C, H, W) in fp32 on the CPU."""
        from prune_cli.hardware.deployed import Deployed

        return Deployed(self.target, unpack(self.entrants[name]))

    def _in_process(self, work: Callable[..., Result], *arguments: Any) -> Result:
        with _one_line():
            return fresh(work, self.target, *arguments)


class Stopwatch:
    """Latencies of candidates for one target and batch size, each as a part of the dense network's.

    Every candidate is timed in turn with the dense network. Latency depends on shapes: equal ones are timed once.
    """

    def __init__(
        self,
        dense: nn.Module,
        shape: tuple[int, ...],
        target: Hardware,
        batch: int,
        calibration: Tensor | None = None,
    ) -> None:
        self.workshop = Path(tempfile.mkdtemp(prefix="prune-cli-"))
        weakref.finalize(self, shutil.rmtree, self.workshop, ignore_errors=True)
        share = {"processes": 4, "rounds": 12, "seconds": min(1.0, target.seconds)}
        quick = replace(target, batches=(batch,), **share)  # type: ignore[arg-type]
        self.contest = Contest("target", quick, shape, self.workshop, calibration)
        self.contest.enter("dense", dense)
        self.known: dict[tuple[Any, ...], float] = {_shapes(dense): 1.0}

    def ratio(self, model: nn.Module) -> float:
        key = _shapes(model)
        if key not in self.known:
            self.known[key] = team.agree(lambda: self._measured(model))
        return self.known[key]

    def _measured(self, model: nn.Module) -> float:
        shutil.rmtree(self.workshop / "candidate", ignore_errors=True)
        self.contest.enter("candidate", model)
        return self.contest.latency(self.contest.run(), "candidate", "dense")[0].ratio

    @cached_property
    def table(self) -> Seconds:
        """The dense network's seconds by layer; empty if the target cannot tell."""
        return team.agree(lambda: next((own for own, _ in self.contest.layers("dense", "dense").values()), {}))


def _shapes(model: nn.Module) -> tuple[Any, ...]:
    return tuple((name, tuple(tensor.shape)) for name, tensor in model.state_dict().items())


def convert(
    target: Hardware, parcel: Parcel, shape: tuple[int, ...], folder: Path, calibration: Tensor | None
) -> Artefact:
    """The work of a converting process."""
    import torch

    torch.set_num_threads(target.threads)
    return target.convert(parcel.open(), shape, folder, calibration)


def layer_times(
    target: Hardware, pair: Mapping[str, Parcel | Path], shape: tuple[int, ...], batch: int
) -> dict[str, Seconds]:
    """The work of an attributing process: networks in turn, each for LAYER_SECONDS in all."""
    import torch

    torch.set_num_threads(target.threads)
    artefacts, images = {name: unpack(parcel) for name, parcel in pair.items()}, example(batch, shape)
    cold = {name: sum(target.layer_times(artefact, images, 1).values()) for name, artefact in artefacts.items()}
    times: dict[str, list[Seconds]] = {name: [] for name in artefacts}
    for _ in range(LAYER_TURNS):
        for name, artefact in artefacts.items():
            runs = max(1, min(100, round(LAYER_SECONDS / LAYER_TURNS / max(cold[name], 1e-6))))
            times[name].append(target.layer_times(artefact, images, runs))
    return {name: _mean(turns) for name, turns in times.items()}


def _mean(turns: Sequence[Seconds]) -> Seconds:
    return {layer: sum(turn.get(layer, 0.0) for turn in turns) / len(turns) for layer in turns[0]}


def _by_layer(own: Seconds, dense: Seconds, own_macs: Mapping[str, int], macs: Mapping[str, int]) -> list[LayerTime]:
    return [
        LayerTime(name, round(1000 * dense.get(name, 0.0), 5), round(1000 * own.get(name, 0.0), 5),
                  macs.get(name, 0), own_macs.get(name, 0))
        for name in dict.fromkeys([*dense, *own])
    ]  # fmt: skip


@contextmanager
def _one_line() -> Iterator[None]:
    """Runtimes raise whatever they like: what went wrong becomes one line."""
    try:
        yield
    except PruneError:
        raise
    except Exception as error:
        log.debug("a runtime failed", exc_info=True)
        text = str(error).strip().splitlines()
        raise PruneError(f"{type(error).__name__}: {text[0] if text else 'no reason given'}") from error


def _alone() -> AbstractContextManager[Any]:
    """Measurements of one user wait for each other, across programs."""
    owner = os.getuid() if hasattr(os, "getuid") else os.getlogin()
    return locked(Path(tempfile.gettempdir()) / f"prune-cli-{owner}.lock", "another measurement is under way")
