"""Each launcher runs jobs side by side, with the threads that it grants; one that is not installed says so."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from prune_cli import host
from prune_cli.engines.ray_launcher import RayLauncher
from prune_cli.errors import PruneError
from tests.conftest import ROOT
from tests.test_cli import TINY, quick, results

RUN = {
    "app": "from tests.engines.app import main; main()",
    "prune-run": "import sys; sys.argv[0] = 'prune-run'; from prune_cli.commands import run; run()",
}
INSTALLED = {"cores": "hydra_plugins.hydra_joblib_launcher", "slurm_local": "submitit", "ray": "ray"}
LAUNCHERS = {
    "cores": ["hydra/launcher=cores", "hydra.launcher.n_jobs=2"],
    "slurm_local": ["hydra/launcher=slurm_local"],
    "ray": ["hydra/launcher=ray", "hydra.launcher.cpus=2"],
}


def run(folder, program, *arguments, **environment):
    """Run a command in `folder`, with neither this test's threads nor its own in the way of the launcher's."""
    inherited = {key: value for key, value in os.environ.items() if key != "OMP_NUM_THREADS"}
    return subprocess.run(
        [sys.executable, "-c", RUN[program], *arguments],
        cwd=folder,
        env={**inherited, "PYTHONPATH": str(ROOT), **environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=280,
    )


# Starting Ray takes a quarter of a minute, so that one test of it is enough for every day.
@pytest.fixture(params=["cores", "slurm_local", pytest.param("ray", marks=pytest.mark.slow)])
def launcher(request):
    pytest.importorskip(INSTALLED[request.param])
    return request.param


def test_jobs_run_elsewhere_at_once_where_they_are_told(tmp_path, launcher):
    done = run(tmp_path, "app", "-m", *LAUNCHERS[launcher], "seed=0,1,7", "hydra.sweep.dir=sweep")
    assert done.returncode == 0, done.stderr
    seen = [result["seen"] for result in results(tmp_path / "sweep")]
    assert [job["seed"] for job in seen] == [0, 1]
    assert len({job["pid"] for job in seen}) == 2  # each lasts long enough that one process does not do both
    assert {job["threads"] for job in seen} == {1}
    assert {job["cwd"] for job in seen} == {str(tmp_path)}
    assert json.loads((tmp_path / "sweep" / "2" / "failed.json").read_text()) == {"reason": "seven"}


@pytest.mark.skipif(host.cores() < 2, reason="two threads need two processors")
@pytest.mark.parametrize("granted", [
    ("cores", "compute.threads=2"),
    ("slurm_local", "hydra.launcher.cpus_per_task=2"),
    pytest.param(("ray", "hydra.launcher.cpus_per_job=2"), marks=pytest.mark.slow),
], ids=lambda granted: granted[0])  # fmt: skip
def test_a_job_may_use_the_threads_that_its_launcher_grants(tmp_path, granted):
    launcher, wish = granted
    pytest.importorskip(INSTALLED[launcher])
    more = [f"hydra/launcher={launcher}", wish, "seed=0", "hydra.sweep.dir=sweep"]
    done = run(tmp_path, "app", "-m", *more)
    assert done.returncode == 0, done.stderr
    (result,) = results(tmp_path / "sweep")
    whole = host.cores() // (host.cores() // 2)  # joblib shares all processors out
    assert result["seen"]["threads"] == (whole if launcher == "cores" else 2)


def test_a_worker_of_ray_that_dies_takes_no_other_job_with_it(tmp_path):
    pytest.importorskip("ray")
    done = run(tmp_path, "app", "-m", *LAUNCHERS["ray"], "seed=0,13,1", "hydra.sweep.dir=sweep")
    seen = [result["seen"] for result in results(tmp_path / "sweep")]
    assert [job["seed"] for job in seen] == [0, 1], done.stderr
    assert {(job["threads"], job["cwd"]) for job in seen} == {(1, str(tmp_path))}
    told = json.loads((tmp_path / "sweep" / "1" / "failed.json").read_text())
    assert "the worker died" in told["reason"] and told["command"] == ["prune-run", "seed=13"]
    assert "#1 : the worker died" in done.stdout and "Traceback" not in done.stdout + done.stderr


@pytest.mark.slow
def test_ray_leaves_nothing_running_and_is_quiet(tmp_path):
    pytest.importorskip("ray")
    done = run(tmp_path, "app", "-m", *LAUNCHERS["ray"], "seed=0", "hydra.sweep.dir=sweep")
    assert done.returncode == 0 and done.stderr == "", done.stderr
    assert len(done.stdout.strip().splitlines()) <= 4, done.stdout
    assert str(tmp_path) not in "".join(_commands_of_ray_started_in(tmp_path))


def _commands_of_ray_started_in(folder):
    """Command lines of processes of Ray whose folder of work this is."""
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if (process / "cwd").resolve() == folder:
                yield (process / "cmdline").read_text() + str(folder)
        except OSError:
            continue


def test_a_search_is_run_by_any_launcher(tmp_path, launcher):
    pytest.importorskip("optuna")
    search = ["hydra/sweeper=optuna", "hydra.sweeper.sampler=grid", "hydra.sweeper.jobs=2"]
    knobs = ["budget.keep=0.6,0.5", "finetune.lr=0.02,0.01"]
    done = run(tmp_path, "app", "-m", *LAUNCHERS[launcher], *search, *knobs, "seed=3", "hydra.sweep.dir=s")
    assert done.returncode == 0, done.stderr
    told = json.loads((tmp_path / "s" / "search.json").read_text())
    assert [(trial["value"] - 0.6 > -1e-9, trial["met"]) for trial in told["trials"]] == [
        (False, False), (True, False), (False, True), (False, True)
    ]  # fmt: skip
    assert told["trials"][told["best"]]["params"] == {"budget.keep": "0.5", "finetune.lr": "0.01"}
    assert "again: prune-run budget.keep=0.5 finetune.lr=0.01 seed=3" in done.stdout


def test_a_search_goes_on_after_a_failed_job_and_may_find_none(tmp_path):
    pytest.importorskip("optuna")
    done = run(
        tmp_path, "app", "-m", "hydra/sweeper=optuna", "hydra.sweeper.trials=8", "seed=7,14,1", "hydra.sweep.dir=s"
    )
    assert done.returncode == 0, done.stderr
    told = json.loads((tmp_path / "s" / "search.json").read_text())
    assert {trial["reason"] for trial in told["trials"]} == {"seven", "RuntimeError: cannot begin", ""} and told[
        "best"
    ] is not None
    done = run(
        tmp_path,
        "app",
        "-m",
        "hydra/sweeper=optuna",
        "hydra.sweeper.trials=2",
        "budget.keep=0.6,0.7",
        "hydra.sweep.dir=t",
    )
    assert "none of 2 trials met the budget" in done.stdout, done.stderr
    assert json.loads((tmp_path / "t" / "search.json").read_text())["best"] is None


def test_an_objective_that_is_not_there_is_one_line_after_the_first_trial(tmp_path):
    pytest.importorskip("optuna")
    wish = ["hydra/sweeper=optuna", "hydra.sweeper.objective=speed", "seed=0,1", "hydra.sweep.dir=s"]
    done = run(tmp_path, "app", "-m", *wish)
    assert done.returncode == 1 and len(results(tmp_path)) == 1
    assert done.stderr.startswith("prune-run: hydra.sweeper.objective=speed is not in the results; these are: val_acc")
    assert "Traceback" not in done.stderr


def test_two_networks_at_once_share_one_dense_network(tmp_path):
    pytest.importorskip(INSTALLED["cores"])
    done = run(tmp_path, "prune-run", "-m", *LAUNCHERS["cores"], *TINY, "pruner=magnitude,random", "hydra.sweep.dir=s")
    assert done.returncode == 0, done.stderr
    rows = [result["summary"] for result in results(tmp_path / "s")]
    assert [row["pruner"] for row in rows] == ["magnitude", "random"]
    assert sorted(row["base_reused"] for row in rows) == [False, True]
    assert len([path for path in (tmp_path / "outputs" / "bases").iterdir() if not path.name.startswith(".")]) == 1


@pytest.mark.slow
@pytest.mark.parametrize("launcher", ["slurm_local", "ray"])
def test_whole_runs_elsewhere(tmp_path, launcher):
    pytest.importorskip(INSTALLED[launcher])
    done = run(tmp_path, "prune-run", "-m", *LAUNCHERS[launcher], *TINY, "pruner=magnitude,random", "hydra.sweep.dir=s")
    assert done.returncode == 0, done.stderr
    assert sorted(result["summary"]["base_reused"] for result in results(tmp_path / "s")) == [False, True]


MISSING = {
    "hydra/launcher=cores": ("hydra_plugins.hydra_joblib_launcher", "cores"),
    "hydra/launcher=slurm_local": ("hydra_plugins.hydra_submitit_launcher", "slurm"),
    "hydra/launcher=ray": ("ray", "ray"),
    "hydra/sweeper=optuna": ("optuna", "search"),
}


@pytest.mark.parametrize("choice", MISSING)
def test_what_is_not_installed_is_one_line_with_the_command_that_installs_it(tmp_path, choice):
    module, extra = MISSING[choice]
    code = (
        f"import sys; sys.modules[{module!r}] = None; sys.argv[0] = 'prune-run'; from prune_cli.cli import main; main()"
    )
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code, "-m", choice, "seed=0,1"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    said = f"prune-run: {choice} needs a package: pip install 'prune-cli[{extra}]'\n"
    assert (done.returncode, done.stderr, os.listdir(tmp_path)) == (1, said, [])


@pytest.mark.skipif(shutil.which("sbatch") is not None, reason="this is a Slurm cluster")
def test_without_slurm_its_launcher_is_refused(tmp_path):
    pytest.importorskip("submitit")
    done = quick(tmp_path, "-m", "hydra/launcher=slurm", "seed=0,1")
    assert done.returncode == 1 and "prune-run: hydra/launcher=slurm: there is no sbatch here" in done.stderr


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["budget.keep=interval(0.3,3)"], "budget.keep must be a number in (0, 1]: got 3"),
        (["budget.keep=interval(-1,0.5)"], "budget.keep must be a number in (0, 1]: got -1"),
        (["pruner.norm=l1,l3", "pruner=magnitude"], "pruner.norm must be one of l1, l2"),
        (["seed=0,1", "hydra.sweeper.trials=0"], "hydra.sweeper.trials must be"),
        (["seed=0,1", "+hydra.sweeper.trails=3"], "hydra.sweeper: got an unexpected keyword argument 'trails'"),
        (["hydra.sweeper.sampler=grid", "budget.keep=interval(0.1,0.5)"], "budget.keep is an interval"),
        ([], "a search needs something to choose"),
    ],
)
def test_a_search_that_cannot_be_is_refused_before_its_first_job(tmp_path, arguments, message):
    pytest.importorskip("optuna")
    done = quick(tmp_path, "-m", "hydra/sweeper=optuna", *arguments)
    assert done.returncode == 1 and f"prune-run: {message}" in done.stderr
    assert "Traceback" not in done.stderr and os.listdir(tmp_path) == []


def test_an_interval_needs_a_search(tmp_path):
    done = quick(tmp_path, "-m", "budget.keep=interval(0.3,0.5)")
    assert done.returncode == 1 and "choose among them by hydra/sweeper=optuna" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"cpus_per_job": 0}, "hydra.launcher.cpus_per_job must be"),
        ({"cpus_per_job": "many"}, "hydra.launcher.cpus_per_job must be"),
        ({"gpus_per_job": -1}, "hydra.launcher.gpus_per_job must be"),
        ({"cpus": 0}, "hydra.launcher.cpus must be"),
        ({"cpus": 2, "cpus_per_job": 3}, "cpus_per_job=3: Ray may use 2 processors"),
        ({"gpus": 1.5}, "hydra.launcher.gpus must be"),
    ],
)
def test_settings_of_ray_that_no_job_could_meet_are_refused(settings, message):
    with pytest.raises(PruneError, match=message):
        RayLauncher(**settings)
    RayLauncher(**{**settings, "address": "auto", "cpus": None, "gpus": None, "cpus_per_job": 3, "gpus_per_job": 0.5})


@pytest.mark.parametrize("said, granted", [("1", 1), ("2,4", 2), ("99999", None), ("", None), ("0", None), ("x", None)])
def test_threads_stay_within_what_was_granted(monkeypatch, said, granted):
    monkeypatch.setenv("OMP_NUM_THREADS", said)
    assert host.threads_granted() == min(granted or host.cores(), host.cores())


def test_auto_threads_are_those_granted(monkeypatch):
    import torch

    from prune_cli.compute import Compute

    before = torch.get_num_threads()
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    try:
        assert Compute(device="cpu").resolve().threads == 1
    finally:
        torch.set_num_threads(before)
