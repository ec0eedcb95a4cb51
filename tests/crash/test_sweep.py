"""A bad job costs a sweep nothing but itself, however it ends, and is told of at the end."""

import json
import os
import subprocess
import sys

import pytest

from tests.conftest import ROOT

# A network that misbehaves in the process of a job, and not where the command's config is checked.
NETS = """
import ctypes, multiprocessing, os, signal, sys
from prune_cli.errors import PruneError
from prune_cli.models.resnet import CifarResNet

def die(how):
    if how == "exception": raise RuntimeError("as expected")
    if how == "prune_error": raise PruneError("mend this")
    if how == "exit": sys.exit(3)
    if how == "kill": os.kill(os.getpid(), signal.SIGKILL)
    if how == "term": os.kill(os.getpid(), signal.SIGTERM)
    if how == "segfault": ctypes.string_at(0)
    if how == "silent": os._exit(0)

class Net(CifarResNet):
    def __init__(self, num_classes, how="good"):
        super().__init__(8, num_classes, width=0.5)
        if multiprocessing.parent_process() is not None and not os.path.exists("mended"):
            die(how)
"""
REASONS = {
    "exception": "RuntimeError: as expected (a bug",
    "prune_error": "mend this",
    "exit": "ended with exit code 3",
    "kill": "ended by SIGKILL (the system does that when memory runs out)",
    "term": "ended by SIGTERM",
    "segfault": "ended by SIGSEGV",
    "silent": "ended without a result",
}
SMALL = """-m dataset=synthetic dataset.images=80 experiment=smoke pruner=random model=custom trust=[badnets]
    model._target_=badnets.Net train.epochs=1 finetune.epochs=1 compute.threads=1 benchmark.batches=[1]
    benchmark.processes=1 benchmark.rounds=2 benchmark.seconds=0 hydra.sweep.dir=outputs/sweep ~model.width""".split()
HOWS = ["good", *REASONS, "better"]


def sweep(folder):
    return subprocess.run(
        [sys.executable, "-m", "prune_cli.cli", *SMALL, f"+model.how={','.join(HOWS)}"],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(folder), str(ROOT)])},
        capture_output=True,
        text=True,
        check=False,
        timeout=280,
    )


@pytest.fixture(scope="module")
def swept(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sweep")
    (folder / "badnets.py").write_text(NETS)
    return folder, sweep(folder)


def jobs(folder):
    return {how: folder / "outputs" / "sweep" / str(number) for number, how in enumerate(HOWS)}


def test_the_others_are_done_and_the_bad_ones_are_named(swept):
    folder, done = swept
    assert done.returncode == 1, done.stderr
    for how, out in jobs(folder).items():
        assert (out / "result.json").exists() == (how not in REASONS), (how, done.stdout)
        if how in REASONS:
            assert REASONS[how] in json.loads((out / "failed.json").read_text())["reason"], how
            (line,) = [line for line in done.stderr.splitlines() if REASONS[how] in line]
            assert str(out.relative_to(folder)) in line and line.endswith("prune-run.log")
            assert (out / "prune-run.log").is_file()
    assert "Traceback" not in done.stderr
    assert "Traceback" in (jobs(folder)["exception"] / "prune-run.log").read_text()  # for bugs, in the log


def test_the_same_command_does_only_the_failed_ones(swept):
    folder, _ = swept
    before = {how: (out / "result.json").stat().st_mtime_ns for how, out in jobs(folder).items() if how not in REASONS}
    (folder / "mended").touch()
    done = sweep(folder)
    assert done.returncode == 0, done.stderr
    for how, out in jobs(folder).items():
        assert (out / "result.json").is_file() and not (out / "failed.json").exists()
        if how in before:
            assert (out / "result.json").stat().st_mtime_ns == before[how]
    assert done.stdout.count("done before") == len(before)
