"""PyTorch's compiler, ahead of time (AOTInductor): machine code for one network and one batch size.

`torch.compile` itself falls back to eager after eight variants of one class in a process, with a log line only. A
package compiled ahead of time is there or is not, and does without the guards that Python checks at every call.
"""

from __future__ import annotations

import logging
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from prune_cli.errors import require
from prune_cli.hardware import Call, Hardware, example

if TYPE_CHECKING:
    from torch import Tensor, nn

    from prune_cli.hardware import Artefact


@dataclass(frozen=True)
class Compiled(Hardware):
    """AOTInductor with frozen weights."""

    def missing(self) -> str:
        compiler = os.environ.get("CXX", "g++")
        found = shutil.which(compiler) or shutil.which("clang++")
        return super().missing() or ("" if found else f"no C++ compiler ({compiler}): install g++ or set CXX")

    def runtime(self) -> str:
        import torch

        return f"torch {torch.__version__}, AOTInductor"

    def convert(self, model: nn.Module, shape: tuple[int, ...], folder: Path, calibration: Tensor | None) -> Artefact:
        import torch
        from torch._inductor import aoti_compile_and_package, config

        _hush()
        ready = self._torch(model)
        for batch in self.batches:
            x = self.place(example(batch, shape))
            package = folder / f"b{batch}.pt2"
            with torch.no_grad(), config.patch(freezing=True):
                program = torch.export.export(ready, (x,))
                aoti_compile_and_package(program, package_path=str(package))
            require(package.is_file(), "the network was not compiled")
        return folder

    def load(self, artefact: Artefact, batch: int) -> Call:
        from torch._inductor import aoti_load_package

        _hush()
        assert isinstance(artefact, Path)
        runner: Call = aoti_load_package(str(artefact / f"b{batch}.pt2"))
        return runner


def _hush() -> None:
    """A CUDA build of PyTorch warns that there is no GPU whenever it compiles for the CPU."""
    logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)
