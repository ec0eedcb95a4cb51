"""All results below a folder as one report: a page, a Markdown file, a CSV file and tables in the terminal."""

from __future__ import annotations

from pathlib import Path

from prune_cli.errors import PruneError, require
from prune_cli.files import write_bytes
from prune_cli.report import text
from prune_cli.report.collect import collect
from prune_cli.report.summary import summarise


def tables(folder: Path) -> str:
    """The tables of all runs below a folder.

    Raises:
        PruneError: it is not a folder.
    """
    return text.tables(summarise(collect(folder))) or f"no finished run below {folder}"


def write(folder: Path, into: Path | None = None, against: Path | None = None) -> str:
    """Write `report.html`, `report.md` and `results.csv`, and tell in the terminal what they hold.

    Args:
        folder: is searched at any depth.
        into: where the files go; None: into `folder`.
        against: another folder of runs to compare with.

    Raises:
        PruneError: there is no result, or the files cannot be written.
    """
    from prune_cli.report.against import compare
    from prune_cli.report.page import to_html
    from prune_cli.report.sheets import to_csv, to_markdown

    collection = collect(folder)
    found = collection.runs or collection.failures or collection.unread
    require(found, f"no finished run below {folder}: name the folder that prune-run wrote into")
    summary = summarise(collection)
    compared = None
    if against is not None:
        other = collect(against)
        require(other.runs, f"no finished run below {against}: there is nothing to compare with")
        compared = compare(collection, other)
    into = folder if into is None else into
    try:
        into.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise PruneError(f"{into} cannot be made: {error.strerror}") from error
    files = {
        "report.html": to_html(collection, summary, into, compared),
        "report.md": to_markdown(collection, summary, compared),
        "results.csv": to_csv(summary),
    }
    for name, data in files.items():
        write_bytes(into / name, data)
    told = [text.tables(summary), text.problems(collection), text.comparison(compared) if compared else ""]
    return "\n\n".join([*(part for part in told if part), "\n".join(str(into / name) for name in files)])
