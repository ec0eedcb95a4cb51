"""A run as a job: found if it was done before, gone on with if it was begun, in a process of its own in a sweep.

`outputs/jobs/<identity>/` knows of each experiment where its result lies, and holds the journal of one under way.
"""

from __future__ import annotations

import json
import logging
import logging.config
import os
import shutil
import signal
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from functools import cached_property
from pathlib import Path
from typing import Any

from prune_cli import team
from prune_cli.errors import PruneError
from prune_cli.experiment import Experiment
from prune_cli.files import SUMS, locked, read_sealed, slug, sweep, to_json, write_bytes
from prune_cli.hardware.process import context, end_with_parent
from prune_cli.interruption import Interrupted, heed, pass_on
from prune_cli.journal import Journal
from prune_cli.pipeline import run
from prune_cli.record import Record
from prune_cli.tracking import Tracking

log = logging.getLogger(__name__)
FAILED, POINTER = "failed.json", "finished.json"
GRACE = 60.0  # seconds that a job has to end in order
# What the server of job processes loads, so that they need not: seconds each.
PRELOAD = (
    "torch",
    "sklearn.datasets",
    "sklearn.cluster",
    "prune_cli.training.fit",
    "prune_cli.channels",
    "prune_cli.bases",
)


@dataclass(frozen=True)
class Job:
    """An experiment and where it goes."""

    experiment: Experiment
    out: Path
    config: Mapping[str, Any]
    command: Sequence[str]
    rerun: bool = False  # also if it was done before

    @cached_property
    def shelf(self) -> Path:
        return Path(self.experiment.outputs) / "jobs" / self.experiment.identity

    @property
    def pointer(self) -> Path:
        return self.shelf / POINTER

    def finished(self) -> Path | None:
        """The folder of an earlier run of the same experiment."""
        if self.rerun or not self.pointer.is_file():
            return None
        try:
            folder = self.shelf / json.loads(self.pointer.read_text())["folder"]
        except (OSError, ValueError, KeyError, TypeError):
            log.warning("%s is damaged: what it knew of is done again", self.pointer)
            return None
        return folder.resolve() if self.lies_in(folder) else None

    def lies_in(self, folder: Path) -> bool:
        """Does a folder hold this job's result, undamaged?"""
        try:
            return bool(json.loads(read_sealed(folder, "result.json")).get("identity") == self.experiment.identity)
        except PruneError:
            return False


def carry_out(job: Job, briefly: bool = False) -> None:
    """Do a job, or the rest of it, or find that it is done; its result then lies in `job.out`.

    Args:
        briefly: of a job that is found done, do not show the table again.

    Raises:
        PruneError: it failed, for a reason that the user can mend.
        Interrupted: the program was asked to stop; what was done is kept.
    """
    job.out.mkdir(parents=True, exist_ok=True)
    journal = Journal(job.shelf / "journal")
    with locked(job.shelf / ".lock", "another process carries out the same run"):
        if team.is_first():
            written = _sweep(job, journal)
            set_aside(job)
        if _is_adopted(job, briefly):
            if team.is_first():
                journal.clear()  # of a process that was killed before it could
            return
        if team.is_first():
            if job.rerun:
                job.pointer.unlink(missing_ok=True)
                journal.clear()
            journal.write("folders", written)
        record = _watched(job, journal)
        failed = [f"{target}: {reason}" for target, reason in record.benchmarks[0].failed.items()]
        if failed:  # the networks are kept, so that the same command repeats only what went wrong
            raise PruneError(f"{'; '.join(failed)}; everything else is in {job.out}")
        if not team.is_first():
            return
        _point(job.shelf, job.out)
        (job.out / FAILED).unlink(missing_ok=True)
        journal.clear()
    log.info("%s\nresults: %s", (job.out / "table.txt").read_text().rstrip(), job.out)


def set_aside(job: Job) -> None:
    """A folder that holds the result of another experiment is not overwritten: that result moves beside it."""
    try:
        other = str(json.loads(read_sealed(job.out, "result.json"))["identity"])
    except (PruneError, KeyError):
        return
    if other == job.experiment.identity:
        return
    beside = job.out.with_name(f"{job.out.name}-{slug(other)}")
    names = _link_all(job.out, beside)
    shelf = job.shelf.parent / slug(other)
    if shelf.is_dir():
        _point(shelf, beside)
    for name in ["result.json", *names]:  # from the first of these on, the folder holds no finished run
        (job.out / name).unlink(missing_ok=True)
    log.info("%s held another experiment's result, which is now in %s", job.out, beside)


def _watched(job: Job, journal: Journal) -> Record:
    """The run, while other programs are shown how it goes."""
    tracking = job.experiment.tracking if team.is_first() else Tracking(tensorboard=False)
    names = job.experiment.names
    name = f"{names['pruner']} {names['model']} {names['dataset']} {job.experiment.identity}"
    with tracking.watchers(job.out, name, job.config) as watchers:
        told = Journal(journal.folder, watchers)
        record = run(job.experiment, job.out, job.config, journal=told, command=job.command)
        for watcher in watchers:
            watcher.end(record.summary)
    return record


