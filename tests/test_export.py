"""Exported files give PyTorch's outputs, need nothing of this package, and say so when they cannot."""

import subprocess
import sys

import pytest
import torch
from torch import nn

from prune_cli import export as exporting
from prune_cli.channels import trace
from prune_cli.errors import PruneError
from prune_cli.export import FILES, KINDS, distance, export, require_kinds
from prune_cli.plan import Plan, Width
from prune_cli.surgery import apply
from tests.networks import TINY, half_of, images, make

THERE = [kind for kind in KINDS if not any(exporting.find_spec(need) is None for need in exporting.NEEDS[kind])]
LOADERS = {  # what a user writes, without this package
    "onnx": "import onnxruntime, numpy as np; s = onnxruntime.InferenceSession('model.onnx'); "
    "y = s.run(None, {'x': np.load('x.npy')})[0]",
    "openvino": "import openvino, numpy as np; m = openvino.Core().compile_model('model.xml', 'CPU', "
    "{'INFERENCE_PRECISION_HINT': 'f32'}); y = m(np.load('x.npy'))[0]",
    "torch_export": "import torch, numpy as np; m = torch.export.load('model.pt2').module(); "
    "y = m(torch.from_numpy(np.load('x.npy'))).detach().numpy()",
}


def pruned(name):
    model, shape = make(name)
    network = trace(model, shape)
    plan = Plan(tuple(Width(group, keep) for group, keep in half_of(network).items()))
    return apply(model, plan, shape), shape


@pytest.mark.parametrize("name", TINY)
def test_pruned_networks_of_all_kinds_are_exported(name):
    model, shape = pruned(name)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    contents, exports = export(model, shape, THERE)
    assert [e.kind for e in exports] == THERE and all(e.error <= exporting.BOUND for e in exports)
    assert {file for kind in THERE for file in FILES[kind]} == set(contents)
    assert all(e.bytes == sum(len(contents[file]) for file in e.files) for e in exports)
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())


@pytest.mark.parametrize("kind", THERE)
def test_files_load_without_this_package_at_any_batch_size(kind, tmp_path):
    import numpy as np

    model, shape = pruned("resnet-pad")
    for name, data in export(model, shape, [kind])[0].items():
        (tmp_path / name).write_bytes(data)
    x = images(shape, count=5)
    np.save(tmp_path / "x.npy", x.numpy())
    code = f"import sys; sys.modules['prune_cli'] = None; {LOADERS[kind]}; np.save('y.npy', y)"
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True)
    with torch.inference_mode():
        assert distance(torch.from_numpy(np.load(tmp_path / "y.npy")), model(x)) < 1e-5


def test_another_output_is_an_error(monkeypatch):
    model, shape = pruned("vgg")
    monkeypatch.setitem(exporting.READ, "torch_export", lambda folder: lambda x: model(x) * 1.01)
    with pytest.raises(
        PruneError, match=r"export=torch_export: outputs differ from PyTorch's by 1.0e-02, bound 0.0001"
    ):
        export(model, shape, ["torch_export"])


class Undecided(nn.Module):
    def forward(self, x):
        return x if x.sum() > 0 else -x


def test_what_cannot_be_exported_is_one_line():
    with pytest.raises(PruneError, match="export=torch_export: this network cannot be exported") as error:
        export(Undecided(), (3, 8, 8), ["torch_export"])
    assert "\n" not in str(error.value)


def test_unknown_kinds_and_missing_packages_are_refused(monkeypatch):
    with pytest.raises(PruneError, match="export must be one of onnx, openvino, torch_export"):
        require_kinds(["tflite"])
    monkeypatch.setattr(exporting, "find_spec", lambda package: None)
    with pytest.raises(PruneError, match=r"openvino not installed: python -m pip install 'prune-cli\[openvino\]'"):
        require_kinds(["openvino"])


def test_a_distance_of_nonsense_is_infinite():
    assert distance(torch.tensor([float("nan")]), torch.ones(1)) == float("inf")
    assert distance(torch.zeros(1), torch.zeros(1)) == 0
