"""A search, apart from Hydra: Optuna is asked for trials, told what came of them, and nothing is run twice."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prune_cli.engines.space import Interval, Space, Values
from prune_cli.errors import PruneError, require, require_choice, require_range
from prune_cli.files import read_sealed

if TYPE_CHECKING:
    import optuna


@dataclass(frozen=True)
class Search:
    """The settings of `hydra/sweeper=optuna`."""

    sampler: str = "tpe"  # tpe | random | grid
    trials: int = 20
    jobs: int = 1  # trials asked for at once
    seed: int = 0
    objective: str = "val_accuracy_finetuned"
    direction: str = "maximize"  # maximize | minimize
    params: Mapping[str, Any] = field(default_factory=dict)  # knobs by key, as if on the command line

    def __post_init__(self) -> None:
        require_choice("hydra.sweeper.sampler", self.sampler, ("tpe", "random", "grid"))
        require_range("hydra.sweeper.trials", self.trials, 1, 1_000_000, whole=True)
        require_range("hydra.sweeper.jobs", self.jobs, 1, 10_000, whole=True)
        require_range("hydra.sweeper.seed", self.seed, 0, 2**32 - 1, whole=True)
        test = str(self.objective).startswith("test_")
        require(not test, f"hydra.sweeper.objective={self.objective}: choices are made on validation, not on test")
        require(isinstance(self.objective, str) and self.objective, "hydra.sweeper.objective must be a key of summary")
        require_choice("hydra.sweeper.direction", self.direction, ("maximize", "minimize"))
        require(isinstance(self.params, Mapping), "hydra.sweeper.params must be overrides by key")

    def overrides(self) -> list[str]:
        """`params` as overrides."""
        return [f"{key}={value}" for key, value in self.params.items()]

    def check(self, space: Space) -> None:
        """Raises `PruneError` if this sampler cannot search the space."""
        if self.sampler != "grid":
            return
        for key, knob in space.knobs.items():
            require(isinstance(knob, Values), f"{key} is an interval, which a grid cannot go through: give it values")
        size = math.prod(len(knob.texts) for knob in space.knobs.values() if isinstance(knob, Values))
        require(size <= self.trials, f"the grid has {size} points: hydra.sweeper.trials={size} allows them")


@dataclass(frozen=True)
class Outcome:
    """What came of a job."""

    folder: str
    value: float | None = None  # of the objective; null: the job failed
    excess: float | None = (
        None  # of the budget's metric over the budget, as a part of dense; null: no budget was heeded
    )
    reason: str = ""  # why it failed

    @property
    def met(self) -> bool:
        return self.value is not None and (self.excess is None or self.excess <= 0)


@dataclass(frozen=True)
class Trial:
    """One line of `search.json`."""

    number: int
    params: dict[str, str]  # values of the knobs, as they are written in overrides
    overrides: tuple[str, ...]
    outcome: Outcome

    def to_json(self) -> dict[str, Any]:
        told = asdict(self.outcome) | {"met": self.outcome.met}
        return {"number": self.number, "params": self.params, "overrides": list(self.overrides), **told}


def run(
    search: Search,
    space: Space,
    launch: Callable[[list[tuple[str, ...]]], Sequence[Outcome]],
    keep: Callable[[list[Trial]], None],
) -> list[Trial]:
    """Ask, launch, tell, until all trials are told.

    Args:
        launch: runs jobs, given by their overrides, and returns what came of each, in order.
        keep: is given all trials so far, whenever there are more of them.
    """
    study, distributions = _study(search, space)
    total = len(study.get_trials(deepcopy=False)) or search.trials  # a grid is there from the start
    trials: list[Trial] = []
    known: dict[tuple[str, ...], Outcome] = {}
    while len(trials) < total:
        asked = [study.ask(distributions) for _ in range(min(search.jobs, total - len(trials)))]
        chosen = [_texts(space, trial.params) for trial in asked]
        jobs = [space.job(texts) for texts in chosen]
        # The same values again, as happens among few, are the same job: its outcome is known.
        fresh = list(dict.fromkeys(job for job in jobs if job not in known))
        known |= zip(fresh, launch(fresh) if fresh else (), strict=True)
        for trial, texts, job in zip(asked, chosen, jobs, strict=True):
            _tell(study, trial, known[job])
            trials.append(Trial(len(trials), texts, job, known[job]))
        keep(trials)
    return trials


def best(search: Search, trials: Sequence[Trial]) -> Trial | None:
    """The best of those that met the budget, the earliest of equals; none if none met it."""
    sign = 1 if search.direction == "maximize" else -1
    met = [trial for trial in trials if trial.outcome.met]
    return max(met, key=lambda trial: sign * (trial.outcome.value or 0.0), default=None)


def outcome_of(folder: Path, objective: str) -> Outcome:
    """Read what a job left behind.

    Raises:
        PruneError: there is a result, but no such key in it: no other trial would have it either.
    """
    if not (folder / "result.json").is_file():
        return Outcome(str(folder), reason=_reason(folder))
    try:
        row = json.loads(read_sealed(folder, "result.json"))["summary"]
    except PruneError as error:
        return Outcome(str(folder), reason=str(error))
    numbers = [key for key, value in row.items() if type(value) in (int, float)]
    require(
        objective in row,
        f"hydra.sweeper.objective={objective} is not in the results; these are: {', '.join(numbers)}",
    )
    if objective not in numbers:
        return Outcome(str(folder), reason=f"{objective} is {row[objective]}")
    return Outcome(str(folder), float(row[objective]), _excess(row))


def _excess(row: Mapping[str, Any]) -> float | None:
    if row["budget_keep"] is None:
        return None
    # A latency that is over the budget by less than its uncertainty counts as met, as in every table.
    over = float(row["budget_kept"] - row["budget_keep"])
    return min(over, 0.0) if row["budget_met"] else max(over, 1e-9)


def _reason(folder: Path) -> str:
    try:
        return str(json.loads((folder / "failed.json").read_text())["reason"])
    except (OSError, ValueError, KeyError, TypeError):
        return "it left no result; its log says more"


def _study(search: Search, space: Space) -> tuple[optuna.Study, dict[str, Any]]:
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    samplers = {"tpe": optuna.samplers.TPESampler, "random": optuna.samplers.RandomSampler}
    sampler = samplers.get(search.sampler, optuna.samplers.RandomSampler)(seed=search.seed)
    study = optuna.create_study(sampler=sampler, direction=optuna.study.StudyDirection[search.direction.upper()])
    if search.sampler == "grid":
        points = (range(len(knob.texts)) for knob in space.knobs.values() if isinstance(knob, Values))
        for point in itertools.product(*points):
            study.enqueue_trial(dict(zip(space.knobs, point, strict=True)))
    return study, {key: _distribution(knob) for key, knob in space.knobs.items()}


def _distribution(knob: Values | Interval) -> optuna.distributions.BaseDistribution:
    """Values go by their position."""
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    if isinstance(knob, Values):
        last = len(knob.texts) - 1
        return IntDistribution(0, last) if knob.ordered else CategoricalDistribution(range(last + 1))
    if knob.whole:
        return IntDistribution(int(knob.low), int(knob.high), log=knob.log)
    return FloatDistribution(knob.low, knob.high, log=knob.log)


def _texts(space: Space, params: Mapping[str, Any]) -> dict[str, str]:
    return {
        key: knob.texts[params[key]] if isinstance(knob, Values) else knob.text(params[key])
        for key, knob in space.knobs.items()
    }


def _tell(study: optuna.Study, trial: optuna.Trial, outcome: Outcome) -> None:
    from optuna.trial import TrialState

    if outcome.value is None:
        study.tell(trial, state=TrialState.FAIL)
        return
    if outcome.excess is not None:
        trial.set_constraint("budget", outcome.excess)
    study.tell(trial, outcome.value)
