"""The page in a real browser, without a window or network: it draws, its controls work, hostile names stay names."""

import re
import shutil
import subprocess

import pytest

from prune_cli.report import write
from prune_cli.report.choices import front
from prune_cli.report.collect import collect
from prune_cli.report.summary import summarise
from tests.report import factory
from tests.report.test_written import Page, folder, hostile

__all__ = ["folder", "hostile"]  # fixtures
BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
FLAGS = ("--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
         "--disable-component-update --disable-sync --virtual-time-budget=8000 --dump-dom")  # fmt: skip
pytestmark = pytest.mark.skipif(BROWSER is None, reason="no Chromium")


@pytest.fixture
def opened(tmp_path):
    """The document as it stands after the scripts have run."""

    def open_(runs, fragment="#self-test"):
        write(runs)
        url = (runs / "report.html").resolve().as_uri() + fragment
        done = subprocess.run([BROWSER, *FLAGS.split(), f"--user-data-dir={tmp_path / 'profile'}", url],
                              capture_output=True, text=True, check=True, timeout=120)  # fmt: skip
        return done.stdout

    return open_


def body(document):
    return re.search(r"<body[^>]*>", document)[0]


def plot(document, name):
    return re.search(rf'<figure id="{name}">.*?</figure>', document, re.DOTALL)[0]


def test_every_plot_is_drawn_and_every_control_works(opened, folder):
    document = opened(folder)
    assert "data-error" not in body(document) and "data-ready" in body(document)
    assert int(re.search(r'data-steps="(\d+)"', body(document))[1]) > 60
    for name in ("pareto", "honest", "channels", "curves", "seconds"):
        assert "<svg" in plot(document, name) and "NaN" not in plot(document, name)
    assert plot(document, "pareto").count('class="mark-point') == 5  # two methods at two budgets, and the dense network
    assert plot(document, "channels").count("<rect") == 2 * len(factory.SIZES)


def test_the_page_draws_the_front_that_the_tables_know(opened, folder):
    (group,) = summarise(collect(folder)).groups
    rows = (group.dense, *group.rows)
    drawn = re.search(r'data-front="([\d ]+)"', opened(folder))[1]
    best = front([(row.macs.mean, row.accuracy["test"].mean) for row in rows])
    assert [int(at) for at in drawn.split()] == best


def test_hostile_names_do_nothing_in_a_browser(opened, hostile):
    document = opened(hostile)
    assert "data-owned" not in document and "data-error" not in body(document) and "data-ready" in body(document)
    page = Page(document)
    assert page.elements.count("script") == 2 and "img" not in page.elements and page.handlers == []


@pytest.mark.parametrize("what", ["one run without latency", "only failures", "a run that cut and trained nothing"])
def test_little_is_shown_without_an_error(opened, tmp_path, what):
    runs = tmp_path / "runs"
    if what == "only failures":
        factory.fail(runs / "a")
    elif what == "one run without latency":
        factory.write(runs / "a", ratios={})
    else:
        factory.write(runs / "a", pruner="none", keep=None, macs=1.0, edits=[], sizes={}, epochs=0)
    document = opened(runs)
    assert "data-error" not in body(document) and "data-ready" in body(document)
    if what != "only failures":
        assert ("No latency was measured" in plot(document, "honest")) == (what == "one run without latency")
        assert ("Nothing was trained" in plot(document, "curves")) == (what == "a run that cut and trained nothing")
