"""Labelled images as batches: from memory (augmented by batch, on the device) or from a folder (DataLoader)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from prune_cli.compute import Place
from prune_cli.errors import PruneError

Batch = tuple[Tensor, Tensor]  # images (n, 3, H, W) float, labels (n) int64


@dataclass(frozen=True)
class Look:
    """How pixels become network input."""

    mean: tuple[float, ...]  # per channel, of pixels in [0, 1]
    std: tuple[float, ...]
    crop: int = 0  # random crop after padding by so many pixels; training only
    flip: bool = False  # random horizontal flip; training only


class Images(Protocol):
    """A split of a data set."""

    def __len__(self) -> int: ...

    def take(self, indices: np.ndarray[Any, Any]) -> Images:
        """The images at these positions."""

    def batches(
        self, size: int, place: Place, shuffle: int | None = None, part: tuple[int, int] = (0, 1)
    ) -> Iterator[Batch]:
        """Batches of at most `size`. `shuffle` is the seed of order and augmentation; without it, neither.

        Args:
            part: with `shuffle`: (k, n) gives the k-th of n equal parts of every batch.
        """


@dataclass(frozen=True)
class MemoryImages:
    """uint8 pixels (N, 1 or 3, H, W) and labels (N), held in memory. Grey images are shown as three equal channels."""

    pixels: Tensor
    labels: Tensor
    look: Look

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, indices: np.ndarray[Any, Any]) -> MemoryImages:
        chosen = torch.from_numpy(indices)
        return replace(self, pixels=self.pixels[chosen], labels=self.labels[chosen])

    def batches(
        self, size: int, place: Place, shuffle: int | None = None, part: tuple[int, int] = (0, 1)
    ) -> Iterator[Batch]:
        pixels, labels = self.pixels.to(place.device), self.labels.to(place.device)
        if shuffle is None:
            for start in range(0, len(self), size):
                yield self._finish(pixels[start : start + size], place), labels[start : start + size]
            return
        # Order and augmentation are drawn on the CPU: a seed then means the same on every device.
        generator = torch.Generator().manual_seed(shuffle)
        order = torch.randperm(len(self), generator=generator)
        crop = self.look.crop
        windows = F.pad(pixels, (crop,) * 4).unfold(2, pixels.shape[2], 1).unfold(3, pixels.shape[3], 1)
        for start in range(0, len(self) - min(size, len(self)) + 1, size):  # whole batches only
            chosen = order[start : start + size]
            rows, columns = torch.randint(2 * crop + 1, (2, len(chosen)), generator=generator).to(place.device)
            mirrored = (torch.rand(len(chosen), generator=generator) < 0.5).to(place.device)
            own = slice(part[0], None, part[1])
            chosen, rows, columns, mirrored = chosen.to(place.device)[own], rows[own], columns[own], mirrored[own]
            images = windows[chosen, :, rows, columns]  # (n, C, H, W): a window of its own for each image
            if self.look.flip:
                images = torch.where(mirrored[:, None, None, None], images.flip(3), images)
            yield self._finish(images, place), labels[chosen]

    def _finish(self, pixels: Tensor, place: Place) -> Tensor:
        mean = torch.tensor(self.look.mean, device=place.device).view(1, -1, 1, 1) * 255
        scale = 1 / (torch.tensor(self.look.std, device=place.device).view(1, -1, 1, 1) * 255)
        return place.images((pixels.float() - mean) * scale)  # a grey channel is broadcast to the three of `mean`


@dataclass(frozen=True)
class FileImages:
    """Image files too many for memory: decoded, augmented and batched by worker processes."""

    files: tuple[Path, ...]
    labels: tuple[int, ...]
    look: Look
    size: int  # pixels per side
    workers: int

    def __len__(self) -> int:
        return len(self.files)

    def take(self, indices: np.ndarray[Any, Any]) -> FileImages:
        files, labels = (tuple(row[i] for i in indices) for row in (self.files, self.labels))
        return replace(self, files=files, labels=labels)

    def batches(
        self, size: int, place: Place, shuffle: int | None = None, part: tuple[int, int] = (0, 1)
    ) -> Iterator[Batch]:
        from torch.utils.data import DataLoader

        training = shuffle is not None
        generator = torch.Generator().manual_seed(shuffle or 0)
        order = torch.randperm(len(self), generator=generator) if training else torch.arange(len(self))
        chunks = list(torch.split(order, size))
        if training and len(chunks) > 1 and len(chunks[-1]) < size:  # whole batches only
            chunks.pop()
        loader: DataLoader[Batch] = DataLoader(
            _Files(self.files, self.labels, _transform(self.look, self.size, training)),
            batch_sampler=[chunk[part[0] :: part[1]].tolist() for chunk in chunks],
            num_workers=self.workers,
            generator=generator,  # also seeds the workers, and so the augmentation
            pin_memory=place.device.type == "cuda",
        )
        try:
            for images, labels in loader:
                yield place.images(images), labels.to(place.device)
        except PruneError as error:  # from a worker process it comes with that process's traceback as its text
            last = str(error).strip().splitlines()[-1]
            raise PruneError(last.split("PruneError: ")[-1]) from None


class _Files(torch.utils.data.Dataset[Batch]):
    def __init__(self, files: tuple[Path, ...], labels: tuple[int, ...], transform: Callable[[Any], Tensor]) -> None:
        self.files, self.labels, self.transform = files, labels, transform

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> Any:
        return self.transform(open_image(self.files[index])), self.labels[index]


def _transform(look: Look, size: int, training: bool) -> Callable[[Any], Tensor]:
    """The usual ImageNet views: a random resized crop and flip, or the centre at 7/8 of the shorter side."""
    from torchvision.transforms import v2

    flip = [v2.RandomHorizontalFlip()] if look.flip else []
    view = [v2.RandomResizedCrop(size), *flip] if training else [v2.Resize(round(size * 8 / 7)), v2.CenterCrop(size)]
    numbers = [v2.PILToTensor(), v2.ToDtype(torch.float32, scale=True), v2.Normalize(look.mean, look.std)]
    return v2.Compose([*view, *numbers])


def open_image(file: Path) -> Any:
    """A decoded RGB image.

    Raises:
        PruneError: it does not decode.
    """
    from PIL import Image

    try:
        with Image.open(file) as image:
            return image.convert("RGB")
    except Exception as error:  # PIL raises a dozen kinds for damaged files
        raise PruneError(f"{file} cannot be decoded as an image: {error}; remove or replace it") from error
