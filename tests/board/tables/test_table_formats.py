"""abra_wilds/board/tables/formats.py: the same table as Markdown, LaTeX, CSV and HTML."""

from __future__ import annotations

import csv
import io
import re

import pytest

from abra_wilds.board.tables.formats import csv_text, html_page, html_table, latex, markdown, tex
from abra_wilds.board.tables.rows import Budget, Comparison, Table, TableRow, layout
from abra_wilds.results.significance import paired_t
from tests.board.report.report_boards import Page

ODD = 'A_B & 50% of <i>|"$x"'
OURS = {"Total": {0: 30.0, 1: 32.0}, "HEPG2": {0: 10.0}}


@pytest.fixture
def table():
    """ABRA with two seeds and one cell line, a missing row, and a row of ours with an odd name."""
    wanted = layout(6)
    reversal, abra = wanted.rows[0], wanted.rows[1]
    result = paired_t([30.0, 32.0], [29.0, 28.0])
    spent = Budget(1234.5, 3.25, "ImageNet")
    ours = TableRow(
        "ABRA", abra.key, "resnet18", True, OURS, spent, abra, Comparison("ERM", (0, 1), result, 0.5)
    )
    none = TableRow(reversal.name, reversal.key, "densenet161", False, {}, None, reversal)
    odd = TableRow(
        ODD, ("X", "plate_bn"), "resnet18", True, {"Total": {3: 1.0}}, Budget(None, None, "none"), None
    )
    return Table(wanted, ("resnet18",), (none, ours, odd), ("First & <note>.", "[a] Second."))


def markdown_cells(text):
    """Cells of the lines that begin with a bar."""
    lines = [line for line in text.splitlines() if line.startswith("|")]
    assert len({len(line) for line in lines}) == 1, "columns are not aligned"
    return [[v.strip().replace(r"\|", "|") for v in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines]


def test_markdown_is_aligned_and_holds_every_row(table):
    header, rule, *rows = markdown_cells(markdown(table))
    assert header[:5] == ["Method", "TTA", "BN", "Epoch", "Backbone"]
    assert header[-3:] == ["published Seeds", "published p", "published p (Welch)"]
    assert all(re.fullmatch(r"-+:?", cell) for cell in rule) and len(rows) == 3
    none, ours, odd = (dict(zip(header, row, strict=True)) for row in rows)
    assert (none["Method"], none["Total"], none["Seeds"]) == ("Gradient Reversal [a]", "missing", "0")
    assert none["published Total"] == "71.2 ± 0.4" and none["published Seeds"] == "5"
    assert ours["Method"] == "ABRA [SIMULATED]" and ours["Total"] == "31.0 ± 1.4" and ours["Seeds"] == "2"
    assert ours["HEPG2"] == "10.0" and ours["HUVEC"] == "missing"
    assert (ours["Difference"], ours["d_z"], ours["p (Holm)"]) == ("+2.50", "+1.18", "0.5")
    assert (ours["Images"], ours["Forwards/image"], ours["Outside data"]) == ("1,234", "3.25", "ImageNet")
    assert odd["Method"] == f"{ODD} [SIMULATED] [not in the paper]" and odd["TTA"] == "plate_bn"
    assert odd["Images"] == odd["published Total"] == odd["p"] == "-"


def test_html_and_latex_say_the_same_as_markdown(table):
    header, _, *rows = markdown_cells(markdown(table))
    page = Page(html_table(table))
    assert page.rows[2:] == rows
    assert page.rows[1] == [name.removeprefix("published ") for name in header]
    lines = [line for line in latex(table).splitlines() if " & " in line and "multicolumn" not in line]
    assert lines == [" & ".join(map(tex, row)) + r" \\" for row in (page.rows[1], *rows)]


def test_published_columns_stand_under_their_source(table):
    source = "published (arXiv 2603.05622, Table 6)"
    assert Page(html_table(table)).rows[0] == ["ours", source]
    assert rf"\multicolumn{{18}}{{c}}{{ours}} & \multicolumn{{8}}{{c}}{{{source}}} \\" in latex(table)


def test_html_is_a_plain_table_that_can_be_heard_and_reached_by_keyboard(table):
    tags = Page(html_table(table)).tags
    assert [a["scope"] for t, a in tags if t == "th"] == ["colgroup"] * 2 + ["col"] * 26 + ["row"] * 3
    assert ("caption", {}) in tags and not any("id" in a or "style" in a for _, a in tags)
    (region,) = [a for t, a in tags if t == "div"]
    assert region["role"] == "region" and region["tabindex"] == "0" and region["aria-label"] == table.title
    assert [a["span"] for t, a in tags if t == "colgroup"] == ["18", "8"]


def test_an_html_page_stands_alone_and_every_text_is_escaped(table):
    page = html_page(table)
    assert page.startswith('<!DOCTYPE html>\n<html lang="en">') and "<i>" not in page and "<note>" not in page
    assert html_table(table) in page and "First &amp; &lt;note&gt;." in page
    assert not re.search(r"https?:|src=|@import|url\(", page)


def test_latex_has_as_many_cells_as_columns_and_escaped_names(table):
    text = latex(table)
    kinds = re.search(r"\\begin\{tabular\}\{(\w+)\}", text)[1]
    for line in text.splitlines():
        if line.endswith(r"\\") and "multicolumn" not in line:
            assert len(re.split(r"(?<!\\)&", line)) == len(kinds) == 26
    assert r"A\_B \& 50\% of <i>|\"\$x\"".replace(r"\"", '"') in text and r"plate\_bn" in text
    assert all(text.count(rf"\{rule}") == 1 for rule in ("toprule", "midrule", "bottomrule"))
    assert text.count(r"\begin{") == text.count(r"\end{") == 2
    assert tex(r"-1.5 \^~{}") == r"$-$1.5 \textbackslash{}\textasciicircum{}\textasciitilde{}\{\}"


def test_csv_has_one_unrounded_value_a_column_and_nothing_where_there_is_none(table):
    none, ours, odd = csv.DictReader(io.StringIO(csv_text(table)))
    assert float(ours["Total_mean"]) == 31.0 and float(ours["Total_std"]) == 2**0.5 and ours["Total_n"] == "2"
    assert (ours["HEPG2_mean"], ours["HEPG2_std"], ours["HUVEC_mean"]) == ("10.0", "", "")
    assert float(ours["p"]) == paired_t([30.0, 32.0], [29.0, 28.0]).p and ours["p_holm"] == "0.5"
    printed = {"Total_mean": "74.9", "Total_std": "0.3", "n": "5", "source": "arXiv 2603.05622, Table 6"}
    assert {name: ours[f"published_{name}"] for name in printed} == printed
    assert ours["published_backbone"] == "densenet161"
    assert [row["data"] for row in (none, ours, odd)] == ["", "SIMULATED", "SIMULATED"]
    assert [row["status"] for row in (none, ours, odd)] == ["missing", "in the paper", "not in the paper"]
    assert none["p"] == none["Total_mean"] == none["images"] == odd["published_n"] == ""
    assert none["published_footnote"].startswith("The printed Total is 71.2") and odd["method"] == ODD


@pytest.mark.parametrize("form", [markdown, latex, csv_text, html_table, html_page])
def test_every_format_calls_simulated_data_simulated(table, form):
    text = form(table)
    assert text.count("SIMULATED") >= 2
    if form is not csv_text:
        assert "SIMULATED DATA: Table 6" in text
