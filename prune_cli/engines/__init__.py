"""Hydra's plug-ins: what runs the jobs of a sweep, and what chooses them. Each engine is an optional package.

The schedulers are other people's; here is what Hydra has no working plug-in for (`ray`, `optuna`), and what tells a
person at the terminal which package an engine needs.
"""

from __future__ import annotations

import importlib.util
import shutil
from collections.abc import Sequence
from typing import Any

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.plugins import Plugins
from omegaconf import DictConfig, OmegaConf

from prune_cli.engines.optuna_sweeper import OptunaSweeper, plan
from prune_cli.engines.ray_launcher import RayLauncher
from prune_cli.errors import PruneError, require
from prune_cli.host import cores

# Hydra builds launchers and sweepers whose name begins so, and which it has been told of.
OURS = "hydra_plugins.prune_cli."
# By the beginning of a target: the module that it needs, the extra that installs it.
NEEDS = {
    "hydra_plugins.hydra_joblib_launcher.": ("hydra_plugins.hydra_joblib_launcher", "cores"),
    "hydra_plugins.hydra_submitit_launcher.": ("hydra_plugins.hydra_submitit_launcher", "slurm"),
    OURS + "RayLauncher": ("ray", "ray"),
    OURS + "OptunaSweeper": ("optuna", "search"),
}


def register() -> None:
    """Tell Hydra of our launcher and sweeper, under names in the space that it reserves for plug-ins.

    The classes keep their own modules, by which other processes find them.
    """
    plugins = Plugins.instance()
    for plugin in (RayLauncher, OptunaSweeper):
        plugins.register(plugin)
        plugins.class_name_to_class[OURS + plugin.__name__] = plugin
    OmegaConf.register_new_resolver("workers", _workers, replace=True)
    # Hydra would compose every job of a sweep once more, to find the mistakes that were looked for before: a third of
    # the time of a sweep whose jobs are done.
    BasicSweeper.validate_batch_is_legal = lambda self, batch: None  # type: ignore[method-assign]


def check(config: DictConfig) -> None:
    """Is all there that a sweep's launcher and sweeper need?

    Args:
        config: Hydra's own part.

    Raises:
        PruneError: a package or program is missing, and how to get it; a setting of ours that cannot be.
    """
    for group, node in (("hydra/launcher", config.launcher), ("hydra/sweeper", config.sweeper)):
        choice = f"{group}={config.runtime.choices[group]}"
        target = str(node.get("_target_"))
        for beginning, (module, extra) in NEEDS.items():
            if target.startswith(beginning):
                require(_is_there(module), f"{choice} needs a package: pip install 'prune-cli[{extra}]'")
        if target.endswith(".SlurmLauncher"):
            there = shutil.which("sbatch") is not None
            require(there, f"{choice}: there is no sbatch here; hydra/launcher=slurm_local does the same in processes")
    require(config.launcher.get("n_jobs") != 0, "hydra.launcher.n_jobs must be the number of jobs at once: got 0")
    if config.launcher.get("_target_") == OURS + "RayLauncher":
        try:
            RayLauncher(**{str(key): value for key, value in config.launcher.items() if key != "_target_"})
        except TypeError as error:
            raise PruneError(f"hydra.launcher: {str(error).replace('RayLauncher.__init__() ', '')}") from error


def jobs(sweeper: DictConfig, overrides: Sequence[str], loader: Any) -> list[list[str]]:
    """The overrides of every job of a sweep; of a search, of jobs that show what it may try.

    Raises:
        PruneError: a setting of the search, or something that it cannot search over.
        HydraException: overrides that cannot be parsed, or that only a search could take.
    """
    if sweeper.get("_target_") == OURS + "OptunaSweeper":
        _, space = plan(sweeper, overrides, loader)
        return [list(job) for job in space.corners()]
    words = [f"{key}={value}" for key, value in (sweeper.get("params") or {}).items()]
    parsed = OverridesParser.create(config_loader=loader).parse_overrides(overrides=[*words, *overrides])
    for override in parsed:
        search = override.is_interval_sweep()
        require(not search, f"{override.input_line} has no end of values: choose among them by hydra/sweeper=optuna")
    batches = BasicSweeper.split_arguments(parsed, max_batch_size=None)
    return [list(map(str, job)) for batch in batches for job in batch]


def _workers(threads: int | str) -> int:
    """`${workers:threads}`: how many jobs of so many threads fit on this machine; `auto` is taken for one."""
    return max(1, cores() // threads) if isinstance(threads, int) and threads > 0 else cores()


def _is_there(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:  # the package that it would be in
        return False
