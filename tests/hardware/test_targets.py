"""Every target on small networks. Targets are found on disk: a new one is tested by being there."""

import copy
import sys
from contextlib import nullcontext
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from omegaconf import OmegaConf

from prune_cli.errors import PruneError
from prune_cli.export import distance
from prune_cli.hardware import Hardware, example
from prune_cli.hardware.deployed import Deployed
from prune_cli.hardware.eager import Eager
from prune_cli.hardware.onnx_runtime import OnnxRuntime
from prune_cli.hardware.process import Parcel, fresh
from prune_cli.hardware.tensorrt import TensorRT
from prune_cli.trust import build
from tests.conftest import ROOT
from tests.networks import make

SETTINGS = {"benchmark": {"threads": 1, "batches": [1, 3], "warmup": 2, "processes": 2, "rounds": 4, "seconds": 0.0}}
NAMES = sorted(path.stem for path in (ROOT / "conf" / "hardware").glob("*.yaml") if path.stem != "auto")
COMPILERS = ("cpu_compiled",)  # seconds per network


def target_of(name):
    config = OmegaConf.merge(SETTINGS, OmegaConf.load(ROOT / "conf" / "hardware" / f"{name}.yaml"))
    tree = OmegaConf.to_container(config, resolve=True)
    del tree["benchmark"]
    return build(tree)


def there(name):
    target = target_of(name)
    reason = target.missing()
    if reason:
        pytest.skip(reason)
    return target


@pytest.mark.parametrize("name", NAMES)
def test_a_target_is_there_or_says_what_it_needs(name):
    reason = target_of(name).missing()
    assert "\n" not in reason
    assert not reason or "pip install" in reason or "NVIDIA" in reason or "compiler" in reason


def test_auto_names_them_all():
    choices = OmegaConf.load(ROOT / "conf" / "hardware" / "auto.yaml").defaults
    assert sorted(choices) == NAMES


def convert_and_call(target, parcel, shape, folder):
    """By batch size: outputs, and seconds by layer."""
    folder.mkdir(parents=True)
    artefact = target.convert(parcel.open(), shape, folder, torch.randn(64, *shape))
    found = {}
    for batch in target.batches:
        with torch.inference_mode():
            outputs = target.outputs(target.load(artefact, batch)(target.place(example(batch, shape))))
        found[batch] = outputs, target.layer_times(artefact, example(batch, shape), 2)
    return found


@pytest.mark.parametrize("network", ["resnet-pad", "vgg", "depthwise", "concat"])
@pytest.mark.parametrize("name", NAMES)
def test_outputs_are_those_of_pytorch_and_layers_go_by_its_names(name, network, tmp_path):
    target = there(name)
    if name in COMPILERS:
        target = replace(target, batches=(3,))
        if network != "resnet-pad":
            pytest.skip("one network is enough")
    model, shape = make(network)
    modules = {name for name, _ in model.named_modules()}
    convolutions = {name for name, module in model.named_modules() if isinstance(module, torch.nn.Conv2d)}
    found = fresh(convert_and_call, target, Parcel(model), shape, tmp_path / "network" / "target")
    for batch, (outputs, times) in found.items():
        with torch.inference_mode():
            assert distance(outputs, model(example(batch, shape))) <= min(target.bound, 0.2)
        assert set(times) <= modules and all(seconds > 0 for layer, seconds in times.items() if layer)
        if times:
            assert len(convolutions - set(times)) <= len(convolutions) // 3  # fused ones count for one of them


@pytest.mark.parametrize(
    "name, dtype", [("cpu_bf16", "bfloat16"), ("onnxruntime_int8", "int8"), ("openvino", "bfloat16")]
)
def test_what_is_not_fp32_is_lossy_and_can_be_judged_like_a_module(name, dtype, tmp_path):
    target = replace(there(name), dtype=dtype)
    assert target.lossy and not target_of("cpu").lossy
    model, shape = make("vgg")
    (tmp_path / "t").mkdir()
    artefact = target.convert(copy.deepcopy(model), shape, tmp_path / "t", torch.randn(64, *shape))
    deployed = Deployed(target, artefact).eval()
    x = torch.randn(5, *shape).contiguous(memory_format=torch.channels_last)
    with torch.inference_mode():
        assert deployed(x).dtype == torch.float32 and distance(deployed(x), model(x)) < 0.2


def test_quantisation_without_images_is_refused(tmp_path):
    target = there("onnxruntime_int8")
    model, shape = make("vgg")
    (tmp_path / "t").mkdir()
    with pytest.raises(PruneError, match="needs images"):
        target.convert(model, shape, tmp_path / "t", None)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_a_gpu_is_timed_by_events():
    target = target_of("cuda")
    model, shape = make("vgg")
    with torch.inference_mode():
        call = target.load(model, 3)
        assert target.seconds_of(call, target.place(example(3, shape)), 2) > 0


def test_a_gpu_s_clock_runs_between_two_events_with_all_work_done(monkeypatch):
    """The order of calls, with stand-ins for what needs a GPU."""
    calls = []

    class Event:
        def __init__(self, enable_timing):
            assert enable_timing

        def record(self):
            calls.append("record")

        def elapsed_time(self, last):
            return 6.0  # milliseconds

    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: calls.append("synchronize"))
    monkeypatch.setattr(torch.cuda, "device", lambda device: nullcontext(calls.append(device)))
    seconds = Eager(device="cuda:1").seconds_of(lambda x: calls.append(x), "x", repeats=3)
    assert seconds == pytest.approx(0.002)
    assert calls == ["cuda:1", "synchronize", "record", "x", "x", "x", "record", "synchronize"]


def test_tensorrt_takes_the_whole_network_or_none(monkeypatch, tmp_path):
    """What is asked of Torch-TensorRT, with a stand-in for it."""
    asked = []
    stand_in = SimpleNamespace(
        compile=lambda model, **how: asked.append(how) or model,
        save=lambda engine, path, arg_inputs: asked.append((path, arg_inputs[0].shape)),
    )
    monkeypatch.setitem(sys.modules, "torch_tensorrt", stand_in)
    target = TensorRT(device="cpu", batches=(1, 8))
    model, shape = make("vgg")
    assert target.convert(model, shape, tmp_path, None) == tmp_path
    assert asked[0]["require_full_compilation"] and asked[0]["ir"] == "dynamo"
    assert asked[1] == (str(tmp_path / "b1.ep"), (1, *shape)) and asked[3] == (str(tmp_path / "b8.ep"), (8, *shape))


@pytest.mark.parametrize(
    "options, message",
    [
        ({"batches": ()}, "batches"),
        ({"batches": (0,)}, "batches"),
        ({"rounds": 1}, "rounds"),
        ({"dtype": "int8"}, "float32, bfloat16, float16"),
        ({"seconds": float("nan")}, "seconds"),
        ({"processes": 0}, "processes"),
        ({"device": "tpu"}, "device"),
        ({"layout": "nhwc"}, "layout"),
    ],
)
def test_bad_settings_are_refused(options, message):
    with pytest.raises(PruneError, match=message):
        Eager(**options)


def test_one_batch_size_needs_no_brackets():
    assert Eager(batches=4).batches == (4,)


def test_bounds_are_stated():
    assert Eager().bound == 1e-4 and Eager(dtype="bfloat16").bound == 0.05
    assert OnnxRuntime(dtype="int8").bound == float("inf") and issubclass(OnnxRuntime, Hardware)
