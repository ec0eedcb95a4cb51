"""PyTorch as it is, on a CPU or an NVIDIA GPU."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from prune_cli.hardware import Call, Hardware

if TYPE_CHECKING:
    from torch import Tensor

    from prune_cli.hardware import Artefact


@dataclass(frozen=True)
class Eager(Hardware):
    """Eager PyTorch."""

    dtypes: ClassVar[tuple[str, ...]] = ("float32", "bfloat16", "float16")

    def runtime(self) -> str:
        import torch

        return f"torch {torch.__version__}"

    def load(self, artefact: Artefact, batch: int) -> Call:
        import torch

        torch.backends.cudnn.benchmark = True  # the fastest algorithm for each shape, chosen while warming up
        torch.backends.cudnn.allow_tf32 = False  # float32 means float32
        model: Call = self._torch(artefact)
        return model

    def layer_times(self, artefact: Artefact, x: Tensor, runs: int) -> dict[str, float]:
        """Time between a leaf module's start and its end; what modules do not do (additions, views) is under ""."""
        import torch

        model, placed = self._torch(artefact), self.place(x)
        times: dict[str, float] = {}
        started: dict[str, float] = {}
        now = time.perf_counter if self.device == "cpu" else _after_all_work

        def begin(name: str) -> Any:
            return lambda *_: started.__setitem__(name, now())

        def end(name: str) -> Any:
            return lambda *_: times.__setitem__(name, times.get(name, 0.0) + now() - started[name])

        hooks = []
        for name, module in model.named_modules():
            if not any(module.children()):
                hooks += [module.register_forward_pre_hook(begin(name)), module.register_forward_hook(end(name))]
        with torch.inference_mode():
            start = now()
            for _ in range(runs):
                model(placed)
            total = now() - start
        for hook in hooks:
            hook.remove()
        times[""] = total - sum(times.values())
        return {name: seconds / runs for name, seconds in times.items()}


def _after_all_work() -> float:
    import torch

    torch.cuda.synchronize()
    return time.perf_counter()
