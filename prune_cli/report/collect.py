"""What lies below a folder: finished runs, failed jobs, and results that cannot be used, with the reason."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

from prune_cli.errors import PruneError, require
from prune_cli.report.found import Collection, Failure, Run
from prune_cli.report.read import line, run_of, shown, words

SKIPPED = ("bases", "cache", "jobs")  # rooms of an outputs folder that hold no runs


def collect(root: Path) -> Collection:
    """Read all results below a folder; what is damaged or of another version costs nothing else.

    Raises:
        PruneError: it is not a folder.
    """
    require(root.is_dir(), f"{root} is not a folder")
    runs: dict[str, Run] = {}
    failures: list[tuple[str, Failure]] = []
    unread: dict[str, str] = {}
    for folder in _folders(root):
        name = shown(os.path.relpath(folder, root))
        try:
            if (folder / "result.json").exists():
                identity, run = run_of(folder, name, unread)
                if identity not in runs or run.created > runs[identity].created:
                    runs[identity] = run
            elif (folder / "failed.json").exists():
                failures.append(_failure(folder, name))
        except (PruneError, OSError) as error:
            unread[name] = line(str(error).replace(f"{root}{os.sep}", ""))
        except (ValueError, KeyError, TypeError, AttributeError, IndexError, RecursionError) as error:
            unread[name] = line(f"not a record of this version: {type(error).__name__} {error}")
    lasting = tuple(failure for identity, failure in failures if identity not in runs)
    return Collection(root, tuple(runs.values()), lasting, unread)


def _folders(root: Path) -> Iterator[Path]:
    for folder, below, _ in os.walk(root):
        below[:] = sorted(name for name in below if not name.startswith(".") and name not in SKIPPED)
        yield Path(folder)


def _failure(folder: Path, name: str) -> tuple[str, Failure]:
    """With the identity of its experiment: one that succeeded elsewhere has not failed."""
    told = json.loads((folder / "failed.json").read_bytes())
    what = [line(told[key]) for key in ("dataset", "model", "pruner") if told.get(key) is not None]
    what += [f"seed {line(told['seed'])}"] if told.get("seed") is not None else []
    log = Path(str(told.get("log") or "")).name
    return str(told.get("identity")), Failure(
        folder=folder,
        name=name,
        what="  ".join(what),
        reason=line(told.get("reason") or "no reason was recorded"),
        command=words(told.get("command")),
        log=log if log and (folder / log).is_file() else "",
        created=line(told.get("created") or ""),
    )
