"""The files and the terminal: complete, well-formed, and inert whatever names they hold."""

import csv
import io
import re
import shlex
import subprocess
import sys
import zipfile
from html.parser import HTMLParser

import pytest

from prune_cli.errors import PruneError
from prune_cli.report import tables, write
from prune_cli.report.collect import collect
from prune_cli.report.page import SCRIPTS
from prune_cli.report.sheets import to_csv, to_markdown
from prune_cli.report.summary import summarise
from tests.conftest import ROOT
from tests.report import factory
from tests.report.factory import HOST, fail, session

HOSTILE = (
    "</script><script>document.body.dataset.owned=1</script><img src=x onerror=alert(1)>|`*[x](javascript:1)\"'&{{7*7}}"
)


@pytest.fixture
def folder(tmp_path):
    """Two methods, two budgets, three seeds, a failure, a damaged result."""
    for pruner in ("filter", "random"):
        for keep in (0.5, 0.3):
            for seed in range(3):
                good = 0.9 + 0.002 * seed - (pruner == "random") * 0.05 - 0.02 / keep
                ratios = {"cpu": {1: keep + 0.2, 64: keep + 0.1}, "onnxruntime": {1: 0.99}}
                name = f"runs/{pruner}-{keep}-{seed}"
                factory.write(tmp_path / "out" / name, pruner=pruner, keep=keep, seed=seed, test=good, val=good + 0.01,
                              ratios=ratios)  # fmt: skip
    fail(tmp_path / "out" / "runs" / "broken", reason="the loss is not finite")
    factory.write(tmp_path / "out" / "bad")
    (tmp_path / "out" / "bad" / "result.json").write_text("{}")
    return tmp_path / "out"


@pytest.fixture
def hostile(tmp_path):
    named = HOSTILE.replace("/", "")
    factory.write(tmp_path / named, pruner=HOSTILE, model=HOSTILE, dataset=HOSTILE, command=[HOSTILE, HOSTILE],
                  config={"pruner.x": HOSTILE}, sizes={HOSTILE: 16}, edits=[{"drop": HOSTILE}],
                  sessions=[session({HOSTILE: {1: 0.5}}, host={**HOST, "name": HOSTILE})])  # fmt: skip
    factory.write(tmp_path / "b", pruner=HOSTILE, model=HOSTILE, dataset=HOSTILE, config={"pruner.x": "1"})
    fail(tmp_path / "c", reason=HOSTILE, command=[HOSTILE], dataset=HOSTILE, log=HOSTILE)
    (factory.write(tmp_path / "d" / named) / "result.json").write_text("{}")
    return tmp_path


class Page(HTMLParser):
    """Elements, and what they refer to."""

    def __init__(self, text):
        super().__init__()
        self.elements, self.references, self.handlers = [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.elements.append(tag)
        self.references += [value for name, value in attributes if name in ("src", "href", "action", "poster", "data")]
        self.handlers += [name for name, _ in attributes if name.startswith("on")]


def page_of(folder, **options):
    write(folder, **options)
    return (options.get("into") or folder).joinpath("report.html").read_text()


def test_the_page_refers_to_nothing_outside(folder):
    text = page_of(folder)
    page = Page(text)
    assert page.elements.count("script") == 2 and not {"link", "img", "iframe", "object"} & set(page.elements)
    assert all(reference.startswith(("./", "#")) for reference in page.references)
    assert not re.search(r"url\(|@import|fetch\(|XMLHttpRequest|import\(", text)
    assert set(re.findall(r"https?://[\w./]+", text)) == {"http://www.w3.org/2000/svg"}  # the name of SVG, not a place


def test_links_lead_to_runs_from_wherever_the_page_lies(folder, tmp_path):
    into = tmp_path / "paper" / "figures"
    page = Page(page_of(folder, into=into))
    links = [link for link in page.references if link.startswith("./")]
    assert links and all((into / link).exists() for link in links)
    assert any(link.endswith("broken/prune-run.log") for link in links)
    assert sorted(path.name for path in into.iterdir()) == ["report.html", "report.md", "results.csv"]
    assert not (folder / "report.html").exists()


def test_hostile_names_do_nothing(hostile):
    write(hostile)
    text = (hostile / "report.html").read_text()
    page = Page(text)
    assert page.elements.count("script") == 2 and "img" not in page.elements and page.handlers == []
    assert all(reference.startswith(("./", "#")) for reference in page.references)
    assert "{{7*7}}" in text.replace("&#34;", '"') and "49</" not in text
    markdown = (hostile / "report.md").read_text()
    assert "<img" not in re.sub(r"`+[^`].*?`+", "", markdown.replace("\\<", "")) and HOSTILE not in markdown


def test_the_tables_are_there_without_a_script(folder):
    text = page_of(folder)
    for shown in ("the loss is not finite", "keep 0.3", "is damaged", "±", "noscript", "prune-run pruner=random"):
        assert shown in text


def test_csv_gives_the_figures_back(folder):
    summary = summarise(collect(folder))
    lines = list(csv.DictReader(io.StringIO(to_csv(summary).decode())))
    rows = [row for group in summary.groups for row in (group.dense, *group.rows)]
    assert len(lines) == len(rows) == 5
    for line, row in zip(lines, rows, strict=True):
        assert float(line["test_accuracy"]) == row.accuracy["test"].mean
        assert float(line["test_accuracy_sd"]) == row.accuracy["test"].sd
        assert float(line["macs_ratio"]) == row.macs.mean and int(line["n"]) == 3
        assert float(line["latency_ratio/cpu/b64_high"]) == row.latency["cpu", 64].high
    assert lines[0]["pruner"] == "dense" and "macs" in lines[1]["front"] and lines[3]["front"] == ""
    assert shlex.split(lines[1]["command"])[:2] == ["prune-run", "pruner=filter"]


def cells(line):
    return re.split(r"(?<!\\)\|", line)[1:-1]


def test_markdown_tables_have_as_many_cells_in_every_line(folder, hostile):
    for place in (folder, hostile):
        text = to_markdown(collect(place), summarise(collect(place))).decode()
        tables = re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE)
        assert len(tables) >= 3
        for table in tables:
            lines = table.splitlines()
            assert {len(cells(line)) for line in lines} == {len(cells(lines[0]))}
            assert all(re.fullmatch(r" (:--|--:) ", cell) for cell in cells(lines[1]))


