"""The data sets of the config group `dataset`: frozen descriptions, loaded when the run needs them.

Importing this module is cheap: PyTorch is loaded by `load`, not by the descriptions.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prune_cli.data.listing import fingerprint, list_splits
from prune_cli.errors import require, require_choice, require_name, require_range

if TYPE_CHECKING:
    from prune_cli.data.images import Look
    from prune_cli.data.splits import Data


@dataclass(frozen=True)
class Dataset:
    """What all data sets share: normalisation, augmentation, and how validation is split off."""

    name: str
    mean: Sequence[float]  # per channel, of pixels in [0, 1]
    std: Sequence[float]
    crop: int = 0  # training: pad by so many pixels, then crop at random
    flip: bool = False  # training: mirror every second image
    val_fraction: float = 0.1
    split_seed: int = 0  # not the seed of the run: all runs choose and test on the same images

    def __post_init__(self) -> None:
        require_name("dataset.name", self.name)
        require(len(self.mean) == len(self.std) == 3, "dataset.mean and dataset.std need three numbers each")
        for mean, std in zip(self.mean, self.std, strict=True):
            require_range("dataset.mean", mean, -10, 10)
            require_range("dataset.std", std, 0, 10, open_low=True)
        require_range("dataset.crop", self.crop, 0, 64, whole=True)
        require_range("dataset.val_fraction", self.val_fraction, 0.01, 0.5)
        require_range("dataset.split_seed", self.split_seed, 0, 2**31, whole=True)

    def check(self) -> None:
        """Refuse what can be refused before PyTorch is loaded."""

    def contents(self) -> str:
        """Changes when images on disk do; "" where the description says it all. Reads no image."""
        return ""

    def load(self, cache: Path) -> Data:
        """Read the images; `cache` is a folder for decoded ones."""
        raise NotImplementedError

    def _look(self) -> Look:
        from prune_cli.data.images import Look

        return Look(tuple(self.mean), tuple(self.std), self.crop, self.flip)


@dataclass(frozen=True)
class Digits(Dataset):
    """scikit-learn's handwritten digits: real, small, part of the installation."""

    def load(self, cache: Path) -> Data:
        from prune_cli.data import sources
        from prune_cli.data.splits import divide

        train, test, classes = sources.digits(self._look())
        return divide(self.name, classes, (3, 32, 32), train, test, fraction=self.val_fraction, seed=self.split_seed)


@dataclass(frozen=True)
class Synthetic(Dataset):
    """Generated images, for tests."""

    images: int = 512
    classes: int = 4
    size: int = 32

    def __post_init__(self) -> None:
        super().__post_init__()
        require_range("dataset.images", self.images, 10, 10**6, whole=True)
        require_range("dataset.classes", self.classes, 2, 1000, whole=True)
        require_range("dataset.size", self.size, 4, 512, whole=True)

    def load(self, cache: Path) -> Data:
        from prune_cli.data import sources
        from prune_cli.data.splits import divide

        train, test, names = sources.synthetic(self.images, self.classes, self.size, self._look())
        shape = (3, self.size, self.size)
        return divide(self.name, names, shape, train, test, fraction=self.val_fraction, seed=self.split_seed)


@dataclass(frozen=True)
class Torchvision(Dataset):
    """A data set that torchvision knows how to download."""

    kind: str = "CIFAR10"  # FashionMNIST | CIFAR10 | CIFAR100
    root: str | None = None  # null: $PRUNE_CLI_DATA, else ~/.cache/prune-cli-data

    def __post_init__(self) -> None:
        super().__post_init__()
        require_choice("dataset.kind", self.kind, ("FashionMNIST", "CIFAR10", "CIFAR100"))

    def load(self, cache: Path) -> Data:
        from prune_cli.data import sources
        from prune_cli.data.splits import divide

        root = Path(self.root or os.environ.get("PRUNE_CLI_DATA") or "~/.cache/prune-cli-data").expanduser()
        train, test, classes = sources.torchvision_set(self.kind, root, self._look())
        return divide(self.name, classes, (3, 32, 32), train, test, fraction=self.val_fraction, seed=self.split_seed)


@dataclass(frozen=True)
class ImageFolder(Dataset):
    """A tree `train/<class>/*`, `test/<class>/*` (or `val`, which is the test split if there is no `test`)."""

    root: str | None = None
    size: int | None = None  # pixels per side; null: as the first image
    memory_gb: float = 4.0  # decoded images up to this size are held in memory, others read from disk
    workers: int = 2  # processes that decode what is not held in memory

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.size is not None:
            require_range("dataset.size", self.size, 8, 4096, whole=True)
        require_range("dataset.memory_gb", self.memory_gb, 0, 10**4)
        require_range("dataset.workers", self.workers, 0, 256, whole=True)

    def check(self) -> None:
        require(self.root, "dataset=image_folder needs dataset.root=FOLDER, which holds train/ and test/ (or val/)")
        root = Path(str(self.root)).expanduser()
        require(root.is_dir(), f"dataset.root={self.root} is not a folder")

    def contents(self) -> str:
        root = Path(str(self.root)).expanduser().resolve()
        return fingerprint(root, list_splits(root)[0])

    def load(self, cache: Path) -> Data:
        from prune_cli.data import folder
        from prune_cli.data.splits import divide

        root = Path(str(self.root)).expanduser().resolve()
        splits, classes = list_splits(root)
        contents = fingerprint(root, splits)
        size = self.size or folder.image_size(splits["train"][0][0])
        bytes_needed = sum(len(files) for files, _ in splits.values()) * 3 * size * size
        held = bytes_needed <= self.memory_gb * 1e9

        def read(name: str) -> Any:
            if not held:
                return folder.from_files(splits[name], size, self._look(), self.workers)
            entry = cache / f"images-{folder.entry_name({'contents': contents, 'size': size, 'split': name})}"
            return folder.in_memory(splits[name], size, self._look(), entry)

        parts = {name: read(name) for name in splits}
        test = parts.get("test") or parts["val"]
        val = parts["val"] if "test" in parts and "val" in parts else None
        return divide(
            self.name, classes, (3, size, size), parts["train"], test,
            val=val, fraction=self.val_fraction, seed=self.split_seed, contents="" if held else contents,
        )  # fmt: skip
