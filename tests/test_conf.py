"""Every option of every group composes and builds; so does every command that the documents show."""

import re
import shlex
from fnmatch import fnmatchcase

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hypothesis import given, settings
from hypothesis import strategies as st

from prune_cli import configs
from prune_cli.engines.space import space_of
from prune_cli.errors import PruneError
from tests.conftest import ROOT

GROUPS = ("pruner", "model", "hardware", "experiment", "dataset")
CHOICES = [f"{g}={path.stem}" for g in GROUPS for path in sorted((ROOT / "conf" / g).glob("*.yaml"))]
DOCUMENTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
COMMANDS = sorted({
    line.strip()
    for document in DOCUMENTS
    for block in re.findall(r"```(?:bash|sh|console)\n(.*?)```", document.read_text(), re.DOTALL)
    for line in block.replace("\\\n", " ").splitlines()
    if line.strip().startswith("prune-run")
})  # fmt: skip


def experiment(*overrides):
    with initialize_config_dir(configs.conf_dir(), version_base="1.3"):
        config = compose("config", list(overrides), return_hydra_config=True)
        HydraConfig.instance().set_config(config)
        return configs.experiment_of(config, overrides, config.hydra.runtime.choices)


@pytest.mark.parametrize("choice", CHOICES)
def test_every_choice_builds(choice, tmp_path):
    (tmp_path / "plan.json").write_text('{"edits": []}')
    extra = {
        "dataset=image_folder": [f"dataset.root={tmp_path}"],
        "pruner=transfer": [f"plan={tmp_path}"],
        "experiment=transfer_student": [f"plan={tmp_path}"],
        "model=custom": ["model._target_=torchvision.models.ResNet", "trust=[torchvision]"],
    }
    if choice.endswith("_imagenet"):
        extra[choice] = [f"dataset.root={tmp_path}"]
    experiment(choice, *extra.get(choice, []))


def test_published_settings_of_another_pair_are_refused():
    with pytest.raises(PruneError, match="goes with pruner=chipnet and the network resnet56"):
        experiment("pruner_model=chipnet-resnet56")
    with pytest.raises(PruneError, match="goes with pruner=epruner and the network vgg16"):
        experiment("model=resnet20", "pruner_model=epruner-vgg16")


@pytest.mark.parametrize("pair", sorted(path.stem for path in (ROOT / "conf" / "pruner_model").glob("*.yaml")))
def test_published_settings_build_and_name_layers_that_exist(pair):
    pruner, name = pair.split("-")
    ours = (ROOT / "conf" / "model" / f"{name}.yaml").is_file()
    model = [f"model={name}"] if ours else ["model=torchvision", f"model.name={name}"]
    described = experiment(f"pruner={pruner}", *model, f"pruner_model={pair}")
    modules = [module for module, _ in described.model.build(10).named_modules()]
    for pattern in getattr(described.pruner, "betas", {}):
        assert any(fnmatchcase(module, pattern) for module in modules)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_in_the_documents_composes(command, tmp_path):
    words = [w for w in shlex.split(command, comments=True)[1:] if w != "-m"]
    if any(word.startswith("--") for word in words):
        pytest.skip("asks Hydra, not for a run")
    words = first_job(words)
    (tmp_path / "weights.pth").touch()
    (tmp_path / "plan.json").write_text('{"edits": []}')
    stand_ins = {"dataset.root": tmp_path, "model.checkpoint": tmp_path / "weights.pth", "plan": tmp_path}
    words = [f"{key}={stand_ins[key]}" if (key := w.split("=")[0]) in stand_ins else w for w in words]
    if "trust" in command:
        words = [re.sub(r"^(model._target_|trust)=.*", lambda m: f"{m[1]}={swap(m[1])}", w) for w in words]
    experiment(*[w for w in words if not w.startswith(("hydra.run.", "hydra.sweep.", "+model."))])