def test_the_terminal_shows_rows_equality_and_what_failed(folder):
    text = write(folder)
    (line,) = (line for line in text.splitlines() if "random" in line and "keep 0.3" in line)
    assert line.split()[-4:] == ["0.40", "0.99", "=", "64"]
    assert "no significant difference" in text and "runs/broken: the loss is not finite" in text
    assert "prune-run pruner=csgd" in text and "bad: " in text
    assert text.index("dense") < text.index("filter")


def test_markup_in_names_is_shown_as_it_is(tmp_path):
    factory.write(tmp_path / "a", pruner="[red]x[/red]")
    assert "[red]x[/red]" in tables(tmp_path)


def test_only_failures_are_a_report_too(tmp_path):
    fail(tmp_path / "a")
    assert "loss is not finite" in write(tmp_path) and "loss is not finite" in (tmp_path / "report.html").read_text()
    assert to_csv(summarise(collect(tmp_path))) == b""


def test_nothing_at_all_is_one_line(tmp_path):
    with pytest.raises(PruneError, match="no finished run below"):
        write(tmp_path)
    assert "no finished run" in tables(tmp_path) and list(tmp_path.iterdir()) == []


def test_what_cannot_be_written_leaves_the_old_report(folder, monkeypatch):
    write(folder)
    before = (folder / "report.html").read_bytes()
    monkeypatch.setattr("os.replace", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(PruneError, match="No space left"):
        write(folder)
    assert (folder / "report.html").read_bytes() == before and not list(folder.glob(".*tmp"))


def test_a_comparison_tells_differences_and_what_only_one_has(folder, tmp_path):
    other = tmp_path / "other"
    for seed in range(3):
        factory.write(other / f"a{seed}", keep=0.5, seed=seed, test=0.81 + 0.002 * seed, val=0.872 + 0.002 * seed,
                      ratios={"cpu": {1: 0.71}})  # fmt: skip
    factory.write(other / "b", keep=0.1)
    text = write(folder, against=other)
    told = text[text.index("against") :]
    assert re.search(r"filter keep 0.5 +87.40 > 87.20 +81.20 > 86.20 .*0.710 > 0.700", told)
    assert "-0.20 within" in told and "+5.00 beyond" in told
    assert "-1.00 within" in told
    text = " ".join(text.split())
    assert "only in" in text and "filter keep 0.1" in text and "random keep 0.3" in text
    page = (folder / "report.html").read_text()
    assert "+5.00 beyond" in page and "Only there" in page and "## Against" in (folder / "report.md").read_text()


def test_the_same_folder_has_no_differences(folder):
    text = write(folder, against=folder)
    assert not re.search(r"\d beyond", text) and "only in" not in text and " same" in text


def test_the_command(folder, tmp_path):
    def report(*arguments):
        code = "import sys; sys.argv[0] = 'prune-report'; from prune_cli.commands import report; report()"
        return subprocess.run([sys.executable, "-c", code, *arguments], cwd=tmp_path, capture_output=True, text=True,
                              check=False)  # fmt: skip

    done = report("out")
    assert done.returncode == 0 and "out/report.html" in done.stdout and done.stderr == ""
    for arguments in ((), ("nowhere",), ("out", "--against", "nowhere"), ("out", "--into", "/proc/x")):
        done = report(*arguments)
        assert done.returncode == 1 and done.stderr.count("\n") == 1 and done.stderr.startswith("prune-report: ")


def test_a_wheel_brings_the_page(tmp_path):
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", tmp_path / "dist"]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True)
    (wheel,) = (tmp_path / "dist").iterdir()
    names = set(zipfile.ZipFile(wheel).namelist())
    assert {f"prune_cli/report/{name}" for name in ("page.html.j2", "page.css", *SCRIPTS)} <= names
