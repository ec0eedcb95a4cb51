"""TensorRT through Torch-TensorRT, on an NVIDIA GPU."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from prune_cli.hardware import Call, Hardware, example

if TYPE_CHECKING:
    from torch import Tensor, nn

    from prune_cli.hardware import Artefact


@dataclass(frozen=True)
class TensorRT(Hardware):
    """One engine per batch size. A layer that TensorRT cannot take is an error, not a layer left to PyTorch."""

    device: str = "cuda"

    dtypes: ClassVar[tuple[str, ...]] = ("float32", "bfloat16", "float16")
    needs: ClassVar[tuple[str, ...]] = ("torch_tensorrt",)
    extra: ClassVar[str] = "tensorrt"

    def runtime(self) -> str:
        import tensorrt

        return f"tensorrt {tensorrt.__version__}"

    def convert(self, model: nn.Module, shape: tuple[int, ...], folder: Path, calibration: Tensor | None) -> Artefact:
        import torch
        import torch_tensorrt

        ready = self._torch(model)
        for batch in self.batches:
            x = self.place(example(batch, shape))
            with torch.no_grad():
                engine = torch_tensorrt.compile(
                    ready, ir="dynamo", arg_inputs=[x], min_block_size=1, require_full_compilation=True,
                    disable_tf32=True,
                )  # fmt: skip
            torch_tensorrt.save(engine, str(folder / f"b{batch}.ep"), arg_inputs=[x])
        return folder

    def load(self, artefact: Artefact, batch: int) -> Call:
        import torch
        import torch_tensorrt  # noqa: F401  it teaches torch to load engines

        assert isinstance(artefact, Path)
        engine: Call = torch.export.load(artefact / f"b{batch}.ep").module()
        return engine
