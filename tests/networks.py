"""The networks that properties are checked on: small ones of every kind, and torchvision's at full width."""

import copy

import torch
from torch import nn
from torchvision import models

from prune_cli.models.resnet import CifarResNet
from prune_cli.models.vgg import Vgg16

SMALL = (3, 32, 32)
LARGE = (3, 64, 64)


def bottleneck():
    return models.ResNet(models.resnet.Bottleneck, [1, 2, 1, 1], num_classes=4, width_per_group=8)


def grouped():
    return models.ResNet(models.resnet.Bottleneck, [1, 1, 1, 1], num_classes=4, groups=4, width_per_group=4)


def depthwise():
    """MobileNetV2's blocks, without the 1280 channels that its constructor always adds."""
    block = models.mobilenetv2.InvertedResidual
    stem = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1, bias=False), nn.BatchNorm2d(8), nn.ReLU6())
    blocks = [block(8, 8, 1, 3), block(8, 12, 2, 3), block(12, 12, 1, 3)]
    return nn.Sequential(stem, *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(12, 4))


def concat():
    return models.DenseNet(8, (2, 2), num_init_features=8, num_classes=4)


# Small enough to train a step in a test, one of every kind of coupling.
TINY = {
    "vgg": (lambda: Vgg16(4, width=1 / 16), SMALL),
    "resnet-pad": (lambda: CifarResNet(14, 4, "pad", width=0.5), SMALL),
    "resnet-project": (lambda: CifarResNet(14, 4, "project", width=0.5), SMALL),
    "bottleneck": (bottleneck, SMALL),
    "depthwise": (depthwise, SMALL),
    "concat": (concat, SMALL),
}
REAL = {
    "vgg16": (lambda: Vgg16(10), SMALL),
    "resnet20": (lambda: CifarResNet(20, 10, "pad"), SMALL),
    "resnet20-project": (lambda: CifarResNet(20, 10, "project"), SMALL),
    "resnet18": (models.resnet18, LARGE),
    "resnet50": (models.resnet50, LARGE),
    "mobilenet_v2": (models.mobilenet_v2, LARGE),
    "densenet121": (models.densenet121, LARGE),
    "googlenet": (lambda: models.googlenet(aux_logits=False, init_weights=False), LARGE),
    "shufflenet_v2": (models.shufflenet_v2_x1_0, LARGE),
    "mnasnet": (models.mnasnet1_0, LARGE),
    "grouped": (grouped, LARGE),
    "efficientnet": (models.efficientnet_b0, LARGE),
}


def make(name):
    """A network in eval mode with batch-norm statistics as training would leave them: none is 0, 1 or equal."""
    build, shape = {**TINY, **REAL}[name]
    torch.manual_seed(1)
    model = build().eval()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean, std=0.1)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.1)
    return model, shape


def images(shape, dtype=torch.float32, count=2):
    return torch.randn(count, *shape, generator=torch.Generator().manual_seed(2)).to(dtype)


def half_of(network, seed=0):
    """A random half of the channels of every group, at least one for every layer."""
    import numpy as np

    random = np.random.default_rng(seed)
    kept = {}
    for group in network.groups.values():
        chosen = set(random.permutation(group.size)[: max(1, group.size // 2)].tolist())
        chosen |= {min(segment) for segment in group.segments if not segment & chosen}
        kept[group.name] = tuple(sorted(chosen))
    return kept


def zeroed(network, kept):
    """A copy of the model in which the channels that are not kept are silent, but still there."""
    model = copy.deepcopy(network.model)
    for name, keep in kept.items():
        for axis in network.groups[name].of("write", "depthwise", "norm"):
            module = model.get_submodule(axis.module)
            gone = [p for p, channel in zip(axis.at, axis.index, strict=True) if channel not in keep]
            for vector in ("weight", "bias", "running_mean"):
                tensor = getattr(module, vector, None)
                if tensor is not None:
                    tensor.data[gone] = 0
    return model
