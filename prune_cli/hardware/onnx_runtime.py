"""ONNX Runtime on the CPU, in fp32 or quantised to int8 after training."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from prune_cli.errors import require, require_range
from prune_cli.export import to_onnx
from prune_cli.hardware import Call, Hardware

if TYPE_CHECKING:
    from torch import Tensor, nn

    from prune_cli.hardware import Artefact


@dataclass(frozen=True)
class OnnxRuntime(Hardware):
    """`dtype=int8` is static post-training quantisation: signed weights per channel, unsigned activations."""

    calibration: int = 256  # int8: training images from which the ranges of activations are taken

    dtypes: ClassVar[tuple[str, ...]] = ("float32", "int8")
    layouts: ClassVar[tuple[str, ...]] = ("nchw",)
    needs: ClassVar[tuple[str, ...]] = ("onnx", "onnxscript", "onnxruntime")
    extra: ClassVar[str] = "onnx"

    def __post_init__(self) -> None:
        super().__post_init__()
        require_range("calibration", self.calibration, 1, 10**6, whole=True)

    @property
    def bound(self) -> float:
        return float("inf") if self.dtype == "int8" else super().bound  # int8 is judged by its accuracy

    @property
    def calibrates(self) -> int:
        return self.calibration if self.dtype == "int8" else 0

    def runtime(self) -> str:
        import onnxruntime

        return f"onnxruntime {onnxruntime.__version__}"

    def convert(self, model: nn.Module, shape: tuple[int, ...], folder: Path, calibration: Tensor | None) -> Artefact:
        path = shared_onnx(model, shape, folder)
        if self.dtype == "float32":
            return path
        require(calibration is not None, "quantisation needs images to calibrate on")
        assert calibration is not None
        quantise(path, folder / "int8.onnx", calibration)
        return folder / "int8.onnx"

    def load(self, artefact: Artefact, batch: int) -> Call:
        session = self._session(artefact)
        return lambda x: session.run(None, {"x": x})[0]

    def place(self, x: Tensor) -> Any:
        return x.contiguous().numpy()

    def outputs(self, y: Any) -> Tensor:
        import torch

        return torch.from_numpy(y)

    def layer_times(self, artefact: Artefact, x: Tensor, runs: int) -> dict[str, float]:
        """ONNX Runtime's own profile. A fused operator counts for the layer whose weights it has."""
        assert isinstance(artefact, Path)
        labelled = artefact.with_name("labelled.onnx")
        label(artefact, labelled)
        session = self._session(labelled, profile=str(artefact.with_name("profile")))
        for _ in range(runs + 1):
            session.run(None, {"x": self.place(x)})
        events = json.loads(Path(session.end_profiling()).read_text())
        nodes = [e for e in events if e.get("cat") == "Node" and e["name"].endswith("_kernel_time")]
        times: dict[str, float] = {}
        for event in nodes[len(nodes) // (runs + 1) :]:  # without the first run
            moves = event["args"].get("op_name", "").startswith("Reorder")  # to the blocked layout or back
            layer = "" if moves else event["name"].rpartition(MARK)[0]
            times[layer] = times.get(layer, 0.0) + event["dur"] * 1e-6 / runs
        return times

    def _session(self, artefact: Artefact, profile: str = "") -> Any:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = self.threads
        options.log_severity_level = 3
        if profile:
            options.enable_profiling, options.profile_file_prefix = True, profile
        return onnxruntime.InferenceSession(artefact, options, providers=["CPUExecutionProvider"])


MARK = "//"  # between the layer that an operator belongs to and the operator


def label(source: Path, target: Path) -> None:
    """The same ONNX network with operators and values named by their layers, so that runtimes' profiles can be read.

    An operator without weights belongs to the layer that its input comes from: fused or not, it follows that layer.
    """
    import onnx

    model = onnx.load(source)
    constants = {tensor.name for tensor in model.graph.initializer}
    owner = {name: name.rpartition(".")[0] for name in constants if name.endswith((".weight", ".weight_quantized"))}
    layer_of: dict[str, str] = {}  # by value that depends on the input
    renamed: dict[str, str] = {}
    outputs = {output.name for output in model.graph.output}
    for number, node in enumerate(model.graph.node):
        own = [owner[name] for name in node.input if name in owner]
        layer = own[0] if own else next((layer_of[name] for name in node.input if name in layer_of), "")
        if constants.issuperset(node.input):  # int8 weights on their way to the layer that multiplies by them
            constants.update(node.output)
            owner.update(dict.fromkeys(node.output, layer) if own else {})
        node.name = f"{layer}{MARK}{number}"
        for position, name in enumerate(node.input):
            node.input[position] = renamed.get(name, name)
        for position, name in enumerate(node.output):
            layer_of[name] = layer
            if name not in outputs:
                renamed[name] = node.output[position] = f"{layer}{MARK}{number}.{position}"
    del model.graph.value_info[:]
    onnx.save(model, target)


def shared_onnx(model: nn.Module, shape: tuple[int, ...], folder: Path) -> Path:
    """The network's ONNX file, one folder up: the first target that needs it writes it."""
    path = folder.parent / "model.onnx"
    if not path.is_file():
        to_onnx(model, shape, path)
    return path


def quantise(source: Path, target: Path, images: Tensor) -> None:
    """Write the int8 form of an fp32 ONNX file, activations' ranges taken from images (N, C, H, W)."""
    import torch
    from onnxruntime.quantization import CalibrationDataReader, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self.batches: Iterator[dict[str, Any]] = iter([{"x": part.numpy()} for part in torch.split(images, 32)])

        def get_next(self) -> dict[str, Any] | None:
            return next(self.batches, None)

    logging.getLogger().setLevel(logging.ERROR)  # this is a process of its own, and the quantiser is talkative
    prepared = target.with_name("prepared.onnx")
    quant_pre_process(source, prepared, skip_symbolic_shape=True)
    quantize_static(
        prepared, target, Reader(), per_channel=True, activation_type=QuantType.QUInt8, weight_type=QuantType.QInt8
    )