def first_job(words):
    """Of a sweep or a search, the job with the first of all values."""
    parsed = OverridesParser.create().parse_overrides(words)
    sweep = any(override.is_sweep_override() for override in parsed)
    return list(next(space_of(parsed).corners())) if sweep else words


def swap(key):
    return "torchvision.models.ResNet" if key == "model._target_" else "[torchvision]"


def test_a_checkpoint_is_not_trained_again_unless_told(tmp_path):
    checkpoint = tmp_path / "weights.pth"
    checkpoint.touch()
    given_one = ("model=resnet20", f"model.checkpoint={checkpoint}")
    assert experiment("model=resnet20").train.epochs > 0
    assert experiment(*given_one).train.epochs == 0
    assert experiment(*given_one, "train.epochs=2").train.epochs == 2
    assert experiment(*given_one, "dataset=cifar10").train.epochs == 0


def test_names_are_those_of_the_table():
    names = experiment("model=torchvision", "model.name=resnet50", "dataset.name=mine", "pruner=none").names
    assert names == {"dataset": "mine", "model": "resnet50", "pruner": "none"}


def test_custom_classes_get_what_was_said_about_them():
    over = experiment(
        "model._target_=torchvision.models.ResNet", "trust=[torchvision]", "+model.layers=[1,1,1,1]"
    ).model
    assert (over.target, dict(over.arguments)) == ("torchvision.models.ResNet", {"layers": [1, 1, 1, 1]})
    assert over.checkpoint is None and over.source


REFUSED = {
    "model._target_=os.system": "trust",
    "+pruner.x._target_=os.system": "trust",
    "budget.keep=nan": "budget.keep",
    "budget.keep=inf": "budget.keep",
    "budget.keep=-1": "budget.keep",
    "budget.keep=abc": "budget.keep",
    "budget.metric=flops": "budget.metric",
    "train.lr=nan": "train.lr",
    "train.lr=1e999": "train.lr",
    "train.lr=0": "train.lr",
    "train.epochs=1.5": "train.epochs",
    "train.schedule=linear": "train.schedule",
    "finetune.weight_decay=-1": "finetune.weight_decay",
    "seed=-1": "seed",
    "compute.threads=0": "compute.threads",
    "compute.device=tpu": "compute.device",
    "benchmark.batches=[0]": "hardware.cpu.batches",
    "hardware.cpu.rounds=nan": "hardware.cpu.rounds",
    "hardware.cpu.dtype=int8": "hardware.cpu.dtype",
    "budget.target=phone": "hardware of this run is cpu",
    "export=[tflite]": "export must be one of onnx, openvino, torch_export",
    "model.width=0": "model.width",
    "model.checkpoint=nowhere.pth": "not a file",
    "dataset=image_folder": "dataset.root",
    "dataset.name=../../x": "dataset.name",
    "dataset.val_fraction=2": "dataset.val_fraction",
    "pruner.beta=-1": "pruner.beta",
    "+pruner.bta=1": "bta",
    "pruner.init=zeros": "pruner.init",
}


@pytest.mark.parametrize("override", REFUSED)
def test_bad_values_are_refused_in_one_line_that_names_them(override):
    with pytest.raises(PruneError, match=REFUSED[override].replace(".", r"\.")) as error:
        experiment(override)
    assert "\n" not in str(error.value)


OPTIONS = [
    "budget.keep",
    "train.lr",
    "train.epochs",
    "finetune.batch",
    "seed",
    "benchmark.rounds",
    "pruner.beta",
    "dataset.crop",
]
VALUES = [
    "nan",
    "inf",
    "-inf",
    "1e999",
    "-1",
    "0",
    "null",
    "[]",
    "[1]",
    "{}",
    "{a:1}",
    "yes",
    "012",
    "1_000",
    "''",
    "abc",
    "1.5",
    "3",
]


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(OPTIONS), st.sampled_from(VALUES))
def test_any_value_either_builds_or_is_refused_in_one_line(option, value):
    try:
        experiment(f"{option}={value}")
    except PruneError as error:
        assert "\n" not in str(error) and option.split(".")[-1] in str(error)
