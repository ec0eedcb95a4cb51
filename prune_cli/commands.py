"""The console scripts. Cheap to import, since every measuring process imports the script that it comes from."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Sequence
from pathlib import Path

from prune_cli.errors import require
from prune_cli.export import KINDS


def run() -> None:
    """The console script `prune-run`."""
    from prune_cli.cli import main

    main()


def bench() -> None:
    """The console script `prune-bench`."""
    parser = _parser(
        "prune-bench",
        "Measure finished runs side by side, each in turn with its dense network, without training. The figures are "
        "added to the runs' result.json, with host and time.",
        "examples:\n  prune-bench outputs/runs/*/*/* hardware=auto\n"
        "  prune-bench RUN1 RUN2 hardware=[cpu,onnxruntime] benchmark.batches=[1] hardware.onnxruntime.threads=2",
    )
    parser.add_argument("words", nargs="+", metavar="RUN_DIR | OVERRIDE",
                        help="folders of runs; hardware=... and benchmark.key=value as for prune-run")  # fmt: skip
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")

    from prune_cli.cli import interruptible

    interruptible("prune-bench", lambda: _bench(arguments.words, arguments.trust))


def _bench(words: Sequence[str], trust: Sequence[str]) -> None:
    overrides = [word for word in words if "=" in word and not Path(word).exists()]
    folders = [Path(word) for word in words if word not in overrides]
    require(folders, "name at least one folder of a finished run")

    from prune_cli.configs import targets_of

    targets = targets_of(overrides)

    from prune_cli.budget import Budget
    from prune_cli.latency import check
    from prune_cli.remeasure import read, remeasure

    runs = [read(folder, trust) for folder in dict.fromkeys(folders)]
    check(targets, Budget())
    table, failed = remeasure(runs, targets)
    print(table)
    require(not failed, "; ".join(f"{target}: {reason}" for target, reason in failed.items()))


def export() -> None:
    """The console script `prune-export`."""
    parser = _parser(
        "prune-export",
        "Write the pruned network of a finished run as files that load without prune-cli, compared with PyTorch.",
        "examples:\n  prune-export RUN_DIR\n  prune-export RUN_DIR onnx openvino",
    )
    parser.add_argument("folder", metavar="RUN_DIR", type=Path)
    parser.add_argument("kinds", nargs="*", metavar="KIND", help=f"of {', '.join(KINDS)}; none: all of them")
    arguments = parser.parse_args()

    from prune_cli.cli import interruptible

    interruptible("prune-export", lambda: _export(arguments.folder, arguments.kinds, arguments.trust))


def _export(folder: Path, kinds: Sequence[str], trust: Sequence[str]) -> None:
    from prune_cli.remeasure import export_run, read

    for made in export_run(read(folder, trust), kinds):
        files = ", ".join(str(folder / name) for name in made.files)
        print(f"{files}: {made.bytes / 1e6:.2f} MB, outputs differ from PyTorch's by {made.error:.0e}")


def report() -> None:
    """The console script `prune-report`."""
    parser = _parser(
        "prune-report",
        "Put all results below a folder into one report: report.html (one file, no network needed), report.md, "
        "results.csv, and tables in the terminal.",
        "examples:\n  prune-report\n  prune-report outputs/sweeps/2026-01-31_12-00-00-000000 --into paper\n"
        "  prune-report outputs --against /data/last-week/outputs",
        trust=False,
    )
    parser.add_argument("folder", nargs="?", metavar="DIR", type=Path, default=Path("outputs"),
                        help="searched at any depth (default: outputs)")  # fmt: skip
    parser.add_argument("--into", metavar="FOLDER", type=Path, help="where the files go (default: DIR)")
    parser.add_argument("--against", metavar="OTHER_DIR", type=Path, help="tell the differences to the runs there")
    arguments = parser.parse_args()

    from prune_cli.cli import interruptible

    interruptible("prune-report", lambda: _report(arguments.folder, arguments.into, arguments.against))


def _report(folder: Path, into: Path | None, against: Path | None) -> None:
    from prune_cli.report import write

    print(write(folder, into, against))


def _parser(name: str, description: str, examples: str, trust: bool = True) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=name, description=description, epilog=examples, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    if trust:
        parser.add_argument("--trust", action="append", default=[], metavar="PACKAGE",
                            help="package whose classes may be imported, for runs with model._target_=...")  # fmt: skip
    return parser
