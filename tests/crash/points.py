"""The shim, compiled; the points at which a run may be crashed; what was written before what."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT

EXIT = 77  # of a process that the shim has ended


def compiled(folder):
    """The shim as a library; skips the test where there is no compiler, or no preloading."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None or sys.platform != "linux":
        pytest.skip("crash points need Linux and a C compiler")
    library = folder / "shim.so"
    source = Path(__file__).with_name("shim.c")
    subprocess.run([compiler, "-shared", "-fPIC", "-O1", "-o", library, source, "-ldl"], check=True)
    return library


def points_of(calls):
    """Before every call, and half way through every write: (number of the call, half way?)."""
    return [
        (number, half)
        for number, (call, *_) in enumerate(calls, 1)
        for half in ((False, True) if call == "write" else (False,))
    ]


def crash(folder, pruners, first=0):
    """Crash the run of each pruner at every so many points; what is said of each pruner, and of each point."""
    shim = compiled(folder)
    (folder / "tmp").mkdir()
    environment = {**os.environ, "LD_PRELOAD": str(shim), "SHIM": str(shim), "TMPDIR": str(folder / "tmp")}
    wish = {"folder": str(folder), "pruners": pruners, "first": first}
    done = subprocess.run(
        [sys.executable, "-m", "tests.crash.driver"],
        input=json.dumps(wish) + "\n",
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    return [line for line in lines if "calls" in line], [line for line in lines if "calls" not in line]


def unsynced(calls):
    """Renames onto final names whose source was changed after it was last synced: a power cut could empty them."""
    dirty, found = set(), []
    for call, one, two in calls:
        if call in ("open", "write", "truncate"):
            dirty.add(one)
        elif call == "fsync":
            dirty.discard(one)
        elif call == "rename":
            inside = {path for path in dirty if path == one or path.startswith(f"{one}/")}
            found += [(path, two) for path in sorted(inside) if not path.endswith(".lock")]
            dirty -= inside
    return found
