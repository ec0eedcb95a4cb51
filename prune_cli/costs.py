"""What a network costs wherever it runs: parameters, multiply-adds, memory, bytes on disk."""

from __future__ import annotations

import copy
import warnings
import weakref
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from prune_cli.files import to_safetensors
from prune_cli.record import Measure

if TYPE_CHECKING:
    import torch
    from torch import nn


def cost_of(model: nn.Module, shape: tuple[int, ...], batches: Sequence[int] = (1,)) -> Measure:
    """All but latency.

    Args:
        model: in fp32 and eval mode, on the CPU; it is not changed.
        shape: of one input sample, (channels, height, width).
        batches: sizes at which the memory of a forward pass is told.
    """
    import torch

    memory = {}
    with torch.inference_mode():
        for batch in batches:
            memory[f"b{batch}"] = _peak_memory_mb(model, torch.zeros(batch, *shape))
    return Measure(
        params=sum(p.numel() for p in model.parameters()),
        macs=count_macs(model, shape),
        file_bytes=len(to_safetensors(model.state_dict())),
        peak_memory_mb=memory,
    )


def count_macs(model: nn.Module, shape: tuple[int, ...]) -> int:
    """Multiply-adds of conv and linear layers for one image, as fvcore counts them (its batch-norm is left out)."""
    counted = _counter(model, shape).by_operator()
    return int(counted["conv"] + counted["linear"])


def macs_by_layer(model: nn.Module, shape: tuple[int, ...]) -> dict[str, int]:
    """The same by module; modules without any are left out."""
    leaves = {name for name, module in model.named_modules() if not any(module.children())}
    counted = _counter(model, shape).by_module_and_operator()
    macs = {name: int(counts["conv"] + counts["linear"]) for name, counts in counted.items() if name in leaves}
    return {name: count for name, count in macs.items() if count}


def _counter(model: nn.Module, shape: tuple[int, ...]) -> Any:
    import torch

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # fvcore traces with TorchScript, which warns of its age
        from fvcore.nn import FlopCountAnalysis

        counter = FlopCountAnalysis(copy.deepcopy(model).cpu().float().eval(), torch.zeros(1, *shape))
        counter.unsupported_ops_warnings(False).uncalled_modules_warnings(False).total()
        return counter


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
