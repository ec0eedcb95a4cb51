"""What networks cost on the hardware: parameters, multiply-adds, memory, and latency measured side by side."""

from __future__ import annotations

import copy
import time
import warnings
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from prune_cli.errors import require, require_choice, require_range
from prune_cli.files import to_safetensors
from prune_cli.record import Latency, Measure

if TYPE_CHECKING:
    import torch
    from torch import nn

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Hardware:
    """A target: eager PyTorch on the CPU, and how it is timed."""

    name: str = "cpu"
    threads: int = 1
    dtype: str = "float32"  # float32 | bfloat16
    layout: str = "nchw"  # nchw | channels_last
    batches: Sequence[int] = (1, 64)
    warmup: int = 3  # untimed calls of each network
    rounds: int = 15  # at least so many rounds, each of which times every network
    seconds: float = 2.0  # per batch size at least so long

    def __post_init__(self) -> None:
        require_range("hardware.threads", self.threads, 1, 1024, whole=True)
        require_choice("hardware.dtype", self.dtype, ("float32", "bfloat16"))
        require_choice("hardware.layout", self.layout, ("nchw", "channels_last"))
        require(self.batches, "hardware.batches must name at least one batch size")
        for batch in self.batches:
            require_range("hardware.batches", batch, 1, 65536, whole=True)
        require_range("hardware.warmup", self.warmup, 0, 10**4, whole=True)
        require_range("hardware.rounds", self.rounds, 2, 10**6, whole=True)
        require_range("hardware.seconds", self.seconds, 0, 3600)

    def describe(self) -> dict[str, Any]:
        return {"threads": self.threads, "dtype": self.dtype, "layout": self.layout, "batches": list(self.batches)}


def measure(networks: Mapping[str, nn.Module], shape: tuple[int, ...], hardware: Hardware) -> dict[str, Measure]:
    """Cost of every network; ratios are to the first one.

    Args:
        networks: by name, the dense one first; they are not changed.
        shape: of one input sample, (channels, height, width).
    """
    import torch

    ready = {name: _prepare(model, hardware) for name, model in networks.items()}
    inputs = {batch: _example(batch, shape, hardware) for batch in hardware.batches}
    with _threads(hardware.threads), torch.inference_mode():
        latency = {
            batch: _race({n: _caller(m, x) for n, m in ready.items()}, batch, hardware) for batch, x in inputs.items()
        }
        memory = {n: {f"b{b}": _peak_memory_mb(m, x) for b, x in inputs.items()} for n, m in ready.items()}
    return {
        name: Measure(
            params=sum(p.numel() for p in model.parameters()),
            macs=count_macs(model, shape),
            file_bytes=len(to_safetensors(model.state_dict())),
            peak_memory_mb=memory[name],
            latency={hardware.name: [latency[batch][name] for batch in hardware.batches]},
        )
        for name, model in networks.items()
    }


class Stopwatch:
    """Latencies of candidates for one target and batch size, each as a part of the dense network's.

    Every candidate is timed in turn with the dense network. Latency depends on shapes: equal ones are timed once.
    """

    def __init__(self, dense: nn.Module, shape: tuple[int, ...], hardware: Hardware, batch: int) -> None:
        self.shape, self.hardware, self.batch = shape, hardware, batch
        self.dense = _prepare(dense, hardware)
        self.known: dict[tuple[Any, ...], float] = {_shapes(dense): 1.0}

    def ratio(self, model: nn.Module) -> float:
        import torch

        key = _shapes(model)
        if key not in self.known:
            x = _example(self.batch, self.shape, self.hardware)
            ready = {"dense": self.dense, "candidate": _prepare(model, self.hardware)}
            with _threads(self.hardware.threads), torch.inference_mode():
                calls = {name: _caller(network, x) for name, network in ready.items()}
                self.known[key] = _race(calls, self.batch, self.hardware)["candidate"].ratio
        return self.known[key]


def _shapes(model: nn.Module) -> tuple[Any, ...]:
    return tuple((name, tuple(tensor.shape)) for name, tensor in model.state_dict().items())


