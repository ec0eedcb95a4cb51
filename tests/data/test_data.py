"""Splits are fair and fixed, augmentation is per image, and bad folders are refused before anything trains."""

import os

import numpy as np
import pytest
import torch
from PIL import Image

from prune_cli.compute import Place
from prune_cli.data import Digits, ImageFolder, Synthetic, Torchvision
from prune_cli.data import sources as array_sources
from prune_cli.data.images import FileImages, Look, MemoryImages
from prune_cli.errors import PruneError

HALF = {"mean": [0.5] * 3, "std": [0.25] * 3}


def labels_of(part):
    return torch.as_tensor(part.labels)


def plain(part, place, size=64):
    return torch.cat([x for x, _ in part.batches(size, place)])


def test_digits_are_the_real_ones(tmp_path, place):
    data = Digits("digits", **HALF).load(tmp_path)
    assert len(data.train) + len(data.val) + len(data.test) == 1797
    assert data.shape == (3, 32, 32) and len(data.classes) == 10
    x, y = next(data.test.batches(8, place))
    assert x.shape == (8, 3, 32, 32) and torch.equal(x[:, 0], x[:, 2]) and y.dtype == torch.int64


def test_splits_are_disjoint_stratified_and_the_same_for_every_seed_of_the_run(tmp_path, place):
    first, again = (Synthetic("s", **HALF, images=200).load(tmp_path) for _ in range(2))
    other = Synthetic("s", **HALF, images=200, split_seed=1).load(tmp_path)
    assert first.fingerprint == again.fingerprint != other.fingerprint
    parts = [plain(part, place) for part in (first.train, first.val, first.test)]
    assert len({row.numpy().tobytes() for part in parts for row in part}) == 200
    for part, size in ((first.train, 144), (first.val, 16), (first.test, 40)):
        assert torch.bincount(labels_of(part)).tolist() == [size // 4] * 4


def counting(n=6, size=8, crop=0, flip=False):
    pixels = torch.arange(n * size * size).remainder(251).reshape(n, 1, size, size).to(torch.uint8)
    return MemoryImages(pixels, torch.arange(n), Look((0.0,) * 3, (1.0,) * 3, crop, flip))


def test_without_a_seed_there_is_order_and_no_augmentation(place):
    images = counting(crop=2, flip=True)
    x, y = next(images.batches(6, place))
    assert y.tolist() == list(range(6)) and torch.allclose(x[:, :1] * 255, images.pixels.float(), atol=1e-4)


def test_a_seed_fixes_order_and_augmentation(place):
    images = counting(crop=2, flip=True)
    runs = [list(images.batches(3, place, shuffle=seed)) for seed in (5, 5, 6)]
    same, differs = (all(torch.equal(a[0], b[0]) for a, b in zip(runs[0], run, strict=True)) for run in runs[1:])
    assert same and not differs
    assert sorted(torch.cat([y for _, y in runs[0]]).tolist()) == list(range(6))


def test_every_image_has_its_own_window_and_mirror(place):
    images = counting(n=400, crop=2, flip=True)
    x, y = next(images.batches(400, place, shuffle=0))
    padded = torch.nn.functional.pad(images.pixels, (2,) * 4)[:, 0]
    seen = set()
    for image, label in zip((x[:, 0] * 255).round().to(torch.uint8), y, strict=True):
        views = {
            (r, c, f): torch.equal(image, (v.flip(1) if f else v))
            for r in range(5)
            for c in range(5)
            for f in (False, True)
            for v in [padded[label, r : r + 8, c : c + 8]]
        }
        assert any(views.values())
        seen.add(max(views, key=views.get))
    assert len(seen) == 50  # all windows, mirrored and not, within 400 images


def test_training_batches_are_whole_and_layout_is_as_asked():
    place = Place(torch.device("cpu"), torch.float32, channels_last=True, threads=1)
    batches = list(counting(n=7).batches(3, place, shuffle=0))
    assert [len(y) for _, y in batches] == [3, 3]
    assert batches[0][0].is_contiguous(memory_format=torch.channels_last)
    assert [len(y) for _, y in counting(n=7).batches(3, place)] == [3, 3, 1]


@pytest.fixture
def tree(tmp_path):
    """train/ and test/ with two classes of 10x10 PNG images of distinct grey levels."""
    for split, count in (("train", 20), ("test", 4)):
        for label, name in enumerate(("cat", "dog")):
            folder = tmp_path / "images" / split / name
            folder.mkdir(parents=True)
            for i in range(count):
                Image.fromarray(np.full((10, 10, 3), 100 * label + i, np.uint8)).save(folder / f"{i:02}.png")
    return tmp_path / "images"


def folder(tree, **options):
    return ImageFolder("tree", **HALF, root=str(tree), **options)


def test_a_folder_is_decoded_once(tree, tmp_path, place, monkeypatch):
    first = folder(tree).load(tmp_path / "cache")
    assert (len(first.train), len(first.val), len(first.test)) == (36, 4, 8) and first.shape == (3, 10, 10)
    monkeypatch.setattr("prune_cli.data.folder.open_image", lambda file: Image.new("RGB", (10, 10)))
    second = folder(tree).load(tmp_path / "cache")
    assert second.fingerprint == first.fingerprint and torch.equal(
        plain(first.train, place), plain(second.train, place)
    )
    os.utime(tree / "train" / "cat" / "00.png", ns=(1, 1))  # a changed file is decoded again
    assert folder(tree).load(tmp_path / "cache").fingerprint != first.fingerprint


def test_a_damaged_cache_is_noticed(tree, tmp_path):
    folder(tree).load(tmp_path / "cache")
    stored = next((tmp_path / "cache").glob("*/images.safetensors"))
    data = bytearray(stored.read_bytes())
    data[-1] ^= 1
    stored.write_bytes(data)
    with pytest.raises(PruneError, match="damaged"):
        folder(tree).load(tmp_path / "cache")


def test_val_is_the_test_split_where_there_is_no_test(tree, tmp_path):
    (tree / "test").rename(tree / "val")
    data = folder(tree).load(tmp_path / "cache")
    assert (len(data.train), len(data.val), len(data.test)) == (36, 4, 8)


def test_all_three_splits_are_taken_as_they_are(tree, tmp_path):
    import shutil

    shutil.copytree(tree / "test", tree / "val")
    data = folder(tree).load(tmp_path / "cache")
    assert (len(data.train), len(data.val), len(data.test)) == (40, 8, 8)


def test_what_does_not_fit_in_memory_is_read_from_disk(tree, tmp_path, place):
    data = folder(tree, memory_gb=0, size=8, workers=0, flip=True).load(tmp_path / "cache")
    assert isinstance(data.train, FileImages) and not (tmp_path / "cache").exists()
    runs = [[(x, y) for x, y in data.train.batches(16, place, shuffle=seed)] for seed in (0, 0, 1)]
    assert [len(y) for _, y in runs[0]] == [16, 16] and runs[0][0][0].shape == (16, 3, 8, 8)
    assert torch.equal(runs[0][0][1], runs[1][0][1]) and not torch.equal(runs[0][0][1], runs[2][0][1])
    assert sum(len(y) for _, y in data.test.batches(3, place)) == 8


def test_workers_draw_the_same_images_again(tree, tmp_path, place):
    data = folder(tree, memory_gb=0, size=8, workers=2).load(tmp_path / "cache")
    first, second = (torch.cat([x for x, _ in data.train.batches(8, place, shuffle=4)]) for _ in range(2))
    assert torch.equal(first, second)


BAD = {
    "no test": (
        lambda t: [(t / "test" / n).rename(t / n) for n in ("cat", "dog")] + [(t / "test").rmdir()],
        "must hold train/",
    ),
    "class only in test": (lambda t: (t / "test" / "eel").mkdir(), "has classes that .* has not: eel"),
    "empty class": (lambda t: (t / "train" / "eel").mkdir(), "eel holds no images"),
    "not an image": (lambda t: (t / "train" / "cat" / "05.png").write_text("hello"), r"05.png cannot be decoded"),
    "cut off": (
        lambda t: (t / "test" / "dog" / "00.png").write_bytes((t / "test/dog/00.png").read_bytes()[:45]),
        "cannot be decoded",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_folders_are_refused(case, tree, tmp_path):
    spoil, message = BAD[case]
    spoil(tree)
    with pytest.raises(PruneError, match=message):
        folder(tree).load(tmp_path / "cache")
    assert not list((tmp_path / "cache").glob("*/complete.json")) or case == "cut off"


def test_a_file_that_does_not_decode_in_a_worker_is_one_line(tree, tmp_path, place):
    for file in (tree / "train" / "cat").iterdir():
        file.write_text("hello")
    data = folder(tree, memory_gb=0, size=8, workers=1).load(tmp_path)
    with pytest.raises(PruneError, match=r"\.png cannot be decoded") as error:
        list(data.train.batches(8, place))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("kind", ["CIFAR10", "CIFAR100", "FashionMNIST"])
def test_offline_says_what_to_do(kind, tmp_path, monkeypatch):
    import urllib.error

    def offline(*_, **__):
        raise urllib.error.URLError("no route to host")

    monkeypatch.setattr("urllib.request.urlopen", offline)
    monkeypatch.setattr(array_sources, "DEBIAN_FASHION", tmp_path / "none")
    with pytest.raises(PruneError, match=r"cannot be downloaded.*dataset\.root") as error:
        Torchvision("x", **HALF, kind=kind, root=str(tmp_path)).load(tmp_path)
    assert "\n" not in str(error.value)


def test_debian_s_fashion_mnist_is_used(tmp_path, monkeypatch, place):
    """Its files are compressed anew, so that torchvision would not take them as they are."""
    import gzip
    import struct

    for part, count in (("train", 60), ("t10k", 20)):
        images = struct.pack(">IIII", 0x803, count, 28, 28) + (np.arange(count * 784) % 256).astype(np.uint8).tobytes()
        names = struct.pack(">II", 0x801, count) + (np.arange(count) % 10).astype(np.uint8).tobytes()
        (tmp_path / f"{part}-images-idx3-ubyte.gz").write_bytes(gzip.compress(images))
        (tmp_path / f"{part}-labels-idx1-ubyte.gz").write_bytes(gzip.compress(names))
    monkeypatch.setattr(array_sources, "DEBIAN_FASHION", tmp_path)
    data = Torchvision("fashion", **HALF, kind="FashionMNIST", root=str(tmp_path / "root")).load(tmp_path)
    assert (len(data.train), len(data.val), len(data.test), data.shape) == (50, 10, 20, (3, 32, 32))
    assert data.classes[0] == "T-shirt/top"
