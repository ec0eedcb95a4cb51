"""The command as users and systems end it: by kill -9, SIGTERM and Ctrl-C, at any moment."""

import random
import signal
import subprocess
import sys
import time

import psutil
import pytest

from tests.crash.small import facts, left_over

SMALL = """dataset=synthetic dataset.images=128 experiment=smoke model=resnet20 model.width=0.25 train.epochs=3
    finetune.epochs=3 benchmark.batches=[1] benchmark.processes=1 benchmark.rounds=2 benchmark.seconds=0
    compute.threads=1 pruner=csgd pruner.recipe.epochs=3""".split()
LATENCY = 20.0  # seconds within which a signal must end the command: a step and a file, on a very busy machine


def start(folder, *more, flags=()):
    return subprocess.Popen(
        [sys.executable, "-m", "prune_cli.cli", *flags, *SMALL, *more],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process):
    out, err = process.communicate(timeout=280)
    return process.returncode, out, err


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """What the command gives, and how long it takes from the moment at which it begins to work."""
    folder = tmp_path_factory.mktemp("undisturbed")
    code, _, err = finish(start(folder, "hydra.run.dir=outputs/run"))
    assert code == 0, err
    begun = time.perf_counter()
    again = finish(start(folder, "hydra.run.dir=outputs/run", "rerun=true"))
    assert again[0] == 0, again[2]
    return facts(folder / "outputs" / "run"), time.perf_counter() - begun


def children(process):
    try:
        return psutil.Process(process.pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return []


def works(process):
    """Is it there? In containers, those whose parent has gone may stay as zombies, which do nothing."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def assert_gone(processes, seconds=3.0):
    """A second is enough on a quiet machine."""
    end = time.perf_counter() + seconds
    while any(map(works, processes)) and time.perf_counter() < end:
        time.sleep(0.02)
    assert not [process.cmdline() for process in processes if works(process)]


def resumed(folder, expected):
    """Called again, the command comes to the end, and to the same bits."""
    code, _, err = finish(start(folder, "hydra.run.dir=outputs/last"))
    assert code == 0, err
    assert facts(folder / "outputs" / "last") == expected
    assert left_over(folder / "outputs") == []


@pytest.mark.parametrize("seed", [0, *[pytest.param(seed, marks=pytest.mark.slow) for seed in range(1, 7)]])
def test_killed_three_times_at_random(tmp_path, undisturbed, seed):
    expected, seconds = undisturbed
    moments = random.Random(seed)
    for number in range(3):
        process = start(tmp_path, f"hydra.run.dir=outputs/{number}")
        time.sleep(moments.uniform(0.2, 0.9) * seconds)
        own = children(process)
        process.kill()
        process.communicate()
        assert_gone(own)
    resumed(tmp_path, expected)


def until(folder, text, process):
    """Wait until the log says so."""
    log = folder / "prune-run.log"
    end = time.perf_counter() + 200
    while not log.is_file() or text not in log.read_text():
        assert process.poll() is None and time.perf_counter() < end, process.communicate()
        time.sleep(0.01)


# What the log says when each stage is under way.
STAGES = ["within reach", "training: epoch 1", "centripetal: epoch 1", "fine-tuning: epoch 1", "measuring latency"]


@pytest.mark.parametrize("number, code", [(signal.SIGTERM, 143), (signal.SIGINT, 130)], ids=["SIGTERM", "SIGINT"])
@pytest.mark.parametrize(
    "stage", [STAGES[2], *[pytest.param(s, marks=pytest.mark.slow) for s in STAGES if s != STAGES[2]]]
)
def test_a_signal_ends_in_order(tmp_path, undisturbed, number, code, stage, record_property):
    process = start(tmp_path, "hydra.run.dir=outputs/first")
    until(tmp_path / "outputs" / "first", stage, process)
    own = children(process)
    before = time.perf_counter()
    process.send_signal(number)
    ended, _, err = finish(process)
    latency = time.perf_counter() - before
    record_property("seconds until the end", latency)
    assert ended == code and latency < LATENCY
    lines = err.strip().splitlines()
    assert len(lines) == 1 and number.name in lines[0] and "the same command goes on" in lines[0], err
    assert_gone(own)
    assert not list((tmp_path / "outputs").rglob("*.tmp"))
    resumed(tmp_path, undisturbed[0])


def test_a_second_signal_ends_at_once(tmp_path):
    process = start(tmp_path, "hydra.run.dir=outputs/first", "train.epochs=1000")
    until(tmp_path / "outputs" / "first", "training: epoch 1", process)
    process.send_signal(signal.SIGSTOP)  # so that both are there before it can heed the first
    for number in (signal.SIGINT, signal.SIGTERM):
        process.send_signal(number)
    before = time.perf_counter()
    process.send_signal(signal.SIGCONT)
    code, _, _ = finish(process)
    assert code in (-signal.SIGINT, -signal.SIGTERM, 130, 143) and time.perf_counter() - before < LATENCY


def job_processes(process):
    return [child for child in children(process) if "forkserver" in " ".join(child.cmdline()) or child.children()]


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT], ids=lambda n: n.name)
def test_the_jobs_of_a_sweep_end_with_it(tmp_path, number):
    process = start(tmp_path, "seed=0,1", "train.epochs=1000", "hydra.sweep.dir=outputs/sweep", flags=["-m"])
    until(tmp_path / "outputs" / "sweep" / "0", "training: epoch 1", process)
    own = job_processes(process)
    assert own
    process.send_signal(number)
    code, _, err = finish(process)
    assert code == {signal.SIGKILL: -9, signal.SIGTERM: 143, signal.SIGINT: 130}[number]
    if number != signal.SIGKILL:
        assert len(err.strip().splitlines()) == 1 and "the same command goes on" in err, err
    assert_gone(own)
    assert not (tmp_path / "outputs" / "sweep" / "1" / "prune-run.log").exists()  # nor is the next one begun
    states = [path.name for path in (tmp_path / "outputs").rglob("*.state")]
    assert "training.state" in states
