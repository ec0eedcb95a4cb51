"""The targets of the config group `hardware`: what a network ships on, and how it is timed there.

A target turns a network into what its runtime takes (`convert`), loads that (`load`) and calls it. Adding one is a file
here and one in conf/hardware. Importing this module is cheap: runtimes are loaded by the methods, not by descriptions.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from prune_cli.errors import require, require_choice, require_range

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    Artefact = nn.Module | Path  # what `convert` makes of a network; it is sent to every process that times it
Call = Callable[[Any], Any]


@dataclass(frozen=True)
class Hardware:
    """What all targets share. A sample is the time of one forward pass; a round samples every network once."""

    device: str = "cpu"  # cpu | cuda | cuda:N
    threads: int = 1  # of the runtime
    dtype: str = "float32"
    layout: str = "nchw"  # nchw | channels_last
    batches: Sequence[int] = (1, 64)
    round_to: int = 1  # latency budgets: widths are multiples of this unless budget.round_to says otherwise
    warmup: int = 2  # untimed calls of each network in each process, two at least
    processes: int = 8  # fresh ones, over which a measurement is spread: where weights come to lie in memory matters
    rounds: int = 24  # at least so many, over all processes
    seconds: float = 2.0  # at least so long per batch size, over all processes

    dtypes: ClassVar[tuple[str, ...]] = ("float32", "bfloat16")
    layouts: ClassVar[tuple[str, ...]] = ("nchw", "channels_last")
    needs: ClassVar[tuple[str, ...]] = ()  # packages of the optional extra
    extra: ClassVar[str] = ""

    def __post_init__(self) -> None:
        known = self.device in ("cpu", "cuda") or self.device.removeprefix("cuda:").isdecimal()
        require(known, f"device must be cpu, cuda or cuda:N: got {self.device!r}")
        require_range("threads", self.threads, 1, 1024, whole=True)
        require_choice("dtype", self.dtype, self.dtypes)
        require_choice("layout", self.layout, self.layouts)
        if isinstance(self.batches, int):  # one size, without brackets
            object.__setattr__(self, "batches", (self.batches,))
        require(self.batches, "batches must name at least one batch size")
        for batch in self.batches:
            require_range("batches", batch, 1, 65536, whole=True)
        require_range("round_to", self.round_to, 1, 1024, whole=True)
        require_range("warmup", self.warmup, 2, 10**4, whole=True)
        require_range("processes", self.processes, 1, 1000, whole=True)
        require_range("rounds", self.rounds, 2, 10**6, whole=True)
        require_range("seconds", self.seconds, 0, 3600)

    @property
    def bound(self) -> float:
        """How far outputs may be from those of eager PyTorch in fp32: norm of the difference over norm of the output.

        bf16 has 8 significant bits, 0.4% per operation, and errors add up over the depth of a network.
        """
        return 1e-4 if self.dtype == "float32" else 0.05

    @property
    def lossy(self) -> bool:
        """Accuracy on this target is measured, since it may differ from that of the fp32 network."""
        return self.dtype != "float32"

    @property
    def calibrates(self) -> int:
        """How many training images the target wants to see before it quantises."""
        return 0

    def missing(self) -> str:
        """Why the target cannot be used here and what to do about it; "" if it can."""
        absent = [package for package in self.needs if find_spec(package) is None]
        if absent:
            return f"{', '.join(absent)} not installed: python -m pip install 'prune-cli[{self.extra}]'"
        if self.device == "cpu":
            return ""
        import torch

        index, count = int(self.device.partition(":")[2] or 0), torch.cuda.device_count()
        needed = "needs an NVIDIA GPU, its driver and a CUDA build of torch (pytorch.org/get-started)"
        return "" if index < count else f"PyTorch {torch.__version__} finds {count} CUDA devices here: {needed}"

    def describe(self) -> dict[str, Any]:
        """For the record: what a figure on this target means."""
        described = {"runtime": self.runtime(), "device": self._device_name(), "threads": self.threads}
        described |= {"dtype": self.dtype, "layout": self.layout, "batches": list(self.batches)}
        return described

    def runtime(self) -> str:
        """Name and version."""
        raise NotImplementedError

    def _device_name(self) -> str:
        if self.device == "cpu":
            return "cpu"
        import torch

        return torch.cuda.get_device_name(self.device)

    # ---- a network on the target ---------------------------------------------------------------------

    def convert(self, model: nn.Module, shape: tuple[int, ...], folder: Path, calibration: Tensor | None) -> Artefact:
        """What the runtime takes, in `folder` if it is a file; runs in a process of its own.

        Args:
            model: in fp32 and eval mode, on the CPU; the caller's own copy.
            shape: of one input sample.
            calibration: images (N, C, H, W) that quantisation looks at.
        """
        return model

    def load(self, artefact: Artefact, batch: int) -> Call:
        """What computes the network's outputs for an input of `batch` samples that `place` has placed."""
        raise NotImplementedError

    def place(self, x: Tensor) -> Any:
        """Inputs as the runtime takes them, where they are before the clock starts."""
        return self._torch(x)

    def outputs(self, y: Any) -> Tensor:
        """Outputs of a call as fp32 on the CPU."""
        return y.float().cpu()

    def seconds_of(self, call: Call, x: Any, repeats: int) -> float:
        """Wall seconds of one of so many calls in a row; on a GPU between two events, all work done."""
        if self.device == "cpu":
            start = time.perf_counter()
            for _ in range(repeats):
                call(x)
            return (time.perf_counter() - start) / repeats
        import torch

        with torch.cuda.device(self.device):
            first, last = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
            torch.cuda.synchronize()
            first.record()
            for _ in range(repeats):
                call(x)
            last.record()
            torch.cuda.synchronize()
        return first.elapsed_time(last) / 1000 / repeats

    def layer_times(self, artefact: Artefact, x: Tensor, runs: int) -> dict[str, float]:
        """Seconds by layer, named as the network's modules are; what belongs to none is under "". Empty: unknown."""
        return {}

    def _torch(self, what: Any) -> Any:
        """A tensor or module of PyTorch on this target's device, in its dtype and layout."""
        import torch

        layout = torch.channels_last if self.layout == "channels_last" else torch.contiguous_format
        dtype: torch.dtype = getattr(torch, self.dtype)
        return what.to(device=self.device, dtype=dtype).to(memory_format=layout)


def example(batch: int, shape: tuple[int, ...]) -> Tensor:
    """The input of all measurements and checks (N, C, H, W): standard normal, always the same."""
    import torch

    return torch.randn(batch, *shape, generator=torch.Generator().manual_seed(0))
