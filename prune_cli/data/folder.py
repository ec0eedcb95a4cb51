"""Images of a tree of files: decoded once and held in memory, or read when they are wanted."""

from __future__ import annotations

import hashlib
import json
import logging
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load
from torch import Tensor
from tqdm import tqdm

from prune_cli.data.images import FileImages, Look, MemoryImages, open_image
from prune_cli.data.listing import Listing
from prune_cli.files import read_sealed, seal, to_json, to_safetensors

log = logging.getLogger(__name__)


def in_memory(listing: Listing, size: int, look: Look, entry: Path) -> MemoryImages:
    """All images of a split as one tensor, decoded once and kept in the sealed folder `entry`.

    Raises:
        PruneError: an image does not decode, or the stored tensor is damaged.
    """
    files, labels = listing
    if (entry / "complete.json").exists():
        pixels = load(read_sealed(entry, "images.safetensors"))["pixels"]
    else:
        log.info("decoding %d images into %s", len(files), entry)
        pixels = _decode(files, size)
        note = to_json({"images": len(files), "size": size})
        seal(entry, {"images.safetensors": to_safetensors({"pixels": pixels}), "complete.json": note})
    return MemoryImages(pixels, torch.tensor(labels), look)


def _decode(files: tuple[Path, ...], size: int) -> Tensor:
    pixels = np.empty((len(files), size, size, 3), dtype=np.uint8)

    def decode(position: int) -> None:
        pixels[position] = np.asarray(_fit(open_image(files[position]), size))

    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:  # PIL releases the interpreter while it decodes
        jobs = pool.map(decode, range(len(files)))
        for _ in tqdm(jobs, "decoding", len(files), unit="img", leave=False, disable=None):
            pass
    return torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous()


def _fit(image: object, size: int) -> object:
    """Centre square, then the size asked for; images that have it already stay as they are."""
    from PIL import ImageOps

    return image if image.size == (size, size) else ImageOps.fit(image, (size, size))  # type: ignore[attr-defined, arg-type]


def from_files(listing: Listing, size: int, look: Look, workers: int) -> FileImages:
    return FileImages(*listing, look, size, workers)


def image_size(file: Path) -> int:
    """The shorter side of an image, in pixels."""
    return min(open_image(file).size)


def entry_name(key: dict[str, object]) -> str:
    return hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:16]
