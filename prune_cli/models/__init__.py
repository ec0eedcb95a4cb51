"""The networks of the config group `model`: frozen descriptions with `build(classes)`.

Importing this module is cheap: PyTorch is loaded by `build`, not by the descriptions.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prune_cli.errors import PruneError, require, require_choice, require_range
from prune_cli.files import sha256

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True)
class Model:
    """What all networks share: optional trained weights to start from."""

    checkpoint: str | None = None  # .pth, .th, .pt (weights only) or .safetensors

    def check(self) -> None:
        """Refuse what can be refused before PyTorch is loaded."""
        if self.checkpoint is not None:
            path = Path(self.checkpoint).expanduser()
            require(path.is_file(), f"model.checkpoint={self.checkpoint} is not a file")
            suffixes = (".pth", ".th", ".pt", ".safetensors")
            require(path.suffix in suffixes, f"model.checkpoint={self.checkpoint} must end in {', '.join(suffixes)}")

    @property
    def digest(self) -> str:
        """sha256 of the checkpoint; "" if there is none."""
        return "" if self.checkpoint is None else sha256(Path(self.checkpoint).expanduser().read_bytes())

    def build(self, classes: int) -> nn.Module:
        """The network with fresh weights (seed before calling)."""
        raise NotImplementedError

    def pretrained(self, classes: int) -> nn.Module:
        """The network as the run starts from it: fresh, or with the checkpoint's weights."""
        model = self.build(classes)
        if self.checkpoint is not None:
            from prune_cli.models.checkpoint import load_checkpoint

            load_checkpoint(model, Path(self.checkpoint).expanduser())
        return model


@dataclass(frozen=True)
class Vgg16(Model):
    """VGG-16 for 32x32 images: 13 convolutions with batch-norm, one linear layer."""

    width: float = 1.0  # times 64-128-256-512-512

    def __post_init__(self) -> None:
        require_range("model.width", self.width, 1 / 128, 8)

    def build(self, classes: int) -> nn.Module:
        from prune_cli.models import vgg

        return vgg.Vgg16(classes, self.width)


@dataclass(frozen=True)
class Mlp(Model):
    """Fully connected layers, LeNet-300-100 by default."""

    hidden: Sequence[int] = (300, 100)
    inputs: int = 3072  # channels times height times width of an image

    def __post_init__(self) -> None:
        require(self.hidden, "model.hidden must name at least one width")
        for width in self.hidden:
            require_range("model.hidden", width, 1, 10**6, whole=True)
        require_range("model.inputs", self.inputs, 1, 10**8, whole=True)

    def build(self, classes: int) -> nn.Module:
        from prune_cli.models import mlp

        return mlp.Mlp(classes, self.inputs, self.hidden)


@dataclass(frozen=True)
class CifarResNet(Model):
    """The CIFAR ResNet of He et al.: 20, 32, 44, 56, 110 layers."""

    depth: int = 56
    shortcut: str = "pad"  # pad: zeros for new channels (option A); project: 1x1 convolution (option B)
    width: float = 1.0  # times 16-32-64

    def __post_init__(self) -> None:
        require_range("model.depth", self.depth, 8, 1202, whole=True)
        require((self.depth - 2) % 6 == 0, f"model.depth must be 6n + 2 (20, 32, 44, 56, 110): got {self.depth}")
        require_choice("model.shortcut", self.shortcut, ("pad", "project"))
        require_range("model.width", self.width, 1 / 16, 32)

    def build(self, classes: int) -> nn.Module:
        from prune_cli.models import resnet

        return resnet.CifarResNet(self.depth, classes, self.shortcut, self.width)


@dataclass(frozen=True)
class Torchvision(Model):
    """Any classification network of torchvision, by its name there."""

    name: str = "resnet18"
    weights: str | None = None  # e.g. DEFAULT: downloaded; the last layer is replaced if the classes differ

    def build(self, classes: int) -> nn.Module:
        from prune_cli.models import zoo

        return zoo.build(self.name, classes)

    def pretrained(self, classes: int) -> nn.Module:
        if self.weights is None:
            return super().pretrained(classes)
        from prune_cli.models import zoo

        require(self.checkpoint is None, "give model.weights or model.checkpoint, not both")
        return zoo.build_pretrained(self.name, classes, self.weights)


@dataclass(frozen=True)
class Custom(Model):
    """The user's own class. `arguments` go to its constructor, and `num_classes` if it takes that."""

    target: str = ""
    arguments: Mapping[str, Any] = field(default_factory=dict)
    source: str = ""  # sha256 of the module's source: an edited class is another network

    def build(self, classes: int) -> nn.Module:
        from torch import nn

        made = find_class(self.target)
        arguments = dict(self.arguments)
        if "num_classes" in inspect.signature(made).parameters:
            arguments.setdefault("num_classes", classes)
        try:
            model = made(**arguments)
        except TypeError as error:
            raise PruneError(f"model={self.target} cannot be built with {arguments}: {error}") from error
        require(isinstance(model, nn.Module), f"{self.target} is not a torch.nn.Module")
        return model


def find_class(target: str) -> Any:
    """The class that a dotted path names. Imports its module: call it for trusted packages only."""
    module, _, name = target.rpartition(".")
    try:
        found = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise PruneError(f"model._target_={target} cannot be imported: {error}") from error
    require(inspect.isclass(found), f"model._target_={target} is not a class")
    return found


def source_of(target: str) -> str:
    """sha256 of the source file that defines a class, or "" if it has none."""
    try:
        return sha256(inspect.getsource(inspect.getmodule(find_class(target))).encode())  # type: ignore[arg-type]
    except (OSError, TypeError):
        return ""
