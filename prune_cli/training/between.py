"""The state of a training between two steps: putting it back gives the same bits as never having stopped."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from prune_cli.compute import Place
from prune_cli.errors import PruneError
from prune_cli.journal import Value
from prune_cli.record import Epoch

log = logging.getLogger(__name__)


class Memory(Protocol):
    """What a method knows besides the network and its extra parameters."""

    def remember(self) -> dict[str, Value]:
        """All that the rest of its training depends on."""

    def recall(self, value: dict[str, Value]) -> None:
        """Put back what `remember` gave."""


@dataclass
class Moment:
    """How far a training has come."""

    epoch: int = 0  # complete ones
    steps: int = 0  # of the epoch under way
    total: float = 0.0  # of its losses
    seconds: float = 0.0  # of training so far
    curve: list[Epoch] = field(default_factory=list)


def capture(
    moment: Moment, model: nn.Module, optimizer: torch.optim.Optimizer, place: Place, memory: Memory | None
) -> dict[str, Value]:
    inside = {id(parameter) for parameter in model.parameters()}
    parameters = dict(enumerate(_parameters(optimizer)))
    random = {"cpu": torch.get_rng_state()}
    if place.device.type == "cuda":
        random["cuda"] = torch.cuda.get_rng_state(place.device)
    return {
        "moment": asdict(moment),
        "made": _made(place),
        "model": model.state_dict(),
        "extra": {str(number): p for number, p in parameters.items() if id(p) not in inside},
        "optimizer": {str(number): optimizer.state.get(p, {}) for number, p in parameters.items()},
        "random": random,
        "method": memory.remember() if memory else {},
    }


def restore(
    value: dict[str, Value], model: nn.Module, optimizer: torch.optim.Optimizer, place: Place,
    memory: Memory | None, title: str,
) -> Moment:  # fmt: skip
    """Put back what `capture` gave.

    Raises:
        PruneError: it is not of this training.
    """
    try:
        model.load_state_dict(value["model"])
    except RuntimeError as error:
        raise PruneError(f"{title}: what was kept of it is of another network: say rerun=true to begin anew") from error
    with torch.no_grad():
        for number, parameter in enumerate(_parameters(optimizer)):
            if str(number) in value["extra"]:
                parameter.copy_(value["extra"][str(number)])
            for key, own in value["optimizer"][str(number)].items():
                like = isinstance(own, Tensor) and own.shape == parameter.shape  # then in the parameter's layout too
                optimizer.state[parameter][key] = torch.empty_like(parameter).copy_(own) if like else own
    torch.set_rng_state(value["random"]["cpu"])
    if "cuda" in value["random"] and place.device.type == "cuda":
        torch.cuda.set_rng_state(value["random"]["cuda"], place.device)
    if memory:
        memory.recall(value["method"])
    made, here = value["made"], _made(place)
    changed = [f"{key} {made[key]} (now {here[key]})" for key in here if made.get(key) != here[key]]
    if changed:
        log.warning("%s was begun with %s: the result will differ in its last digits", title, ", ".join(changed))
    moment = dict(value["moment"])
    return Moment(curve=[Epoch(**epoch) for epoch in moment.pop("curve")], **moment)


def _parameters(optimizer: torch.optim.Optimizer) -> Iterator[nn.Parameter]:
    groups: Iterable[dict[str, Any]] = optimizer.param_groups
    return (parameter for group in groups for parameter in group["params"])


def _made(place: Place) -> dict[str, Any]:
    """What arithmetic depends on in its last digits."""
    return {
        "threads": place.threads,
        "torch": str(torch.__version__),
        "device": torch.cuda.get_device_name(place.device) if place.device.type == "cuda"
        else torch.backends.cpu.get_cpu_capability(),
    }  # fmt: skip
