"""Batch-norms that see the whole batch although each process of a team holds a part of it.

PyTorch's SyncBatchNorm runs on GPUs only and replaces modules; here modules stay what they are, so that gates and
surgery need not know, and the CPU gives the same sums as one process up to rounding.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm


@contextmanager
def synchronised(model: nn.Module) -> Iterator[None]:
    """While this lasts, batch-norms in training mode share their statistics with all processes of the team."""
    norms = [module for module in model.modules() if isinstance(module, _BatchNorm)]
    for norm in norms:
        norm.forward = partial(_forward, norm)  # type: ignore[method-assign]
    try:
        yield
    finally:
        for norm in norms:
            del norm.forward


def _forward(norm: Any, x: Tensor) -> Tensor:
    """
    Args:
        x: this process's part of a batch, (n, C, ...); the parts are of equal size.
    """
    if not norm.training:
        return cast(Tensor, type(norm).forward(norm, x))
    y = x.float()
    axes = [0, *range(2, x.dim())]
    shape = [1, -1, *[1] * (x.dim() - 2)]
    centre = _mean(y.mean(axes))  # (C)
    centred = y - centre.view(shape)
    spread = _mean(centred.square().mean(axes))  # (C)
    if norm.track_running_stats:
        norm.num_batches_tracked += 1
        part = 1 / float(norm.num_batches_tracked) if norm.momentum is None else norm.momentum
        count = y.numel() // y.shape[1] * torch.distributed.get_world_size()
        with torch.no_grad():
            norm.running_mean.lerp_(centre, part)
            norm.running_var.lerp_(spread * (count / max(1, count - 1)), part)  # unbiased, as PyTorch's
    normed = centred * (spread + norm.eps).rsqrt().view(shape)
    if norm.affine:
        normed = normed * norm.weight.view(shape) + norm.bias.view(shape)
    return normed.to(x.dtype)


def _mean(part: Tensor) -> Tensor:
    """Over the team; gradients flow back to all."""
    return cast(Tensor, _Sum.apply(part)) / torch.distributed.get_world_size()


class _Sum(torch.autograd.Function):
    """The sum over all processes; what flows back is the sum of what each has to say."""

    @staticmethod
    def forward(ctx: Any, part: Tensor) -> Tensor:
        return _summed(part)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return _summed(gradient)


def _summed(part: Tensor) -> Tensor:
    total = part.clone(memory_format=torch.contiguous_format)
    torch.distributed.all_reduce(total)
    return total
