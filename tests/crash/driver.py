"""Crashes a small run before and half way through the calls that change files, and goes on with it after each.

Started once per test with the shim preloaded (`SHIM`); every crash is a fork of it, so PyTorch is loaded once. Reads
one line of JSON, {folder, pruner: [every how many points]}; writes one line of JSON for each point.
"""

import ctypes
import importlib
import json
import logging
import multiprocessing
import multiprocessing.forkserver
import os
import shutil
import sys
import traceback
from pathlib import Path

import torch

from prune_cli import journal
from prune_cli.channels import trace
from prune_cli.hardware.process import context
from prune_cli.jobs import carry_out
from prune_cli.models import CifarResNet
from tests.crash.points import EXIT, points_of
from tests.crash.small import facts, left_over, small_job

# What a run imports when it needs it: once here rather than in each fork.
LOADED = """fvcore.nn sklearn.cluster prune_cli.artefact prune_cli.bases prune_cli.benchmark prune_cli.channels
    prune_cli.costs prune_cli.export prune_cli.gates prune_cli.latency prune_cli.surgery prune_cli.table
    prune_cli.training.statistics torch._dynamo tests.crash.small""".split()


def in_a_fork(work):
    """The exit code of a process that does this, 0 if it came to its end."""
    pid = os.fork()
    if pid:
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    code = 1
    try:
        work()
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)


def tell(what):
    sys.stdout.write(json.dumps(what) + "\n")
    sys.stdout.flush()


class Crashes:
    """All crashes of one pruner's run."""

    def __init__(self, shim, folder, pruner):
        self.shim, self.folder, self.pruner = shim, folder, pruner
        self.calls = folder / "calls"
        self.carry_out("undisturbed")
        self.expected = facts(folder / "undisturbed" / "run")
        self.crash(0, False)  # never: only counts

    def carry_out(self, outputs, out="run"):
        code = in_a_fork(lambda: carry_out(small_job(self.folder / outputs, out, self.pruner)))
        assert code == 0, f"{self.pruner} in {outputs} ended with {code}"

    def crash(self, number, half):
        """Ends at a point; returns the exit code. The calls up to there are written down."""
        outputs = self.folder / "outputs"
        shutil.rmtree(outputs, ignore_errors=True)
        outputs.mkdir()

        def work():
            record = os.open(self.calls, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            self.shim.arm(os.fsencode(outputs), ctypes.c_long(number), half, record)
            carry_out(small_job(outputs, "first", self.pruner))

        return in_a_fork(work)

    def seen(self):
        return [line.split("\t") for line in self.calls.read_text().splitlines()]

    def at(self, number, half):
        """What became of a run that was ended at this point."""
        outputs = self.folder / "outputs"
        code, last = self.crash(number, half), self.seen()[-1]
        told = {"pruner": self.pruner, "number": number, "half": half, "call": last, "code": code}

        def go_on():
            for out in ("second", "third"):
                carry_out(small_job(outputs, out, self.pruner))

        told["resumed"] = in_a_fork(go_on)
        if code != EXIT or told["resumed"] != 0:
            return {**told, "same": False, "left": [], "repeated": False}
        second, third = outputs / "second", outputs / "third"
        again = (second / "result.json").read_bytes() == (third / "result.json").read_bytes()
        same = facts(second) == self.expected
        return {**told, "same": same, "left": left_over(outputs), "repeated": not again}


def main():
    logging.getLogger().setLevel(logging.ERROR)
    journal.SHARE = float("inf")  # every epoch is kept, however short
    torch.set_num_threads(1)
    shim = ctypes.CDLL(os.environ["SHIM"])
    wish = json.loads(sys.stdin.readline())
    # All forks use this process's server of measuring processes: they cannot wait for it, as it is not their child,
    # and each would start its own, in 3 seconds.
    for module in LOADED:
        importlib.import_module(module)
    trace(CifarResNet(8).build(4), (3, 16, 16))  # fills caches of PyTorch
    process = context(["torch", *LOADED]).Process(target=int)
    process.start()
    process.join()
    multiprocessing.forkserver._forkserver.ensure_running = lambda: None
    for pruner, every in wish["pruners"].items():
        folder = Path(wish["folder"]) / pruner
        folder.mkdir(parents=True)
        crashes = Crashes(shim, folder, pruner)
        seen = crashes.seen()
        made = [str(path) for path in sorted((folder / "outputs").rglob("*"))]
        tell({"pruner": pruner, "calls": seen, "made": made})
        for number, half in points_of(seen)[wish["first"] :: every]:
            tell(crashes.at(number, half))


if __name__ == "__main__":
    main()
