"""The search with a launcher that computes instead of training."""

import json
import math

import pytest

from prune_cli.engines.search import Outcome, Search, Trial, best, outcome_of, run
from prune_cli.engines.space import Interval, Space, Values
from prune_cli.errors import PruneError
from prune_cli.files import seal, to_json

pytest.importorskip("optuna")
LINE = Space({}, {"x": Interval(-1.0, 1.0, log=False, whole=False)}, ("x",))
GRID = Space({}, {"a": Values(("p", "q"), False), "b": Values(("1", "2", "3"), True)}, ("a", "b"))


def searched(search, space, result):
    """All trials, and the batches that were launched; `result` maps the texts of a job to its outcome."""
    batches, kept = [], []

    def launch(jobs):
        batches.append(jobs)
        return [result(dict(word.split("=") for word in job)) for job in jobs]

    trials = run(search, space, launch, lambda so_far: kept.append(len(so_far)))
    assert kept == sorted(kept) and kept[-1] == len(trials)
    return trials, batches


def peak(values):
    """Highest at 0.3; the budget is met below 0.2."""
    x = float(values["x"])
    return Outcome("folder", 1 - (x - 0.3) ** 2, x - 0.2)


def test_the_best_meets_the_budget_and_lies_close_to_it():
    trials, _ = searched(Search(trials=40), LINE, peak)
    found = best(Search(), trials)
    assert len(trials) == 40 and 0.1 < float(found.params["x"]) <= 0.2


def test_tpe_spends_more_trials_near_the_best_than_chance_does():
    near = {}
    for sampler in ("tpe", "random"):
        counts = []
        for seed in range(5):
            trials, _ = searched(Search(sampler=sampler, trials=40, seed=seed), LINE, peak)
            counts.append(sum(0 < float(trial.params["x"]) <= 0.2 for trial in trials))
        near[sampler] = sum(counts)
    assert near["tpe"] > 1.5 * near["random"]


@pytest.mark.parametrize("sampler, space", [("tpe", LINE), ("random", LINE), ("tpe", GRID), ("grid", GRID)])
@pytest.mark.parametrize("jobs", [1, 3])
def test_same_seed_and_results_give_the_same_trials(sampler, space, jobs):
    def result(values):
        return Outcome("folder", (len(str(values)) * 7919 % 13) / 13, None)

    search = Search(sampler=sampler, trials=15, jobs=jobs, seed=3)
    first, again = (searched(search, space, result)[0] for _ in range(2))
    assert first == again
    if sampler != "grid":
        other, _ = searched(Search(sampler=sampler, trials=15, jobs=jobs, seed=4), space, result)
        assert [trial.params for trial in other] != [trial.params for trial in first]


def test_a_grid_is_gone_through_once():
    trials, batches = searched(Search(sampler="grid", jobs=4), GRID, lambda values: Outcome("f", 1.0))
    assert [len(batch) for batch in batches] == [4, 2]
    assert [(t.params["a"], t.params["b"]) for t in trials] == [(a, b) for a in "pq" for b in "123"]


def test_nothing_is_run_twice():
    trials, batches = searched(Search(trials=30, jobs=4), GRID, lambda values: Outcome("f", float(values["b"])))
    run_jobs = [job for batch in batches for job in batch]
    assert len(trials) == 30 and len(run_jobs) == len(set(run_jobs)) <= 6


def test_failed_trials_do_not_end_the_search():
    def result(values):
        return Outcome("f", reason="diverged") if float(values["x"]) > 0 else Outcome("f", float(values["x"]))

    trials, _ = searched(Search(trials=20), LINE, result)
    failed = [trial for trial in trials if trial.outcome.value is None]
    assert len(trials) == 20 and 0 < len(failed) < 20
    assert best(Search(), trials).outcome.value <= 0
    trials, _ = searched(Search(trials=5), LINE, lambda values: Outcome("f", reason="no"))
    assert len(trials) == 5 and best(Search(), trials) is None


def test_the_best_is_never_over_the_budget():
    def trial(number, value, excess):
        return Trial(number, {}, (), Outcome("f", value, excess))

    trials = [trial(0, 0.9, 0.1), trial(1, 0.5, -0.1), trial(2, 0.5, None), trial(3, 0.2, 0.0), trial(4, None, None)]
    assert best(Search(), trials).number == 1
    assert best(Search(direction="minimize"), trials).number == 3
    assert best(Search(), trials[:1]) is None


def finished(folder, **summary):
    row = {"budget_keep": 0.5, "budget_kept": 0.48, "budget_met": True, "val_accuracy_finetuned": 0.9, **summary}
    seal(folder, {"result.json": to_json({"summary": row})})
    return folder


def test_outcomes_are_read_from_the_folder(tmp_path):
    key = "val_accuracy_finetuned"
    good = outcome_of(finished(tmp_path / "good"), key)
    assert (good.value, good.met) == (0.9, True) and math.isclose(good.excess, -0.02)
    over = outcome_of(finished(tmp_path / "over", budget_kept=0.6, budget_met=False), key)
    assert math.isclose(over.excess, 0.1) and not over.met
    close = outcome_of(finished(tmp_path / "close", budget_kept=0.51), key)  # a latency, within its uncertainty
    assert close.met
    free = outcome_of(finished(tmp_path / "free", budget_keep=None, budget_met=None), key)
    assert free.excess is None and free.met


def test_a_job_without_a_result_has_failed_and_says_why(tmp_path):
    for name, text, reason in [
        ("said", json.dumps({"reason": "loss is nan"}), "loss is nan"),
        ("broken", "{", "left no result"),
        ("silent", None, "left no result"),
    ]:
        (tmp_path / name).mkdir()
        if text is not None:
            (tmp_path / name / "failed.json").write_text(text)
        outcome = outcome_of(tmp_path / name, "val_accuracy_finetuned")
        assert outcome.value is None and not outcome.met and reason in outcome.reason
    damaged = finished(tmp_path / "damaged") / "result.json"
    damaged.write_text(damaged.read_text().replace("0.9", "1.0"))
    assert "damaged" in outcome_of(tmp_path / "damaged", "val_accuracy_finetuned").reason


def test_an_objective_that_no_result_has_ends_the_search(tmp_path):
    finished(tmp_path / "run", **{"latency_ratio/cpu/b1": 0.7})
    assert outcome_of(tmp_path / "run", "latency_ratio/cpu/b1").value == 0.7
    with pytest.raises(PruneError, match=r"objective=accuracy is not in the results; these are: .*val_accuracy"):
        outcome_of(tmp_path / "run", "accuracy")


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"sampler": "cma"}, "hydra.sweeper.sampler must be one of tpe, random, grid"),
        ({"trials": 0}, "hydra.sweeper.trials must be"),
        ({"jobs": 1.5}, "hydra.sweeper.jobs must be"),
        ({"seed": -1}, "hydra.sweeper.seed must be"),
        ({"direction": "up"}, "hydra.sweeper.direction must be"),
        ({"objective": "test_accuracy_finetuned"}, "choices are made on validation"),
        ({"objective": None}, "hydra.sweeper.objective must be"),
        ({"params": [1]}, "hydra.sweeper.params must be"),
    ],
)
def test_bad_settings_are_refused(settings, message):
    with pytest.raises(PruneError, match=message):
        Search(**settings)


def test_a_grid_is_finite_and_no_larger_than_was_said():
    with pytest.raises(PruneError, match="x is an interval"):
        Search(sampler="grid").check(LINE)
    with pytest.raises(PruneError, match=r"the grid has 6 points: hydra\.sweeper\.trials=6"):
        Search(sampler="grid", trials=5).check(GRID)
