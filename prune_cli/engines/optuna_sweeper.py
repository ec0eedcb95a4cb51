"""`hydra/sweeper=optuna`: what to try next is Optuna's choice, what runs it is any launcher's.

Hydra's own plug-in for Optuna needs Optuna 2 and gives up at the first trial that fails.
"""

from __future__ import annotations

import logging
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.plugins import Plugins
from hydra.core.utils import JobReturn
from hydra.errors import CompactHydraException
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf

from prune_cli.engines.search import Outcome, Search, Trial, best, outcome_of, run
from prune_cli.engines.space import Space, space_of
from prune_cli.errors import PruneError
from prune_cli.files import to_json, write_bytes

log = logging.getLogger(__name__)
SCHEMA = 1  # of search.json


def plan(settings: Mapping[Any, Any] | DictConfig, overrides: Sequence[str], loader: Any) -> tuple[Search, Space]:
    """The search that a config and a command line describe; what the command line says counts more.

    Raises:
        PruneError: a setting or a knob that cannot be.
    """
    node = settings if isinstance(settings, DictConfig) else OmegaConf.create(dict(settings))
    plain = OmegaConf.to_container(node, resolve=True)
    assert isinstance(plain, dict)
    plain.pop("_target_", None)
    try:
        search = Search(**{str(key): value for key, value in plain.items()})
    except TypeError as error:
        raise PruneError(f"hydra.sweeper: {str(error).replace('Search.__init__() ', '')}") from error
    words = [*search.overrides(), *overrides]
    space = space_of(OverridesParser.create(config_loader=loader).parse_overrides(words))
    search.check(space)
    return search, space


class OptunaSweeper(Sweeper):
    """Trials of a search, as jobs of a sweep. It writes `search.json` into the sweep's folder."""

    def __init__(self, **settings: Any) -> None:
        self.settings = settings

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        self.config = config
        self.hydra_context = hydra_context
        self.launcher = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )

    def sweep(self, arguments: list[str]) -> None:
        """Run the search. Failed trials do not end it; an objective that no result has does."""
        try:
            self._sweep(arguments)
        except PruneError as error:
            raise CompactHydraException(f"prune-run: {error}") from error

    def _sweep(self, arguments: list[str]) -> None:
        assert self.hydra_context is not None and self.config is not None
        search, space = plan(self.settings, arguments, self.hydra_context.config_loader)
        folder = Path(str(self.config.hydra.sweep.dir))
        folder.mkdir(parents=True, exist_ok=True)
        OmegaConf.save(self.config, folder / "multirun.yaml")
        launcher, started = self.launcher, 0
        assert launcher is not None

        def launch(jobs: list[tuple[str, ...]]) -> list[Outcome]:
            nonlocal started
            batch = [list(job) for job in jobs]
            self.validate_batch_is_legal(batch)
            returns = launcher.launch(batch, initial_job_idx=started)
            started += len(batch)
            return [_outcome(done, search.objective) for done in returns]

        def keep(trials: list[Trial]) -> None:
            write_bytes(folder / "search.json", to_json(_told(search, space, trials)))

        log.info(_verdict(search, run(search, space, launch, keep)))


def _outcome(done: JobReturn, objective: str) -> Outcome:
    """Read it where the job says that its files are; a job that could not even begin says nothing."""
    assert done.hydra_cfg is not None
    try:
        said = done.return_value
    except Exception as error:
        return Outcome(str(done.hydra_cfg.hydra.runtime.output_dir), reason=f"{type(error).__name__}: {error}")
    return outcome_of(Path(str(said)), objective)


def _told(search: Search, space: Space, trials: Sequence[Trial]) -> dict[str, Any]:
    first = best(search, trials)
    settings = {key: getattr(search, key) for key in ("sampler", "jobs", "seed", "objective", "direction")}
    return {
        "schema": SCHEMA,
        **settings,
        "knobs": list(space.knobs),
        "trials": [trial.to_json() for trial in trials],
        "best": None if first is None else first.number,
    }


def _verdict(search: Search, trials: Sequence[Trial]) -> str:
    """One line for the person at the terminal."""
    failed = sum(trial.outcome.value is None for trial in trials)
    some = f"{len(trials)} trials" + (f" ({failed} failed)" if failed else "")
    first = best(search, trials)
    if first is None:
        return f"none of {some} met the budget: allow more (budget.keep), or widen what may be chosen"
    chosen = ", ".join(f"{key}={text}" for key, text in first.params.items())
    again = shlex.join(["prune-run", *first.overrides])
    value = f"{search.objective} {first.outcome.value:.4g}"
    return f"best of {some}: {value} with {chosen}, in {first.outcome.folder}; again: {again}"
