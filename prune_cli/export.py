"""A network as files that load without this package: ONNX, OpenVINO's IR, torch.export. The batch size stays free."""

from __future__ import annotations

import copy
import logging
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prune_cli.errors import PruneError, require, require_choice
from prune_cli.record import Export

if TYPE_CHECKING:
    from torch import Tensor, nn

BOUND = 1e-4  # outputs in fp32: norm of the difference to eager PyTorch over norm of the output
FILES = {"onnx": ("model.onnx",), "openvino": ("model.xml", "model.bin"), "torch_export": ("model.pt2",)}
NEEDS = {"onnx": ("onnx", "onnxscript", "onnxruntime"), "openvino": ("onnx", "onnxscript", "openvino"),
         "torch_export": ()}  # fmt: skip
KINDS = tuple(FILES)


def require_kinds(kinds: Sequence[str]) -> None:
    """Refuse a file kind that is unknown, or whose packages are not installed.

    Raises:
        PruneError: with the line that installs them.
    """
    for kind in kinds:
        require_choice("export", kind, KINDS)
        absent = [package for package in NEEDS[kind] if find_spec(package) is None]
        extra = "onnx" if kind == "onnx" else kind
        require(not absent, f"export={kind}: {', '.join(absent)} not installed: "
                            f"python -m pip install 'prune-cli[{extra}]'")  # fmt: skip


def export(model: nn.Module, shape: tuple[int, ...], kinds: Sequence[str]) -> tuple[dict[str, bytes], list[Export]]:
    """The network in several forms, each loaded again by its own runtime and compared with eager PyTorch.

    Args:
        model: in eval mode, on the CPU; it is not changed.
        shape: of one input sample.

    Returns:
        Contents by file name, and for each kind its files, size and error.

    Raises:
        PruneError: a kind cannot express the network, or gives other outputs.
    """
    import torch

    contents: dict[str, bytes] = {}
    exports = []
    for kind in kinds:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            try:
                WRITE[kind](model, shape, folder)
                call = READ[kind](folder)
            except Exception as error:  # runtimes raise whatever they like
                reason = f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error) else ''}"
                raise PruneError(f"export={kind}: this network cannot be exported ({reason})") from error
            worst = 0.0
            for batch in (1, 3):
                x = torch.randn(batch, *shape, generator=torch.Generator().manual_seed(1))
                with torch.inference_mode():
                    worst = max(worst, distance(call(x), model(x)))
            require(worst <= BOUND, f"export={kind}: outputs differ from PyTorch's by {worst:.1e}, bound {BOUND:g}")
            files = {file: (folder / file).read_bytes() for file in FILES[kind]}
            exports.append(Export(kind, list(files), sum(map(len, files.values())), worst))
            contents |= files
    return contents, exports


def distance(y: Tensor, expected: Tensor) -> float:
    """Norm of the difference over norm of the expected; infinite if anything is not a finite number."""
    gap = float((y.float() - expected.float()).norm() / expected.float().norm().clamp(min=1e-30))
    return gap if gap < float("inf") else float("inf")


def to_onnx(model: nn.Module, shape: tuple[int, ...], path: Path) -> None:
    """Write one self-contained .onnx file; its input is `x`, its batch size free."""
    import torch

    with _quiet():
        batch = torch.export.Dim("batch", min=1)
        program = torch.onnx.export(
            copy.deepcopy(model), (torch.zeros(2, *shape),), dynamo=True, dynamic_shapes=({0: batch},),
            input_names=["x"], output_names=["y"], verbose=False,
        )  # fmt: skip
        assert program is not None
        program.save(path, external_data=False)


def to_openvino(onnx: Path, path: Path) -> None:
    """Write OpenVINO's IR (path.xml and path.bin) of an ONNX file, weights in fp32."""
    openvino = import_openvino()
    openvino.save_model(openvino.Core().read_model(onnx), path, compress_to_fp16=False)


def import_openvino() -> Any:
    """The package, without its telemetry: that would start a process at every import and report to its vendor."""
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]  # "not installed"
    import openvino

    return openvino


def _write_onnx(model: nn.Module, shape: tuple[int, ...], folder: Path) -> None:
    to_onnx(model, shape, folder / "model.onnx")


def _write_openvino(model: nn.Module, shape: tuple[int, ...], folder: Path) -> None:
    to_onnx(model, shape, folder / "temporary.onnx")
    to_openvino(folder / "temporary.onnx", folder / "model.xml")


def _write_torch_export(model: nn.Module, shape: tuple[int, ...], folder: Path) -> None:
    import torch

    with _quiet():
        batch = torch.export.Dim("batch", min=1)
        program = torch.export.export(model, (torch.zeros(2, *shape),), dynamic_shapes=({0: batch},))
        torch.export.save(program, folder / "model.pt2")


def _read_onnx(folder: Path) -> Callable[[Tensor], Tensor]:
    import onnxruntime
    import torch

    session = onnxruntime.InferenceSession(folder / "model.onnx", providers=["CPUExecutionProvider"])
    return lambda x: torch.from_numpy(session.run(None, {"x": x.numpy()})[0])


def _read_openvino(folder: Path) -> Callable[[Tensor], Tensor]:
    import torch

    compiled = import_openvino().Core().compile_model(folder / "model.xml", "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    return lambda x: torch.from_numpy(compiled(x.numpy())[0].copy())


def _read_torch_export(folder: Path) -> Callable[[Tensor], Tensor]:
    import torch

    module = torch.export.load(folder / "model.pt2").module()
    return lambda x: module(x)


WRITE: dict[str, Callable[[Any, tuple[int, ...], Path], None]] = {
    "onnx": _write_onnx, "openvino": _write_openvino, "torch_export": _write_torch_export,
}  # fmt: skip
READ = {"onnx": _read_onnx, "openvino": _read_openvino, "torch_export": _read_torch_export}


@contextmanager
def _quiet() -> Iterator[None]:
    """Exporters warn of their own insides; what matters is checked on the outputs."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "torch.export", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
