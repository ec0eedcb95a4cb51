"""Data sets that come as arrays: scikit-learn's digits, torchvision's, and a synthetic one for tests."""

from __future__ import annotations

import gzip
import shutil
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from prune_cli.data.images import Look, MemoryImages
from prune_cli.errors import PruneError

DEBIAN_FASHION = Path("/usr/share/datasets/fashion-mnist")  # the package dataset-fashion-mnist


def digits(look: Look) -> tuple[MemoryImages, None, tuple[str, ...]]:
    """1 797 handwritten digits, 8x8 grey levels 0..16, enlarged to 32x32 once. No test split of their own."""
    from sklearn.datasets import load_digits

    raw = load_digits()
    grey = torch.from_numpy(raw.images)[:, None].float() * (255 / 16)
    large = F.interpolate(grey, size=32, mode="bilinear", align_corners=False).round().to(torch.uint8)
    images = MemoryImages(large, torch.from_numpy(raw.target).long(), look)
    return images, None, tuple(map(str, raw.target_names))


def torchvision_set(kind: str, root: Path, look: Look) -> tuple[MemoryImages, MemoryImages, tuple[str, ...]]:
    """`FashionMNIST`, `CIFAR10` or `CIFAR100`, downloaded on first use, padded to 32x32.

    torchvision compares the files with known checksums before it reads them.

    Raises:
        PruneError: the files are not there and cannot be downloaded.
    """
    from torchvision import datasets

    if kind == "FashionMNIST":
        _unpack_debian_fashion(root / kind / "raw")
    try:
        train, test = (getattr(datasets, kind)(str(root), train=part, download=True) for part in (True, False))
    except (OSError, RuntimeError) as error:  # URLError is an OSError
        raise PruneError(
            f"{kind} is not in {root} and cannot be downloaded ({' '.join(str(error).split())}): go online once, "
            "or set dataset.root (or PRUNE_CLI_DATA) to a folder that holds it"
        ) from error
    return _padded(train, look), _padded(test, look), tuple(train.classes)


def _padded(part: object, look: Look) -> MemoryImages:
    pixels = torch.as_tensor(part.data)  # type: ignore[attr-defined]
    pixels = pixels[:, None] if pixels.dim() == 3 else pixels.permute(0, 3, 1, 2)
    missing = (32 - pixels.shape[-1]) // 2
    labels = torch.as_tensor(part.targets).long()  # type: ignore[attr-defined]
    return MemoryImages(F.pad(pixels, (missing,) * 4).contiguous(), labels, look)


def _unpack_debian_fashion(raw: Path) -> None:
    """Debian ships the same images, compressed anew: torchvision wants them unpacked under `raw`."""
    for packed in sorted(DEBIAN_FASHION.glob("*-ubyte.gz")):
        target = raw / packed.stem
        if not target.exists():
            raw.mkdir(parents=True, exist_ok=True)
            temporary = target.with_suffix(".tmp")
            with gzip.open(packed) as source, open(temporary, "wb") as sink:
                shutil.copyfileobj(source, sink)
            temporary.replace(target)


def synthetic(images: int, classes: int, size: int, look: Look) -> tuple[MemoryImages, None, tuple[str, ...]]:
    """Each class is a coarse random pattern, each image its class's pattern under noise: easy, but not trivial."""
    random = np.random.default_rng(0)
    patterns = random.uniform(40, 215, (classes, 3, 4, 4))
    labels = np.arange(images) % classes
    coarse = torch.from_numpy(patterns[labels]).float()
    fine = F.interpolate(coarse, size=size, mode="nearest") + torch.from_numpy(
        random.normal(0, 40, (images, 3, size, size))
    )
    pixels = fine.clamp(0, 255).to(torch.uint8)
    return MemoryImages(pixels, torch.from_numpy(labels).long(), look), None, tuple(f"class{i}" for i in range(classes))
