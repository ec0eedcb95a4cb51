"""OpenVINO on the CPU."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from prune_cli.export import import_openvino
from prune_cli.hardware import Call, Hardware
from prune_cli.hardware.onnx_runtime import MARK, label, shared_onnx

if TYPE_CHECKING:
    from torch import Tensor, nn

    from prune_cli.hardware import Artefact


@dataclass(frozen=True)
class OpenVino(Hardware):
    """Tuned for latency, one stream; its own default would be bf16 wherever the processor has that."""

    layouts: ClassVar[tuple[str, ...]] = ("nchw",)
    needs: ClassVar[tuple[str, ...]] = ("onnx", "onnxscript", "openvino")
    extra: ClassVar[str] = "openvino"

    def runtime(self) -> str:
        return f"openvino {import_openvino().__version__.split('-')[0]}"

    def convert(self, model: nn.Module, shape: tuple[int, ...], folder: Path, calibration: Tensor | None) -> Artefact:
        return shared_onnx(model, shape, folder)

    def load(self, artefact: Artefact, batch: int) -> Call:
        request = self._request(artefact, batch)

        def call(x: Any) -> Any:
            request.infer({0: x}, share_inputs=True)
            return request.get_output_tensor(0).data

        return call

    def place(self, x: Tensor) -> Any:
        return x.contiguous().numpy()

    def outputs(self, y: Any) -> Tensor:
        import torch

        return torch.from_numpy(y.copy()).float()

    def layer_times(self, artefact: Artefact, x: Tensor, runs: int) -> dict[str, float]:
        """OpenVINO's own counters. A fused operator counts for the layer whose weights it has."""
        assert isinstance(artefact, Path)
        labelled = artefact.with_name("labelled.onnx")
        label(artefact, labelled)
        request = self._request(labelled, len(x), PERF_COUNT=True)
        request.infer({0: self.place(x)})
        times: dict[str, float] = {}
        for _ in range(runs):
            request.infer({0: self.place(x)})
            for event in request.profiling_info:
                moves = event.node_type == "Reorder"  # to another layout
                layer = "" if moves else event.node_name.rpartition(MARK)[0]
                times[layer] = times.get(layer, 0.0) + event.real_time.total_seconds() / runs
        return times

    def _request(self, artefact: Artefact, batch: int, **settings: Any) -> Any:
        core = import_openvino().Core()
        model = core.read_model(artefact)
        model.reshape({0: [batch, *[d.get_length() for d in list(model.input(0).partial_shape)[1:]]]})
        precision = {"float32": "f32", "bfloat16": "bf16"}[self.dtype]
        chosen = {"PERFORMANCE_HINT": "LATENCY", "NUM_STREAMS": 1, "INFERENCE_NUM_THREADS": self.threads}
        return core.compile_model(
            model, "CPU", {**chosen, "INFERENCE_PRECISION_HINT": precision, **settings}
        ).create_infer_request()
