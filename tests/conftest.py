"""One thread, no network, the same seed: before torch is imported, because it reads the environment then."""

import os

os.environ["OMP_NUM_THREADS"] = "1"
os.environ["OMP_WAIT_POLICY"] = "PASSIVE"

from pathlib import Path

import pytest
import torch

from prune_cli.compute import Place

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(autouse=True)
def quiet():
    torch.set_num_threads(1)
    torch.manual_seed(0)


@pytest.fixture
def place():
    """fp32 on the CPU in the plain layout: comparisons are exact."""
    return Place(torch.device("cpu"), torch.float32, channels_last=False, threads=1)


@pytest.fixture
def data(tmp_path):
    """160 synthetic images of 4 classes, 32x32."""
    from prune_cli.data import Synthetic

    return Synthetic("synthetic", [0.5] * 3, [0.25] * 3, images=160).load(tmp_path)
