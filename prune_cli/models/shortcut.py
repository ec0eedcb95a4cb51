"""The parameter-free shortcut of the CIFAR ResNet (option A of He et al., arXiv 1512.03385, section 3.3)."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn


class PadShortcut(nn.Module):
    """Takes every `stride`-th pixel and adds channels of zeros before and after.

    It is a module, not a line in `forward`, so that its two counts can be changed when channels of the
    residual stream are cut: `before` and `after` are the map from old to new channels.
    """

    def __init__(self, before: int, after: int, stride: int = 1) -> None:
        super().__init__()
        self.before, self.after, self.stride = before, after, stride

    def forward(self, x: Tensor) -> Tensor:  # (N, C, H, W) -> (N, before + C + after, H / stride, W / stride)
        return F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, self.before, self.after))

    def extra_repr(self) -> str:
        return f"before={self.before}, after={self.after}, stride={self.stride}"