def adopt(job: Job) -> bool:
    """If the experiment was finished before, let its files lie in `job.out` too, as links where possible."""
    if job.finished() is None:
        return False
    carry_out(job, briefly=True)
    return True


def _sweep(job: Job, journal: Journal) -> list[str]:
    """Remove what processes that were killed have left of their files; the folders where such may lie."""
    folders = {*(journal.read("folders") or []), str(job.out.resolve())}
    for folder in [job.shelf, *map(Path, folders)]:
        sweep(folder)
    return sorted(folders)


def _is_adopted(job: Job, briefly: bool) -> bool:
    folder = team.agree(job.finished)
    if folder is None:
        return False
    if folder != job.out.resolve() and team.is_first():
        _link_all(folder, job.out)
    (job.out / FAILED).unlink(missing_ok=True)
    if not briefly:
        log.info("%s", read_sealed(folder, "table.txt").decode().rstrip())
    log.info("done before (rerun=true does it again): %s", folder)
    return True


def _point(shelf: Path, folder: Path) -> None:
    """Let an experiment's shelf say where its result lies."""
    relative = os.path.relpath(folder.resolve(), shelf.resolve())  # outputs may be moved as a whole
    write_bytes(shelf / POINTER, to_json({"folder": relative}))


def _link_all(source: Path, target: Path) -> list[str]:
    """The files of a finished run, in another folder too; their names, with the sums."""
    names = [line.split("  ", 1)[1] for line in (source / SUMS).read_text().splitlines()]
    names.sort(key="result.json".__eq__)  # last, as in every run
    target.mkdir(parents=True, exist_ok=True)
    for name in [SUMS, *names]:
        _link(source / name, target / name)
    return [SUMS, *names]


def _link(source: Path, target: Path) -> None:
    """Files of a run are only ever replaced, never changed, so a link is as good as a copy."""
    target.unlink(missing_ok=True)
    try:
        os.link(source, target)
    except OSError:  # another file system, or one without links
        shutil.copy2(source, target)


def note_failure(job: Job, reason: str) -> None:
    """Leave word in the job's folder, for reports."""
    if not team.is_first():
        return
    said = {
        "schema": 1,
        "identity": job.experiment.identity,
        "reason": reason,
        "command": list(job.command),
        **job.experiment.names,
        "seed": job.experiment.seed,
        "log": "prune-run.log",
        "created": datetime.now(timezone.utc).isoformat(timespec="seconds"),
    }
    job.out.mkdir(parents=True, exist_ok=True)
    write_bytes(job.out / FAILED, to_json(said))


def failures(folder: Path) -> dict[Path, str]:
    """Folders below that hold a failed job, with the reason."""

    def reason(path: Path) -> str:
        try:
            return str(json.loads(path.read_text())["reason"])
        except (OSError, ValueError, KeyError, TypeError):
            return f"unknown: {path.name} is damaged"

    return {path.parent: reason(path) for path in sorted(folder.rglob(FAILED))}


def carry_out_apart(job: Job, logs: Mapping[str, Any]) -> bool:
    """Do a job in a process of its own: whatever happens to it, others go on. Tells whether it came to its end.

    Args:
        logs: how the process logs, for `logging.config.dictConfig`.

    Raises:
        Interrupted: this process was asked to stop, and has passed that on.
    """
    (job.out / FAILED).unlink(missing_ok=True)  # of an earlier attempt
    process = context(PRELOAD).Process(target=_child, args=(job, logs))
    process.start()
    try:
        process.join()
    except Interrupted as stop:
        pass_on(process.pid, stop.number)
        process.join(GRACE)
        process.kill()
        raise
    code = process.exitcode
    by_signal = -code if code < 0 else code - 128 if code in (130, 143) else 0
    if by_signal:
        name = signal.Signals(by_signal).name if by_signal in set(signal.Signals) else f"signal {by_signal}"
        why = " (the system does that when memory runs out)" if by_signal == signal.SIGKILL else ""
        note_failure(job, f"ended by {name}{why}; the same command goes on where it stopped")
    elif code and not (job.out / FAILED).exists():
        note_failure(job, f"ended with exit code {code}")
    elif code == 0 and not job.lies_in(job.out):
        note_failure(job, "ended without a result, though with exit code 0")
    return not (job.out / FAILED).exists()


def _child(job: Job, logs: Mapping[str, Any]) -> None:
    os.setpgid(0, 0)  # Ctrl-C in a terminal goes to the parent alone, which passes it on
    end_with_parent()
    heed()
    logging.config.dictConfig(dict(logs))
    try:
        carry_out(job)
    except Interrupted as stop:
        log.warning("%s; what was done is kept", stop)
        sys.exit(stop.exit_code)
    except (PruneError, OSError) as error:
        log.error("failed: %s", error)
        note_failure(job, str(error))
        sys.exit(1)
    except Exception as error:
        log.exception("failed")
        note_failure(job, f"{type(error).__name__}: {error} (a bug: the log has the traceback)")
        sys.exit(1)
