"""From a composed config to a typed experiment; the folder of configs; resolvers."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from prune_cli.errors import PruneError, require
from prune_cli.experiment import Experiment
from prune_cli.hardware import Hardware
from prune_cli.trust import build, check_targets, is_ours

SPREAD = ("trust", "plan", "benchmark", "rerun")  # said once at the top, used by other parts of the config

# `${unless:given,value}`: 0 if something is given, else the value. `${started:format}`: when this program was started,
# the same wherever it is asked. Registered on import, for the workers of launchers.
_STARTED = datetime.now()
OmegaConf.register_new_resolver("unless", lambda given, value: 0 if given else value, replace=True)
OmegaConf.register_new_resolver("started", _STARTED.strftime, replace=True, use_cache=True)


def conf_dir() -> str:
    """The folder of configs: in a wheel beside this file, in a checkout at its top."""
    here = Path(__file__).resolve().parent
    for folder in (here / "conf", here.parent / "conf"):
        if (folder / "config.yaml").is_file():
            return str(folder)
    raise RuntimeError("the conf/ folder is missing from this installation")


def experiment_of(config: DictConfig, overrides: Sequence[str], choices: Any) -> Experiment:
    """The typed experiment that a composed config describes.

    Raises:
        PruneError: a class that is not trusted, an unknown option, a value out of range, a missing file.
    """
    try:
        own = OmegaConf.masked_copy(config, [str(key) for key in config if key != "hydra"])
        plain = OmegaConf.to_container(own, resolve=True, throw_on_missing=True)
    except OmegaConfBaseException as error:
        raise PruneError(str(error).splitlines()[0]) from error
    assert isinstance(plain, dict)
    tree: dict[str, Any] = {str(key): value for key, value in plain.items() if key not in SPREAD}
    trusted = _trusted(overrides)
    require(isinstance(plain.get("rerun"), bool), f"rerun must be true or false: got {plain.get('rerun')!r}")
    given = plain.get("trust") or []
    given = [given] if isinstance(given, str) else given
    require(sorted(given) == sorted(trusted), "trust is heeded on the command line only: trust=[package]")
    check_targets(tree, trusted)
    _adopt_custom_model(tree, overrides)
    tree["names"] = {
        "dataset": str(tree["dataset"].get("name")),
        "model": str(tree["model"].get("name") or tree["model"].get("target") or choices["model"]),
        "pruner": str(choices["pruner"]),
    }
    _check_pair(choices, tree)
    experiment = build({"_target_": "prune_cli.experiment.Experiment", **tree})
    assert isinstance(experiment, Experiment)
    return experiment


def targets_of(overrides: Sequence[str]) -> dict[str, Hardware]:
    """The targets that `hardware=...` and `benchmark...` name on the command line of a command other than prune-run.

    Raises:
        PruneError: there is no such target or option.
    """
    for override in overrides:
        known = override.lstrip("+~").startswith(("hardware", "benchmark."))
        require(known, f"{override} is neither the folder of a run nor an option of hardware or benchmark")
    try:
        with initialize_config_dir(conf_dir(), version_base="1.3"):
            config = compose("config", list(overrides))
        tree = OmegaConf.to_container(config.hardware, resolve=True, throw_on_missing=True)
    except (HydraException, OmegaConfBaseException) as error:
        raise PruneError(" ".join(str(error).split())) from error
    check_targets(tree, ())
    targets = build(tree, "hardware")
    assert isinstance(targets, dict)
    return targets


def _check_pair(choices: Any, tree: dict[str, Any]) -> None:
    """Published settings go with the pruner and the network that they were published for."""
    pruner, _, model = str(choices.get("pruner_model") or "").partition("-")
    fits = pruner == choices["pruner"] and model in (choices["model"], tree["model"].get("name"))
    require(not model or fits, f"pruner_model={pruner}-{model} goes with pruner={pruner} and the network {model}")


def _trusted(overrides: Sequence[str]) -> list[str]:
    parsed = OverridesParser.create().parse_overrides(overrides=list(overrides))
    values = [override.value() for override in parsed if override.key_or_group == "trust"]
    packages = [str(p) for value in values for p in (value if isinstance(value, list) else [value])]
    for package in packages:
        require(package.isidentifier(), f"trust=[{package}] must name top-level packages")
    return packages


def _adopt_custom_model(tree: dict[str, Any], overrides: Sequence[str]) -> None:
    """`model._target_=package.Class`: what else was said about the model goes to the class's constructor.

    A class named on the command line gets what the command line says; the rest of the group's file was written
    for another class.
    """
    node = tree["model"]
    if is_ours(node.get("_target_")):
        return
    from prune_cli.models import source_of

    target = node.pop("_target_")
    checkpoint = node.pop("checkpoint", None)
    keys = [override.lstrip("+").split("=")[0] for override in overrides]
    said = {key.removeprefix("model.").split(".")[0] for key in keys if key.startswith("model.")}
    arguments = {k: v for k, v in node.items() if k in said} if "_target_" in said else node
    sys.path.insert(0, os.getcwd())  # where the user's module lies, as with `python -m`
    tree["model"] = {
        "_target_": "prune_cli.models.Custom",
        "target": target,
        "arguments": arguments,
        "checkpoint": checkpoint,
        "source": source_of(target),
    }
