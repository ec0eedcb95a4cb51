"""The one rule by which every data set is divided: train for fitting, validation for choosing, test read once."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from torch import Tensor

from prune_cli.data.images import FileImages, Images, MemoryImages
from prune_cli.errors import require

Indices = np.ndarray[Any, np.dtype[np.int64]]
Source = TypeVar("Source", MemoryImages, FileImages)


@dataclass(frozen=True)
class Data:
    """A data set, ready to use."""

    name: str
    classes: tuple[str, ...]
    shape: tuple[int, int, int]  # of one sample: channels, height, width
    train: Images
    val: Images
    test: Images
    fingerprint: str  # sha256 over contents and splits: part of what identifies a trained network


def sample(images: Images, count: int, seed: int) -> Images:
    """At most so many images, chosen by the seed, without augmentation if read in order."""
    return images.take(np.sort(np.random.default_rng(seed).permutation(len(images))[:count]))


def divide(
    name: str,
    classes: tuple[str, ...],
    shape: tuple[int, int, int],
    train: Source,
    test: Source | None,
    *,
    val: Source | None = None,
    fraction: float,
    seed: int,
    contents: str = "",
) -> Data:
    """Take validation (and test, where the data set has none) from the training images, class by class."""
    if test is None:
        rest, chosen = _stratified(_labels(train), 0.2, seed)
        train, test = train.take(rest), train.take(chosen)
    if val is None:
        rest, chosen = _stratified(_labels(train), fraction, seed + 1)
        train, val = train.take(rest), train.take(chosen)
    require(len(train) and len(val) and len(test), f"{name} is too small to be divided: {len(train)} training images")
    digest = hashlib.sha256(contents.encode())
    for part in (train, val, test):
        digest.update(_labels(part).tobytes())
        if isinstance(part, MemoryImages):
            digest.update(part.pixels.numpy().tobytes())
    return Data(name, classes, shape, train, val, test, digest.hexdigest())


def _labels(part: MemoryImages | FileImages) -> Indices:
    labels = part.labels
    return labels.numpy() if isinstance(labels, Tensor) else np.asarray(labels)


def _stratified(labels: Indices, fraction: float, seed: int) -> tuple[Indices, Indices]:
    """Indices (rest, chosen): of each class the same fraction, at least one image, chosen by the seed."""
    random = np.random.default_rng(seed)
    chosen: list[Indices] = []
    for label in np.unique(labels):
        members = random.permutation(np.flatnonzero(labels == label))
        chosen.append(members[: max(1, round(fraction * len(members)))])
    picked = np.sort(np.concatenate(chosen))
    return np.setdiff1d(np.arange(len(labels)), picked), picked
