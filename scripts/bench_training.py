"""Images per second of our training step against the plain one, alternating in one process.

    python scripts/bench_training.py [--threads N] [--workers 2] [--rounds 5]

Ours: images in memory, augmented by batch; bf16 autocast and channels_last where the processor has bf16.
Plain: the same VGG-16 step at batch 128 in fp32 NCHW, fed by a DataLoader that decodes, crops and flips image by
image through PIL.
"""

import argparse
import io
import os

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import time
from collections.abc import Callable, Iterator

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import v2

from prune_cli.compute import Compute, Place
from prune_cli.data.images import Batch, Look, MemoryImages
from prune_cli.models.vgg import Vgg16

BATCH = 128
LOOK = Look((0.485, 0.456, 0.406), (0.229, 0.224, 0.225), crop=4, flip=True)


class Plain(Dataset[Batch]):
    """JPEG images, decoded and transformed one by one."""

    def __init__(self, images: MemoryImages) -> None:
        self.files = [jpeg(x) for x in images.pixels]
        self.labels = images.labels
        numbers = [v2.PILToTensor(), v2.ToDtype(torch.float32, scale=True), v2.Normalize(LOOK.mean, LOOK.std)]
        self.transform = v2.Compose([v2.RandomCrop(32, padding=4), v2.RandomHorizontalFlip(), *numbers])

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> Batch:
        return self.transform(Image.open(io.BytesIO(self.files[index])).convert("RGB")), self.labels[index]


def jpeg(pixels: torch.Tensor) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels.permute(1, 2, 0).numpy()).save(file, "jpeg", quality=75)
    return file.getvalue()


def trainer(place: Place, batches: Callable[[], Iterator[Batch]]) -> Callable[[], float]:
    """A function that trains one epoch and returns images per second."""
    torch.manual_seed(0)
    model = place.move(Vgg16(10)).train()
    optimizer = torch.optim.SGD(model.parameters(), 0.01, momentum=0.9, nesterov=True)

    def epoch() -> float:
        start, seen = time.perf_counter(), 0
        for x, y in batches():
            with place.autocast():
                logits = model(x)
            loss = F.cross_entropy(logits.float(), y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            seen += len(y)
        return seen / (time.perf_counter() - start)

    return epoch


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--workers", type=int, default=2, help="processes of the plain loader")
    parser.add_argument("--batches", type=int, default=3, help="per round")
    arguments = parser.parse_args()
    random = np.random.default_rng(0)
    pixels = torch.from_numpy(random.integers(0, 256, (BATCH * arguments.batches, 3, 32, 32), dtype=np.uint8))
    images = MemoryImages(pixels, torch.from_numpy(random.integers(0, 10, len(pixels))), LOOK)
    ours = Compute(threads=arguments.threads).resolve()
    plain = Compute(device=str(ours.device), precision="fp32", layout="nchw", threads=arguments.threads).resolve()
    loader = DataLoader(Plain(images), BATCH, shuffle=True, drop_last=True, num_workers=arguments.workers)
    fast = trainer(ours, lambda: images.batches(BATCH, ours, shuffle=0))
    slow = trainer(plain, lambda: ((x.to(plain.device), y.to(plain.device)) for x, y in loader))
    fast(), slow()
    rounds = [(fast(), slow()) for _ in range(arguments.rounds)]
    ratios = [f / s for f, s in rounds]
    print(f"ours {ours.describe()}: {np.median([f for f, _ in rounds]):.0f} img/s")
    print(
        f"plain {plain.describe()}, PIL in {arguments.workers} workers: {np.median([s for _, s in rounds]):.0f} img/s"
    )
    print(f"ratio {np.median(ratios):.2f} (rounds {min(ratios):.2f}-{max(ratios):.2f}); bound 2.5")


if __name__ == "__main__":
    main()