def count_macs(model: nn.Module, shape: tuple[int, ...]) -> int:
    """Multiply-adds of conv and linear layers for one image, as fvcore counts them (its batch-norm is left out)."""
    import torch

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # fvcore traces with TorchScript, which warns of its age
        from fvcore.nn import FlopCountAnalysis

        plain = copy.deepcopy(model).cpu().float().eval()
        counter = FlopCountAnalysis(plain, torch.zeros(1, *shape))
        counted = counter.unsupported_ops_warnings(False).uncalled_modules_warnings(False).by_operator()
    return int(counted["conv"] + counted["linear"])


def _prepare(model: nn.Module, hardware: Hardware) -> nn.Module:
    import torch

    layout = torch.channels_last if hardware.layout == "channels_last" else torch.contiguous_format
    ready = copy.deepcopy(model).cpu().eval().to(dtype=getattr(torch, hardware.dtype))
    return ready.to(memory_format=layout)


def _example(batch: int, shape: tuple[int, ...], hardware: Hardware) -> torch.Tensor:
    import torch

    layout = torch.channels_last if hardware.layout == "channels_last" else torch.contiguous_format
    x = torch.randn(batch, *shape, generator=torch.Generator().manual_seed(0))
    return x.to(getattr(torch, hardware.dtype)).contiguous(memory_format=layout)


def _caller(model: nn.Module, x: torch.Tensor) -> Callable[[], object]:
    return lambda: model(x)


def _race(calls: Mapping[str, Callable[[], object]], batch: int, hardware: Hardware) -> dict[str, Latency]:
    """Time all networks in turn, round after round, so that a disturbance meets them alike."""
    for call in calls.values():
        for _ in range(hardware.warmup):
            call()
    repeats = {name: max(1, round(0.005 / _seconds(call, 1))) for name, call in calls.items()}
    samples: dict[str, list[float]] = {name: [] for name in calls}
    order = list(calls)
    start = time.perf_counter()
    while len(samples[order[0]]) < hardware.rounds or time.perf_counter() - start < hardware.seconds:
        for name in order:
            samples[name].append(1000 * _seconds(calls[name], repeats[name]))
        order.reverse()
    dense = np.array(samples[next(iter(calls))])
    return {name: _summary(np.array(times), dense, batch) for name, times in samples.items()}


def _seconds(call: Callable[[], object], repeats: int) -> float:
    start = time.perf_counter()
    for _ in range(repeats):
        call()
    return (time.perf_counter() - start) / repeats


def _summary(times: Array, dense: Array, batch: int) -> Latency:
    ratios = times / dense
    low, high = _interval_of_median(ratios)
    p10, median, p90 = (round(float(v), 4) for v in np.percentile(times, [10, 50, 90]))
    ratio = round(float(np.median(ratios)), 4)
    return Latency(batch, median, p10, p90, len(times), ratio, round(low, 4), round(high, 4))


def _interval_of_median(values: Array, draws: int = 2000) -> tuple[float, float]:
    """95% bootstrap interval."""
    random = np.random.default_rng(0)
    medians = np.median(random.choice(values, (draws, len(values))), axis=1)
    low, high = np.percentile(medians, [2.5, 97.5])
    return float(low), float(high)


@contextmanager
def _threads(count: int) -> Iterator[None]:
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _peak_memory_mb(model: nn.Module, x: torch.Tensor) -> float:
    """Weights plus the most that activations hold at any one moment of a forward pass, in 10^6 bytes."""
    import torch
    from torch.utils._python_dispatch import TorchDispatchMode

    weights = sum(t.numel() * t.element_size() for t in [*model.parameters(), *model.buffers()])
    live, peak = 0, 0
    seen: set[int] = set()

    def release(key: int, size: int) -> None:
        nonlocal live
        live -= size
        seen.discard(key)

    class Meter(TorchDispatchMode):  # type: ignore[no-untyped-call]
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            nonlocal live, peak
            out = func(*args, **(kwargs or {}))
            for tensor in out if isinstance(out, tuple | list) else (out,):
                if isinstance(tensor, torch.Tensor):
                    storage = tensor.untyped_storage()
                    key = storage._cdata
                    if key not in seen and key not in own:
                        seen.add(key)
                        live += storage.nbytes()
                        weakref.finalize(storage, release, key, storage.nbytes())
            peak = max(peak, live)
            return out

    own = {t.untyped_storage()._cdata for t in [x, *model.parameters(), *model.buffers()]}
    with Meter():  # type: ignore[no-untyped-call]
        model(x)
    return round((weights + x.numel() * x.element_size() + peak) / 1e6, 3)
