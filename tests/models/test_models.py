"""The networks are those of the papers, and weights come in safely."""

import io
import pickle
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from prune_cli.errors import PruneError
from prune_cli.models import CifarResNet, Custom, Torchvision, Vgg16


def parameters(model):
    return sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize("depth, millions", [(20, 0.27), (32, 0.46), (44, 0.66), (56, 0.85), (110, 1.73)])
def test_resnet_sizes_of_the_paper(depth, millions):
    """He et al., table 6 (with parameter-free shortcuts)."""
    model = CifarResNet(depth=depth).build(10)
    assert round(parameters(model) / 1e6, 2) == pytest.approx(millions, abs=0.011)
    names = list(model.state_dict())
    assert names[0] == "conv1.weight" and "layer1.0.conv1.weight" in names and names[-1] == "linear.bias"


def test_projection_shortcuts_have_weights():
    model = CifarResNet(depth=20, shortcut="project").build(10)
    assert "layer2.0.shortcut.0.weight" in model.state_dict()


def test_vgg_has_thirteen_convolutions_and_one_linear_layer():
    model = Vgg16().build(10)
    kinds = [type(m).__name__ for m in model.modules()]
    assert (kinds.count("Conv2d"), kinds.count("BatchNorm2d"), kinds.count("Linear")) == (13, 13, 1)
    assert parameters(Vgg16(width=0.5).build(10)) < 0.26 * parameters(model)
    assert model(torch.randn(2, 3, 48, 48)).shape == (2, 10)


@pytest.fixture
def small():
    return CifarResNet(depth=8, width=0.25)


@pytest.mark.parametrize(
    "wrap", [lambda s: s, lambda s: {"state_dict": {f"module.{k}": v for k, v in s.items()}, "best": 1.0}]
)
@pytest.mark.parametrize("suffix", [".pth", ".th", ".safetensors"])
def test_checkpoints_load(tmp_path, small, suffix, wrap):
    state = small.build(4).state_dict()
    path = tmp_path / f"weights{suffix}"
    if suffix == ".safetensors":
        save_file({f"module.{k}": v for k, v in state.items()}, path)
    else:
        torch.save(wrap(state), path)
    loaded = CifarResNet(depth=8, width=0.25, checkpoint=str(path)).pretrained(4).state_dict()
    assert all(torch.equal(a, b) for a, b in zip(state.values(), loaded.values(), strict=True))


class Payload:
    def __reduce__(self):
        return (open, ("/tmp/prune-cli-was-here", "w"))


def spoilt(state):
    state["conv1.weight"][0] = float("nan")
    return state


HOSTILE = {
    "code": (lambda state: pickle.dumps({"state_dict": Payload()}), "cannot be read as plain weights"),
    "garbage": (lambda state: b"hello", "cannot be read as plain weights"),
    "empty": (lambda state: b"", "cannot be read as plain weights"),
    "not a state": (lambda state: saved([1, 2]), "holds no state dict"),
    "another network": (lambda state: saved({"fc.weight": torch.zeros(1)}), "lacks conv1.weight.* and has fc.weight"),
    "more than asked": (lambda state: saved({**state, "extra": torch.zeros(1)}), "also has extra"),
    "wrong shape": (lambda state: saved({**state, "conv1.weight": torch.zeros(1)}), r"conv1.weight is \(1,\)"),
    "not finite": (lambda state: saved(spoilt(state)), "not finite"),
    "other classes": (lambda state: saved(CifarResNet(depth=8, width=0.25).build(7).state_dict()), "linear.weight"),
}  # fmt: skip


def saved(value):
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return buffer.getvalue()


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_and_unfit_checkpoints_are_refused_in_one_line(case, tmp_path, small):
    make, message = HOSTILE[case]
    path = tmp_path / "weights.pth"
    path.write_bytes(make(small.build(4).state_dict()))
    with pytest.raises(PruneError, match=message) as error:
        CifarResNet(depth=8, width=0.25, checkpoint=str(path)).pretrained(4)
    assert "\n" not in str(error.value)
    assert not Path("/tmp/prune-cli-was-here").exists()


def test_torchvision_by_name():
    model = Torchvision(name="shufflenet_v2_x0_5").build(7)
    assert model.fc.out_features == 7
    assert Torchvision(name="googlenet").build(7).aux1 is None
    with pytest.raises(PruneError, match="not a torchvision classification network"):
        Torchvision(name="resnet51").build(7)
    with pytest.raises(PruneError, match="weights=NONSENSE"):
        Torchvision(name="resnet18", weights="NONSENSE").pretrained(7)


def test_offline_weights_say_so(monkeypatch):
    import urllib.error

    def offline(*_, **__):
        raise urllib.error.URLError("no route to host")

    monkeypatch.setattr("torch.hub.load_state_dict_from_url", offline)
    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", offline)
    with pytest.raises(PruneError, match=r"model\.weights=DEFAULT of resnet18 cannot be had"):
        Torchvision(name="resnet18", weights="DEFAULT").pretrained(1000)


def test_the_user_s_own_class(tmp_path, monkeypatch):
    (tmp_path / "mynet.py").write_text(
        "from torch import nn\n"
        "class Net(nn.Module):\n"
        "    def __init__(self, num_classes, hidden=4):\n"
        "        super().__init__()\n"
        "        self.conv, self.fc = nn.Conv2d(3, hidden, 3), nn.Linear(hidden, num_classes)\n"
        "    def forward(self, x):\n"
        "        return self.fc(self.conv(x).mean((2, 3)))\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    model = Custom(target="mynet.Net", arguments={"hidden": 6}).build(5)
    assert (model.conv.out_channels, model.fc.out_features) == (6, 5)
    for target, arguments, message in [
        ("mynet.Nat", {}, "cannot be imported"),
        ("nomodule.Net", {}, "cannot be imported"),
        ("mynet.Net", {"depth": 3}, "depth"),
        ("mynet.nn", {}, "not a class"),
    ]:
        with pytest.raises(PruneError, match=message):
            Custom(target=target, arguments=arguments).build(5)
