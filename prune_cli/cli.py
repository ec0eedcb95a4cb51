"""Configs: Hydra lives here, its plug-ins in engines/. All is checked before anything is built or made."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

import hydra
from hydra import compose, initialize_config_dir, version
from hydra._internal.hydra import Hydra
from hydra._internal.utils import create_config_search_path, get_args_parser, run_and_report
from hydra.core.config_search_path import SearchPathQuery
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import CompactHydraException, HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from prune_cli import engines
from prune_cli.errors import PruneError, require
from prune_cli.hardware import Hardware
from prune_cli.pipeline import Experiment
from prune_cli.trust import build, check_engine, check_targets, is_ours

log = logging.getLogger(__name__)
SPREAD = ("trust", "plan", "benchmark")  # said once at the top, used by other parts of the config


def conf_dir() -> str:
    """The folder of configs: in a wheel beside this file, in a checkout at its top."""
    here = Path(__file__).resolve().parent
    for folder in (here / "conf", here.parent / "conf"):
        if (folder / "config.yaml").is_file():
            return str(folder)
    raise RuntimeError("the conf/ folder is missing from this installation")


def main() -> None:
    """The console script."""
    register_resolvers()
    engines.register()
    arguments = get_args_parser().parse_args()
    asks = arguments.help or arguments.hydra_help or arguments.info or arguments.cfg
    if not asks and not arguments.shell_completion:
        run_and_report(lambda: _refuse_early(arguments))
    interruptible("prune-run", _job)


def interruptible(program: str, work: Callable[[], None]) -> None:
    """Do the work of a command; what a user can mend, and Ctrl-C, end it with one line."""
    # OpenMP threads that spin while they wait make two threads slower than one on a shared machine; torch reads
    # this when it is imported, which is later.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    try:
        work()
    except (PruneError, OSError) as error:
        _end(error, program)
    except KeyboardInterrupt:
        print(f"{program}: interrupted; finished runs and dense networks already stored are kept", file=sys.stderr)
        sys.exit(130)


@hydra.main(version_base="1.3", config_path=conf_dir(), config_name="config")
def _job(config: DictConfig) -> None:
    try:
        _run(config, list(HydraConfig.get().overrides.task))
    except (PruneError, OSError) as error:
        if HydraConfig.get().mode == RunMode.MULTIRUN:  # the sweep goes on; Hydra repeats the first failure at its end
            log.error("failed: %s", error)
            raise CompactHydraException(f"prune-run: {error}") from error
        _end(error)


def _run(config: DictConfig, overrides: Sequence[str]) -> None:
    settings = HydraConfig.get()
    experiment = experiment_of(config, overrides, settings.runtime.choices)

    from prune_cli.pipeline import run  # PyTorch comes in here
    from prune_cli.table import render

    out = Path(settings.runtime.output_dir)
    plain = OmegaConf.to_container(config, resolve=True)
    assert isinstance(plain, dict)
    record = run(experiment, out, {str(key): value for key, value in plain.items()})
    log.info("%s\nresults: %s", render(record), out)
    for target, reason in record.benchmarks[0].failed.items():
        raise PruneError(f"{target}: {reason}; everything else is in {out}")


def _end(error: Exception, program: str = "prune-run") -> NoReturn:
    """One line and exit code 1; the traceback for those who ask."""
    if os.environ.get("HYDRA_FULL_ERROR"):
        raise error
    sys.exit(f"{program}: {error}")


def _refuse_early(arguments: Any) -> None:
    try:
        preflight(arguments)
    except PruneError as error:
        _end(error)


def register_resolvers() -> None:
    """`${unless:given,value}`: 0 if something is given, else the value."""
    OmegaConf.register_new_resolver("unless", lambda given, value: 0 if given else value, replace=True)


def preflight(arguments: Any) -> None:
    """Compose and build every job once, without running it: mistakes cost a second, not a night.

    Raises:
        PruneError: the first mistake found.
        HydraException: composing itself failed; Hydra explains why.
    """
    if arguments.experimental_rerun:
        raise PruneError("--experimental-rerun would unpickle a file; repeat the command instead")
    path = create_config_search_path(str(Path(arguments.config_path or conf_dir()).resolve()))
    if arguments.config_dir:
        extra = f"file://{Path(arguments.config_dir).resolve()}"
        path.prepend("command-line", extra, anchor=SearchPathQuery(provider="schema"))
    version.setbase("1.3")
    engine = Hydra.create_main_hydra2("prune-run", path)
    try:
        jobs = _jobs(arguments, engine.config_loader)
        folders = {_check_job(arguments.config_name or "config", overrides) for overrides in jobs}
    finally:
        GlobalHydra.instance().clear()
    for folder in folders:
        try:
            Path(folder).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise PruneError(f"outputs={folder} cannot be made: {error.strerror}") from error


def _jobs(arguments: Any, loader: Any) -> list[list[str]]:
    """The overrides of every job of the command: one, or those of a sweep, or those that show what a search may try."""
    if not (arguments.multirun or "hydra.mode=MULTIRUN" in arguments.overrides):
        return [arguments.overrides]
    name = arguments.config_name or "config"
    whole = loader.load_configuration(name, arguments.overrides, run_mode=RunMode.MULTIRUN)
    engines.check(whole.hydra)
    return engines.jobs(whole.hydra.sweeper, arguments.overrides, loader)


def _check_job(name: str, overrides: list[str]) -> str:
    """Check one job; the folder for its outputs."""
    try:
        config = compose(name, overrides, return_hydra_config=True)
        HydraConfig.instance().set_config(config)
        choices = config.hydra.runtime.choices
        for group, chosen in choices.items():
            for choice in map(str, chosen if isinstance(chosen, list | ListConfig) else [chosen]):
                inside = not os.path.isabs(choice) and ".." not in choice.split("/")
                require(inside, f"{group}={choice} leaves the folder of configs")
        check_engine(OmegaConf.to_container(config.hydra, resolve=False))
        _check_folder(config, overrides)
        experiment_of(config, overrides, choices)
        return str(config.outputs)
    except OmegaConfBaseException as error:
        raise PruneError(str(error).splitlines()[0]) from error


def _check_folder(config: DictConfig, overrides: Sequence[str]) -> None:
    """Only the command line may put a run outside of the outputs folder."""
    for key in ("hydra.run.dir", "hydra.sweep.dir"):
        if not any(override.lstrip("+").startswith(f"{key}=") for override in overrides):
            folder, root = Path(str(OmegaConf.select(config, key))).resolve(), Path(str(config.outputs)).resolve()
            require(folder.is_relative_to(root), f"{key}={folder} lies outside of outputs={root}")


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
    experiment = build({"_target_": "prune_cli.pipeline.Experiment", **tree})
    assert isinstance(experiment, Experiment)
    return experiment


def targets_of(overrides: Sequence[str]) -> dict[str, Hardware]:
    """The targets that `hardware=...` and `benchmark...` name on the command line of a command other than prune-run.

    Raises:
        PruneError: there is no such target or option.
    """
    register_resolvers()
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


if __name__ == "__main__":
    main()
