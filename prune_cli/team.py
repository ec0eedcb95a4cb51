"""The processes that train one network together, started by torchrun; without it, a team of one.

All members tell the whole story of a run in step. What must be decided once (a measured latency, which files exist)
the first member decides; files are written by the first alone.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypeVar

from prune_cli.errors import PruneError, require

if TYPE_CHECKING:
    import torch
    from torch import nn

Result = TypeVar("Result")
PATIENCE = timedelta(hours=12)  # the others wait while the first member measures
_deciding = False  # the first member is alone with a decision: what it calls must not wait for the others


def launched() -> bool:
    """Was this process started by torchrun?"""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1


def is_first() -> bool:
    """Does this process write files and speak?"""
    return int(os.environ.get("RANK", "0")) == 0 if launched() else True


def local_rank() -> int:
    """Which of this machine's devices is ours."""
    return int(os.environ.get("LOCAL_RANK", "0"))


def assemble(device: torch.device) -> None:
    """Meet the others, if there are any: gloo on the CPU, NCCL on GPUs."""
    if not launched():
        return
    import torch
    import torch.distributed as dist

    if device.type == "cuda":
        torch.cuda.set_device(device)
    if not dist.is_initialized():
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo", timeout=PATIENCE)
        if not is_first():
            logging.disable(logging.WARNING)  # one voice


def disband() -> None:
    """Leave the team in order, at the end of a run."""
    if launched():
        import torch.distributed as dist

        if dist.is_initialized():
            dist.destroy_process_group()


def size() -> int:
    if not launched() or _deciding:
        return 1
    import torch.distributed as dist

    return dist.get_world_size() if dist.is_initialized() else 1


def rank() -> int:
    return int(os.environ["RANK"]) if size() > 1 else 0


def agree(decide: Callable[[], Result]) -> Result:
    """What the first member decides, in all members; it is a team of one meanwhile.

    Raises:
        PruneError: the first member met an error; all raise it.
    """
    if size() == 1:
        return decide()
    import torch.distributed as dist

    global _deciding
    said: list[Any] = [None, None]
    if rank() == 0:
        _deciding = True
        try:
            said[0] = decide()
        except PruneError as error:
            said[1] = str(error)
        finally:
            _deciding = False
    dist.broadcast_object_list(said)
    if said[1] is not None:
        raise PruneError(said[1])
    result: Result = said[0]
    return result


def mean(values: Sequence[float], device: torch.device) -> list[float]:
    """Of every number, its mean over the members."""
    return list(values) if size() == 1 else [total / size() for total in total_of(values, device)]


def total_of(values: Sequence[float], device: torch.device) -> list[float]:
    """Of every number, its sum over the members."""
    if size() == 1:
        return list(values)
    import torch
    import torch.distributed as dist

    shared = torch.tensor(values, dtype=torch.float64, device=device)
    dist.all_reduce(shared)
    return [float(value) for value in shared.tolist()]


def average_gradients(parameters: Sequence[nn.Parameter]) -> None:
    """Of parameters that lie outside of the network that `share` wraps."""
    if size() > 1:
        import torch.distributed as dist

        for parameter in parameters:
            if parameter.grad is not None:
                dist.all_reduce(parameter.grad)
                parameter.grad /= size()


def share(model: nn.Module, batch: int, title: str) -> tuple[nn.Module, AbstractContextManager[Any]]:
    """What to call in training instead of the model, and a context for it, so that all members train one network.

    Every member takes an equal part of each batch; gradients are averaged, and batch-norms see the whole batch.

    Raises:
        PruneError: the batch cannot be divided evenly.
    """
    if size() == 1:
        return model, nullcontext()
    require(batch % size() == 0, f"{title}: batches of {batch} images cannot be divided among {size()} processes")
    from torch.nn.parallel import DistributedDataParallel

    from prune_cli.batchnorm import synchronised

    return DistributedDataParallel(model), synchronised(model)
