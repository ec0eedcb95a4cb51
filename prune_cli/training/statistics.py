"""Batch-norm statistics that fit the network as it is now."""

from __future__ import annotations

import torch
from torch import nn

from prune_cli.compute import Place
from prune_cli.data.images import Images
from prune_cli.data.splits import sample


def reestimate(model: nn.Module, images: Images, place: Place, count: int, seed: int, batch: int = 128) -> None:
    """Replace running means and variances by averages over batches of so many images; nothing else is changed."""
    was_training = model.training
    seen = sample(images, count, seed)
    with place.autocast():
        torch.optim.swa_utils.update_bn(seen.batches(batch, place), place.move(model))
    model.train(was_training)
