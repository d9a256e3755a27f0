"""The report and the page of answers in a real browser: what they show, ask for and log.

By keyboard, light and dark, in a narrow window and on paper.
"""

from __future__ import annotations

from itertools import pairwise

import pytest

from abra_wilds.board.report import page as report
from abra_wilds.board.report.answers import answers_page
from abra_wilds.results.runs import find_runs
from tests.board.report.answer_folders import certify, doubts, write
from tests.board.report.report_boards import make_logs
from tests.browsers import browser, needs_chromium, serious

__all__ = ["browser"]
pytestmark = [pytest.mark.slow, needs_chromium]
SIZES = """() => [...document.querySelectorAll("svg[role=img], main img")].map(e => {
  for (let d = e.closest("details"); d; d = d.parentElement.closest("details")) d.open = true;
  const r = e.getBoundingClientRect();
  return [r.width, r.height, e.tagName === "IMG" ? e.naturalWidth : 1];
})"""
PAINT = """() => [getComputedStyle(document.body).backgroundColor, getComputedStyle(document.body).color,
  getComputedStyle(document.querySelector("main figure svg text")).fill]"""


FIGURES = {"report.html": 3 + 16 + 1, "answers.html": 2 + 1}


@pytest.fixture(scope="module", params=FIGURES)
def path(request, screen, tmp_path_factory):
    folder = tmp_path_factory.mktemp("browser")
    file = folder / request.param
    if request.param == "report.html":
        logs = make_logs(screen, folder)
        file.write_text(report.report(find_runs(logs), screen.root, logs.parent / "figures"))
    else:
        scores = {"wells": {"n": 8, "accuracy": 0.875, "balanced_accuracy": 0.75}}
        answers = write(folder / "answers", change=doubts, qc=True, about={"scores": scores})
        certify(answers, "<P2>")
        file.write_text(answers_page(answers)[0], encoding="utf-8")
    return file


@pytest.fixture
def visit(browser, path):
    """Opens the page; what it logs and asks for is kept, and both must be nothing at the end."""
    logged, asked, contexts = [], [], []

    def opened(**settings):
        contexts.append(browser.new_context(**settings))
        contexts[-1].set_default_timeout(300_000)  # milliseconds
        page = contexts[-1].new_page()
        page.on("console", lambda message: logged.append(message.text))
        page.on("pageerror", lambda fault: logged.append(str(fault)))
        page.on("request", lambda request: asked.append(request.url))
        page.goto(path.as_uri(), wait_until="load")
        return page

    yield opened
    for context in contexts:
        context.close()
    assert not logged
    assert {url for url in asked if not url.startswith("data:")} == {path.as_uri()}


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_figure_is_there_and_text_stands_out(visit, path, scheme):
    page = visit(color_scheme=scheme)
    sizes = page.evaluate(SIZES)
    assert len(sizes) >= FIGURES[path.name] and all(min(size) >= 1 for size in sizes)
    back, text, drawn = (
        sum(int(v) for v in value.removeprefix("rgb(").rstrip(")").split(","))
        for value in page.evaluate(PAINT)
    )
    assert (back > 600 and text < 150) if scheme == "light" else (back < 150 and text > 600)
    assert drawn == text


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_serious(visit, scheme):
    page = visit(color_scheme=scheme)
    page.evaluate("document.querySelectorAll('details').forEach(d => d.open = true)")
    assert serious(page) == []


def test_the_first_tab_reaches_the_skip_link_and_enter_skips(visit):
    page = visit()
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    assert page.evaluate("document.activeElement.getBoundingClientRect().left") >= 0
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "main"
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.getAttribute('role')") == "region"


def test_headings_go_down_by_one_level(visit):
    levels = visit().evaluate("[...document.querySelectorAll('h1,h2,h3,h4')].map(h => +h.tagName[1])")
    assert levels[0] == 1 and levels.count(1) == 1
    assert all(b <= a + 1 for a, b in pairwise(levels))


def test_a_narrow_window_scrolls_down_only(visit):
    page = visit(viewport={"width": 360, "height": 640})
    assert page.evaluate("document.documentElement.scrollWidth") == 360


def test_paper_shows_what_is_folded_away(visit, tmp_path):
    page = visit()
    page.emulate_media(media="print")
    folded = page.locator("details > *:not(summary)").first
    assert folded.bounding_box()["height"] > 5
    assert not page.locator("nav").is_visible()
    page.pdf(path=str(tmp_path / "page.pdf"))
    assert (tmp_path / "page.pdf").read_bytes().startswith(b"%PDF")
