"""A network on a target that looks like any other module, so that its accuracy can be told like any other's."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from prune_cli.hardware import Hardware

if TYPE_CHECKING:
    from prune_cli.hardware import Artefact


class Deployed(nn.Module):
    """Images (N, C, H, W) in fp32 to outputs (N, K) in fp32, by way of the target."""

    def __init__(self, target: Hardware, artefact: Artefact) -> None:
        super().__init__()
        self.target, self.batch = target, max(target.batches)
        self.call = target.load(artefact, self.batch)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self._outputs(part)[: len(part)] for part in torch.split(x, self.batch)])

    def _outputs(self, x: Tensor) -> Tensor:
        full = torch.cat([x, x.new_zeros(self.batch - len(x), *x.shape[1:])])  # some targets know one batch size only
        return self.target.outputs(self.call(self.target.place(full)))
