"""Where and how arithmetic runs: device, precision, memory layout, threads."""

from __future__ import annotations

import time
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prune_cli import team
from prune_cli.errors import PruneError, require, require_choice, require_range
from prune_cli.host import threads_granted

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from prune_cli.journal import Journal


@dataclass(frozen=True)
class Compute:
    """What the user asks for; `auto` is decided by what the machine has (`resolve`)."""

    device: str = "auto"  # auto | cpu | cuda | cuda:N
    precision: str = "auto"  # auto | fp32 | bf16 (autocast)
    layout: str = "auto"  # auto | nchw | channels_last
    threads: int | str = "auto"  # auto measures one thread against all cores for a moment

    def __post_init__(self) -> None:
        known = self.device in ("auto", "cpu", "cuda") or self.device.removeprefix("cuda:").isdecimal()
        require(known, f"compute.device must be auto, cpu, cuda or cuda:N: got {self.device!r}")
        require_choice("compute.precision", self.precision, ("auto", "fp32", "bf16"))
        require_choice("compute.layout", self.layout, ("auto", "nchw", "channels_last"))
        if self.threads != "auto":
            require_range("compute.threads", self.threads, 1, 1024, whole=True)

    def resolve(self) -> Place:
        """Decide, set the process's thread count, and meet the other processes of a team.

        Raises:
            PruneError: the device asked for is not there.
        """
        import torch

        device = torch.device(
            ("cuda" if torch.cuda.is_available() else "cpu") if self.device == "auto" else self.device
        )
        if device.type == "cuda" and device.index is None and team.launched():
            device = torch.device("cuda", team.local_rank())
        if device.type == "cuda" and (
            not torch.cuda.is_available() or (device.index or 0) >= torch.cuda.device_count()
        ):
            raise PruneError(f"compute.device={self.device}: PyTorch finds {torch.cuda.device_count()} CUDA devices")
        bf16 = self.precision == "bf16" or (self.precision == "auto" and has_fast_bf16(device))
        threads = self.threads if isinstance(self.threads, int) else _faster_thread_count(device)
        torch.set_num_threads(threads)
        team.assemble(device)
        return Place(device, torch.bfloat16 if bf16 else torch.float32, self.layout != "nchw", threads)


@dataclass(frozen=True)
class Place:
    """The decision: what tensors and models are moved to, the precision in which they meet, where work is kept."""

    device: torch.device
    dtype: torch.dtype
    channels_last: bool
    threads: int
    journal: Journal | None = None  # of long work, so that it can go on; None: nothing is kept

    def move(self, model: nn.Module) -> nn.Module:
        """The model itself, on the device and in the layout."""
        import torch

        layout = torch.channels_last if self.channels_last else torch.contiguous_format
        return model.to(self.device).to(memory_format=layout)

    def images(self, x: Tensor) -> Tensor:
        import torch

        layout = torch.channels_last if self.channels_last else torch.contiguous_format
        return x.to(self.device, non_blocking=True).contiguous(memory_format=layout)

    def autocast(self) -> AbstractContextManager[Any]:
        import torch

        return torch.autocast(self.device.type, self.dtype) if self.dtype == torch.bfloat16 else nullcontext()

    def describe(self) -> dict[str, Any]:
        precision = str(self.dtype).removeprefix("torch.")
        layout = "channels_last" if self.channels_last else "nchw"
        return {"device": str(self.device), "precision": precision, "layout": layout, "threads": self.threads,
                "processes": team.size()}  # fmt: skip


def has_fast_bf16(device: torch.device) -> bool:
    """Does the hardware multiply bf16 itself? Emulated bf16 is slower than fp32."""
    import torch

    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    flags = Path("/proc/cpuinfo")
    words = set(flags.read_text().split()) if flags.is_file() else set()
    return bool(words & {"avx512_bf16", "amx_bf16", "bf16"})


def _faster_thread_count(device: torch.device) -> int:
    """One thread or all that are granted, whichever runs a convolution faster at this moment.

    On a machine shared with other jobs, all cores can be many times slower than one, because every parallel
    region waits for its last thread.
    """
    import torch

    available = threads_granted()
    if device.type != "cpu" or available == 1:
        return 1
    conv = torch.nn.Conv2d(64, 64, 3, padding=1)
    x = torch.randn(32, 64, 32, 32)

    def seconds(threads: int) -> float:
        torch.set_num_threads(threads)
        samples = []
        with torch.no_grad():
            conv(x)
            for _ in range(10):
                start = time.perf_counter()
                conv(x)
                samples.append(time.perf_counter() - start)
        return sum(samples)

    rounds = [(seconds(1), seconds(available)) for _ in range(3)]
    one, many = (min(times) for times in zip(*rounds, strict=True))
    return available if many < one else 1
