"""Configs: Hydra lives here, its plug-ins in engines/. All is checked before anything is built or made."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

import hydra
from hydra import compose, version
from hydra._internal.hydra import Hydra
from hydra._internal.utils import create_config_search_path, get_args_parser, run_and_report
from hydra.core.config_search_path import SearchPathQuery
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

import prune_cli
from prune_cli import engines, jobs, team
from prune_cli.configs import conf_dir, experiment_of
from prune_cli.errors import PruneError, require
from prune_cli.interruption import Interrupted, heed
from prune_cli.trust import check_engine

log = logging.getLogger(__name__)


def main() -> None:
    """The console script."""
    if not team.is_first():  # one of many processes of torchrun: the first one has the folder and the log
        sys.argv += [
            "hydra.run.dir=.",
            "hydra.output_subdir=null",
            "hydra/job_logging=none",
            "hydra/hydra_logging=none",
        ]
    interruptible("prune-run", _main)


def _main() -> None:
    engines.register()
    if sys.argv[1:] == ["--version"]:
        print(f"prune-cli {prune_cli.__version__}")
        return
    arguments = get_args_parser().parse_args()
    asks = arguments.help or arguments.hydra_help or arguments.info or arguments.cfg or arguments.shell_completion
    sweep = None if asks else run_and_report(lambda: _refuse_early(arguments))
    hydra.main(version_base="1.3", config_path=conf_dir(), config_name="config")(job)()
    if sweep is not None:
        _conclude(sweep)


def interruptible(program: str, work: Callable[[], None]) -> None:
    """Do the work of a command; what a user can mend, and a signal to stop, end it with one line."""
    # OpenMP threads that spin while they wait make two threads slower than one on a shared machine; torch reads
    # this when it is imported, which is later.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    heed()
    try:
        work()
    except BrokenPipeError:  # whoever read our output has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except (PruneError, OSError) as error:
        _end(error, program)
    except Interrupted as stop:
        print(f"{program}: {stop}; what was done is kept: the same command goes on from there", file=sys.stderr)
        sys.exit(stop.exit_code)


def job(config: DictConfig) -> str:
    """What Hydra calls for every job, here or in a worker of a launcher. Returns the job's folder.

    In a sweep it does not raise: a job that fails leaves word in its folder, and the others go on.
    """
    settings = HydraConfig.get()
    out, overrides = Path(settings.runtime.output_dir), list(settings.overrides.task)
    plain = OmegaConf.to_container(config, resolve=True)
    assert isinstance(plain, dict)
    experiment = experiment_of(config, overrides, settings.runtime.choices)
    one = settings.mode == RunMode.RUN
    made = jobs.Job(
        experiment,
        out,
        {str(key): value for key, value in plain.items()},
        ["prune-run", *(sys.argv[1:] if one else [*_config_folder(settings), *overrides])],
        rerun=bool(config.rerun),
    )
    if one:
        try:
            jobs.carry_out(made)
        except (PruneError, OSError) as error:
            jobs.note_failure(made, str(error))
            _end(error)
        finally:
            team.disband()
    elif not jobs.adopt(made):
        logs = OmegaConf.to_container(settings.job_logging, resolve=True)
        assert isinstance(logs, dict)
        jobs.carry_out_apart(made, {str(key): value for key, value in logs.items()})
    return str(out)


def _config_folder(settings: Any) -> list[str]:
    found = [source.path for source in settings.runtime.config_sources if source.provider == "command-line"]
    return ["--config-dir", found[0]] if found else []


def _conclude(sweep: Path) -> None:
    """The end of a sweep: one table of all its runs, and what went wrong.

    Raises:
        PruneError: some jobs failed; named with their reasons and logs.
    """
    from prune_cli import report

    failed = jobs.failures(sweep)
    print(f"{report.tables(sweep)}\n\nthat was all below {sweep}; as a page: prune-report {sweep}")
    lines = [f"{folder}: {reason}; log: {folder / 'prune-run.log'}" for folder, reason in failed.items()]
    require(not failed, "\n".join([f"{len(lines)} of the jobs in {sweep} failed:", *lines]))


def _end(error: Exception, program: str = "prune-run") -> NoReturn:
    """One line and exit code 1; the traceback for those who ask."""
    if os.environ.get("HYDRA_FULL_ERROR"):
        raise error
    sys.exit(f"{program}: {error}")


def _refuse_early(arguments: Any) -> Path | None:
    try:
        return preflight(arguments)
    except PruneError as error:
        _end(error)


def preflight(arguments: Any) -> Path | None:
    """Compose and build every job once, without running it: mistakes cost a second, not a night.

    Returns:
        The folder of the sweep, if it is one.

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
        several = _jobs(arguments, engine.config_loader)
        folders = {
            _check_job(arguments.config_name or "config", overrides, _is_sweep(arguments)) for overrides in several
        }
    finally:
        GlobalHydra.instance().clear()
    for folder, _ in folders:
        try:
            Path(folder).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise PruneError(f"outputs={folder} cannot be made: {error.strerror}") from error
    if not _is_sweep(arguments):
        return None
    require(not team.launched(), "torchrun trains one run on many processes: sweep with -m outside of it")
    return Path(next(iter(folders))[1])


def _is_sweep(arguments: Any) -> bool:
    return bool(arguments.multirun) or "hydra.mode=MULTIRUN" in arguments.overrides


def _jobs(arguments: Any, loader: Any) -> list[list[str]]:
    """The overrides of every job of the command: one, or those of a sweep, or those that show what a search may try."""
    if not _is_sweep(arguments):
        return [arguments.overrides]
    name = arguments.config_name or "config"
    whole = loader.load_configuration(name, arguments.overrides, run_mode=RunMode.MULTIRUN)
    engines.check(whole.hydra)
    return engines.jobs(whole.hydra.sweeper, arguments.overrides, loader)


def _check_job(name: str, overrides: list[str], in_sweep: bool) -> tuple[str, str]:
    """Check one job; the folder for its outputs, and that of the sweep that it is a part of."""
    try:
        config = compose(name, overrides, return_hydra_config=True)
        HydraConfig.instance().set_config(config)
        choices = config.hydra.runtime.choices
        for group, chosen in choices.items():
            for choice in map(str, chosen if isinstance(chosen, list | ListConfig) else [chosen]):
                inside = not os.path.isabs(choice) and ".." not in choice.split("/")
                require(inside, f"{group}={choice} leaves the folder of configs")
        for group in ("hydra/launcher", "hydra/sweeper"):
            plain = in_sweep or choices[group] == "basic"
            require(plain, f"{group}={choices[group]} is for sweeps: say -m, right after prune-run")
        check_engine(OmegaConf.to_container(config.hydra, resolve=False))
        _check_folder(config, overrides)
        experiment_of(config, overrides, choices)
        return str(config.outputs), str(config.hydra.sweep.dir)
    except OmegaConfBaseException as error:
        raise PruneError(str(error).splitlines()[0]) from error


def _check_folder(config: DictConfig, overrides: Sequence[str]) -> None:
    """Only the command line may put a run outside of the outputs folder."""
    for key in ("hydra.run.dir", "hydra.sweep.dir"):
        if not any(override.lstrip("+").startswith(f"{key}=") for override in overrides):
            folder, root = Path(str(OmegaConf.select(config, key))).resolve(), Path(str(config.outputs)).resolve()
            require(folder.is_relative_to(root), f"{key}={folder} lies outside of outputs={root}")


if __name__ == "__main__":
    main()
