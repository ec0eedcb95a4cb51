"""How many masks a second linear filter ensembles try, against the naive loop (mask, full fp32 NCHW forward).

    python scripts/bench_lfe.py [--rounds 3] [--checkpoint weights.pth]

ResNet-56, 128 images, one thread. Naive and fast measure the same masks in turn; the loss of every mask is compared,
and so are the importances that both lead to.
"""

import argparse
import os

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from scipy.stats import spearmanr

from prune_cli.budget import cuttable
from prune_cli.channels import Group, Network, trace
from prune_cli.compute import Compute
from prune_cli.data.images import Look, MemoryImages
from prune_cli.masked import MaskedNetwork
from prune_cli.models.checkpoint import load_checkpoint
from prune_cli.models.resnet import CifarResNet
from prune_cli.pruners.lfe import FilterEnsembles, fit_additive

SHAPE = (3, 32, 32)


def naive(network: Network, group: Group, masks: np.ndarray, images: MemoryImages) -> np.ndarray:
    """The mask multiplies what leaves the group's batch-norm; everything is computed anew for every mask."""
    (axis,) = group.of("norm")
    norm = network.model.get_submodule(axis.module)
    x, y = next(images.batches(len(images), Compute(precision="fp32", layout="nchw", threads=1).resolve()))
    losses = []
    with torch.inference_mode():
        for mask in masks:
            on = torch.from_numpy(mask).float().view(1, -1, 1, 1)
            handle = norm.register_forward_hook(lambda module, inputs, output, on=on: output * on)
            losses.append(F.cross_entropy(network.model(x), y).item())
            handle.remove()
    return np.array(losses)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=1, help="80 masks of each of 9 layers a round")
    parser.add_argument("--checkpoint", type=Path, help="trained weights; without them the network is a random one")
    arguments = parser.parse_args()
    torch.manual_seed(0)
    model = CifarResNet(56, 10)
    if arguments.checkpoint:
        load_checkpoint(model, arguments.checkpoint)
    network = trace(model.eval(), SHAPE)
    pixels = torch.randint(0, 256, (128, *SHAPE), dtype=torch.uint8)
    pixels = F.interpolate(pixels[:, :, :4, :4].float(), size=32, mode="bicubic").clamp(0, 255).to(torch.uint8)
    images = MemoryImages(pixels, torch.randint(0, 10, (128,)), Look((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    with torch.inference_mode():  # the network's own answers, so that switching filters off raises the loss
        place = Compute(precision="fp32", layout="nchw", threads=1).resolve()
        images.labels.copy_(model(next(images.batches(128, place))[0]).argmax(1))
    groups = cuttable(network)[::3]
    masked = {p: MaskedNetwork(network, images, Compute(precision=p, threads=1).resolve()) for p in ("fp32", "bf16")}
    random = np.random.default_rng(0)
    seconds: dict[str, list[float]] = {"naive": [], "fp32": [], "bf16": []}
    losses: dict[str, list[np.ndarray]] = {"naive": [], "fp32": [], "bf16": []}
    ranks = []
    for _ in range(arguments.rounds):
        for group in groups:
            masks = FilterEnsembles()._draw(max(80, 2 * group.size), group.size, 0.7, random)
            for name in seconds:
                start = time.perf_counter()
                if name == "naive":
                    found = naive(network, group, masks, images)
                else:
                    found = masked[name].measure({group.name: masks}).loss
                seconds[name].append((time.perf_counter() - start) / len(masks))
                losses[name].append(found)
            exact, half = (fit_additive(masks, losses[name][-1], 1e-2)[0] for name in ("naive", "bf16"))
            ranks.append(spearmanr(exact, half).statistic)
    for name in ("fp32", "bf16"):
        ratios = np.array(seconds["naive"]) / np.array(seconds[name])
        whole = sum(seconds["naive"]) / sum(seconds[name])
        worst = max(np.abs(a - b).max() for a, b in zip(losses["naive"], losses[name], strict=True))
        speed, before = 1 / np.mean(seconds[name]), 1 / np.mean(seconds["naive"])
        print(f"{name}: {speed:.1f} masks/s against {before:.1f}: {whole:.2f} times as many")
        print(f"      by layer {ratios.min():.1f} to {ratios.max():.1f}; largest difference of a loss {worst:.1e}")
    print(f"importances, bf16 against naive: rank correlation {np.mean(ranks):.4f} (lowest layer {min(ranks):.4f})")


if __name__ == "__main__":
    main()
