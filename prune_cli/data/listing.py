"""What image files a tree has: `train/<class>/*` with `test/<class>/*` or `val/<class>/*` beside it."""

from __future__ import annotations

import hashlib
import logging
import os
from pathlib import Path

from prune_cli.errors import require

log = logging.getLogger(__name__)
SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm"}
Listing = tuple[tuple[Path, ...], tuple[int, ...]]  # files and their labels


def list_splits(root: Path) -> tuple[dict[str, Listing], tuple[str, ...]]:
    """The splits that a tree has, by name, and the classes (the sub-folders of `train`, sorted).

    Raises:
        PruneError: no `train`, neither `test` nor `val`, an empty class, or one that training has not.
    """
    require(root.is_dir(), f"dataset.root={root} is not a folder")
    present = [name for name in ("train", "val", "test") if (root / name).is_dir()]
    require(
        "train" in present and len(present) > 1, f"{root} must hold train/ and test/ (or val/), with a folder per class"
    )
    classes = _classes(root / "train")
    require(len(classes) > 1, f"{root / 'train'} must hold at least two folders, one per class: found {len(classes)}")
    splits = {}
    for name in present:
        extra = [c for c in _classes(root / name) if c not in classes]
        require(not extra, f"{root / name} has classes that {root / 'train'} has not: {', '.join(extra)}")
        splits[name] = _listing(root / name, classes)
        require(splits[name][0], f"{root / name} holds no images ({', '.join(sorted(SUFFIXES))})")
        for lacking in (c for label, c in enumerate(classes) if label not in splits[name][1]):
            require(name != "train", f"{root / name / lacking} holds no images")
            log.warning("%s holds no images of the class %s", root / name, lacking)
    return splits, classes


def _classes(folder: Path) -> tuple[str, ...]:
    return tuple(
        sorted(entry.name for entry in os.scandir(folder) if entry.is_dir() and not entry.name.startswith("."))
    )


def _listing(folder: Path, classes: tuple[str, ...]) -> Listing:
    files: list[Path] = []
    labels: list[int] = []
    for label, name in enumerate(classes):
        if (folder / name).is_dir():
            found = sorted(f for f in (folder / name).rglob("*") if f.suffix.lower() in SUFFIXES)
            files += found
            labels += [label] * len(found)
    return tuple(files), tuple(labels)


def fingerprint(root: Path, splits: dict[str, Listing]) -> str:
    """sha256 of names, sizes and times: changes when any file does, costs one `stat` each."""
    digest = hashlib.sha256()
    for files, _ in splits.values():
        for file in files:
            status = file.stat()
            digest.update(f"{file.relative_to(root)} {status.st_size} {status.st_mtime_ns}\n".encode())
    return digest.hexdigest()
